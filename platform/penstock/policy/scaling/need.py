"""How many workers a load needs: a figure with a fraction, without memory of what was decided before.

Three needs, of which the largest counts:

- of the *rate*: what comes in a second, and a margin for chance. In a queue whose work has dispersion ``v`` (variance
  per second) and ``c`` workers for a rate ``r``, a wait above ``w`` has the probability ``exp(-2 (c - r) c w / v)``
  (heavy traffic, Kingman 1962). So ``(c - r) c = v ln(1 / p) / 2w``. What can be answered by starting one in time needs
  no margin: it shrinks with the time to be ready;
- of the *backlog* as it will be when one that is ordered now is ready: what is above what may wait is to be gone soon;
- of *deadlines*: what is due until then, the earliest first.
"""

from __future__ import annotations

import math
from operator import itemgetter

from msgspec import Struct

from penstock.policy.scaling.flow import SLOW_S
from penstock.policy.scaling.state import State
from penstock.policy.scaling.sudden import sudden
from penstock.policy.scaling.terms import Context, Load, Terms

#: Chance of waiting too long that the margin leaves; the share of a target that may be spent waiting.
CHANCE, WAIT_SHARE = 0.03, 0.5
#: With this times the root of the rate on top of it hardly anybody waits at all (3 %), so more does not help.
MOST_MARGIN = 2.0
#: Deviations by which a quick mean must be above the others to be believed: fewer where starting takes long, since
#: certainty comes too late there.
SURE, SURE_LONG, LONG_START_S = 2.5, 1.35, 120.0
#: A backlog that is too long is to be gone so soon after there are workers for it, seconds.
CLEAR_S = 5.0
#: A lane without work for so long does not count.
FORGOTTEN_S = 300.0
#: A start that is quicker needs a part of the reserve only, seconds.
RESERVED_START_S = 30.0
#: Less than this from a deadline is as good as past it, seconds.
LEAST_SLACK_S = 0.001
#: What is seen once a second cannot be answered quicker.
LOOK_S = 1.0


class Need(Struct, frozen=True, kw_only=True):
    """Workers, with fractions. ``staff`` is that of the rate with its margin, before any reserve; ``before`` is the
    same of about as long ago as a start takes."""

    staff: float
    before: float
    reserve: float
    backlog: float
    deadlines: float

    @property
    def all(self) -> float:
        """The largest."""
        return max(self.staff, self.reserve, self.backlog, self.deadlines)


def need(context: Context, load: Load, state: State) -> Need:
    """What ``load`` needs, by what ``state`` knows of the flow. ``state`` has taken the load into account."""
    terms, flow = context.terms, state.flow
    share = min(terms.ready_in_s / LONG_START_S, 1.0)
    rate = flow.rate(SURE + (SURE_LONG - SURE) * share)
    if in_panic(context, state):
        rate = max(rate, flow.fast)
    wait_s = tightest(terms, state, load.at) * WAIT_SHARE
    # The slow mean is what the rate was about a minute ago, the long one some minutes ago.
    before = flow.slow if terms.ready_in_s < SLOW_S else flow.long
    return Need(
        staff=rate + _margin(rate, flow.dispersion, wait_s=wait_s, terms=terms),
        before=before + _margin(before, flow.dispersion, wait_s=wait_s, terms=terms),
        reserve=_reserve(context, state),
        backlog=max(_of_backlog(context, load, rate, state), state.sudden),
        deadlines=_of_deadlines(context, load, rate),
    )


def in_panic(context: Context, state: State) -> bool:
    """Whether a rise is being followed without waiting for certainty."""
    return context.now < state.panic_until


def of_sudden(context: Context, load: Load, *, elapsed_s: float) -> float:
    """Workers that parked spares are to be woken for at once; 0: nothing is sudden."""
    grown = (sum(load.backlog_s.values()) - context.state.left_s) / max(elapsed_s, 1e-3)
    targets = _by_target(load, context.terms)
    return sudden(load, context.terms, context.fleet, grown=grown, by_target=targets, share=WAIT_SHARE)


def carries(workers: int, load: Load, terms: Terms) -> bool:
    """Whether so many would have the backlog that there is done in time."""
    return all(seconds <= workers * target * WAIT_SHARE for target, seconds in _by_target(load, terms))


def is_late(load: Load, terms: Terms, ready: int) -> bool:
    """Whether what comes now will be late, as far as more workers would have helped."""
    return any(seconds > ready * max(target, LOOK_S) for target, seconds in _by_target(load, terms))


def tightest(terms: Terms, state: State, at: float) -> float:
    """The shortest target of the lanes that had work lately; of all, where none had."""
    used = [target for lane, target in terms.target_s.items() if at - state.used_at.get(lane, -math.inf) < FORGOTTEN_S]
    return min(used or terms.target_s.values(), default=LOOK_S)


def _margin(rate: float, dispersion: float, *, wait_s: float, terms: Terms) -> float:
    # Work that can wait until one that is started for it is ready needs no margin.
    answered = ((terms.ready_in_s + LOOK_S) / (terms.ready_in_s + LOOK_S + wait_s)) ** 2
    product = math.log(1 / CHANCE) * dispersion / (2 * max(wait_s, 1e-3)) * answered
    return min(math.sqrt(rate * rate / 4 + product) - rate / 2, MOST_MARGIN * math.sqrt(rate))


def _reserve(context: Context, state: State) -> float:
    terms, flow = context.terms, state.flow
    if terms.wake_in_s is not None:
        return 0.0  # parked ones are woken instead
    return flow.long * (1 + flow.reserve * min(terms.ready_in_s / RESERVED_START_S, 1.0))


def _of_backlog(context: Context, load: Load, rate: float, state: State) -> float:
    terms, fleet = context.terms, context.fleet
    lead = _lead(context)
    until_ready = max(terms.ready_in_s - (load.at - state.ordered_at), 0.0) if fleet.starting else 0.0
    done = fleet.ready * lead + fleet.starting * max(lead - until_ready, 0.0)
    most = 0.0
    for target, seconds in _by_target(load, terms):
        wait = target * WAIT_SHARE
        clear = max(CLEAR_S, wait, lead / 2)
        left = max(seconds + rate * lead - done, 0.0)
        if seconds and left:
            most = max(most, (left + rate * clear) / (clear + wait))
    return most


def _of_deadlines(context: Context, load: Load, rate: float) -> float:
    lead = _lead(context)
    total = most = 0.0
    for slack, seconds in load.due:
        total += seconds
        left = total - context.fleet.ready * lead
        # What is due before one can be ready is lost or not, whatever is decided now.
        if left > 0 and slack - lead > LEAST_SLACK_S:
            most = max(most, rate + left / (slack - lead))
    return most


def _lead(context: Context) -> float:
    terms = context.terms
    return terms.wake_in_s if terms.wake_in_s is not None and context.fleet.parked else terms.ready_in_s


def _by_target(load: Load, terms: Terms) -> list[tuple[float, float]]:
    """Targets, the shortest first, each with the work that is done until it: its own and all that goes before."""
    total, found = 0.0, []
    for lane, target in sorted(terms.target_s.items(), key=itemgetter(1)):
        total += load.backlog_s.get(lane, 0.0)
        found.append((target, total))
    return found
