"""The settler: order, hand-over, patience with the database, and what a defect does."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from penstock.clock import monotonic_s
from penstock.errors import StoreUnavailable
from penstock.job import JobState, Outcome
from penstock.lane import Lane
from penstock.model import Model
from penstock.store import Store
from penstock.store.records import Settled
from penstock_worker.execute import settler as module
from penstock_worker.execute.settler import RETRY_FIRST_S, Settler, insist
from penstock_worker.item import Batch, Item, Run
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import W, add, claim


class Echo(Model):
    name = "echo"

    def predict(self, batch: list[int]) -> list[int]:
        return batch


def make_run(id: str) -> Run:
    item = Item(id, "echo", Lane.INTERACTIVE, input="1", tag=1, source="s", arrived_at=0.0, claimed_at=0.0)
    outcome = Outcome(id=id, attempt=1, state=JobState.SUCCEEDED, output="1")
    return Run(Batch(Echo, [item], "idle"), live=[item], outcomes=[outcome])


class Log:
    """Store, announcer and canvas in one: writes down what is called, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.errors: list[BaseException] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def settle(self, outcomes: list[Outcome], *, worker: str, now: float) -> list[Settled]:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        if self.errors:
            raise self.errors.pop(0)
        self.calls.append("commit " + ",".join(o.id for o in outcomes))
        return [Settled(o.id, o.state, 1, None, None, "echo", "interactive", None) for o in outcomes]

    def settled(self, settled: Any, outputs: Any, runs: Any) -> list[Any]:
        return [("news", *(row.id for row in settled))]

    def acks(self, items: Any) -> list[Any]:
        return [("ack", *(item.id for item in items))]

    def send(self, news: Any, acks: Any) -> None:
        self.calls += [" ".join(command) for command in (*news, *acks)]


def make(log: Log, store: Any = None, *, busy: bool, defects: list[int] | None = None) -> Settler:
    settler = Settler(
        store or log,
        log,  # type: ignore[arg-type]
        log,  # type: ignore[arg-type]
        worker=W,
        busy=lambda: busy,
        on_defect=lambda: (defects if defects is not None else []).append(1),
    )
    settler.start()
    return settler


def test_commit_then_news_then_acknowledgement():
    log = Log()
    settler = make(log, busy=False)
    settler.settle(make_run("a"))
    assert log.calls == ["commit a", "news a", "ack a"], "a lone batch is settled before settle() returns"
    assert settler.stop(5)


def test_batches_that_finish_during_a_commit_share_the_next_one():
    log = Log()
    log.gate.clear()
    settler = make(log, busy=True)
    settler.settle(make_run("a"))
    assert log.entered.wait(PATIENCE_S)
    settler.settle(make_run("b"))
    settler.settle(make_run("c"))
    log.gate.set()
    assert settler.stop(5)
    assert [c for c in log.calls if c.startswith("commit")] == ["commit a", "commit b,c"]


def test_a_result_waits_for_the_database(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.001)
    log = Log()
    log.errors = [StoreUnavailable("away"), StoreUnavailable("away")]
    settler = make(log, busy=False)
    settler.settle(make_run("a"))
    assert log.calls == ["commit a", "news a", "ack a"]
    assert settler.stop(5)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_stopping_worker_asks_at_the_same_pace(when: str):
    """The event that paces it is set then, and a wait for it returns at once."""
    stopping, asked = threading.Event(), []
    if when == "before":
        stopping.set()

    def ask() -> str:
        asked.append(monotonic_s())
        stopping.set()
        if len(asked) < 5:
            raise StoreUnavailable("away")
        return "settled"

    assert insist(ask, stopping, "settle") == "settled"
    gaps = [after - before for before, after in pairwise(asked)]
    paced = gaps if when == "before" else gaps[1:]
    first = RETRY_FIRST_S if when == "before" else 2 * RETRY_FIRST_S
    assert all(gap >= 0.9 * first * 2**n for n, gap in enumerate(paced)), gaps


def test_an_outcome_that_the_database_cannot_hold_fails_alone(store: Store):
    ids = add(store, 3)
    claim(store, ids)
    log = Log()
    settler = make(log, store, busy=False)
    runs = [make_run(id) for id in ids]
    runs[1].outcomes[0].output = '"\ud83d"'
    run = Run(runs[0].batch, live=[r.live[0] for r in runs], outcomes=[r.outcomes[0] for r in runs])
    settler.settle(run)
    assert settler.stop(5)
    jobs = store.get_many(ids)
    assert [jobs[id].state for id in ids] == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    assert jobs[ids[1]].error["code"] == "invalid_output"
    assert log.calls[-1] == f"ack {' '.join(ids)}"
    assert run.outcomes[1].state is JobState.FAILED, "what Celery is told is what was stored"


@pytest.mark.parametrize("error", [TypeError("our fault"), GeneratorExit()], ids=repr)
def test_a_defect_is_reported_and_nothing_is_acknowledged(error: BaseException):
    log, defects = Log(), []
    log.errors = [error]
    settler = make(log, busy=True, defects=defects)
    settler.settle(make_run("a"))
    assert settler.stop(5)
    assert defects == [1]
    assert log.calls == []


class Pieces:
    """What a transaction has left: so many pieces, or those that fail."""

    def __init__(self, log: Log, name: str, *pieces: BaseException | None) -> None:
        self._log, self._name, self._pieces = log, name, list(pieces)
        self.done = threading.Event()
        self.forgot = 0

    def forget(self) -> None:
        self.forgot += 1

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def step(self, *, now: float) -> list[Settled]:
        error = self._pieces.pop(0)
        self._log.calls.append(f"{self._name} {len(self._pieces)}")
        if not self._pieces:
            self.done.set()
        if error is not None:
            raise error
        return [Settled(self._name, JobState.SUCCEEDED, 1, None, None, "run", "interactive", None)]


def told(log: Log) -> list[str]:
    """Without the news of each piece."""
    return [call for call in log.calls if not call.startswith("news")]


def test_what_commits_leave_is_done_in_turns_behind_them_and_told():
    log = Log()
    log.gate.clear()
    settler = make(log, busy=True)
    settler.settle(make_run("a"))
    assert log.entered.wait(PATIENCE_S)
    settler.go_on(long := Pieces(log, "long", None, None, None))
    settler.go_on(Pieces(log, "short", None))
    settler.settle(make_run("b"))
    log.gate.set()
    assert long.done.wait(PATIENCE_S)
    assert settler.stop(5)
    assert told(log) == ["commit a", "ack a", "commit b", "ack b", "long 2", "short 0", "long 1", "long 0"]
    assert log.calls.count("news long") == 3 and log.calls.count("news short") == 1


@pytest.mark.parametrize(("error", "after"), [(StoreUnavailable("away"), []), (TypeError("our fault"), [1])], ids=repr)
def test_a_piece_that_fails_does_not_hold_up_the_others(error: BaseException, after: list[int]):
    log, defects = Log(), []
    settler = make(log, busy=False, defects=defects)
    settler.go_on(left := Pieces(log, "left", error, None))
    assert left.done.wait(PATIENCE_S)
    assert settler.stop(5)
    assert log.calls[:2] == ["left 1", "left 0"] and defects == after


def test_who_settles_does_not_wait_for_what_is_left():
    log = Log()
    busy, free = threading.Event(), threading.Event()

    class Long(Pieces):
        def step(self, *, now: float) -> list[Settled]:
            busy.set()
            assert free.wait(PATIENCE_S)
            return super().step(now=now)

    settler = make(log, busy=False)
    settler.go_on(Long(log, "long", None))
    assert busy.wait(PATIENCE_S)
    settler.settle(make_run("a"))
    assert log.calls == ["commit a", "news a", "ack a"]
    free.set()
    assert settler.stop(5)


def test_commits_without_a_break_do_not_keep_back_what_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LEFT_AT_MOST_S", 0.001)
    log = Log()

    class Busy(Log):
        def settle(self, outcomes: list[Outcome], *, worker: str, now: float) -> list[Settled]:
            if not left.done.is_set():  # the device is faster than the database
                settler.hand_over(make_run("next"))
            return super().settle(outcomes, worker=worker, now=now)

    settler = make(log, Busy(), busy=True)
    settler.go_on(left := Pieces(log, "left", None, None, None))
    settler.settle(make_run("a"))
    assert left.done.wait(PATIENCE_S)
    assert settler.stop(5)
    calls = told(log)
    for number in (2, 1):
        between = calls[calls.index(f"left {number}") : calls.index(f"left {number - 1}")]
        assert "ack next" in between, "commits wait for one piece, not for all of them"


def test_of_many_that_wait_few_keep_their_values(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LEFT_AFTER_S", 10 * PATIENCE_S)
    settler = make(log := Log(), busy=False)
    waiting = [Pieces(log, str(number), None) for number in range(module.MOST_IN_MEMORY + 2)]
    for left in waiting:
        settler.go_on(left)
    assert [left.forgot for left in waiting] == [0] * module.MOST_IN_MEMORY + [1, 1]
    assert settler.stop(5)


def test_a_worker_that_stops_leaves_the_rest_to_the_dispatcher():
    log = Log()
    begun, free = threading.Event(), threading.Event()

    class Long(Pieces):
        def step(self, *, now: float) -> list[Settled]:
            begun.set()
            assert free.wait(PATIENCE_S)
            return super().step(now=now)

    settler = make(log, busy=False)
    settler.go_on(Long(log, "long", *[None] * 1000))
    assert begun.wait(PATIENCE_S)
    settler.stopping.set()
    free.set()
    assert settler.stop(5)
    assert told(log) == ["long 999"]


def test_what_is_left_waits_until_the_device_has_what_has_begun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LEFT_AFTER_S", 10 * PATIENCE_S)
    log = Log()
    settler = make(log, busy=True)
    settler.go_on(Pieces(log, "left", None))
    settler.settle(make_run("a"))
    settler.quiesce()
    assert log.calls == ["commit a", "news a", "ack a"]
    assert settler.stop(5)
