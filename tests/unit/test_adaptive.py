"""The adaptive batching policy: tables, invariants, and a device in fake time."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.batching import (
    GUARD_S,
    LATE,
    Adaptive,
    BatchingPolicy,
    Demote,
    Greedy,
    Hold,
    Line,
    Release,
    Snapshot,
    fill,
)
from penstock.policy.isolation import (
    QUIET_S,
    MinimumShare,
    blocking_s,
    filling_s,
    isolation_bound_s,
)
from penstock.policy.latency import LatencyBook
from penstock.policy.prefetch import wanted

FAST, BULK = Lane.INTERACTIVE, Lane.BACKGROUND
NEVER = float("inf")


@dataclass(frozen=True)
class Waiter:
    arrived_at: float = 0.0
    cost: float = 1.0
    due_at: float = NEVER


def book(*models: str, alpha: float = 8e-3, beta: float = 0.25e-3) -> LatencyBook:
    """Of devices that are known well."""
    found = LatencyBook()
    for model in models or ("m",):
        for size in (1, 2, 4, 8, 16, 32, 64) * 20:
            found.observe(model, size, alpha + beta * size)
    return found


def line(model: str, lane: str, count: int, *, at: float = 0.0, due: float = NEVER, cost: float = 1.0) -> Line:
    return Line(model, lane, [Waiter(at + i * 1e-3, cost, due + i * 1e-3) for i in range(count)])


def snapshot(lines: list[Line], *, now: float = 10.0, limit: Batching | None = None, **more) -> Snapshot:
    models = {each.model for each in lines}
    more.setdefault("latency", book(*models))
    more.setdefault("quiet_s", 0.0)
    return Snapshot(now, lines, dict.fromkeys(models, limit or Batching(max_size=64)), **more)


def decide(lines: list[Line], **more):
    return Adaptive().decide(snapshot(lines, **more))


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        ("nothing waits", [line("m", FAST, 0)], Hold(None)),
        ("one alone goes at once", [line("m", FAST, 1, due=10.1)], Release("m", {FAST: 1}, "idle")),
        ("all that is there", [line("m", FAST, 40, due=10.1)], Release("m", {FAST: 40}, "idle")),
        ("full", [line("m", FAST, 70, due=10.1)], Release("m", {FAST: 64}, "full")),
        (
            "a head that would be late gives way, to a batch of 24 ms",
            [line("m", FAST, 64, due=10.01)],
            Demote("m", "", 0, pytest.approx(10.024, abs=1e-3)),
        ),
        ("one that cannot be in time alone, too", [line("m", FAST, 1, due=10.005)], Demote("m", "", 0, None)),
        ("the late run when nobody is in time", [line("m", LATE, 70, due=9.0)], Release("m", {LATE: 64}, "full")),
        (
            "those in time go before the late",
            [line("m", LATE, 10, due=9.0), line("m", FAST, 64, due=10.1)],
            Release("m", {FAST: 64}, "full"),
        ),
        (
            "the late go before background",
            [line("m", BULK, 64, at=-9), line("m", LATE, 3, due=9.0)],
            Release("m", {LATE: 3}, "idle"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_model(name, lines, expected):
    assert decide(lines) == expected


def test_a_background_batch_keeps_within_the_budget_while_interactive_jobs_come():
    release = decide([line("m", BULK, 500)])
    assert release.reason == "budget"
    took_s = 8e-3 + 0.25e-3 * release.size
    assert took_s <= blocking_s(0.1, 0.0) < took_s + 3e-3


@pytest.mark.parametrize("quiet_s", [None, QUIET_S + 10])
def test_a_background_batch_is_as_large_as_the_model_allows_when_nobody_is_disturbed(quiet_s):
    assert decide([line("m", BULK, 500)], quiet_s=quiet_s) == Release("m", {BULK: 64}, "full")


def test_background_of_a_slow_model_still_runs_one_at_a_time():
    release = decide([line("m", BULK, 9)], latency=book("m", alpha=1.0))
    assert release == Release("m", {BULK: 1}, "budget")


def test_an_unknown_model_is_explored_gently_beside_interactive_jobs():
    latency, sizes = LatencyBook(), []
    for _ in range(6):
        release = decide([line("m", BULK, 500)], latency=latency)
        sizes.append(release.size)
        latency.observe("m", release.size, 1e-3 + 1e-5 * release.size)
    assert sizes == [1, 2, 4, 8, 16, 32]


def test_background_fills_an_interactive_batch_as_far_as_the_budget_goes():
    release = decide([line("m", FAST, 4, due=10.1), line("m", BULK, 500)])
    assert release.take[FAST] == 4
    assert 0 < release.take[BULK] * 0.25e-3 <= filling_s(0.1) + 1e-6
    assert release.reason == "deadline"


def test_background_does_not_make_an_interactive_item_late():
    """There are 9 ms for a batch that takes 8.25 ms alone: hardly any room for more."""
    latency = book()
    line_ = latency.line("m")
    due = 10.0 + line_.bound(1.0) + GUARD_S + 2 * 0.25e-3 * line_.margin
    release = decide([line("m", FAST, 1, due=due), line("m", BULK, 500)], latency=latency)
    assert release.take == {FAST: 1, BULK: 2}


def test_the_blocking_and_the_filling_leave_a_part_of_the_published_bound_for_what_is_beside_the_device():
    for target in (0.025, 0.1, 0.4):
        spent = blocking_s(target, 0.0) + filling_s(target)
        assert 0.8 * isolation_bound_s(target) <= spent <= 0.9 * isolation_bound_s(target)
        assert blocking_s(target, QUIET_S) == blocking_s(target, 0.0)
        assert blocking_s(target, QUIET_S + 3) == pytest.approx(8 * blocking_s(target, 0.0))
    assert blocking_s(0.1, None) == NEVER


def test_the_earliest_due_head_goes_first_across_models():
    lines = [line("a", FAST, 1, at=1, due=10.09), line("b", FAST, 1, at=2, due=10.05)]
    assert decide(lines).model == "b"


def test_background_that_is_owed_its_share_goes_first():
    lines = [line("m", FAST, 64, due=10.1), line("m", BULK, 9)]
    assert decide(lines, background_owed=True).take == {BULK: 9}


def test_a_pinned_wait_holds():
    limit = Batching(max_size=64, max_wait_s=0.01)
    lines = [line("m", FAST, 3, at=10.0, due=10.1)]
    assert decide(lines, limit=limit, now=10.004) == Hold(10.01)
    assert decide(lines, limit=limit, now=10.01) == Release("m", {FAST: 3}, "wait")
    assert decide(lines, limit=limit, now=10.004, draining=True).size == 3


def test_keys_never_mix():
    lines = [
        Line("m", FAST, [Waiter(0, 1, 10.1)] * 3, "small"),
        Line("m", FAST, [Waiter(0, 1, 10.09)] * 2, "large"),
        Line("m", BULK, [Waiter()] * 5, "small"),
    ]
    assert decide(lines) == Release("m", {FAST: 2}, "idle", "large")


@pytest.mark.parametrize(
    ("most", "waiting", "starts_in_s", "expected"),
    [(8, 0, 0.0, 8), (8, 5, 0.0, 3), (8, 9, 0.0, 0), (8, 0, 0.02, 8), (8, 0, 0.021, 0)],
)
def test_claims_come_just_in_time(most, waiting, starts_in_s, expected):
    assert wanted(most=most, waiting=waiting, starts_in_s=starts_in_s, lead_s=0.02) == expected


def test_the_least_share_is_owed_after_a_while_without_and_paid_back_by_having_it():
    share = MinimumShare()
    assert not share.owed()
    now = 0.0
    for _ in range(100):
        now += 0.1
        share.spent(0.1, 0.0, now)
    assert share.owed()
    share.spent(1.0, 1.0, now)
    assert not share.owed()


costs = st.floats(0.1, 50)
waiters = st.lists(
    st.builds(Waiter, arrived_at=st.floats(0, 10), cost=costs, due_at=st.one_of(st.floats(9, 11), st.just(NEVER))),
    max_size=30,
)


@given(
    fast=waiters,
    late=waiters,
    bulk=waiters,
    max_size=st.integers(1, 16),
    max_cost=st.one_of(st.none(), st.floats(1, 100)),
    quiet_s=st.one_of(st.none(), st.floats(0, 20)),
    owed=st.booleans(),
)
def test_whatever_waits_limits_hold_and_something_runs(fast, late, bulk, max_size, max_cost, quiet_s, owed):
    """At the end of all demotions: a batch within the limits, nobody in it in time on paper who is not, none idle."""
    limit = Batching(max_size=max_size, cost=float, max_cost=max_cost)
    lines = {FAST: sorted(fast, key=lambda w: w.due_at), LATE: list(late), BULK: list(bulk)}
    latency = book()
    for _ in range(len(fast) + 1):
        seen = snapshot(
            [Line("m", lane, items) for lane, items in lines.items()],
            limit=limit,
            latency=latency,
            quiet_s=quiet_s,
            background_owed=owed,
        )
        decision = Adaptive().decide(seen)
        if not isinstance(decision, Demote):
            break
        lines[LATE].append(lines[FAST].pop(decision.place))
    if not (fast or late or bulk):
        assert decision == Hold(None)
        return
    assert isinstance(decision, Release)
    taken = {lane: lines[lane][:count] for lane, count in decision.take.items()}
    everyone = [w for items in taken.values() for w in items]
    assert len(everyone) == decision.size
    assert 1 <= decision.size <= max_size
    cost = sum(w.cost for w in everyone)
    if max_cost is not None:
        assert cost <= max_cost or decision.size == 1
    bound_s = latency.line("m").bound(cost)
    for waiter in taken.get(FAST, ()):
        assert seen.now + bound_s <= waiter.due_at, "a batch that makes somebody late was not to be released"
    if set(taken) == {BULK} and quiet_s is not None and len(everyone) > 1:
        assert bound_s <= blocking_s(0.1, quiet_s) + 1e-9


# A device in fake time -----------------------------------------------------------------------------------------


def simulate(
    policy: BatchingPolicy, *, rate: float, seconds: float, target: float, limit: Batching, noise: float = 0.05
):
    """The share of interactive arrivals (Poisson) that end within the target on one device of 8 + 0.25 b ms."""
    rng = random.Random(7)
    latency = book()
    arrivals, t = [], 0.0
    while t < seconds:
        t += rng.expovariate(rate)
        arrivals.append(t)
    fast: list[Waiter] = []
    late: list[Waiter] = []
    now, good, sizes, position = 0.0, 0, [], 0
    while position < len(arrivals) or fast or late:
        while position < len(arrivals) and arrivals[position] <= now:
            fast.append(Waiter(arrivals[position], 1.0, arrivals[position] + target))
            position += 1
        decision = policy.decide(
            Snapshot(
                now, [Line("m", FAST, fast), Line("m", LATE, late)], {"m": limit}, latency=latency, target_s=target
            )
        )
        if isinstance(decision, Demote):
            late.append(fast.pop(decision.place))
            continue
        if isinstance(decision, Hold):
            if position == len(arrivals) and decision.until is None:
                break
            nexts = [at for at in (decision.until, arrivals[position] if position < len(arrivals) else None) if at]
            now = max(now, min(nexts))
            continue
        took = (8e-3 + 0.25e-3 * decision.size) * max(0.5, rng.gauss(1.0, noise))
        now += took
        latency.observe("m", decision.size, took)
        sizes.append(decision.size)
        for lane, items in ((FAST, fast), (LATE, late)):
            count = decision.take.get(lane, 0)
            good += sum(now - waiter.arrived_at <= target for waiter in items[:count])
            del items[:count]
        if now > seconds + 5:
            break
    return good / len(arrivals), sizes


@pytest.mark.parametrize("rate", [20, 500, 2000, 2400])
def test_it_holds_what_the_device_can_hold(rate):
    """2,667/s is the device's limit at 64; batch size 1 would hold 121/s."""
    share, sizes = simulate(Adaptive(), rate=rate, seconds=10, target=0.1, limit=Batching(max_size=64))
    assert share >= 0.99
    assert sum(sizes) / len(sizes) < 64


def test_overloaded_it_keeps_most_of_the_peak_where_greedy_keeps_nothing():
    limit = Batching(max_size=64)
    adaptive, _ = simulate(Adaptive(), rate=5334, seconds=10, target=0.1, limit=limit)
    greedy, _ = simulate(Greedy(), rate=5334, seconds=10, target=0.1, limit=limit)
    assert adaptive >= 0.45  # of the offered: 0.9 of the peak
    assert greedy < 0.05


def test_it_is_as_quick_as_batch_size_1_when_there_is_little_to_do():
    _, sizes = simulate(Adaptive(), rate=10, seconds=20, target=0.1, limit=Batching(max_size=64))
    assert sum(sizes) / len(sizes) < 1.2


def test_fill_takes_one_item_whatever_the_budget():
    lines = [line("m", BULK, 3)]
    assert fill("m", snapshot(lines), budget=0.0).take == {BULK: 1}
