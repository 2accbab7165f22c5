"""Waiting, written once: flows without I/O, driven by the plain and by the asyncio client.

A flow is a generator. It yields what it wants done and is sent the answer (``_drive`` does that, with blocking calls or
on an event loop); what it yields as ``Emit`` is what the caller sees.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.clock import monotonic_s
from penstock.errors import (
    BrokerUnavailable,
    JobNotFound,
    PenstockError,
    ResultTimeout,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from penstock.client.events import JobEvent
    from penstock.client.handle import Handle
    from penstock.client.inbox import Ticket
    from penstock.client.runtime import Runtime
    from penstock.job import Job
    from penstock.transport.progress import Entry

#: SQL is read at least so often while waiting, seconds: with push, and without it.
SAFETY_S, UNPUSHED_S = 5.0, 0.5
#: How long a wait bears with a database that has gone away, and how often it tries again meanwhile, seconds.
PATIENCE_S, AWAY_S = 30.0, 1.0
#: Jobs read from SQL at a time.
READ = 500
#: Pieces of partial output read at a time.
PIECES = 500


@dataclass(slots=True)
class Call:
    """Run something that may block. Its value is the answer; ``StoreUnavailable`` is raised inside the flow."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()


@dataclass(slots=True)
class Open:
    """Get a ticket."""

    ids: Sequence[str]
    foreign: bool = False
    every_change: bool = False


@dataclass(slots=True)
class Wait:
    """Wait until something has come for the ticket, or the time is over."""

    ticket: Ticket
    timeout_s: float


@dataclass(slots=True)
class Emit:
    """Give this to the caller."""

    value: Any


Effect = Call | Open | Wait | Emit
Flow = Generator[Effect, Any, None]


def completed(
    runtime: Runtime, handles: Sequence[Handle], timeout_s: float | None, ends_at: float | None = None
) -> Flow:
    """Emit each handle when its job has ended, in the order in which they end; ``ResultTimeout`` when time is over.

    ``ends_at`` is when that is (on the monotonic clock), for a wait that began before the flow.
    """
    if ends_at is None and timeout_s is not None:
        ends_at = monotonic_s() + timeout_s
    pending: dict[str, list[Handle]] = {}
    for handle in handles:
        if handle.ended:
            yield Emit(handle)
        else:
            pending.setdefault(handle.id, []).append(handle)
    if not pending:
        return
    foreign = any(h.reply_to != runtime.client_id for group in pending.values() for h in group)
    ticket = yield Open(list(pending), foreign)
    try:
        mark = runtime.push.mark
        # Nothing can have been missed of a job that was submitted under the subscription that we have now.
        look = [id for id, group in pending.items() if mark is None or any(h.mark != mark for h in group)]
        over = False
        away = _Away()
        while True:
            if ticket.closed:
                raise closed()
            for start in range(0, len(look), READ):
                ids = look[start : start + READ]
                try:
                    jobs = yield Call(runtime.store.get_many, (ids,))
                except StoreUnavailable as error:
                    away.bear(error)
                    break
                away.end()
                if len(jobs) < len(ids):
                    raise _gone(next(id for id in ids if id not in jobs))
                for job in sorted((job for job in jobs.values() if job.state.is_terminal), key=_settled_at):
                    for handle in pending.pop(job.id, ()):
                        handle.learn(job)
                        yield Emit(handle)
            if not pending:
                return
            if not ticket.ready:
                if over:
                    raise away.error or _late(pending, timeout_s)
                left_s = AWAY_S if away.error else _pace(runtime, len(pending))
                if ends_at is not None:
                    left_s = min(left_s, ends_at - monotonic_s())
                if left_s > 0:
                    yield Wait(ticket, left_s)
            if not ticket.ready:
                # Too late, or suspiciously quiet: SQL has the last word.
                over = ends_at is not None and monotonic_s() >= ends_at
                look = list(pending)
                continue
            records, unsure, reread = ticket.take()
            for record in records:
                if not record.complete:
                    unsure.append(record.id)
                    continue
                for handle in pending.pop(record.id, ()):
                    handle.hear(record)
                    yield Emit(handle)
            look = list(pending) if reread or away.error else [id for id in dict.fromkeys(unsure) if id in pending]
    finally:
        runtime.push.done(ticket)


class _Away:
    """A database that went away during a wait: the result may come by push all the same, or the database be back."""

    __slots__ = ("_since", "error")

    def __init__(self) -> None:
        self.error: StoreUnavailable | None = None
        self._since = 0.0

    def bear(self, error: StoreUnavailable) -> None:
        """Raise the error when patience is over."""
        now = monotonic_s()
        if self.error is None:
            self._since = now
        self.error = error
        if not error.retryable or now - self._since > PATIENCE_S:
            raise error

    def end(self) -> None:
        """It answers."""
        self.error = None


def streamed(runtime: Runtime, handle: Handle, after: str | None, step: str | None = None) -> Flow:
    """Emit the job's events behind ``after``, of partial output only that of ``step``; ends behind the terminal one.

    Partial output is at the broker and everything else in SQL. While the broker is away, the stream goes on with the
    changes of state; partial output follows when it is back, as far as it was kept.
    """
    from penstock.client.events import Told, events_of, of_step, tries_of, wanted

    if step is not None:
        yield Call(_check_step, (runtime, handle.id, step))
    ticket = yield Open([handle.id], foreign=True, every_change=True)
    try:
        away = _Away()
        job: Job | None = None
        told: Told | None = {} if after is None else None
        while True:
            fresh = job is None
            if job is None:
                try:
                    job = yield Call(runtime.store.get, (handle.id,))
                except StoreUnavailable as error:
                    away.bear(error)
                    yield Wait(ticket, AWAY_S)
                    continue
                away.end()
                handle.learn(job)
            entries = yield Call(_pieces, (runtime, job, *wanted(job, after)))
            newer = bool(entries) and entries[-1].attempt > tries_of(job)
            more = len(entries) == PIECES and not newer
            event: JobEvent
            for event in events_of(job, after, entries, more=more, told=told):
                after = event.cursor
                if step is None or event.kind != "progress" or of_step(event.data["step"], step):
                    yield Emit(event)
            if more:
                continue
            if newer and not fresh:
                # Another attempt has begun since the row was read: its beginning comes first.
                job = None
                continue
            if job.state.is_terminal:
                return
            if not ticket.ready:
                yield Wait(ticket, SAFETY_S if runtime.push.connected else UNPUSHED_S)
            if ticket.closed:
                raise closed()
            quiet = not ticket.ready
            records, unsure, reread = ticket.take()
            if quiet or records or unsure or reread:
                job = None
    finally:
        runtime.push.done(ticket)


def _check_step(runtime: Runtime, run: str, step: str) -> None:
    from penstock.pipelines.names import check_path

    check_path(runtime.store.graph_of(run), step)


def _pieces(runtime: Runtime, job: Job, attempt: int, index: int) -> list[Entry]:
    """Partial output from there on; none while the job has not begun, or the broker is away."""
    from penstock.client.events import tries_of

    if not tries_of(job):
        return []
    try:
        return runtime.progress.read(job.id, max(attempt, 1), index, PIECES)
    except BrokerUnavailable:
        return []


def _pace(runtime: Runtime, pending: int) -> float:
    """How long to trust in news, seconds. Reading many jobs is work for the database, so it is done less often."""
    return SAFETY_S * max(1.0, min(pending / READ, 12.0)) if runtime.push.connected else UNPUSHED_S


def _settled_at(job: Job) -> float:
    return job.ledger.settled_at or 0.0


def _late(pending: dict[str, list[Handle]], timeout_s: float | None) -> ResultTimeout:
    first = next(iter(pending))
    what = f"job {first}" if len(pending) == 1 else f"{len(pending)} jobs"
    have = "has" if len(pending) == 1 else "have"
    return ResultTimeout(
        f"{what} {have} not ended within {timeout_s:g} s" if timeout_s else f"{what} {have} not ended",
        fix=f"wait longer: the job goes on; `penstock job get {first}` shows where it is",
    )


def _gone(id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {id}", fix="check the id; ended jobs are removed after retention.jobs_s")


def closed() -> PenstockError:
    """The client was closed under a call."""
    return PenstockError("the client is closed", fix="open another one, or close it after the last result")
