"""Handles: what a caller holds of a job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.client.events import JobEvent
from penstock.client.inbox import Mark, Record
from penstock.errors import JobCancelled, JobExpired, JobFailed, JobUnsuccessful
from penstock.job import TERMINAL, Job, JobState

if TYPE_CHECKING:
    from typing import Self

    from penstock.client.async_client import AsyncClient
    from penstock.client.client import Client
    from penstock.store.runs.cost import RunCost


class Handle:
    """What both kinds of handle know: the id, and the last that was heard of the job."""

    __slots__ = ("_error", "_job", "_output", "_state", "id", "mark", "reply_to")

    def __init__(
        self, id: str, *, reply_to: str | None = None, mark: Mark | None = None, job: Job | None = None
    ) -> None:
        #: The job's id, a UUID.
        self.id = id
        #: The client to which its result is pushed, as far as is known.
        self.reply_to = reply_to
        #: The subscription under which it was submitted (see ``push``); ``None`` when SQL must be read first.
        self.mark = mark
        self._state = JobState.ACCEPTED
        self._output: Any = None
        self._error: dict[str, Any] | None = None
        self._job: Job | None = None
        if job is not None:
            self.learn(job)

    @property
    def ended(self) -> bool:
        """Whether the job is known to have ended; does not look."""
        return self._state in TERMINAL

    def learn(self, job: Job) -> None:
        """Take over a snapshot."""
        self._job = job
        self.reply_to = job.reply_to
        self._state, self._output, self._error = job.state, job.output, job.error

    def hear(self, record: Record) -> None:
        """Take over a pushed result."""
        self._job = None
        self._state, self._error = record.state, record.error
        if isinstance(record.output, msgspec.Raw):
            self._output = msgspec.json.decode(record.output)

    def restart(self, job: Job, mark: Mark | None) -> None:
        """The job runs again."""
        self.mark = mark
        self.learn(job)

    def value(self) -> Any:
        """The output of a job that has ended; raises what ``result`` promises."""
        if self._state is JobState.SUCCEEDED:
            return self._output
        raise unsuccessful(self.id, self._state, self._error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self._state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


def unsuccessful(id: str, state: JobState, error: dict[str, Any] | None) -> JobUnsuccessful:
    """The exception that says how a job ended without an output."""
    error = error or {}
    if state is JobState.CANCELLED:
        return JobCancelled(f"job {id} was cancelled", job_id=id, error=error)
    if state is JobState.EXPIRED:
        return JobExpired(f"job {id} expired: its deadline passed first", job_id=id, error=error)
    reason = error.get("message") or error.get("code") or "no reason was recorded"
    step = f" in step {error['step']!r}" if error.get("step") else ""  # of a run
    fix = f"`penstock job get {id}` shows all"
    return JobFailed(f"job {id} failed{step}: {reason}", job_id=id, error=error, fix=fix)


class JobHandle(Handle):
    """A job, from a ``Client``.

    ``status``, ``output``, ``error`` and ``job`` show the last that was heard, and look once when nothing was; they do
    not follow the job: ``refresh`` looks again, ``wait`` and ``result`` wait for its end.
    """

    __slots__ = ("_client",)

    def __init__(
        self,
        client: Client,
        id: str,
        *,
        reply_to: str | None = None,
        mark: Mark | None = None,
        job: Job | None = None,
    ) -> None:
        super().__init__(id, reply_to=reply_to, mark=mark, job=job)
        self._client = client

    @property
    def job(self) -> Job:
        """Everything that is stored of it, as last read."""
        return self._job or self.refresh()

    @property
    def status(self) -> str:
        """``accepted``, ``queued``, ``running``, ``cancelling``, or how it ended."""
        return self._state.value if self.ended else self.job.status

    @property
    def output(self) -> Any:
        """The model's result; ``None`` until it has succeeded."""
        return self._output if self.ended else self.job.output

    @property
    def error(self) -> dict[str, Any] | None:
        """``{"code", "message", "retryable"}`` of the last failed attempt, or ``None``."""
        return self._error if self.ended else self.job.error

    def refresh(self) -> Job:
        """Read the job again. Raises ``JobNotFound`` when it was removed after its retention."""
        job = self._client._runtime().store.get(self.id)
        self.learn(job)
        return job

    def wait(self, timeout: float | None = None) -> Self:
        """Wait for the end, whichever it is. Raises ``ResultTimeout`` after ``timeout`` seconds; the job goes on."""
        if not self.ended:
            self._client._wait(self, timeout)
        return self

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the output. Raises ``JobFailed``, ``JobCancelled`` or ``JobExpired`` for a job without one, and
        ``ResultTimeout`` (a ``TimeoutError``) after ``timeout`` seconds; then the job goes on."""
        if not self.ended:
            self._client._wait(self, timeout)
        return self.value()

    def cancel(self) -> str:
        """Cancel the job and return its status: ``cancelled``, ``cancelling`` while it runs, or how it had ended."""
        job = self._client._runtime().submitter.cancel(self.id)
        self.learn(job)
        return job.status

    def retry(self) -> Self:
        """Run it again after it failed, expired or was cancelled; an open job is left alone.

        Raises ``IllegalTransition`` for a job that has succeeded.
        """
        runtime = self._client._runtime()
        runtime.push.forget(self.id)
        mark = runtime.push.mark
        self.restart(runtime.submitter.retry(self.id), mark)
        return self

    def fork(self, *, from_step: str | None = None, inputs: Mapping[str, Any] | None = None) -> JobHandle:
        """A new run of this run's graph: what comes from this step on, or from these inputs (by name), is done again,
        and everything else taken over as far as it has succeeded.

        Raises ``JobNotFound`` where this is no run, ``InvalidInput`` for a step or an input that there is not, and for
        one that does not fit the pipeline, where its graph is still this one.
        """
        runtime = self._client._runtime()
        mark = runtime.push.mark
        submitted = runtime.submitter.fork(self.id, from_step, inputs)
        return self._client._submitted(submitted, runtime.client_id, mark)

    def cost(self) -> RunCost:
        """Of a run: what it has taken so far, of the devices by model, and where its time went. Raises ``JobNotFound``
        where this is no run."""
        return self._client._runtime().store.run_cost(self.id)

    def stream(self, after: str | None = None, *, step: str | None = None) -> Iterator[JobEvent]:
        """Changes of state and partial output, as they happen, from the first on or from behind the cursor ``after``,
        to the last.

        Of a run, the partial output is that of its steps; ``step`` (``generate``, ``generate[3]``) leaves that of the
        others out. Raises ``InvalidInput`` for a step that the run's graph has not, ``JobNotFound`` for one of a job
        that is no run.
        """
        return self._client._stream(self, after, step)


class AsyncJobHandle(Handle):
    """A job, from an ``AsyncClient``. ``status``, ``output``, ``error`` and ``job`` are the last that was heard."""

    __slots__ = ("_client",)

    def __init__(
        self,
        client: AsyncClient,
        id: str,
        *,
        reply_to: str | None = None,
        mark: Mark | None = None,
        job: Job | None = None,
    ) -> None:
        super().__init__(id, reply_to=reply_to, mark=mark, job=job)
        self._client = client

    @property
    def job(self) -> Job | None:
        """Everything that is stored of it, as last read; ``None`` before ``refresh``, and after a pushed result."""
        return self._job

    @property
    def status(self) -> str:
        """``accepted``, ``queued``, ``running``, ``cancelling``, or how it ended."""
        return self._state.value if self._job is None else self._job.status

    @property
    def output(self) -> Any:
        """The model's result; ``None`` until it is known to have succeeded."""
        return self._output

    @property
    def error(self) -> dict[str, Any] | None:
        """``{"code", "message", "retryable"}`` of the last failed attempt, or ``None``."""
        return self._error

    async def refresh(self) -> Job:
        """Read the job again. Raises ``JobNotFound`` when it was removed after its retention."""
        job: Job = await self._client._call(lambda runtime: runtime.store.get(self.id))
        self.learn(job)
        return job

    async def wait(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109 (as in Client)
        """Wait for the end, whichever it is. Raises ``ResultTimeout`` after ``timeout`` seconds; the job goes on."""
        if not self.ended:
            await self._client._wait(self, timeout)
        return self

    async def result(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 (as in Client)
        """Wait for the output. Raises ``JobFailed``, ``JobCancelled`` or ``JobExpired`` for a job without one, and
        ``ResultTimeout`` (a ``TimeoutError``) after ``timeout`` seconds; then the job goes on."""
        await self.wait(timeout)
        return self.value()

    async def cancel(self) -> str:
        """Cancel the job and return its status: ``cancelled``, ``cancelling`` while it runs, or how it had ended."""
        job: Job = await self._client._call(lambda runtime: runtime.submitter.cancel(self.id))
        self.learn(job)
        return job.status

    async def retry(self) -> Self:
        """Run it again after it failed, expired or was cancelled; an open job is left alone.

        Raises ``IllegalTransition`` for a job that has succeeded.
        """
        mark = self._client._forget(self.id)
        job: Job = await self._client._call(lambda runtime: runtime.submitter.retry(self.id))
        self.restart(job, mark)
        return self

    async def fork(self, *, from_step: str | None = None, inputs: Mapping[str, Any] | None = None) -> AsyncJobHandle:
        """See ``JobHandle.fork``."""
        runtime = await self._client._opened_runtime()
        mark = runtime.push.mark
        submitted = await self._client._call(lambda runtime: runtime.submitter.fork(self.id, from_step, inputs))
        return self._client._submitted(submitted, runtime.client_id, mark)

    async def cost(self) -> RunCost:
        """See ``JobHandle.cost``."""
        found: RunCost = await self._client._call(lambda runtime: runtime.store.run_cost(self.id))
        return found

    def stream(self, after: str | None = None, *, step: str | None = None) -> AsyncIterator[JobEvent]:
        """See ``JobHandle.stream``."""
        return self._client._stream(self, after, step)
