"""Celery's calls of pipelines: each becomes a run, whose id is the task's, and Celery is told of its end.

A message is acknowledged once its run is stored; nothing is held for it while the run goes on. Whoever ends the run
sends the message again (``store.called``), to the queue that every worker consumes, and the worker that is given it
does Celery's part. So a message is one of three: of a run that there is not yet, of one that goes on, which is nothing
new, or of one that has ended.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog
from celery.worker import state as worker_state
from msgspec import structs

from penstock import clock
from penstock.arguments import shown
from penstock.dispatch.background import Background
from penstock.dispatch.catalog import Catalog
from penstock.errors import InvalidInput, PenstockError, Rejected, StoreUnavailable, safe_text
from penstock.job import Job, JobState, NewJob, Outcome
from penstock.lane import LANES, PIPELINES, Lane, queue_name, task_name
from penstock.pipelines.announced import Announced
from penstock.pipelines.inputs import by_position
from penstock.pipelines.writing.pipeline import NAME, Pipeline
from penstock.settings import Settings
from penstock.store import Store
from penstock_worker.canvas import foreign, revoked
from penstock_worker.canvas.aside import set_aside
from penstock_worker.canvas.finisher import CanvasFinisher
from penstock_worker.canvas.stamps import is_stamped
from penstock_worker.canvas.waysout import WAYS_OUT
from penstock_worker.item import Item

log = structlog.get_logger(__name__)

#: Messages that are held at most, and become runs in one transaction.
MOST = 100
#: First and longest wait before it is tried again while the database is away, seconds.
AGAIN_FIRST_S, AGAIN_LONGEST_S = 0.1, 5.0


class RunIntake:
    """``take`` on the hub thread; everything that waits for SQL is done on a thread of its own.

    ``post`` runs a call on the hub thread, in order; ``tell`` hears of rows that have ended.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        canvas: CanvasFinisher,
        catalog: Catalog,
        *,
        tell: Callable[[Sequence[Any]], None],
        worker: str,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._canvas = canvas
        self._tell = tell
        self._catalog = catalog
        self._worker = worker
        self._post = post
        self._background = Background("penstock-runs")
        self._queues = {queue_name(settings.namespace, PIPELINES, lane): lane for lane in LANES}
        self._waiting: deque[tuple[Item, Any]] = deque()
        #: What was taken and is not acknowledged.
        self._held: set[Item] = set()
        self._wait_s = AGAIN_FIRST_S
        self._stopping = threading.Event()

    def quota(self) -> Mapping[str, int]:
        """How many more messages are wanted, by queue."""
        wanted = 0 if self._stopping.is_set() else max(0, MOST - len(self._held))
        return dict.fromkeys(self._queues, wanted)

    def take(self, message: Any, request: Any) -> None:
        """A message that Celery delivered. Raises when it cannot even become a job."""
        foreign.check_id(request.id)
        _ = request.args  # a message that cannot be read is told of here
        if not request.request_dict.get("shadow"):
            request.request_dict["shadow"] = request.type  # what Celery calls it: the task is that of all
        lane = self._queues.get(message.delivery_info.get("routing_key") or "", Lane.INTERACTIVE)
        item = Item.from_request(
            request,
            _name(request, self._settings.namespace),
            lane,
            tag=message.delivery_tag,
            foreign=True,
            arrived_at=clock.monotonic_s(),
            claimed_at=clock.now(),
        )
        item.revoked = revoked.is_open(request.id) or is_stamped(request, worker_state.revoked_stamps)
        self._held.add(item)
        self._waiting.append((item, message))
        self._background.later(0.0, self._turn)

    def stop(self) -> None:
        """What has not become a run goes back to the broker with the others."""
        self._stopping.set()
        self._background.close()

    def _turn(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
        try:
            self._settle(taken)
            self._wait_s = AGAIN_FIRST_S
        except StoreUnavailable as error:
            self._waiting.extendleft(reversed(taken))
            if not self._stopping.is_set():
                log.warning("runs are taken later", action="runs.wait", error=error.message, messages=len(taken))
                self._background.later(self._wait_s, self._turn)
                self._wait_s = min(self._wait_s * 2, AGAIN_LONGEST_S)
            return
        if self._waiting:
            self._background.later(0.0, self._turn)

    def _settle(self, taken: Sequence[tuple[Item, Any]]) -> None:
        """All of them; one that no database can hold costs its mates nothing."""
        try:
            if taken:
                self._sort(taken)
        except StoreUnavailable:
            raise
        except Exception as error:
            if len(taken) > 1:
                for one in taken:
                    self._settle([one])
                return
            item, message = taken[0]
            self._post(partial(self._set_aside, item, message, error))

    def _sort(self, taken: Sequence[tuple[Item, Any]]) -> None:
        """When the database goes away in the middle it can be done again."""
        known = self._store.get_many([item.id for item, _ in taken])
        owed = {job.id: job for job in self._store.owed([id for id, job in known.items() if job.state.is_terminal])}
        begin: list[tuple[Item, Any]] = []
        over: list[Item] = []
        seen: set[str] = set()
        for item, message in taken:
            job = known.get(item.id)
            twin = item.id in seen
            seen.add(item.id)
            if not twin and (job is None or _is_refused(job, item)):
                begin.append((item, message))
            elif not twin and item.id in owed and owed[item.id].model == item.model:
                over.append(item)
            else:
                self._release(item)
        self._finish([(item, owed[item.id]) for item in over])
        self._begin(begin)

    def _begin(self, items: Sequence[tuple[Item, Any]]) -> None:
        for item, message in items:
            item.row = self._row(item, message)
        good = [item for item, _ in items if item.error is None and not item.revoked]
        answers = self._store.insert_groups([[_row_of(item)] for item in good], publish_lease_s=0.0)
        for item, answer in zip(good, answers, strict=True):
            if isinstance(answer, PenstockError):
                item.error = answer
            else:
                self._release(item, began=True)
        if ended := [item for item, _ in items if item.error is not None or item.revoked]:
            self._end(ended)

    def _row(self, item: Item, message: Any) -> NewJob:
        """What a message becomes; where it cannot be a run, the item has an error."""
        request = item.request
        found: list[Pipeline | Announced] = []

        def write() -> str:
            found.append(self._pipeline(item))
            return self._inputs(found[0], request)

        private = self._settings.webhook.allow_private
        timeout_s, carried = foreign.examine(item, message, request, write, allow_private=private)
        foreign.adopt(item, None, request, message.properties, timeout_s, carried, run=True)
        row = _row_of(item)
        if item.error is not None or item.revoked:
            return row
        graph = found[0].graph
        return structs.replace(row, graph=found[0].text, max_parallel=graph.max_parallel, budget_s=graph.budget)

    def _pipeline(self, item: Item) -> Pipeline | Announced:
        target = self._catalog.find(item.model)
        if not isinstance(target.pipeline, Pipeline | Announced):
            queue = queue_name(self._settings.namespace, item.model, item.lane)
            raise InvalidInput(f"{item.model!r} is a model, and no pipeline", fix=f"send its messages to {queue}")
        return target.pipeline

    def _inputs(self, pipeline: Pipeline | Announced, request: Any) -> str:
        """The inputs of a message, by the rules for all producers."""
        what = f"pipeline {pipeline.name!r}"
        try:
            given = by_position(what, pipeline.graph.inputs, request.args, request.kwargs)
            return pipeline.encode(given, self._settings.job.max_input_bytes)
        except (Rejected, *WAYS_OUT):
            raise
        except BaseException as error:  # the types' own validators
            raise InvalidInput(f"the inputs of {what} could not be validated: {safe_text(error)}") from error

    def _end(self, items: Sequence[Item]) -> None:
        """Those that become no runs: rows that have failed, or were cancelled, and Celery is told."""
        now = clock.now()
        self._store.adopt([_row_of(item) for item in items])
        recalled = [item.id for item in items if item.revoked]
        rows: list[Any] = list(self._store.cancel_many(recalled, now=now)) if recalled else []
        revoked.settle(recalled)
        wrong = {item.id: item for item in items if not item.revoked}
        claims = self._store.claim(list(wrong), worker=self._worker, now=now).claimed if wrong else {}
        outcomes = [
            Outcome(id=id, attempt=claim.attempt, state=JobState.FAILED, error=_record(wrong[id].error))
            for id, claim in claims.items()
        ]
        rows += self._store.settle(outcomes, worker=self._worker, now=now) if outcomes else []
        if rows:
            self._tell(rows)
        owed = {job.id: job for job in self._store.owed([item.id for item in items])}
        for item in items:
            if item.id not in owed:
                self._release(item)
        self._finish([(item, owed[item.id]) for item in items if item.id in owed])

    def _finish(self, members: Sequence[tuple[Item, Job]]) -> None:
        """Celery's part of what has ended."""
        made = []
        for item, job in members:
            output = msgspec.json.encode(job.output).decode() if job.state is JobState.SUCCEEDED else None
            outcome = Outcome(id=job.id, attempt=job.attempt, state=job.state, output=output, error=job.error)
            made.append((item, outcome, outcome))
            self._post(partial(self._held.discard, item))
        self._canvas.finish(made)

    def _release(self, item: Item, *, began: bool = False) -> None:
        self._post(partial(self._acknowledge, item, began))

    def _acknowledge(self, item: Item, began: bool) -> None:
        request: Any = item.request
        self._held.discard(item)
        self._canvas.drop(request)
        if began:
            request.send_event("task-started")

    def _set_aside(self, item: Item, message: Any, error: Exception) -> None:
        self._held.discard(item)
        worker_state.task_ready(item.request)
        set_aside(message, error)


def _name(request: Any, namespace: str) -> str:
    """The pipeline that a message calls; what can be the name of none is that of all."""
    name = str(request.type).removeprefix(task_name(namespace, ""))
    return name if NAME.fullmatch(name) else PIPELINES


def _is_refused(job: Job, item: Item) -> bool:
    """Whether it is one that could not become a run, and that somebody has started again."""
    return job.canvas is not None and job.graph is None and job.model == item.model and not job.state.is_terminal


def _row_of(item: Item) -> NewJob:
    assert item.row is not None
    return item.row


def _record(error: BaseException | None) -> dict[str, Any]:
    """An error as SQL has it."""
    if isinstance(error, PenstockError):
        return error.as_dict()
    return InvalidInput(shown(error)).as_dict()
