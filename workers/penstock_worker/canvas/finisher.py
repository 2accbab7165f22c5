"""Finishes canvas members in Celery's own terms, after their outcome is committed in SQL.

The stock trace runs with the stored outcome as the task's return value or exception, so the result backend,
callbacks, error callbacks, chains and chord counts are Celery's. A crash before the end leaves ``canvas_done``
false: the redelivered message comes back here with the outcome from SQL, and the model does not run again. Callbacks
may then be sent twice; their task ids are part of the message, so a second copy of a penstock job is recognised.

What Celery cannot do now, since its servers are away or refuse, is done later: the message stays unacknowledged
meanwhile. After ``TRIES`` the dispatcher's nudge, which is slower, takes over.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import structlog
from celery import Celery
from celery.app.trace import fast_trace_task
from celery.worker import state as worker_state

from penstock.dispatch.background import Background
from penstock.errors import MAX_TEXT_BYTES, ExecutionError, ModelRaised, StoreUnavailable, safe_text
from penstock.job import JobState, Outcome
from penstock.jsontext import loads
from penstock.store import Store
from penstock_worker.canvas.tasks import Unfinished, traced
from penstock_worker.item import Item

log = structlog.get_logger(__name__)

#: First and longest wait before members are finished again, seconds, and how often that is tried.
AGAIN_FIRST_S, AGAIN_LONGEST_S, TRIES = 0.5, 30.0, 10

#: A canvas member: the item, what this process found for it, and what SQL made of it (``None``: not ours any more).
Member = tuple[Item, Outcome, Any]


class CanvasFinisher:
    """``post`` runs a call on the hub thread, in order: requests may only be acknowledged there."""

    def __init__(self, app: Celery, store: Store, *, post: Callable[[Callable[[], None]], None]) -> None:
        self._app = app
        self._store = store
        self._post = post
        self._pid = os.getpid()
        self._background = Background("penstock-canvas")
        self._stopping = threading.Event()
        self._mutex = threading.Lock()
        #: Members that wait for another try, by job.
        self._waiting: set[str] = set()

    def accepted(self, items: Iterable[Item], started_mono: float) -> None:
        """Celery's STARTED for members whose batch goes onto the device."""
        for item in items:
            self._post(partial(self._accept, item.request, started_mono))

    def finish(self, members: Iterable[Member]) -> None:
        """Finish members. Never raises for a server that is away or refuses: they are finished later."""
        fresh = []
        for member in members:
            with self._mutex:
                twin = member[0].id in self._waiting
            if twin:
                # A nudge's copy of what this process has in hand.
                self._post(partial(self.drop, member[0].request))
            else:
                fresh.append(member)
        self._finish(fresh, 1)

    def stop(self) -> None:
        """Try nothing again: the messages go back to the broker with the others, and another worker finishes them."""
        self._stopping.set()

    def _finish(self, members: Sequence[Member], tries: int) -> None:
        """Finish as many as can be finished; the others wait for their next try."""
        traced: list[Member] = []
        done: list[Callable[[], None]] = []
        left: list[Member] = []
        try:
            with self._bulk():
                for number, (item, outcome, row) in enumerate(members):
                    state = row.state if row is not None else None
                    if state in (JobState.SUCCEEDED, JobState.FAILED):
                        value = value_of(item, outcome, row)
                        returned = self._trace(item, value, outcome, succeeded=state is JobState.SUCCEEDED)
                        if returned is None:
                            # The next ones would meet the same, and each would take its time.
                            left = list(members[number:])
                            break
                        traced.append((item, outcome, row))
                        done.append(partial(self._succeed, item.request, returned))
                    elif state is None:
                        self._post(partial(self.drop, item.request))
                    elif state in (JobState.CANCELLED, JobState.EXPIRED):
                        self._post(partial(self._revoke, item, state is JobState.EXPIRED))
                    else:
                        self._post(partial(self._retry, item.request, item))
        except Exception as error:
            # The results did not reach the backend.
            log.warning("results could not be written", action="canvas.results", error=safe_text(error))
            left, done = [*traced, *left], []
        if done:
            self._mark([item.id for item, _, _ in traced], done)
        if left:
            self._put_off(left, tries)

    def _put_off(self, members: Sequence[Member], tries: int) -> None:
        if tries >= TRIES or self._stopping.is_set():
            with self._mutex:
                self._waiting.difference_update(item.id for item, _, _ in members)
            if tries >= TRIES:
                # SQL knows that they are not finished: the dispatcher sends them again, ever more rarely.
                log.error("canvas members left to the dispatcher", action="canvas.give_up", jobs=len(members))
                for item, _, _ in members:
                    self._post(partial(self.drop, item.request))
            return
        wait_s = min(AGAIN_FIRST_S * 2 ** (tries - 1), AGAIN_LONGEST_S)
        log.warning("canvas members are finished later", action="canvas.again", jobs=len(members), wait_s=wait_s)
        with self._mutex:
            self._waiting.update(item.id for item, _, _ in members)
        self._background.later(wait_s, partial(self._again, members, tries + 1))

    def _again(self, members: Sequence[Member], tries: int) -> None:
        if not self._stopping.is_set():
            with self._mutex:
                self._waiting.difference_update(item.id for item, _, _ in members)
            self._finish(members, tries)

    def _mark(self, ids: Sequence[str], then: Sequence[Callable[[], None]], wait_s: float = AGAIN_FIRST_S) -> None:
        """Write down that they are finished; only then may the messages go."""
        try:
            self._store.mark_canvas_done(ids)
        except StoreUnavailable as error:
            log.warning("database is away", action="canvas.mark.wait", error=error.message, wait_s=wait_s)
            if not self._stopping.is_set():
                longer_s = min(wait_s * 2, AGAIN_LONGEST_S)
                self._background.later(wait_s, partial(self._mark, ids, then, longer_s))
            return
        for call in then:
            self._post(call)

    def _bulk(self) -> AbstractContextManager[None]:
        backend = self._app.backend
        return backend.bulk() if hasattr(backend, "bulk") else nullcontext()

    def _trace(self, item: Item, value: Any, outcome: Outcome, *, succeeded: bool) -> tuple[Any, Any, float] | None:
        """What Celery's trace returns; ``None`` when it could not do its part."""
        request: Any = item.request
        try:
            with traced(value, succeeded=succeeded):
                failed, retval, runtime = fast_trace_task(
                    request.task.name, request.id, request.request_dict, request._payload, None, None
                )
        except (Unfinished, Exception) as error:
            log.warning(
                "canvas member cannot be finished now", action="canvas.wait", job=item.id, error=safe_text(error)
            )
            return None
        return failed, retval, outcome.compute_s or runtime

    def _accept(self, request: Any, started_mono: float) -> None:
        request.on_accepted(self._pid, started_mono)

    def _succeed(self, request: Any, returned: tuple[Any, Any, float]) -> None:
        # Also for failures: Celery looks at the first member.
        request.on_success(returned)

    def _revoke(self, item: Item, expired: bool) -> None:
        request: Any = item.request
        request._announce_revoked("expired" if expired else "revoked", False, None, expired)
        # Not here: the hub does not wait for SQL.
        self._background.later(0.0, partial(self._mark, [item.id], ()))

    def _retry(self, request: Any, item: Item) -> None:
        # SQL holds the retry and the whole message; the dispatcher sends it when it is due.
        worker_state.task_ready(request)
        request.acknowledge()
        request.send_event("task-retried", exception=repr(item.error)[:MAX_TEXT_BYTES], traceback="")

    def drop(self, request: Any) -> None:
        worker_state.task_ready(request)
        request.acknowledge()


def value_of(item: Item, outcome: Outcome, row: Any) -> Any:
    """What the member's task returns or raises: SQL decides which, this process knows the objects."""
    if row.state is JobState.SUCCEEDED:
        return loads(outcome.output) if outcome.output is not None else None
    if outcome.state is not row.state:
        # Another settled this attempt: its word counts.
        return stored_error(loads(row.error) if isinstance(row.error, str) else row.error)
    return item.error if item.error is not None else stored_error(outcome.error)


def stored_error(record: dict[str, Any] | None) -> ExecutionError:
    """An exception from a stored error, when the original is not in this process."""
    return ModelRaised((record or {}).get("message", "failed"))
