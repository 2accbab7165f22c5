"""The ceiling that out-of-memory teaches."""

from __future__ import annotations

import pytest

from penstock.model import Batching
from penstock.policy.memory import MOST_PATIENCE, PATIENCE, Call, Ceiling


def call(size: int, oom: bool = False, *, cost: float | None = None) -> Call:
    return Call(size, size if cost is None else cost, oom)


@pytest.mark.parametrize(
    ("name", "calls", "by_cost", "limit"),
    [
        ("all is well", [call(64)], False, None),
        ("half of what did not fit", [call(64, True), call(32), call(32)], False, 32),
        ("half of the smallest that did not fit", [call(64, True), call(32, True), call(16), call(16)], False, 16),
        ("what did fit is known to", [call(10, True), call(9)], False, 9),
        ("an item alone says nothing", [call(1, True)], False, None),
        ("in the unit of cost", [call(2, True, cost=900.0), call(1, cost=400.0), call(1, cost=500.0)], True, 500.0),
        ("never below one", [call(2, True), call(1), call(1)], False, 1),
    ],
)
def test_a_run_teaches(name: str, calls: list[Call], by_cost: bool, limit: float | None) -> None:
    assert Ceiling().after(calls, by_cost=by_cost).limit == limit


@pytest.mark.parametrize(
    ("limit", "own", "expected"),
    [
        (None, Batching(max_size=64), Batching(max_size=64)),
        (16.9, Batching(max_size=64), Batching(max_size=16)),
        (100.0, Batching(max_size=64), Batching(max_size=64)),
        (50.0, Batching(max_size=64, cost=len), Batching(max_size=64, cost=len, max_cost=50.0)),
        (50.0, Batching(cost=len, max_cost=40.0), Batching(cost=len, max_cost=40.0)),
    ],
)
def test_it_lowers_the_models_own_limits(limit: float | None, own: Batching, expected: Batching) -> None:
    assert Ceiling(limit, 100.0).apply(own) == expected


def drive(ceiling: Ceiling, runs: int, *, room: int, demand: int = 64) -> tuple[Ceiling, int]:
    """So many batches as large as the ceiling lets them be; how many did not fit."""
    misses = 0
    for _ in range(runs):
        size = ceiling.apply(Batching(max_size=demand)).max_size
        calls = [call(size)]
        if size > room:
            misses += 1
            calls = [call(size, True), call(size - size // 2), call(size // 2)]
        ceiling = ceiling.after(calls, by_cost=False)
    return ceiling, misses


def test_it_grows_back_when_memory_is_free_again() -> None:
    ceiling, misses = drive(Ceiling(), 1, room=40)
    assert (ceiling.limit, misses) == (32, 1)
    assert drive(ceiling, PATIENCE - 1, room=64)[0].limit == 32
    grown, misses = drive(ceiling, 20 * PATIENCE, room=64)
    assert (misses, grown.apply(Batching(max_size=64)).max_size) == (0, 64)


def test_a_fixed_limit_is_probed_ever_more_rarely() -> None:
    """The share of batches that do not fit falls with time, and most of the room is used."""
    ceiling, early = drive(Ceiling(), 1000, room=40)
    ceiling, late = drive(ceiling, 10_000, room=40)
    assert early <= 1 + 1000 / PATIENCE / 3
    assert late <= 8
    assert ceiling.patience <= MOST_PATIENCE
    assert ceiling.limit is not None and 20 <= ceiling.limit <= 44


def test_small_batches_say_nothing_about_the_ceiling() -> None:
    ceiling = Ceiling().after([call(64, True), call(32)], by_cost=False)
    for _ in range(10 * PATIENCE):
        ceiling = ceiling.after([call(3)], by_cost=False)
    assert (ceiling.limit, ceiling.good) == (32, 0)
