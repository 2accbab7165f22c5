"""Questions about a pool's size, answered from what was recorded, through the policy itself: PURE.

How many workers a target needs at a given traffic, what other settings would have cost, what more traffic does; and
what there is to doubt about each answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from penstock.policy.scaling.replay import Past, Replayed, recorded, replay, settled
from penstock.policy.scaling.terms import Terms

HOUR_S, DAY_S = 3600.0, 86400.0
#: Below this there is nothing to plan from, seconds that were seen.
LEAST_S = 600.0
#: For so long a given traffic lasts until the policy's answer is taken, minutes: longer than any window in it.
STEADY_MINUTES = 15
#: A simulation that costs more, or less, than this share of what was recorded is not to be trusted blindly.
APART = 0.25


class Traffic(Struct, frozen=True, kw_only=True):
    """Device seconds of new work per second: how many workers would be busy without a pause."""

    mean: float
    #: Of the minutes: the median, the 95th percentile, the busiest.
    median: float
    high: float
    minute: float
    #: The most that came in one second.
    second: float


class Need(Struct, frozen=True, kw_only=True):
    """Workers for a traffic that lasts."""

    traffic: float
    workers: int
    #: Whether the pool's ``max`` is less than would be wanted.
    bound: bool


class Plan(Struct, frozen=True, kw_only=True):
    """All answers about one pool."""

    seen_s: float
    #: How much of the time asked for that is.
    covered: float
    traffic: Traffic
    #: What there was, the same simulated under the terms of then, and the questions by name.
    recorded: Replayed
    replayed: Mapping[str, Replayed]
    needs: Mapping[str, Need]
    #: What there is to doubt, for people.
    doubts: Sequence[str]


def traffic_of(minutes: Sequence[Past]) -> Traffic:
    """What came, over the minutes that were seen. There must be one."""
    rates = sorted(minute.rate for minute in minutes)
    seconds = sum(minute.seconds for minute in minutes)
    return Traffic(
        mean=sum(minute.demand_s for minute in minutes) / seconds,
        median=_quantile(rates, 0.5),
        high=_quantile(rates, 0.95),
        minute=rates[-1],
        second=max(max(minute.demand_most for minute in minutes), rates[-1]),
    )


def roughness(minutes: Iterable[Past]) -> float:
    """How far the worst second of a minute is above its rate at most, in roots of that rate: chance grows with it."""
    beyond = [(minute.demand_most - minute.rate) / math.sqrt(minute.rate) for minute in minutes if minute.rate > 0]
    return max(0.0, *beyond) if beyond else 0.0


def need(traffic: float, terms: Terms, *, rough: float = 0.0) -> Need:
    """How many workers the policy wants when so much work comes for a quarter of an hour, and keeps coming, as
    ``rough`` as it was (``roughness``)."""
    most = traffic + rough * math.sqrt(traffic)
    unbound = replace(terms, most=max(terms.most, math.ceil(4 * max(traffic, most)) + 10))
    free = settled(traffic, unbound, most=most, minutes=STEADY_MINUTES)
    return Need(traffic=traffic, workers=min(free, terms.most), bound=free > terms.most)


def plan(
    minutes: Sequence[Past],
    terms: Terms,
    *,
    asked_s: float,
    others: Mapping[str, tuple[Terms, float]],
    traffics: Mapping[str, float],
    sized: Terms | None = None,
) -> Plan:
    """Answer. ``minutes`` are those with records among the last ``asked_s``; there must be one.

    ``terms`` are today's; ``others`` are questions: other terms, and how many times the traffic. ``traffics`` are asked
    about beside those that were seen; ``sized`` are the terms for which workers are told, where they are others.
    """
    traffic, was = traffic_of(minutes), recorded(minutes)
    replayed = {"as set": replay(minutes, terms)}
    replayed |= {name: replay(minutes, asked, times=times) for name, (asked, times) in others.items()}
    steady = {"mean": traffic.mean, "busy minute (95 %)": traffic.high, "busiest minute": traffic.minute, **traffics}
    return Plan(
        seen_s=was.seconds,
        covered=min(1.0, was.seconds / asked_s),
        traffic=traffic,
        recorded=was,
        replayed=replayed,
        needs={name: need(rate, sized or terms, rough=roughness(minutes)) for name, rate in steady.items()},
        doubts=[*_doubts(minutes, terms, was, replayed["as set"], asked_s)],
    )


def learned(minutes: Iterable[Past], terms: Terms) -> Terms:
    """The terms with the times to be ready that were known last."""
    for minute in minutes:
        if minute.ready_in_s is not None:
            terms = replace(terms, ready_in_s=minute.ready_in_s, wake_in_s=minute.wake_in_s)
    return terms


def _doubts(minutes: Sequence[Past], terms: Terms, was: Replayed, replayed: Replayed, asked_s: float) -> Iterable[str]:
    if was.seconds < DAY_S:
        yield f"only {lasting(was.seconds)} were seen: no day with its busy hour is in it"
    elif was.seconds < 0.9 * asked_s:
        seen = f"{lasting(was.seconds)} of {lasting(asked_s)}"
        yield f"{seen} were seen: what is missing is left out, not taken for quiet"
    if was.demand_s <= 0:
        yield "no work came in that time: only the least number of workers can be told"
    if not any(minute.ready_in_s is not None for minute in minutes):
        yield f"no record tells how long a worker takes to be ready: {terms.ready_in_s:g} s is assumed"
    if was.worker_s and abs(replayed.worker_s - was.worker_s) > APART * was.worker_s:
        yield (
            f"the settings of today would have taken {lasting(replayed.worker_s)} of workers and there were"
            f" {lasting(was.worker_s)}: other settings were in force, or this pool is not like the model"
        )
    tightest, widest = min(terms.target_s.values()), max(terms.target_s.values())
    if replayed.late > 0 and tightest < widest:
        yield (
            f"all work is measured against the tightest target, {tightest:g} s: of work that may wait for"
            f" {widest:g} s, less is late than LATE says"
        )
    if replayed.most >= terms.most and replayed.late > 0:
        yield f"the pool's max, {terms.most}, was reached: more might have come if it had been served"


def lasting(seconds: float) -> str:
    """``90 min``, ``26.5 h``, ``7 d``: for a sentence."""
    if seconds < 2 * HOUR_S:
        return f"{seconds / 60:.0f} min"
    number, unit = (seconds / HOUR_S, "h") if seconds < 2 * DAY_S else (seconds / DAY_S, "d")
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
