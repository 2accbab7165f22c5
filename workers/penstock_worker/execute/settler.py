"""Commits what batches found, then tells everybody, then acknowledges: always in this order.

A batch is settled by the device thread itself while nothing else waits (a lone job should not pay for a hand-over);
under load it is handed to the settling thread, so that the device runs the next batch during the commit, and the
batches that finish meanwhile share one transaction. What a commit leaves to others behind it (the elements of a long
map, say) is done by that thread, too, between the commits: the device waits for none of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import structlog

from penstock import clock
from penstock.errors import InvalidInput, InvalidOutput, PenstockError, StoreUnavailable, safe_text
from penstock.job import JobState, Outcome
from penstock.service import ThreadService, turned
from penstock.store import Store
from penstock.store.engine import Left
from penstock_worker.canvas.finisher import CanvasFinisher
from penstock_worker.item import Item, Run
from penstock_worker.report.announcer import Announcer

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Batches handed over and not yet settled; more make the device thread wait, so that results do not pile up.
MOST_PENDING = 8
#: What a commit has left waits so long, seconds: first the device gets what has begun with that commit.
LEFT_AFTER_S = 0.005
#: Where commits follow each other without a break, a piece of it is done so long after the last one, seconds.
LEFT_AT_MOST_S = 0.05
#: Of so many the lists of their maps are kept in memory; those of more are read again for each piece.
MOST_IN_MEMORY = 8
#: First and longest wait before a commit is tried again while the database is away, seconds.
RETRY_FIRST_S, RETRY_LONGEST_S = 0.05, 2.0


class _Sleeper(Protocol):
    def wait(self, timeout: float | None = None) -> bool: ...


class Settler(ThreadService):
    """``start`` before the first ``settle``; ``stop`` returns when everything handed over is settled."""

    def __init__(
        self,
        store: Store,
        announcer: Announcer,
        canvas: CanvasFinisher,
        *,
        worker: str,
        busy: Callable[[], bool],
        on_defect: Callable[[], None],
        on_settled: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__("settler")
        self._store = store
        self._announcer = announcer
        self._canvas = canvas
        self._worker = worker
        #: Whether more work waits for the device; then settling is handed over.
        self._busy = busy
        self._on_defect = on_defect
        #: Told how long after its end a batch was announced, seconds.
        self._on_settled = on_settled
        self._pending: list[Run] = []
        self._left: deque[Left] = deque()
        self._go_on_at = 0.0
        self._changed = threading.Condition()
        self._committing = threading.Lock()
        self._working = False

    def wake(self) -> None:
        """What was handed over is still settled."""
        with self._changed:
            self._changed.notify_all()

    def settle(self, run: Run) -> None:
        """Settle one run: here and now, or handed over when the device has more to do."""
        with self._changed:
            idle = not self._pending and not self._working
            if not idle or self._busy():
                while len(self._pending) >= MOST_PENDING and not self.stopping.is_set():
                    self._changed.wait(1.0)
                self._pending.append(run)
                self._changed.notify_all()
                return
        self._commit([run])

    def hand_over(self, run: Run) -> None:
        """Have one run settled by the settling thread, without waiting for anything."""
        with self._changed:
            self._pending.append(run)
            self._changed.notify_all()

    def go_on(self, left: Left) -> None:
        """Have what a transaction on runs has left done by the settling thread, a piece at a time."""
        with self._changed:
            if not self._left:
                self._go_on_at = clock.monotonic_s() + LEFT_AFTER_S
            self._keep(left)
            self._changed.notify_all()

    def quiesce(self) -> None:
        """Wait until all that was handed over is committed.

        Around the run of a suspect: a job that is finished but not committed would count as lost, too, when the
        worker dies.
        """
        with self._changed:
            while (self._pending or self._working) and self.alive:
                self._changed.wait(1.0)

    def run(self) -> None:
        """Commit after commit, and what they leave between them."""
        while (runs := self.waiting(self._next)) is not None:
            try:
                if runs:
                    self._commit(runs)
                else:
                    self._do_a_piece()
            except BaseException:
                log.exception("settling failed", action="settle.error")
                self._on_defect()
            finally:
                with self._changed:
                    self._working = False
                    self._changed.notify_all()

    def _next(self) -> list[Run] | None:
        """What is to be committed now; empty: a piece of what was left is to be done; ``None`` at the end."""
        with self._changed:
            while not self._pending:
                if self.stopping.is_set():
                    return None  # what is left is the dispatcher's
                wait_s = self._go_on_at - clock.monotonic_s() if self._left else None
                if wait_s is not None and wait_s <= 0:
                    break
                self._changed.wait(wait_s)
            runs: list[Run] = []
            if self._pending and not self._is_overdue():
                runs, self._pending = self._pending, []
            # Whoever comes while something that was left is done need not wait for it.
            self._working = bool(runs)
            self._changed.notify_all()
            return runs

    def _is_overdue(self) -> bool:
        waits_s = clock.monotonic_s() - self._go_on_at
        return bool(self._left) and waits_s > LEFT_AT_MOST_S and not self.stopping.is_set()

    def _keep(self, left: Left) -> None:
        if len(self._left) >= MOST_IN_MEMORY:
            left.forget()
        self._left.append(left)

    def _do_a_piece(self) -> None:
        left = self._left[0]
        try:
            ended = left.step(now=clock.now())
        except PenstockError as error:
            log.warning("the dispatcher goes on with a run", action="settle.left", error=error.message)
            ended = []
        finally:
            # In turns, so that nobody waits for a long map of somebody else.
            self._left.popleft()
            if left:
                self._keep(left)
            self._go_on_at = clock.monotonic_s()
        if ended:
            self._announcer.send(self._announcer.settled(ended, {}, []), [])

    def _commit(self, runs: Sequence[Run]) -> None:
        with self._committing:
            outcomes = [outcome for run in runs for outcome in run.outcomes]
            settled = self.commit(outcomes)
            self._announce(runs, settled, {o.id: o.output for o in outcomes})

    def commit(self, outcomes: Sequence[Outcome]) -> list[Any]:
        """``Store.settle``, tried until the database answers; only rows that were still ours come back.

        An outcome that the database cannot hold fails alone, and says so itself from then on.
        """
        if not outcomes:
            return []
        try:
            return self._settle(outcomes)
        except InvalidInput as error:
            if len(outcomes) > 1:
                return [row for outcome in outcomes for row in self.commit([outcome])]
            refused = InvalidOutput(f"the outcome of this attempt cannot be stored: {safe_text(error.message)}")
            log.warning("outcome cannot be stored", action="settle.refused", job=outcomes[0].id, error=refused.message)
            outcomes[0].state, outcomes[0].output = JobState.FAILED, None
            outcomes[0].error = refused.as_dict() | {"type": type(refused).__name__}
            return self._settle(outcomes)

    def _settle(self, outcomes: Sequence[Outcome]) -> list[Any]:
        return insist(
            lambda: self._store.settle(outcomes, worker=self._worker, now=clock.now()), self.stopping, "settle"
        )

    def _announce(self, runs: Sequence[Run], settled: Sequence[Any], outputs: dict[str, str | None]) -> None:
        news = self._announcer.settled(settled, outputs, runs)
        plain = [item for run in runs for item in run.live if item.request is None]
        # The clients' results leave before Celery's part of canvas members is done.
        self._announcer.send(news, self._announcer.acks(plain))
        if runs[0].ended_mono:
            self._on_settled(clock.monotonic_s() - runs[0].ended_mono)
        members = [(item, outcome) for run in runs for item, outcome in _members(run)]
        if members:
            final = {row.id: row for row in settled}
            self._canvas.finish([(item, outcome, final.get(item.id)) for item, outcome in members])
        for run in runs:
            if run.unfinished:
                # Settled by an earlier delivery: what SQL holds is the outcome.
                self._canvas.finish([(item, outcome, outcome) for item, outcome in run.unfinished])


def _members(run: Run) -> Iterable[tuple[Item, Outcome]]:
    return ((i, o) for i, o in zip(run.live, run.outcomes, strict=True) if i.request is not None)


def insist(call: Callable[[], T], stopping: _Sleeper, action: str) -> T:
    """Call until the database answers: a result in hand is worth the wait, also while the worker stops.

    ``stopping`` wakes it once, for a try without delay. How long a stop waits for it is whoever stops' to say.
    """
    woken = stopping.wait(0)
    wait_s = RETRY_FIRST_S
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            log.warning("database is away", action=f"{action}.wait", error=error.message, wait_s=wait_s)
            turned()
        if woken:
            # The event is set and waits for nobody any more.
            time.sleep(wait_s)
        else:
            woken = stopping.wait(wait_s)
        wait_s = min(wait_s * 2, RETRY_LONGEST_S)
