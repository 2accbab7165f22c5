"""``AsyncClient``: the SDK for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from penstock import arguments
from penstock.client._drive import Doorbell, adrive
from penstock.client._flow import SAFETY_S, closed, completed, streamed
from penstock.client.base import BaseClient
from penstock.client.events import JobEvent
from penstock.client.handle import AsyncJobHandle, Handle
from penstock.client.inbox import Mark
from penstock.client.runtime import Runtime
from penstock.clock import monotonic_s
from penstock.dispatch.bulk import Bulk, Filters, gathered
from penstock.dispatch.request import NO_INPUT, Request, asked
from penstock.dispatch.service import Submitted
from penstock.errors import PenstockError
from penstock.job import Job, JobState
from penstock.lane import Lane
from penstock.model import Model
from penstock.options import Options
from penstock.pipelines.graph import Graph
from penstock.pipelines.writing.pipeline import Pipeline
from penstock.settings import Settings

if TYPE_CHECKING:
    from typing import Self, Unpack

T = TypeVar("T")

#: Threads for SQL and publishing. Few: concurrent submissions share one transaction, and waiting takes no thread.
THREADS = 4
#: Most submissions in one transaction.
GROUP = 1000


class AsyncClient(BaseClient):
    """The verbs of ``Client`` with ``await``. For one event loop; use it with ``async with``, or await ``close``.

    Nothing blocks the loop; a thousand coroutines may wait for results at a time without a thread each. Submissions
    made at the same time are committed and published together.
    """

    def __init__(
        self, settings: Settings | None = None, *, models: Iterable[type[Model] | str] | None = None, **overrides: Any
    ) -> None:
        super().__init__(settings, models=models, **overrides)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._doorbell: Doorbell | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[tuple[Request, asyncio.Future[Submitted]]] = []
        self._submitting: asyncio.Task[None] | None = None

    @overload
    async def enqueue(
        self, model: str | type[Model] | Pipeline | Graph, input: Any, **options: Unpack[Options]
    ) -> AsyncJobHandle: ...
    @overload
    async def enqueue(
        self, model: dict[str, Any], input: None = None, **options: Unpack[Options]
    ) -> AsyncJobHandle: ...
    async def enqueue(
        self,
        model: str | type[Model] | Pipeline | Graph | dict[str, Any],
        input: Any = NO_INPUT,
        **options: Unpack[Options],
    ) -> AsyncJobHandle:
        """Submit one job; see ``Client.enqueue``. When cancelled, the job may have been stored or not."""
        self._enter()
        runtime = await self._opened_runtime()
        mark = runtime.push.mark
        submitted = await self._submit(runtime.submitter.admitted(asked(model, input, options)))
        return self._submitted(submitted, runtime.client_id, mark)

    @overload
    async def run(
        self,
        model: str | type[Model] | Pipeline | Graph,
        input: Any,
        *,
        result_timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Any: ...
    @overload
    async def run(
        self,
        model: dict[str, Any],
        input: None = None,
        *,
        result_timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Any: ...
    async def run(
        self,
        model: Any,
        input: Any = NO_INPUT,
        *,
        result_timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """``enqueue`` and ``result(result_timeout)``: the model's output for one input."""
        arguments.wait_s(result_timeout, "result_timeout")  # before anything is submitted
        runtime = await self._opened_runtime()
        if not runtime.push.connected:
            await self._call(lambda runtime: runtime.push.listen())
        handle = await self.enqueue(model, input, **options)
        return await handle.result(result_timeout)

    async def enqueue_many(
        self, model: str | type[Model] | Pipeline | Graph, inputs: Iterable[Any], **options: Unpack[Options]
    ) -> list[AsyncJobHandle]:
        """Submit one job per input, in bulk; see ``Client.enqueue_many``. ``inputs`` is read in another thread."""
        runtime = await self._opened_runtime()
        mark = runtime.push.mark
        request = Request(model, None, options, Lane.BACKGROUND)
        submitted = await self._call(lambda runtime: runtime.submitter.submit_many(request, inputs))
        return [self._submitted(job, runtime.client_id, mark) for job in submitted]

    async def as_completed(
        self,
        jobs: Iterable[AsyncJobHandle],
        timeout: float | None = None,  # noqa: ASYNC109 (as in Client)
    ) -> AsyncIterator[AsyncJobHandle]:
        """The handles, each as soon as its job has ended: ``async for job in client.as_completed(jobs)``.

        Raises ``ResultTimeout`` when some have not ended ``timeout`` seconds after the first was asked for.
        """
        pending, wait_s = arguments.handles(jobs, AsyncJobHandle), arguments.wait_s(timeout)
        runtime = await self._opened_runtime()
        async for handle in adrive(runtime, completed(runtime, pending, wait_s), self._executor()):
            yield handle

    async def signal(self, run: str | AsyncJobHandle, name: str, value: Any = None, *, id: str | None = None) -> None:
        """See ``Client.signal``."""
        run_id = run.id if isinstance(run, AsyncJobHandle) else run
        await self._call(lambda runtime: runtime.submitter.signal(run_id, name, value, id))

    async def get(self, id: str) -> AsyncJobHandle:
        """The job of this id, whoever submitted it; raises ``JobNotFound``."""
        return self._handle(await self._call(lambda runtime: runtime.store.get(id)))

    async def list(
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
    ) -> list[AsyncJobHandle]:
        """Jobs, newest first; see ``Client.list``."""
        state = arguments.status(status)

        def read(runtime: Runtime) -> list[Job]:
            return runtime.store.list(
                status=state, model=model, tenant=tenant, tag=tag, lane=lane, limit=limit, before=before, run=run
            )

        return [self._handle(job) for job in await self._call(read)]

    async def cancel_many(self, jobs: Iterable[str | AsyncJobHandle]) -> Bulk:
        """Cancel many jobs, by ids or handles; see ``Client.cancel_many``. ``jobs`` is read in another thread."""
        return await self._call(lambda runtime: gathered(runtime.submitter.bulk.cancel(jobs)))

    async def cancel_where(self, **filters: Unpack[Filters]) -> Bulk:
        """Cancel all jobs that fit every filter; see ``Client.cancel_where``."""
        return await self._call(lambda runtime: gathered(runtime.submitter.bulk.cancel_where(**filters)))

    async def retry_many(self, jobs: Iterable[str | AsyncJobHandle]) -> Bulk:
        """Run many jobs again, by ids or handles; see ``Client.retry_many``."""
        return await self._call(lambda runtime: gathered(runtime.submitter.bulk.retry(jobs)))

    async def retry_where(self, **filters: Unpack[Filters]) -> Bulk:
        """Run all jobs again that fit every filter; see ``Client.retry_where``."""
        return await self._call(lambda runtime: gathered(runtime.submitter.bulk.retry_where(**filters)))

    async def check(self) -> None:
        """Raise ``BrokerUnavailable``, ``StoreUnavailable`` or ``SchemaOutdated`` unless everything answers.

        ``NamespaceTaken``, a ``BrokerUnavailable``, where broker and database do not belong together.
        """
        await self._call(Runtime.check)

    async def close(self) -> None:
        """Close the connections; whoever still waits for a result gets an error. May be called twice."""
        pool, self._pool = self._pool, None
        if self._submitting is not None and self._loop is asyncio.get_running_loop():
            await asyncio.wait([self._submitting])
        await asyncio.get_running_loop().run_in_executor(None, self._close)
        if pool is not None:
            pool.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Submitting -----------------------------------------------------------------------------------------------

    async def _submit(self, request: Request) -> Submitted:
        future: asyncio.Future[Submitted] = self._enter().create_future()
        self._waiting.append((request, future))
        if self._submitting is None:
            self._submitting = asyncio.get_running_loop().create_task(self._submit_waiting())
        return await future

    async def _submit_waiting(self) -> None:
        """Group commit for coroutines: what arrives while one group is committed makes the next."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
                requests = [request for request, _ in group]
                answers: Iterable[Submitted | Exception]
                try:
                    answers = await self._call(partial(_submit_all, requests))
                except Exception as error:
                    answers = [error] * len(group)
                for (_, future), answer in zip(group, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, BaseException):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self._submitting = None

    # Threads --------------------------------------------------------------------------------------------------

    def _enter(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise PenstockError("this AsyncClient belongs to another event loop", fix="open one client per loop")
            self._loop = loop
            self._doorbell = Doorbell(loop)
            self._waiting, self._submitting = [], None
        return loop

    def _executor(self) -> ThreadPoolExecutor:
        if self._closed:
            raise closed()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="penstock-client")
        return self._pool

    async def _call(self, function: Callable[[Runtime], T]) -> T:
        """Run something that may block."""
        loop = self._enter()
        return await loop.run_in_executor(self._executor(), lambda: function(self._runtime()))

    async def _opened_runtime(self) -> Runtime:
        self._enter()
        return self._opened if self._opened is not None else await self._call(lambda runtime: runtime)

    # For handles ----------------------------------------------------------------------------------------------

    def _submitted(self, job: Submitted, client_id: str, mark: Mark | None) -> AsyncJobHandle:
        # One that existed before may have ended before, and may push its result to somebody else.
        if not job.created:
            return AsyncJobHandle(self, job.id)
        return AsyncJobHandle(self, job.id, reply_to=client_id, mark=None if job.run else mark)

    def _handle(self, job: Job) -> AsyncJobHandle:
        return AsyncJobHandle(self, job.id, job=job)

    def _forget(self, id: str) -> Mark | None:
        push = self._runtime().push
        push.forget(id)
        return push.mark

    async def _wait(self, handle: Handle, timeout_s: float | None) -> None:
        timeout_s = arguments.wait_s(timeout_s)
        runtime = await self._opened_runtime()
        ends_at = None if timeout_s is None else monotonic_s() + timeout_s
        mark = runtime.push.mark
        if mark is not None and handle.mark == mark and handle.reply_to == runtime.client_id:
            if await self._hear(runtime, handle, timeout_s):
                return
            # What was pushed did not say all, or nothing came for a while: SQL has the last word.
            handle.mark = None
        async for _ in adrive(runtime, completed(runtime, (handle,), timeout_s, ends_at), self._executor()):
            pass

    async def _hear(self, runtime: Runtime, handle: Handle, timeout_s: float | None) -> bool:
        """Whether the result was pushed: the first step of the flow ``completed``, for one job of our own.

        Nothing can have been missed of it, so there is nothing to read. Thousands of coroutines wait like this, and
        the flow's machinery would be most of what their results cost.
        """
        assert self._doorbell is not None
        future: asyncio.Future[None] = self._enter().create_future()
        ticket = runtime.push.open((handle.id,), foreign=False, wake=partial(self._doorbell.ring, future))
        try:
            await self._doorbell.wait(ticket, future, SAFETY_S if timeout_s is None else min(timeout_s, SAFETY_S))
            if ticket.closed:
                raise closed()
            for record in ticket.take()[0]:
                if record.complete:
                    handle.hear(record)
                    return True
            return False
        finally:
            runtime.push.done(ticket)

    async def _stream(self, handle: Handle, after: str | None, step: str | None) -> AsyncIterator[JobEvent]:
        runtime = await self._opened_runtime()
        async for event in adrive(runtime, streamed(runtime, handle, after, step), self._executor()):
            yield event


def _submit_all(requests: list[Request], runtime: Runtime) -> list[Submitted | Exception]:
    return runtime.submitter.submit_all(requests)
