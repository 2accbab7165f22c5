"""How many workers a pool wants: each rule by its name, and what always holds."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.lane import Lane
from penstock.policy.scaling import Context, Decision, Fleet, Load, State, Terms, decide

QUICK = {Lane.INTERACTIVE: 1.0, Lane.BACKGROUND: 60.0}


def terms(**more: object) -> Terms:
    return Terms(**{"least": 0, "most": 100, "target_s": QUICK, "ready_in_s": 10.0, **more})  # type: ignore[arg-type]


def load(at: float, demand: float = 0.0, backlog: float = 0.0, lane: Lane = Lane.INTERACTIVE, **more: object) -> Load:
    jobs = math.ceil(backlog * 10)
    return Load(**{"at": at, "demand": demand, "backlog_s": {lane: backlog}, "jobs": jobs, **more})  # type: ignore[arg-type]


@dataclass
class Pool:
    """A pool with workers that come when they are said to, asked once a second."""

    terms: Terms
    ready: int = 0
    now: float = 1000.0
    state: State = field(default_factory=State)
    stuck: str = ""
    last: Decision | None = None

    def __post_init__(self) -> None:
        self.coming: list[float] = []

    def look(self, demand: float = 0.0, backlog: float = 0.0, **more: object) -> Decision:
        self.now += 1.0
        return self.decide(load(self.now, demand, backlog, **more))  # type: ignore[arg-type]

    def decide(self, seen: Load | None) -> Decision:
        while self.coming and self.coming[0] <= self.now and not self.stuck:
            self.coming.pop(0)
            self.ready += 1
        fleet = Fleet(ready=self.ready, starting=len(self.coming), stuck=self.stuck)
        decision = decide(Context(now=self.now, terms=self.terms, load=seen, fleet=fleet, state=self.state))
        change = decision.target - self.ready - len(self.coming)
        self.coming += [self.now + self.terms.ready_in_s] * max(change, 0)
        for _ in range(-change):
            if self.coming:
                self.coming.pop()
            else:
                self.ready -= 1
        self.state, self.last = decision.state, decision
        return decision

    def run(self, seconds: int, demand: float, backlog: float = 0.0) -> list[int]:
        return [self.look(demand, backlog).target for _ in range(seconds)]


# Unknown is not zero --------------------------------------------------------------------------------------------------


def test_unknown_is_not_zero() -> None:
    decision = Pool(terms(), ready=7).decide(None)
    assert (decision.target, decision.code) == (7, "hold.unknown")
    assert "nothing is known" in decision.reason


@pytest.mark.parametrize(
    ("age", "code"), [(11.0, "hold.stale"), (599.0, "hold.stale"), (601.0, "hold.lost"), (9e4, "hold.lost")]
)
def test_signals_that_are_lost_never_scale_down_and_it_says_why(age: float, code: str) -> None:
    pool = Pool(terms(), ready=5)
    pool.run(60, demand=4.0, backlog=1.0)
    before, seen = pool.last, pool.now
    assert before is not None
    pool.now += age
    decision = pool.decide(load(seen, 0.0))
    assert (decision.target, decision.code) == (before.target, code)
    assert f"{age:.0f} s" in decision.reason
    assert "unknown is not zero" in decision.reason


def test_unknown_is_not_zero_where_nobody_knows_how_long_jobs_take() -> None:
    """Jobs of a model that has never run are in no device seconds."""
    pool = Pool(terms(), ready=4)
    for _ in range(400):
        assert pool.look(0.0, jobs=900, untimed=900).target == 4
    assert pool.last is not None and pool.last.code == "hold.untimed"
    assert "nobody knows yet how long 900 jobs take" in pool.last.reason
    for _ in range(400):  # each of them may take one for long; more would not help
        pool.look(0.0, jobs=2, untimed=2)
    assert pool.last.target == 2
    for _ in range(400):  # beside what is known
        pool.look(0.9, jobs=2, untimed=1)
    assert pool.last.target == 2
    for _ in range(800):
        pool.look(0.2, 0.1)
    assert pool.last.target == 1


def test_signals_that_come_back_are_believed_again() -> None:
    pool = Pool(terms(), ready=5)
    pool.run(60, demand=4.0)
    pool.now += 3600
    pool.run(400, demand=0.0)
    assert pool.last is not None
    assert (pool.last.target, pool.last.code) == (0, "idle")


@pytest.mark.parametrize("ready_in_s", [0.3, 10.0, 120.0])
def test_time_that_nobody_has_seen_is_no_rest(ready_in_s: float) -> None:
    """The broker was away for an hour, and comes back empty: what it has lost is sent again in some seconds."""
    pool = Pool(terms(ready_in_s=ready_in_s), ready=5)
    pool.run(200, demand=4.0, backlog=1.0)
    before = pool.ready
    assert before >= 4
    pool.now += 3600
    assert min(pool.run(9, demand=0.0)) == before


def test_a_look_counts_once() -> None:
    pool = Pool(terms(), ready=2)
    pool.run(30, demand=2.0)
    again = load(pool.now, 50.0)
    states = [pool.decide(again).state.flow for _ in range(5)]
    assert len(set(states)) == 1


# Capacity -------------------------------------------------------------------------------------------------------------


def test_capacity_is_ready_and_starting() -> None:
    """While those that were ordered start, the same need orders none again."""
    pool = Pool(terms(ready_in_s=60.0), ready=1)
    targets = pool.run(59, demand=5.0, backlog=0.5)
    assert pool.ready == 1
    assert targets[-1] == targets[-20]
    assert targets[-1] <= 14
    assert len(pool.coming) == targets[-1] - 1


def test_a_target_that_cannot_be_fulfilled_is_told_and_does_not_freeze_the_scaler() -> None:
    pool = Pool(terms(), ready=2)
    pool.run(20, demand=2.0)
    pool.stuck = "Unschedulable: 0/3 nodes have a GPU"
    pool.run(30, demand=6.0)
    assert pool.last is not None
    high = pool.last.target
    assert high >= 6
    assert f"only {pool.ready} of {high} are ready, and others do not come up" in pool.last.reason
    assert "GPU" not in pool.last.reason, "what was said of it is not for everybody"
    assert pool.ready < high
    pool.run(400, demand=1.0)
    assert pool.last.target <= high / 2


def test_what_is_stuck_and_counted_as_nothing_is_still_wanted_while_signals_are_lost() -> None:
    state = replace(State(), target=5, seen_at=1000.0)
    fleet = Fleet(ready=3, starting=0, stuck="2 did not come up in time")
    decision = decide(Context(now=1100.0, terms=terms(), load=load(1000.0), fleet=fleet, state=state))
    assert decision.target == 5


# Going down -----------------------------------------------------------------------------------------------------------


@given(st.floats(0.2, 6.0), st.integers(0, 9))
def test_a_constant_load_does_not_swing(demand: float, seed: int) -> None:
    """No 2 <-> 1 swing: before going down, one fewer must carry the load with a rest."""
    pool = Pool(terms(), ready=seed)
    pool.run(400, demand)
    targets = pool.run(300, demand)
    assert len(set(targets)) == 1
    assert targets[0] >= demand - 0.06


def test_one_fewer_must_carry_the_backlog_as_well() -> None:
    pool = Pool(terms(), ready=4)
    pool.run(300, demand=1.0, backlog=1.6)  # half of the target of a second, of three workers: 1.5 s
    assert pool.last is not None
    assert (pool.last.target, pool.last.code) == (4, "hold.backlog")
    pool.run(300, demand=1.0, backlog=0.4)
    assert pool.last.target == 2


def test_down_is_to_the_highest_need_of_the_window() -> None:
    pool = Pool(terms(ready_in_s=30.0), ready=1)
    pool.run(200, demand=8.0)
    assert min(pool.run(240, demand=1.0)) >= 8
    assert pool.last is not None
    assert pool.last.code == "hold.window"
    pool.run(600, demand=1.0)
    assert pool.last.target <= 2


def test_down_is_at_most_half_at_a_time_and_rests_between() -> None:
    pool = Pool(terms(), ready=64)
    targets = [64, *pool.run(900, demand=0.1, backlog=0.01)]
    drops = [(index, now / before) for index, (before, now) in enumerate(itertools.pairwise(targets)) if now < before]
    assert targets[-1] == 1
    assert min(share for _, share in drops) >= 0.5
    assert min(b - a for (a, _), (b, _) in itertools.pairwise(drops)) >= 30


def test_nothing_stops_before_it_was_seen_for_a_window() -> None:
    """A leader that begins knows nothing of what its workers are there for."""
    pool = Pool(terms(ready_in_s=30.0), ready=9)
    assert set(pool.run(170, demand=1.0)) == {9}


# Panic ----------------------------------------------------------------------------------------------------------------


def test_panic_follows_a_sudden_rise_at_once_and_nobody_stops_for_a_minute() -> None:
    pool = Pool(terms(ready_in_s=1.0), ready=2)
    pool.run(300, demand=1.0)
    pool.look(50.0)
    assert pool.last is not None
    assert (pool.last.code, pool.last.target >= 9) == ("panic", True)
    after = pool.run(58, demand=1.0)
    assert all(now >= before for before, now in itertools.pairwise(after))
    assert pool.last.code == "hold.panic"
    pool.run(200, demand=1.0)
    assert pool.last.target <= 5


def test_a_rise_that_chance_explains_is_not_followed() -> None:
    pool = Pool(terms(target_s={Lane.BACKGROUND: 60.0}), ready=6)
    targets = [pool.look(demand, 2.0, lane=Lane.BACKGROUND).target for demand in [9.0, 1.0] * 300]
    assert max(targets[200:]) <= 7


# Backlog and deadlines ------------------------------------------------------------------------------------------------


def test_backlog_is_measured_in_device_time_against_the_lanes_target() -> None:
    flood = {lane: Pool(terms(), ready=1).look(0.0, 60.0, lane=lane).target for lane in Lane}
    assert flood[Lane.INTERACTIVE] >= 9
    assert flood[Lane.BACKGROUND] <= 2


def test_what_is_done_before_anybody_could_be_ready_needs_nobody() -> None:
    assert Pool(terms(ready_in_s=30.0), ready=2).look(0.0, 40.0).target == 2


def test_deadlines_are_met_the_earliest_first() -> None:
    seen = load(1001.0, 0.0, 100.0, lane=Lane.BACKGROUND)
    quiet = Pool(terms(), ready=1, now=1001.0).decide(seen)
    due = Pool(terms(), ready=1, now=1001.0).decide(replace(seen, due=[(20.0, 50.0), (30.0, 50.0)]))
    assert due.target >= 5 > quiet.target
    assert "jobs have deadlines of their own" in due.reason
    lost = Pool(terms(), ready=1, now=1001.0).decide(replace(seen, due=[(5.0, 1e6)]))
    assert lost.target == quiet.target


def test_at_the_least_nothing_is_said_to_go_down_later() -> None:
    decision = Pool(terms(least=3), ready=3).look(0.5, 0.1)
    assert decision.reason.startswith("stays at 3 workers: the pool's min. New work takes")
    decision = Pool(terms(least=2), ready=3).look(0.5, 0.1)
    assert decision.reason.startswith("stays at 3 workers: fewer would be enough now; it goes down when they have been")


# Zero -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every_s", [61, 75, 101, 150, 250])
@pytest.mark.parametrize("ready_in_s", [0.3, 10.0])
def test_a_steady_trickle_does_not_start_a_worker_for_each_job(every_s: int, ready_in_s: float) -> None:
    pool = Pool(terms(ready_in_s=ready_in_s), ready=0)
    targets = []
    for _ in range(10):
        targets.append(pool.look(0.1, 0.1).target)
        targets += pool.run(every_s - 1, demand=0.0)
    changes = [pair for pair in itertools.pairwise(targets) if pair[0] != pair[1]]
    assert len(changes) <= 2, "stopped once, started once, and then it is known"
    assert 0 in pool.run(301, demand=0.0), "when nothing comes any more, nobody stays"


def test_work_that_comes_once_in_a_long_while_keeps_nobody() -> None:
    pool = Pool(terms(), ready=0)
    for _ in range(5):
        pool.look(0.1, 0.1)
        targets = pool.run(400, demand=0.0)
    assert targets.count(1) <= 110


def test_from_zero_at_the_first_job_and_to_zero_after_a_while() -> None:
    pool = Pool(terms(), ready=0)
    assert set(pool.run(30, demand=0.0)) == {0}
    first = pool.look(0.0, 0.0, jobs=1)  # nobody knows yet how long it takes
    assert (first.target, first.code) == (1, "first")
    pool.run(20, demand=0.5, backlog=0.1)
    assert min(pool.run(50, demand=0.0)) >= 1
    pool.run(60, demand=0.0)
    assert pool.last is not None
    assert (pool.last.target, pool.last.code) == (0, "idle")


@pytest.mark.parametrize(
    ("least", "most", "demand", "target", "code"),
    [(3, 9, 0.0, 3, "least"), (0, 4, 50.0, 4, "most"), (5, 5, 1.0, 5, "least")],
)
def test_least_and_most_have_the_last_word(least: int, most: int, demand: float, target: int, code: str) -> None:
    pool = Pool(terms(least=least, most=most), ready=0)
    pool.run(200, demand)
    assert pool.last is not None
    assert pool.last.target == target
    if demand != 1.0:
        assert pool.last.code == code


# Parked ---------------------------------------------------------------------------------------------------------------


def test_spares_are_as_many_as_need_rose_within_the_time_to_be_ready() -> None:
    pool = Pool(terms(wake_in_s=0.05, warm=1), ready=2)
    assert pool.look(1.0).parked == 1
    pool.run(300, demand=1.0)
    pool.run(60, demand=6.0)
    pool.run(300, demand=1.0)
    assert pool.last is not None
    assert 3 <= pool.last.parked <= 8
    pool.run(6 * 3600, demand=1.0)
    assert pool.last.parked == 1


def test_a_pool_that_wants_nobody_keeps_the_spares_that_it_must_have() -> None:
    """A burst does not hold memory and devices for hours after it."""
    for warm in (0, 1):
        pool = Pool(terms(wake_in_s=0.05, warm=warm), ready=2)
        pool.run(300, demand=1.0)
        pool.run(60, demand=6.0)
        pool.run(60, demand=1.0)
        assert pool.last is not None and pool.last.target > 1 and pool.last.parked > 1
        pool.run(600, demand=0.0)
        assert (pool.last.target, pool.last.code, pool.last.parked) == (0, "idle", warm)


@pytest.mark.parametrize(("least", "ready"), [(1, 1), (0, 0)])
def test_who_asks_for_no_spares_and_uses_little_has_none(least: int, ready: int) -> None:
    """Nor does anything park for a job now and then, or steady work: nobody pays memory for what one worker does."""
    pool = Pool(terms(least=least, wake_in_s=0.05), ready=ready)
    parked = {pool.look().parked for _ in range(60)}
    for _ in range(20):
        parked |= {pool.look(0.3).parked}
        parked |= {pool.look().parked for _ in range(20)}
    parked |= {pool.look(0.4).parked for _ in range(300)}
    assert parked == {0}
    steady = Pool(terms(least=least, wake_in_s=0.05), ready=ready)
    assert {steady.look(3.0 + 0.5 * (n % 2)).parked for n in range(600)} == {0}, "much, and no rise"


def test_a_rise_is_forgotten_and_its_spares_go() -> None:
    pool = Pool(terms(least=1, wake_in_s=0.05), ready=1)
    pool.run(300, demand=0.3)
    pool.run(60, demand=3.0)
    assert pool.last is not None and pool.last.parked >= 1
    pool.run(2 * 3600, demand=0.3)
    assert pool.last.parked == 0


def test_spares_stay_while_signals_are_lost() -> None:
    pool = Pool(terms(least=1, wake_in_s=0.05), ready=1)
    pool.run(300, demand=0.3)
    pool.run(60, demand=3.0)
    assert pool.last is not None
    seen, parked = load(pool.now), pool.last.parked
    assert parked >= 1
    fleet = Fleet(ready=pool.ready, parked=parked)
    hours_later = Context(now=pool.now + 5 * 3600, terms=pool.terms, load=seen, fleet=fleet, state=pool.state)
    assert (decide(hours_later).parked, decide(hours_later).code) == (parked, "hold.lost")


def test_a_pool_that_cannot_park_has_no_spares() -> None:
    pool = Pool(terms(warm=3), ready=2)
    pool.run(100, demand=1.0)
    pool.run(60, demand=6.0)
    assert pool.last is not None
    assert pool.last.parked == 0


# What always holds ----------------------------------------------------------------------------------------------------

LOOKS = st.lists(
    st.one_of(st.none(), st.tuples(st.floats(0, 50), st.floats(0, 500), st.integers(0, 1000), st.floats(0.1, 900))),
    max_size=60,
)


@given(LOOKS, st.integers(0, 5), st.integers(0, 40), st.integers(0, 30), st.floats(0, 200))
def test_targets_are_within_bounds_and_only_fresh_signals_stop_anybody(
    looks: Sequence[tuple[float, float, int, float] | None], least: int, more: int, ready: int, ready_in_s: float
) -> None:
    bounds = terms(least=least, most=least + more, ready_in_s=ready_in_s, warm=2, wake_in_s=0.1)
    now, state, seen = 50.0, State(), None
    for look in looks:
        now += look[3] if look is not None else 30.0
        if look is not None:
            demand, backlog, jobs, _ = look
            seen = load(now, demand, backlog, jobs=jobs, due=[(backlog, demand)])
        fleet = Fleet(ready=ready, busy=ready // 2, starting=ready // 3)
        decision = decide(Context(now=now, terms=bounds, load=seen, fleet=fleet, state=state))
        assert least <= decision.target <= least + more
        assert 0 <= decision.parked <= least + more - decision.target
        assert decision.reason
        wanted = state.target
        if look is None and wanted is not None:
            assert decision.target == wanted
        if wanted is not None and decision.target < wanted:
            assert decision.target >= wanted // 2 or decision.code == "idle"
        state = decision.state


@given(LOOKS)
def test_a_successor_on_another_clock_decides_the_same(looks: Sequence[tuple[float, float, int, float] | None]) -> None:
    now, state, moved = 50.0, State(), 1e5
    for look in looks:
        if look is None:
            continue
        now += min(look[3], 5.0)
        there = State.from_json(json.loads(json.dumps(state.as_json())), now=state.seen_at + moved)

        contexts = [
            Context(
                now=at, terms=terms(), load=load(at, look[0], look[1], jobs=look[2]), fleet=Fleet(ready=3), state=known
            )
            for at, known in ((now, state), (now + moved, there))
        ]
        here, other = (decide(context) for context in contexts)
        assert other.target == pytest.approx(here.target, abs=1)
        state = here.state


@pytest.mark.parametrize(
    "value", [{}, {"target": "x"}, {"flow": {"fast": 1}}, {"peaks": 3}, {"used_at": {"night": 1}}, {"more": 1}]
)
def test_of_a_state_that_nobody_understands_the_beginning_is_made(value: dict[str, object]) -> None:
    assert State.from_json(value, now=5.0) == State()


def test_a_tick_of_fifty_pools_and_a_thousand_workers_is_short() -> None:
    """Ten milliseconds; the best of some, since others use this machine, too."""
    pools = [Pool(terms(most=1000, wake_in_s=0.1), ready=20) for _ in range(50)]
    for pool in pools:
        pool.run(30, demand=15.0, backlog=5.0)
    took = []
    for _ in range(20):
        began = time.process_time()
        for pool in pools:
            pool.look(15.0, 5.0, due=[(float(n), 0.1) for n in range(20)])
        took.append(time.process_time() - began)
    assert min(took) < 0.010
