"""When a pool is split between lanes, and merged again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.policy.scaling.split import (
    ENOUGH_S,
    GONE,
    LONG_SHARE,
    LOST_S,
    MERGE_AFTER_S,
    SPLIT_AFTER_S,
    STALE_S,
    Pressure,
    Split,
    Verdict,
    chosen,
    split,
)

PRESSED = Pressure(at=0.0, workers=8, interactive=0.5, background_s=800.0, longest_s=2.0, target_s=1.0)
CALM = replace(PRESSED, background_s=0.0)


class Pool:
    """Looks once a second."""

    def __init__(self, state: Split | None = None, workers: int = 8) -> None:
        self.now, self.state, self.workers = 0.0, state or Split(), workers
        self.changes: list[tuple[float, int]] = []

    def sees(self, pressure: Pressure | None, seconds: float) -> Verdict:
        for _ in range(int(seconds)):
            self.now += 1
            seen = None if pressure is None else replace(pressure, at=self.now, workers=self.workers)
            verdict = split(self.now, seen, self.workers, self.state)
            if verdict.alone != self.state.alone:
                self.changes.append((self.now, verdict.alone))
            self.state = verdict.state
        return verdict


def test_a_split_waits_until_the_pressure_has_lasted() -> None:
    pool = Pool()
    assert pool.sees(PRESSED, SPLIT_AFTER_S).code == "split.pending"
    verdict = pool.sees(PRESSED, 1)
    assert (verdict.alone, verdict.code) == (1, "split")
    assert verdict.reason == (
        "background work has pressed for 30 s: one background job takes up to 2 s, where an interactive one is to be"
        " done in 1 s, and each worker has 100 s of background work before it"
    )


def test_a_merge_waits_for_longer() -> None:
    pool = Pool()
    pool.sees(PRESSED, 60)
    assert pool.sees(CALM, MERGE_AFTER_S).alone == 1
    assert pool.sees(CALM, 1).code == "merge" and pool.state.alone == 0


def test_pressure_that_comes_and_goes_splits_nothing() -> None:
    pool = Pool()
    for _ in range(20):
        pool.sees(PRESSED, SPLIT_AFTER_S - 1)
        pool.sees(CALM, 2)
    assert pool.changes == []


def test_a_pool_that_is_split_stays_so_while_the_pressure_comes_and_goes() -> None:
    pool = Pool()
    pool.sees(PRESSED, 60)
    for _ in range(20):
        pool.sees(CALM, MERGE_AFTER_S - 1)
        pool.sees(PRESSED, 2)
    assert [alone for _, alone in pool.changes] == [1]


@pytest.mark.parametrize("share", [GONE * 1.01, 0.75, 0.99])
@pytest.mark.parametrize("what", ["longest_s", "background_s"])
def test_between_the_two_thresholds_all_stays_as_it_is(what: str, share: float) -> None:
    at_the_edge = {"longest_s": LONG_SHARE * PRESSED.target_s, "background_s": ENOUGH_S * PRESSED.workers}
    between: Any = replace(PRESSED, **{what: at_the_edge[what] * share})
    never, always = Pool(), Pool(Split(alone=1, known_at=0.0))
    never.sees(between, 600)
    always.sees(between, 600)
    assert never.changes == always.changes == []


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        ({"longest_s": 0.4}, 0),  # short ones are kept apart by the length of their batches
        ({"background_s": ENOUGH_S * 8 - 1}, 0),
        ({"interactive": 0.0}, 0),
        ({"interactive": 0.5}, 1),
        ({"interactive": 1.3}, 3),
        ({"interactive": 99.0}, 4),  # never more than half
    ],
)
def test_how_many_are_split_off(change: Any, alone: int) -> None:
    pool = Pool()
    pool.sees(replace(PRESSED, **change), 300)
    assert pool.state.alone == alone


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_does_both(workers: int) -> None:
    pool = Pool(workers=workers)
    assert pool.sees(PRESSED, 300).alone == 0


def test_when_workers_leave_half_of_the_rest_do_both_at_once() -> None:
    pool = Pool(Split(alone=4, known_at=0.0))
    pool.workers = 3
    verdict = pool.sees(replace(PRESSED, interactive=9.0), 1)
    assert (verdict.alone, verdict.code) == (1, "split.fewer_workers")
    pool.workers = 1
    assert pool.sees(PRESSED, 1).alone == 0


def test_what_is_not_known_changes_nothing_until_it_is_lost() -> None:
    pool = Pool(Split(alone=2, known_at=0.0))
    assert pool.sees(None, LOST_S).code == "hold.stale" and pool.state.alone == 2
    verdict = pool.sees(None, 1)
    assert (verdict.alone, verdict.code) == (0, "merge.lost")


def test_time_without_looks_is_no_time_of_pressure() -> None:
    pool = Pool()
    pool.sees(PRESSED, SPLIT_AFTER_S)
    pool.sees(None, 5)
    pool.sees(PRESSED, SPLIT_AFTER_S)
    assert pool.changes == []


def test_an_old_look_is_no_look() -> None:
    verdict = split(100.0, replace(PRESSED, at=100.0 - STALE_S - 1), 8, Split())
    assert verdict.code == "hold.stale"


def test_a_successor_keeps_the_split() -> None:
    before = Split(alone=3, known_at=990.0, fewer_since=950.0)
    after = Split.from_json(before.as_json(now=1000.0), now=5.0)
    assert (after.alone, after.known_at, after.fewer_since) == (3, -5.0, None)
    for nonsense in ({}, {"alone": "3"}, {"alone": -1, "age_s": 0}, {"alone": 3}, {"alone": True, "age_s": 0}):
        assert Split.from_json(nonsense, now=5.0) == Split()


def test_who_has_been_split_off_stays_so() -> None:
    assert chosen(["a", "b", "c", "d"], 2, before=["d"]) == ["a", "d"]
    assert chosen(["a", "b", "c", "d"], 1, before=["d", "gone"]) == ["d"]
    assert chosen(["a"], 1, before=["a"]) == []


looks = st.lists(
    st.tuples(
        st.none()
        | st.builds(
            Pressure,
            at=st.just(0.0),
            workers=st.integers(0, 9),
            interactive=st.floats(0, 9),
            background_s=st.floats(0, 1000),
            longest_s=st.floats(0, 3),
            target_s=st.just(1.0),
        ),
        st.integers(0, 9),
        st.integers(1, 40),
    ),
    max_size=60,
)


@given(looks)
def test_half_of_the_workers_do_both_whatever_is_seen(turns: list[tuple[Pressure | None, int, int]]) -> None:
    now, state, last_up, pressed_since = 0.0, Split(), None, None
    for seen, workers, seconds in turns:
        now += seconds
        before = state
        verdict = split(now, None if seen is None else replace(seen, at=now), workers, state)
        state = verdict.state
        assert 0 <= verdict.alone <= workers // 2 and state.alone == verdict.alone and verdict.reason
        if verdict.alone > before.alone:
            # No faster than the pressure has lasted.
            assert pressed_since is not None and now - pressed_since >= SPLIT_AFTER_S
            last_up = now
        if verdict.code == "merge":
            assert last_up is None or now - last_up >= MERGE_AFTER_S
        pressed_since = state.more_since if state.more_since is not None else None
