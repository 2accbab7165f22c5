"""``Client``: the SDK for plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, overload

from penstock import arguments
from penstock.client._drive import drive
from penstock.client._flow import completed, streamed
from penstock.client.base import BaseClient
from penstock.client.events import JobEvent
from penstock.client.handle import Handle, JobHandle
from penstock.client.inbox import Mark
from penstock.dispatch.bulk import Bulk, Filters, gathered
from penstock.dispatch.request import NO_INPUT, Request, asked
from penstock.dispatch.service import Submitted
from penstock.job import Job, JobState
from penstock.lane import Lane
from penstock.model import Model
from penstock.options import Options
from penstock.pipelines.graph import Graph
from penstock.pipelines.writing.pipeline import Pipeline

if TYPE_CHECKING:
    from typing import Self, Unpack


class Client(BaseClient):
    """Submits jobs and gets their results. Thread-safe; opens its connections on the first call.

    Settings come from the environment and ``penstock.toml``, from keyword arguments (``Client(home=…,
    broker_url=…)``), or ready-made (``Client(settings)``). ``models`` names modules or classes to check inputs
    against; without it they are the setting ``models``. Use it as a context manager, or call ``close``. After a
    fork, the child's copy opens connections of its own.

    ``enqueue``, ``run`` and ``enqueue_many`` take the options of ``penstock.dispatch.request.Options``: ``lane``,
    ``tenant``, ``priority``, ``deadline``, ``timeout``, ``idempotency_key``, ``webhook``, ``tags``, ``delay``.
    ``model`` is a model's name or class, a pipeline, or a ``penstock.Graph`` that names models: its jobs are runs, and
    ``input`` is what they are given by name.
    """

    @overload
    def enqueue(
        self, model: str | type[Model] | Pipeline | Graph, input: Any, **options: Unpack[Options]
    ) -> JobHandle: ...
    @overload
    def enqueue(self, model: dict[str, Any], input: None = None, **options: Unpack[Options]) -> JobHandle: ...
    def enqueue(
        self,
        model: str | type[Model] | Pipeline | Graph | dict[str, Any],
        input: Any = NO_INPUT,
        **options: Unpack[Options],
    ) -> JobHandle:
        """Submit one job, to the lane ``interactive`` unless told otherwise. When this returns, it is durable.

        ``model`` may be a canvas of models, whose signatures have their inputs: ``enqueue(chain(embed.s(text), …))``.
        With the broker away the job is accepted all the same and starts later. Raises ``Rejected`` (an unknown model,
        an input that does not fit …, or ``Overloaded``: it could not be done in time) or ``StoreUnavailable``; then
        nothing was stored.
        """
        runtime = self._runtime()
        mark = runtime.push.mark
        submitted = runtime.submitter.submit(asked(model, input, options))
        return self._submitted(submitted, runtime.client_id, mark)

    @overload
    def run(
        self,
        model: str | type[Model] | Pipeline | Graph,
        input: Any,
        *,
        result_timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Any: ...
    @overload
    def run(
        self,
        model: dict[str, Any],
        input: None = None,
        *,
        result_timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Any: ...
    def run(
        self,
        model: Any,
        input: Any = NO_INPUT,
        *,
        result_timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """``enqueue`` and ``result(result_timeout)``: the model's output for one input."""
        arguments.wait_s(result_timeout, "result_timeout")  # before anything is submitted
        # Subscribed first, not even the first result has to be read from SQL.
        self._runtime().push.listen()
        return self.enqueue(model, input, **options).result(result_timeout)

    def enqueue_many(
        self, model: str | type[Model] | Pipeline | Graph, inputs: Iterable[Any], **options: Unpack[Options]
    ) -> list[JobHandle]:
        """Submit one job per input, in bulk, to the lane ``background`` unless told otherwise.

        All inputs are checked before the first is stored; they are stored in transactions of 1,000. An
        ``idempotency_key`` gets the input's position appended (``"key:0"``, ``"key:1"`` …), so that a call that was
        cut short can be repeated.
        """
        runtime = self._runtime()
        mark = runtime.push.mark
        submitted = runtime.submitter.submit_many(Request(model, None, options, Lane.BACKGROUND), inputs)
        return [self._submitted(job, runtime.client_id, mark) for job in submitted]

    def as_completed(self, jobs: Iterable[JobHandle], timeout: float | None = None) -> Iterator[JobHandle]:
        """The handles, each as soon as its job has ended, however it ended.

        Raises ``ResultTimeout`` when some have not ended ``timeout`` seconds after the first was asked for.
        """
        pending, wait_s = arguments.handles(jobs, JobHandle), arguments.wait_s(timeout)
        runtime = self._runtime()
        return drive(runtime, completed(runtime, pending, wait_s))

    def signal(self, run: str | JobHandle, name: str, value: Any = None, *, id: str | None = None) -> None:
        """Tell a run what a step with ``penstock.wait_for(name)`` waits for, or will wait for; ``value`` is its output.

        Durable on return. The same ``id`` twice is one signal, so that a call may be repeated. Raises ``JobNotFound``,
        ``InvalidInput`` for a name that no step waits for, ``IllegalTransition`` for a run that has ended.
        """
        self._runtime().submitter.signal(run.id if isinstance(run, JobHandle) else run, name, value, id)

    def get(self, id: str) -> JobHandle:
        """The job of this id, whoever submitted it; raises ``JobNotFound``."""
        return self._handle(self._runtime().store.get(id))

    def list(
        self,
        *,
        status: str | JobState | None = None,
        model: str | None = None,
        tenant: str | None = None,
        tag: tuple[str, str] | str | None = None,
        lane: str | None = None,
        limit: int = 100,
        before: str | None = None,
        run: str | None = None,
    ) -> list[JobHandle]:
        """Jobs, newest first. ``status`` is a state or ``"cancelling"``, ``tag`` a name, ``"name=value"`` or
        ``(name, value)``; ``before`` pages: the last id so far. Steps of runs are left out; ``run``: those of this one.
        """
        jobs = self._runtime().store.list(
            status=arguments.status(status),
            model=model,
            tenant=tenant,
            tag=tag,
            lane=lane,
            limit=limit,
            before=before,
            run=run,
        )
        return [self._handle(job) for job in jobs]

    def cancel_many(self, jobs: Iterable[str | JobHandle], *, on_chunk: Callable[[Bulk], object] | None = None) -> Bulk:
        """``JobHandle.cancel`` for many jobs, by ids or handles, hundreds to a transaction: what became of each.

        What has ended is left, an unknown id is told and no error. Durable chunk by chunk, which ``on_chunk`` hears:
        after ``StoreUnavailable`` the same call does the rest. Other writers come in between two chunks.
        """
        return gathered(self._runtime().submitter.bulk.cancel(jobs), on_chunk)

    def cancel_where(self, *, on_chunk: Callable[[Bulk], object] | None = None, **filters: Unpack[Filters]) -> Bulk:
        """``cancel_many`` for all jobs that fit every filter and were accepted before this call.

        ``model``, ``tenant``, ``lane``, ``tag`` and ``status`` as in ``list``; ``older_than`` is the least age in
        seconds. ``InvalidInput`` without any filter.
        """
        return gathered(self._runtime().submitter.bulk.cancel_where(**filters), on_chunk)

    def retry_many(self, jobs: Iterable[str | JobHandle], *, on_chunk: Callable[[Bulk], object] | None = None) -> Bulk:
        """``JobHandle.retry`` for many jobs, as ``cancel_many``. One that is open or has succeeded is left."""
        return gathered(self._runtime().submitter.bulk.retry(jobs), on_chunk)

    def retry_where(self, *, on_chunk: Callable[[Bulk], object] | None = None, **filters: Unpack[Filters]) -> Bulk:
        """``retry_many`` for all failed, cancelled and expired jobs that fit; see ``cancel_where``."""
        return gathered(self._runtime().submitter.bulk.retry_where(**filters), on_chunk)

    def check(self) -> None:
        """Raise ``BrokerUnavailable``, ``StoreUnavailable`` or ``SchemaOutdated`` unless everything answers.

        ``NamespaceTaken``, a ``BrokerUnavailable``, where broker and database do not belong together.
        """
        self._runtime().check()

    def look(self, *models: str) -> None:
        """Read the load of these models now, so that the very next ``enqueue`` can be refused (``Overloaded``).

        A client that goes on submitting reads it by itself; only a program that submits one job and ends needs this.
        Silent when the broker is away.
        """
        for name in models:
            arguments.text("model", name)
        self._runtime().submitter.admission.look(models)

    def close(self) -> None:
        """Close the connections; whoever still waits for a result gets an error. May be called twice."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For handles ----------------------------------------------------------------------------------------------

    def _submitted(self, job: Submitted, client_id: str, mark: Mark | None) -> JobHandle:
        # One that existed before may have ended before, and may push its result to somebody else.
        if not job.created:
            return JobHandle(self, job.id)
        return JobHandle(self, job.id, reply_to=client_id, mark=None if job.run else mark)

    def _handle(self, job: Job) -> JobHandle:
        return JobHandle(self, job.id, job=job)

    def _wait(self, handle: Handle, timeout: float | None) -> None:
        timeout = arguments.wait_s(timeout)
        runtime = self._runtime()
        for _ in drive(runtime, completed(runtime, (handle,), timeout)):
            pass

    def _stream(self, handle: Handle, after: str | None, step: str | None) -> Iterator[JobEvent]:
        runtime = self._runtime()
        return drive(runtime, streamed(runtime, handle, after, step))
