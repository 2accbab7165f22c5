"""The waiting room by itself: no thread, no lock, and the time is what it is told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.batching import Adaptive, Hold
from penstock.policy.waitingroom import OVERTAKEN, Chosen, WaitingRoom, in_order, is_urgent

INFINITY = float("inf")
FAST, BULK = "m.interactive", "m.background"
TARGET_S = 2.0


@dataclass(slots=True, eq=False)
class Item:
    """Of one model, whose batches take 0.1 s and 0.1 s an item."""

    lane: Lane = Lane.INTERACTIVE
    due_at: float = 200.0
    ends_at: float = INFINITY
    suspect: bool = False
    model: str = "m"
    key: str = ""
    cost: float = 1.0
    arrived_at: float = 100.0
    claimed_at: float = 0.0
    start_by: float | None = None
    weighed: bool = True
    late: bool = False

    @property
    def rank(self) -> tuple[int, float]:
        return 0, self.due_at


Room = WaitingRoom[Item, Chosen[Item]]


@pytest.fixture
def room() -> Room:
    """What it serves is learned."""
    it = Room(
        {"m": Batching(max_size=4)},
        Adaptive(),
        queues=in_order(["m"], lambda model, lane: f"{model}.{lane}"),
        lead_s=0.02,
        target_s=TARGET_S,
    )
    for size in (1, 2, 3, 4) * 10:
        it.latency.observe("m", size, 0.1 + 0.1 * size)
    it.hopeless.observed("m", 100.0)
    return it


def background(count: int) -> list[Item]:
    return [Item(lane=Lane.BACKGROUND, due_at=INFINITY) for _ in range(count)]


def chosen(found: Chosen[Item] | Hold) -> Chosen[Item]:
    assert isinstance(found, Chosen)
    return found


def test_what_is_put_is_chosen_started_and_ended(room: Room) -> None:
    assert room.quotas(100.0) == {FAST: 4, BULK: 4}
    assert room.put([Item(), Item()], 100.0) == 0
    assert room.quotas(100.0) == {FAST: 2, BULK: 0}, "more may join their batch; background would start in 0.3 s"
    batch = chosen(room.decide(100.0))
    assert (batch.name, len(batch.items), room.lines.empty, room.served) == ("m", 2, True, {"m": 2})
    room.start(batch, 100.0)
    assert room.uses("m") and room.busy_s(100.1) == pytest.approx(0.2)
    assert room.quotas(100.0) == {FAST: 0, BULK: 0} and room.withheld
    room.ended(100.3)
    assert not room.uses("m") and room.empty and room.busy_s(100.3) == 0.0


def test_what_does_not_begin_after_all_was_never_served(room: Room) -> None:
    room.put(background(2), 100.0)
    batch = chosen(room.decide(100.0))
    room.uncut(batch)
    assert (room.served, list(room.lines)) == ({"m": 0}, batch.items)


def test_who_cannot_be_in_time_is_abandoned_and_tried_when_nobody_else_is_here(room: Room) -> None:
    never, tight = Item(ends_at=100.15), Item(ends_at=100.35)
    room.start(Chosen("m", background(1), "full"), 100.0)
    assert room.put([never, tight], 100.0) == 2
    assert room.lines.empty and not room.empty and never.late
    room.ended(100.05)
    assert room.revive(100.05) and list(room.lines) == [tight]
    assert room.pull(lambda item: item is never) == [never]


def test_background_work_that_was_claimed_ahead_can_be_overtaken_for_a_while(room: Room) -> None:
    behind = Chosen("m", background(4), "full", ahead=True)
    room.ahead.claimed(behind, 100.0)
    assert room.may_overtake(behind, 100.0)
    assert not room.may_overtake(behind, 100.0 + OVERTAKEN * TARGET_S)
    urgent = Chosen("m", [Item()], "full", ahead=True)
    assert is_urgent(urgent) and not room.may_overtake(urgent, 100.0)


def test_a_batch_that_was_claimed_ahead_is_not_claimed_again(room: Room) -> None:
    room.claimed_after(1.0)
    room.start(Chosen("m", background(1), "full"), 100.0)
    assert room.busy_s(100.0) == pytest.approx(0.2 + room.claim_s)
    room.start(Chosen("m", background(1), "full", ahead=True), 100.0)
    assert room.busy_s(100.0) == pytest.approx(0.2)


@pytest.mark.parametrize("stage", [True, False])
def test_the_next_one_is_claimed_behind_a_batch_that_lasts(room: Room, stage: bool) -> None:
    room.start(Chosen("m", background(1), "full"), 100.0)
    room.began(100.0, stage=stage)
    assert room.ahead.allowed is stage
    room.put(background(1), 100.19)
    assert room.ahead.fed, "it is for the next batch"
    room.ended(100.2)
    assert not room.ahead.allowed and not room.ahead.fed


def test_what_comes_long_before_the_end_is_not_yet_the_next_batch(room: Room) -> None:
    room.start(Chosen("m", background(4), "full"), 100.0)
    room.put(background(1), 100.1)
    assert not room.ahead.fed


def test_a_model_that_is_to_leave_is_not_claimed(room: Room) -> None:
    room.draining = frozenset({"m"})
    assert room.quotas(100.0) == {FAST: 0, BULK: 0} and not room.withheld
    room.draining, room.left = frozenset(), frozenset({("m", Lane.BACKGROUND)})
    assert room.quotas(100.0) == {FAST: 4, BULK: 0}


def test_a_suspect_is_released_alone(room: Room) -> None:
    room.put([Item(suspect=True, due_at=150.0), Item()], 100.0)
    batch = chosen(room.decide(100.0))
    assert (len(batch.items), batch.reason) == (1, "suspect")


def test_only_a_batch_that_ran_as_it_was_released_teaches_how_long_such_batches_take(room: Room) -> None:
    before_s = room.latency.line("m").predict(2)
    batch = Chosen("m", background(2), "full")
    for _ in range(20):
        room.learn(batch, 100.0, cost=2.0, background=1.0, late=0.0, busy_s=0.9, clean=False)
    assert room.latency.line("m").predict(2) == before_s
    room.learn(batch, 100.0, cost=2.0, background=1.0, late=0.0, busy_s=0.9, clean=True)
    assert room.latency.line("m").predict(2) != before_s
