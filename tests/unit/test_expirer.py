"""The thread that answers for the jobs that were abandoned, beside a device that does something else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from penstock import Batching, Model
from penstock.clock import monotonic_s
from penstock.job import JobState, Outcome
from penstock.lane import Lane
from penstock.policy.batching import Adaptive
from penstock_worker.item import Batch, Item, Run
from penstock_worker.schedule.batcher import ANSWERED_AT_ONCE, ANSWERED_S, Batcher
from penstock_worker.schedule.expirer import Expirer
from tests.fixtures.patience import PATIENCE_S


class Slow(Model):
    name = "slow"
    batching = Batching(max_size=100)

    def predict(self, batch: list[int]) -> list[int]:
        return batch


class GivenUp(Exception):
    pass


class Desk:
    """A device that is busy with one job, and what the expirer asks and tells."""

    def __init__(self) -> None:
        self.batcher = Batcher({"slow": Slow}, Adaptive(), namespace="t", target_s=60.0)
        for size in (1, 2) * 20:
            self.batcher.room.latency.observe("slow", size, 10.0)
        self.batcher.room.hopeless.observed("slow", monotonic_s())
        self.batcher.put([make("runs", ends_in=1e6)])
        assert self.batcher.take() is not None
        self.asked: queue.Queue[list[str]] = queue.Queue()
        self.settled: queue.Queue[Run] = queue.Queue()
        self.defects = threading.Event()
        self.answer: Callable[[Batch], Run] = Run
        self.expirer = Expirer(
            self.batcher,
            {"slow": Slow},
            self._ask,
            settle=self.settled.put,
            given_up=GivenUp,
            on_defect=self.defects.set,
        )

    def _ask(self, batch: Batch) -> Run:
        try:
            return self.answer(batch)
        finally:
            self.asked.put([item.id for item in batch.items])

    def give_up(self, *ids: str) -> None:
        self.batcher.put([make(id, ends_in=0.001) for id in ids])


def make(id: str, *, ends_in: float) -> Item:
    now = monotonic_s()
    item = Item(id, "slow", Lane.INTERACTIVE, input="1", tag=id, source="", arrived_at=now, claimed_at=0.0)
    item.due_at = item.ends_at = now + ends_in
    item.rank = (0, item.due_at)
    return item


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.batcher.close()
    if desk.expirer.alive:
        desk.expirer.join(PATIENCE_S)


def test_they_are_answered_for_together_shortly_after_the_first_deadline(desk: Desk) -> None:
    began = monotonic_s()
    desk.give_up("a")
    desk.give_up("b", "c")
    desk.expirer.start()
    assert desk.asked.get(timeout=PATIENCE_S) == ["a", "b", "c"]
    assert monotonic_s() - began >= ANSWERED_S
    desk.give_up("d")
    assert desk.asked.get(timeout=PATIENCE_S) == ["d"], "the thread was waiting for nobody"
    desk.batcher.close()
    desk.expirer.join(PATIENCE_S)
    assert not desk.expirer.alive and not desk.defects.is_set()


def test_whose_deadline_has_not_passed_is_not_answered_for(desk: Desk) -> None:
    desk.batcher.put([make("soon", ends_in=0.001), make("later", ends_in=5.0)])
    assert len(desk.batcher.room.hopeless.items) == 2
    desk.expirer.start()
    assert desk.asked.get(timeout=PATIENCE_S) == ["soon"]
    assert [item.id for item in desk.batcher.room.hopeless.items] == ["later"]


def test_very_many_are_answered_for_in_parts(desk: Desk) -> None:
    desk.give_up(*(str(n) for n in range(ANSWERED_AT_ONCE + 10)))
    desk.expirer.start()
    assert [len(desk.asked.get(timeout=PATIENCE_S)) for _ in range(2)] == [ANSWERED_AT_ONCE, 10]


def test_who_comes_back_waits_again_and_a_canvas_is_finished(desk: Desk) -> None:
    def answer(batch: Batch) -> Run:
        run = Run(batch)
        back, member = batch.items
        back.ends_at = float("inf")
        run.returned.append(back)
        run.unfinished.append((member, Outcome(id=member.id, attempt=0, state=JobState.EXPIRED)))
        return run

    desk.answer = answer
    desk.give_up("back", "member")
    desk.expirer.start()
    run = desk.settled.get(timeout=PATIENCE_S)
    assert [item.id for item, _ in run.unfinished] == ["member"]
    assert desk.batcher.count("slow", Lane.INTERACTIVE) == 1
    assert [item.id for item in desk.batcher.close()] == ["back"]


def test_a_defect_is_told_and_the_database_may_be_away(desk: Desk) -> None:
    def stopped(batch: Batch) -> Run:
        raise GivenUp

    def broken(batch: Batch) -> Run:
        raise RuntimeError("a defect")

    desk.answer = stopped
    desk.expirer.start()
    desk.give_up("a")
    assert desk.asked.get(timeout=PATIENCE_S) == ["a"]
    desk.answer = Run
    desk.give_up("b")
    assert desk.asked.get(timeout=PATIENCE_S) == ["b"], "the thread has gone on"
    assert not desk.defects.is_set()
    desk.answer = broken
    desk.give_up("c")
    assert desk.defects.wait(PATIENCE_S)
