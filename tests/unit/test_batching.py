"""The greedy batching policy, as a table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.batching import Greedy, Hold, Line, Release, Snapshot

FAST, BULK = Lane.INTERACTIVE, Lane.BACKGROUND


@dataclass(frozen=True)
class Waiter:
    arrived_at: float = 0.0
    cost: float = 1.0
    deadline_at: float | None = None


def line(model: str, lane: Lane, count: int, *, at: float = 0.0, cost: float = 1.0) -> Line:
    return Line(model, lane, [Waiter(at + i * 1e-3, cost) for i in range(count)])


def decide(lines: list[Line], limits: dict[str, Batching], now: float = 10.0, draining: bool = False):
    return Greedy().decide(Snapshot(now, lines, limits, draining))


@pytest.mark.parametrize(
    ("name", "lines", "limit", "expected"),
    [
        ("nothing waits", [line("m", FAST, 0)], Batching(), Hold(None)),
        ("one alone goes at once", [line("m", FAST, 1)], Batching(max_size=8), Release("m", {FAST: 1}, "idle")),
        ("full batch", [line("m", FAST, 9)], Batching(max_size=8), Release("m", {FAST: 8}, "full")),
        (
            "background fills the free slots",
            [line("m", FAST, 3), line("m", BULK, 9)],
            Batching(max_size=8),
            Release("m", {FAST: 3, BULK: 5}, "full"),
        ),
        (
            "interactive first even when background is older",
            [line("m", BULK, 9, at=0), line("m", FAST, 8, at=5)],
            Batching(max_size=8),
            Release("m", {FAST: 8}, "full"),
        ),
        (
            "cost bounds the batch",
            [line("m", FAST, 9, cost=30)],
            Batching(max_size=8, cost=len, max_cost=100),
            Release("m", {FAST: 3}, "full"),
        ),
        (
            "an item above the cost limit runs alone",
            [line("m", FAST, 2, cost=1000)],
            Batching(max_size=8, cost=len, max_cost=100),
            Release("m", {FAST: 1}, "full"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_model(name, lines, limit, expected):
    assert decide(lines, {"m": limit}) == expected


def test_the_model_whose_head_waited_longest_goes_first():
    lines = [line("new", FAST, 2, at=5), line("old", FAST, 2, at=1)]
    assert decide(lines, {"new": Batching(), "old": Batching()}).model == "old"


def test_interactive_of_one_model_goes_before_older_background_of_another():
    lines = [line("bulk", BULK, 50, at=0), line("chat", FAST, 1, at=9)]
    assert decide(lines, {"bulk": Batching(), "chat": Batching()}).model == "chat"


def test_a_pinned_wait_holds_until_it_is_over():
    limits = {"m": Batching(max_size=8, max_wait_s=0.5)}
    assert decide([line("m", FAST, 2, at=10.0)], limits, now=10.1) == Hold(10.5)
    assert decide([line("m", FAST, 2, at=10.0)], limits, now=10.5) == Release("m", {FAST: 2}, "wait")
    assert decide([line("m", FAST, 8, at=10.0)], limits, now=10.1) == Release("m", {FAST: 8}, "full")
    assert decide([line("m", FAST, 2, at=10.0)], limits, now=10.1, draining=True).size == 2


def test_a_held_model_does_not_hold_up_another():
    limits = {"slow": Batching(max_wait_s=5), "fast": Batching()}
    lines = [line("slow", FAST, 1, at=9.0), line("fast", BULK, 1, at=9.5)]
    assert decide(lines, limits).model == "fast"


@given(
    sizes=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    max_size=st.integers(1, 16),
    costs=st.lists(st.floats(0.1, 50), min_size=80, max_size=80),
    max_cost=st.one_of(st.none(), st.floats(1, 100)),
)
def test_a_batch_keeps_its_limits_and_never_idles(sizes, max_size, costs, max_cost):
    """Never above max_size; above max_cost only with a single item; something runs whenever something waits."""
    weights = iter(costs)
    lines = [
        Line("m", lane, [Waiter(i * 1e-3, next(weights)) for i in range(n)])
        for lane, n in zip((FAST, BULK), sizes, strict=True)
    ]
    limit = Batching(max_size=max_size, cost=len if max_cost else None, max_cost=max_cost)
    decision = decide(lines, {"m": limit})
    if not any(sizes):
        assert decision == Hold(None)
        return
    assert isinstance(decision, Release)
    assert 1 <= decision.size <= max_size
    taken = [w.cost for li in lines for w in li.items[: decision.take.get(li.lane, 0)]]
    assert len(taken) == decision.size
    if max_cost is not None:
        assert sum(taken) <= max_cost or decision.size == 1
    if decision.take.get(BULK):
        assert decision.take.get(FAST, 0) == sizes[0], "background only fills what interactive leaves free"
