"""A job: one request with a life.

::

    accepted -> queued -> running -> succeeded
        ^          |         |-----> failed
        |          |         |-----> cancelled
        +---retry--+---------+-----> expired

``accepted`` is committed to SQL and not yet at the broker (it is the outbox: see ``docs/decisions``); ``queued``
has a message at the broker; ``running`` means that a live worker holds it. The last four are terminal. A retry or a
rescue goes back to ``accepted``, with ``available_at`` in the future when there is a back-off.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

#: Whose jobs those are that name no tenant.
DEFAULT_TENANT = "default"


class JobState(StrEnum):
    """Where a job is in its life."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Whether the state never changes again."""
        return self in TERMINAL


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})
OPEN = frozenset({JobState.ACCEPTED, JobState.QUEUED, JobState.RUNNING})

#: The legal changes of state; everything else is refused. A worker may claim an ``accepted`` job, because its
#: message can be delivered before the publisher has recorded that it was sent. ``failed -> accepted`` and its two
#: neighbours are a user's explicit replay (`penstock job retry`), the one way out of a terminal state.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.ACCEPTED: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.QUEUED: frozenset({JobState.ACCEPTED, JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.RUNNING: frozenset({JobState.ACCEPTED, JobState.QUEUED}) | TERMINAL,
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.ACCEPTED}),
    JobState.CANCELLED: frozenset({JobState.ACCEPTED}),
    JobState.EXPIRED: frozenset({JobState.ACCEPTED}),
}


def can(source: JobState, target: JobState) -> bool:
    """Whether the life cycle allows ``source -> target``."""
    return target in TRANSITIONS[source]


#: The digit that holds a UUID's variant, its two upper bits, by a random one.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


_turn = itertools.count()


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique without coordination, and sorted by time of creation to the millisecond.

    Within one, those of a process count upwards in 12 bits (section 6.2, method 1; the count goes on with the next
    millisecond, so that once in 4,096 it begins anew in the middle of one): rows whose ids come in order cost a
    database a tenth less than rows in any.
    """
    ms = f"{time.time_ns() // 1_000_000:012x}"
    rand = os.urandom(8).hex()
    return f"{ms[:8]}-{ms[8:]}-7{next(_turn) & 0xFFF:03x}-{_VARIANT[rand[0]]}{rand[1:4]}-{rand[4:]}"


# Thousands are made per second, with most of these fields left out.
class NewJob(msgspec.Struct, kw_only=True):
    """What ``Store.insert`` needs: a job that was validated and not stored yet.

    ``input`` is JSON text. ``asked_version`` is the only version that may run it; ``None``: any. ``canvas`` is
    JSON text with what Celery needs to finish a canvas member (callbacks, chain, group; see ``transport.message``);
    ``None`` for a plain job.
    """

    id: str
    model: str
    input: str
    lane: str
    accepted_at: float
    available_at: float
    version: str = ""
    asked_version: str | None = None
    tenant: str = DEFAULT_TENANT
    priority: int = 0
    deadline_at: float | None = None
    timeout_s: float | None = None
    idempotency_key: str | None = None
    digest: str | None = None
    webhook: str | None = None
    tags: dict[str, str] | None = None
    trace: str | None = None
    reply_to: str | None = None
    canvas: str | None = None
    #: Of a run: its graph, JSON text.
    graph: str | None = None
    #: Of a run: most of its steps in flight at a time, and device seconds that they may take.
    max_parallel: int | None = None
    budget_s: float | None = None
    #: Of a step: its run, which of the graph's steps it is, and since which try of the run.
    run_id: str | None = None
    path: str | None = None
    generation: int | None = None
    #: What a step is given, JSON text, where that is known: it is for the message alone.
    given: str | None = None
    #: Of a step whose run has a deadline: when it should begin, for the run to be in time. What waits is ordered by it;
    #: nothing ends because of it.
    start_by: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Where one job's time went. ``*_at`` are Unix seconds, ``*_s`` durations in seconds; ``None`` = not yet.

    ``queued_at`` is when its message was at the broker; of a job that was claimed before its publisher had recorded
    that, since when it could run. ``claimed_at`` is when a worker took the message from the broker, ``started_at`` when
    its batch began.
    """

    accepted_at: float
    queued_at: float | None = None
    claimed_at: float | None = None
    started_at: float | None = None
    settled_at: float | None = None
    batch_wait_s: float | None = None
    load_s: float | None = None
    compute_s: float | None = None
    transfer_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A snapshot of a stored job. ``input`` and ``output`` are decoded JSON values.

    ``version`` is the version of the model that made the output, or runs the job now; empty before that.
    ``asked_version`` is the one that the request named, if any: no other runs it.
    """

    id: str
    model: str
    version: str
    lane: str
    tenant: str
    priority: int
    state: JobState
    attempt: int
    input: Any
    output: Any
    error: dict[str, Any] | None
    available_at: float
    deadline_at: float | None
    timeout_s: float | None
    idempotency_key: str | None
    webhook: str | None
    tags: dict[str, str] = field(default_factory=dict)
    trace: str | None = None
    reply_to: str | None = None
    canvas: str | None = None
    asked_version: str | None = None
    worker: str | None = None
    cancel_requested: bool = False
    failures: int = 0
    losses: int = 0
    ooms: int = 0
    #: Runs that ended with their whole batch dead or stuck: from the first on, the job runs alone.
    suspicions: int = 0
    #: Workers that died while this job was all that they ran.
    kills: int = 0
    batch_size: int | None = None
    batch_reason: str | None = None
    #: Of a step: the run that it belongs to, which of the graph's steps it is, and since which try of the run.
    run_id: str | None = None
    path: str | None = None
    generation: int | None = None
    #: Of a run: the digest of its graph.
    graph: str | None = None
    #: Of a step whose run has a deadline: when it should begin, for the run to be in time.
    start_by: float | None = None
    ledger: Ledger

    @property
    def status(self) -> str:
        """The state as users see it: ``cancelling`` while a running job waits to be stopped."""
        if self.state is JobState.RUNNING and self.cancel_requested:
            return "cancelling"
        return self.state.value


# Not frozen: thousands are made per second, and a frozen dataclass costs five times as much to build.
@dataclass(slots=True, kw_only=True)
class Outcome:
    """How one attempt ended: what a worker hands to ``Store.settle``.

    ``state`` is a terminal state, or ``ACCEPTED`` for a retry (then ``available_at`` says when it may run again and
    ``failures``/``ooms`` what it costs), or ``QUEUED`` to give the job back untouched. ``output`` is JSON text. With
    ``graph`` (JSON text) the job, a step, goes on as a run of it, which is given ``output``.
    """

    id: str
    attempt: int
    state: JobState
    output: str | None = None
    error: dict[str, Any] | None = None
    available_at: float | None = None
    failures: int = 0
    ooms: int = 0
    #: 1: the batch did not come back and this job may be why; it runs alone from now on.
    suspicions: int = 0
    #: The job is a step of a run: what its end lets happen is part of the transaction.
    step: bool = False
    graph: str | None = None
    #: Of a step: what its tenant is charged for this attempt, device seconds.
    device_s: float | None = None
    started_at: float | None = None
    batch_wait_s: float | None = None
    load_s: float | None = None
    compute_s: float | None = None
    transfer_s: float | None = None
    batch_size: int | None = None
    batch_reason: str | None = None
