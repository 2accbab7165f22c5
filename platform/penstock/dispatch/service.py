"""Submit, cancel, retry: what turns a request into a stored job and moves it on at a user's word.

``submit`` reads as the path of one job: check the options, find the model, encode the input, admit, commit, publish.
When it returns, the job is durable in SQL. Whether it was also published at once is not promised: with the broker away
the dispatcher does it later.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, cast

from msgspec import structs

from penstock import clock
from penstock.arguments import job_id, text
from penstock.dispatch import owed
from penstock.dispatch.admission import Admission
from penstock.dispatch.background import Background
from penstock.dispatch.bulk import BulkVerbs
from penstock.dispatch.canvases import Canvas
from penstock.dispatch.catalog import Catalog, Target
from penstock.dispatch.fastpath import FastPath
from penstock.dispatch.groupcommit import GroupCommit
from penstock.dispatch.marks import Marks
from penstock.dispatch.notices import tell
from penstock.dispatch.ownership import Ownership
from penstock.dispatch.request import Request, Terms, many, terms
from penstock.dispatch.tasks.sender import TaskSender
from penstock.errors import BrokerUnavailable, InvalidInput, Overloaded, Rejected
from penstock.job import DEFAULT_TENANT, Job, JobState, NewJob, new_id
from penstock.lane import Lane, split_name
from penstock.options import MAX_TEXT
from penstock.payload import write_input
from penstock.pipelines.certain import certain
from penstock.pipelines.fork import affected
from penstock.pipelines.frontier import Outline
from penstock.pipelines.graph import Graph, read
from penstock.pipelines.plaingraph import PlainGraph
from penstock.pipelines.writing.pipeline import Pipeline
from penstock.registry import Source
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.producers import DIGEST_FORM
from penstock.transport.publisher import Publisher

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that is in SQL. ``created`` is false when its idempotency key had been used for it before."""

    id: str
    created: bool
    #: A run may have ended by its submission, of which no worker tells: a map of nothing is done when it begins.
    run: bool = False


class Submitter:
    """Thread-safe. ``reply_to`` is the client id that hears results by push; ``None`` for nobody.

    Does not own ``store`` and ``publisher``: whoever passes them closes them, after ``close``.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        publisher: Publisher,
        *,
        background: Background | None = None,
        registry: Source | None = None,
        reply_to: str | None = None,
    ) -> None:
        self.catalog = Catalog(settings, store, registry=registry)
        self._settings = settings
        self._store = store
        self._publisher = publisher
        self._reply_to = reply_to
        #: How long new jobs are ours to publish before a dispatcher does it.
        self._grace_s = settings.dispatcher.publish_grace_s
        self._own_background = background is None
        self._background = background or Background()
        self._marks = Marks(store, self._background)
        self.admission = Admission(settings, publisher)
        #: Whether what is published here goes to workers of this database.
        self.ownership = Ownership(settings, store, publisher.client)
        tasks = TaskSender(store, publisher, settings, tell=lambda rows: tell(publisher, rows, now=clock.now()))
        self._fast_path = FastPath(
            publisher, self._marks, compare=self.ownership.compare, saw=self.admission.saw, tasks=tasks
        )
        #: Cancel and retry for many jobs.
        self.bulk = BulkVerbs(store, publisher, self._fast_path, grace_s=self._grace_s)
        self._commit = GroupCommit(self._insert, self._publish)
        store.limit_outputs(settings.job.max_output_bytes)
        store.pin_versions(settings.run.pin)
        store.publish_by(self._fast_path.publish, lease_s=self._grace_s)
        store.revoke_by(tasks.revoke)
        store.finish_by(owed.sender(publisher))

    # Submit ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Submitted:
        """One job. Concurrent calls share a transaction and a publication; a lone one does not wait for others.

        Raises ``Rejected`` (nothing is stored; ``Overloaded`` is one) or ``StoreUnavailable``.
        """
        return self._commit(self._prepare(request))

    def submit_all(self, requests: Sequence[Request]) -> list[Submitted | Exception]:
        """Independent requests of many callers in one transaction and one publication; answers in their order.

        A refused one fails alone. Raises ``StoreUnavailable`` for all of them.
        """
        answers: list[Submitted | Exception | None] = []
        jobs: list[NewJob] = []
        for request in requests:
            try:
                jobs.append(self._prepare(request))
                answers.append(None)
            except Exception as error:
                answers.append(error)
        stored = self._insert(jobs)
        self._publish(jobs, stored)
        fresh = iter(stored)
        return [cast("Submitted | Exception", next(fresh)) if answer is None else answer for answer in answers]

    def submit_many(self, request: Request, inputs: Iterable[Any]) -> list[Submitted]:
        """One job per input, all with the options of ``request``, whose own input is not used.

        All inputs are checked before the first is stored. They are stored in chunks (``Store.bulk_rows``), each all or
        nothing: when the database goes away in the middle, the first chunks stay. With an ``idempotency_key``, whose
        jobs get the keys ``"{key}:0"``, ``"{key}:1"`` …, the call can be repeated without doubles.
        """
        target, common = self._look_up(request)
        jobs: list[NewJob] = []
        for index, value in enumerate(many(inputs)):
            try:
                text = target.encode(value, self._settings.job.max_input_bytes)
            except Rejected as error:
                error.message = f"input {index}: {error.message}"
                raise
            jobs.append(self._job(target, common, text, index))
        submitted: list[Submitted] = []
        size = self._store.bulk_rows
        for start in range(0, len(jobs), size):
            chunk = jobs[start : start + size]
            if start:
                _accept_now(chunk)
            more_follow = start + size < len(jobs)
            rows = self._store.insert(chunk, publish_lease_s=self._grace_s, more_follow=more_follow)
            stored = [Submitted(row.id, row.created, target.pipeline is not None) for row in rows]
            self._publish(chunk, stored)
            submitted += stored
        return submitted

    def _look_up(self, request: Request) -> tuple[Target, Terms]:
        now, private = clock.now(), self._settings.webhook.allow_private
        checked = terms(now=now, default_lane=request.lane, allow_private=private, **request.options)
        target = self.catalog.find(request.model)
        if isinstance(target.pipeline, Canvas):
            options = target.pipeline.options(request.options, now=now)
            checked = terms(now=now, default_lane=request.lane, allow_private=private, **options)
        return target, checked

    def _prepare(self, request: Request) -> NewJob:
        target, checked = self._look_up(request)
        job = self._job(target, checked, target.encode(request.input, self._settings.job.max_input_bytes))
        if not request.admitted:
            self._admit(job)
        return job

    def admitted(self, request: Request) -> Request:
        """The request, let pass before it joins a group: a refusal must not wait for the group's commit.

        For an event loop: never blocks. Raises ``Overloaded``. What needs a closer look is left to the submission.
        """
        if isinstance(request.model, Mapping):  # a run: its steps are what waits
            return request
        options = request.options
        deadline, priority = options.get("deadline"), options.get("priority", 0)
        tenant = options.get("tenant", DEFAULT_TENANT)
        if (
            options.get("lane", request.lane) != Lane.INTERACTIVE
            or options.get("idempotency_key") is not None
            or options.get("delay") is not None
            or type(priority) is not int
            or not (type(tenant) is str and 0 < len(tenant) <= MAX_TEXT and tenant.isprintable())
            or not (deadline is None or type(deadline) in (int, float))
            or isinstance(request.model, Pipeline | Graph)  # a run itself needs no device
        ):
            return request
        model = request.model if isinstance(request.model, str) else getattr(request.model, "name", "")
        if not model.isprintable():  # no model's name, and nothing that the broker could be asked for
            return request
        now = clock.now()
        deadline_at = None if deadline is None else now + cast("float", deadline)
        refused = self.admission.ask(model, tenant=tenant, deadline_at=deadline_at, priority=priority, now=now)
        if refused is not None:
            raise refused
        return replace(request, admitted=True)

    def _admit(self, job: NewJob) -> None:
        """Raise ``Overloaded`` for a job that could not be done in time; one that is stored already is no new work."""
        refused = self._refused(job)
        if refused is None:
            return
        if job.idempotency_key is None or self._store.holder(job.tenant, job.idempotency_key) is None:
            raise refused

    def _refused(self, job: NewJob) -> Overloaded | None:
        """A run is asked for as a whole, at the door: by each model that it will need. Later none of its steps is.

        Once a model: a run is not refused for its own size, which would be the same at any other time.
        """
        if job.graph is None:
            return self.admission.check(job)
        for model in models_of(job.graph):
            name, asked = split_name(model)
            refused = self.admission.check(structs.replace(job, model=name, asked_version=asked))
            if refused is not None:
                return refused
        return None

    def _job(self, target: Target, checked: Terms, text: str, index: int | None = None) -> NewJob:
        key = checked.idempotency_key
        if key is not None and index is not None:
            key = f"{key}:{index}"
            if len(key) > MAX_TEXT:
                raise InvalidInput("idempotency_key is too long", fix=f"leave room for ':{index}' in {MAX_TEXT}")
        max_parallel, budget_s = bounds(target, checked)
        return NewJob(
            id=new_id(),
            model=target.name,
            asked_version=target.asked,
            input=text,
            lane=checked.lane,
            accepted_at=checked.accepted_at,
            available_at=checked.available_at,
            tenant=checked.tenant,
            priority=checked.priority,
            deadline_at=checked.deadline_at,
            timeout_s=checked.timeout_s,
            idempotency_key=key,
            digest=None if key is None else digest(target, text),
            webhook=checked.webhook,
            tags=checked.tags,
            reply_to=self._reply_to,
            graph=None if target.pipeline is None else target.pipeline.text,
            max_parallel=max_parallel,
            budget_s=budget_s,
        )

    def _insert(self, jobs: Sequence[NewJob]) -> list[Submitted | BaseException]:
        if not jobs:
            return []
        answers: list[Submitted | BaseException] = []
        groups = self._store.insert_groups([(job,) for job in jobs], publish_lease_s=self._grace_s)
        for job, group in zip(jobs, groups, strict=True):
            if isinstance(group, BaseException):
                answers.append(group)
            else:
                answers.append(Submitted(group[0].id, group[0].created, job.graph is not None))
        return answers

    def _publish(self, jobs: Sequence[NewJob], stored: Sequence[Submitted | BaseException]) -> None:
        self._fast_path.publish(
            [
                job
                for job, row in zip(jobs, stored, strict=True)
                if isinstance(row, Submitted) and row.created and job.graph is None
            ]
        )

    # Move on --------------------------------------------------------------------------------------------------

    def cancel(self, id: str) -> Job:
        """Cancel a job: one that has not started never will, a running one's result is dropped.

        Idempotent; a job that has ended is returned as it is. Raises ``JobNotFound``.
        """
        before = self._store.get(id)
        if before.state.is_terminal:
            return before
        job = self._store.cancel(id, now=clock.now())
        self._tell(job)
        return job

    def retry(self, id: str) -> Job:
        """Run a failed, cancelled or expired job again, with fresh budgets; an open one is left alone.

        Raises ``JobNotFound``, or ``IllegalTransition`` for a succeeded job.
        """
        job = self._store.retry(id, now=clock.now(), publish_lease_s=self._grace_s)
        if job.graph is not None:  # its steps were published when it began again; itself it is no message
            self._tell(job)
        elif job.state is JobState.ACCEPTED:
            self._fast_path.publish([job])
            self._tell(job)
        return job

    def fork(self, id: str, from_step: str | None, inputs: Mapping[str, Any] | None) -> Submitted:
        """A new run of a run's graph, which does again only what comes from this step on, or from these inputs.

        It has the other one's lane, tenant, priority, webhook, tags and bounds, and all of its budget. Raises
        ``JobNotFound``, or ``InvalidInput`` for a step or an input that there is not, or that is of a wrong type.
        """
        job_id(id, "id")
        source, plan = self._store.get(id), self._store.graph_of(id)
        max_parallel, budget_s = self._store.bounds_of(id)
        given = dict(inputs or {})
        again = affected(plan, from_step=from_step, inputs=given)
        graph = plan.graph.to_json().decode()
        pipeline = self.catalog.pipeline_of(source.model, graph) if given else None
        if pipeline is not None:
            for name, value in given.items():
                pipeline.check(name, value)
        limit = self._settings.job.max_input_bytes
        now = clock.now()
        job = NewJob(
            id=new_id(),
            model=source.model,
            input=write_input(source.model, {**source.input, **given}, codec=None, max_bytes=limit),
            lane=source.lane,
            accepted_at=now,
            available_at=now,
            tenant=source.tenant,
            priority=source.priority,
            timeout_s=source.timeout_s,
            webhook=source.webhook,
            tags=source.tags or None,
            trace=source.trace,
            reply_to=self._reply_to,
            graph=graph,
            max_parallel=max_parallel,
            budget_s=budget_s,
        )
        rows = self._store.fork(id, job, again)
        if rows:
            tell(self._publisher, rows, now=clock.now())
        return Submitted(job.id, created=True, run=True)

    def signal(self, run: str, name: str, value: Any, id: str | None) -> None:
        """Tell a run what one of its steps waits for; the same ``id`` twice is one signal.

        Durable on return. Raises ``JobNotFound``, ``InvalidInput``, ``NotSerializable``, ``TooLarge``, or
        ``IllegalTransition`` for a run that has ended.
        """
        job_id(run, "run")
        text("name", name)
        if id is not None:
            text("id", id)
        given = write_input(name, value, codec=None, max_bytes=self._settings.job.max_input_bytes)
        rows = self._store.signal(run, name, given, id=id or new_id(), now=clock.now())
        if rows:
            tell(self._publisher, rows, now=clock.now())

    def _tell(self, job: Job) -> None:
        record: dict[str, Any] = {"id": job.id, "state": job.state, "attempt": job.attempt, "error": job.error}
        replies = {job.reply_to: [record]} if job.reply_to and job.state.is_terminal else {}
        event = {"state": job.status, "ids": [job.id], "model": job.model, "at": clock.now(), "worker": job.worker}
        try:
            self._publisher.notify(replies, [event])
        except BrokerUnavailable as error:
            # Who waits will read it from SQL a little later.
            log.debug("nobody was told of a job's new state: %s", error.message)

    # End ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Record what was published. The submitter can be used again."""
        self.admission.close()
        self._marks.flush()
        if self._own_background:
            self._background.close()


@functools.lru_cache(maxsize=256)
def models_of(graph: str) -> tuple[str, ...]:
    """The models that a run of this graph (JSON text) calls whatever comes out."""
    return tuple(dict.fromkeys(_certain_models(read(graph))))


def _certain_models(graph: Graph) -> Iterator[str]:
    plan = Outline(graph)
    for step in (plan.steps[name] for name in certain(plan)):
        if step.graph is not None:
            yield from _certain_models(step.graph)
        elif step.kind == "call":
            yield step.model


def bounds(target: Target, checked: Terms) -> tuple[int | None, float | None]:
    """``max_parallel`` and budget of a run: those of the request, else those of its pipeline; raises ``InvalidInput``
    for those of a job that is no run.
    """
    if target.pipeline is None:
        if checked.max_parallel is not None or checked.budget_s is not None:
            name = "budget" if checked.max_parallel is None else "max_parallel"
            raise InvalidInput(
                f"{target.name!r} is a model, and only a run of a pipeline has a {name}",
                fix=f"leave {name} out; how many jobs of a model run at a time is its batching's to say",
            )
        return None, None
    if isinstance(target.pipeline, Canvas):
        return checked.max_parallel, checked.budget_s
    graph = target.pipeline.graph
    return (
        graph.max_parallel if checked.max_parallel is None else checked.max_parallel,
        graph.budget if checked.budget_s is None else checked.budget_s,
    )


def _accept_now(jobs: Sequence[NewJob]) -> None:
    """Jobs are accepted when they are stored: a late chunk must not look like one that was never published."""
    now = clock.now()
    for job in jobs:
        job.available_at = max(job.available_at, now)
        job.accepted_at = now


def digest(target: Target, text: str) -> str:
    """What the same idempotency key must mean again: the model, the version asked for and the input; a graph that came
    with the request.

    Not the version that would run it: a call that is repeated after a deployment is the same call. Of a canvas, what it
    is.
    """
    asked = f"{target.name}\0{target.asked or ''}\0{text}"
    if isinstance(target.pipeline, PlainGraph):  # it is part of the request
        asked += f"\0{target.pipeline.text}"
    elif isinstance(target.pipeline, Canvas):
        asked += f"\0{target.pipeline.digest}"
    return DIGEST_FORM + blake2b(asked.encode(), digest_size=16).hexdigest()
