"""What the verbs of the store answer with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from penstock.job import Job, JobState, Ledger

_decode = msgspec.json.decode

#: Faster than ``JobState(text)``.
STATES: dict[str, JobState] = {state.value: state for state in JobState}


# Named tuples where a row becomes one as it is: thousands are made per second.
class Inserted(NamedTuple):
    """A job that is stored: ``created`` now, or earlier under the same idempotency key."""

    id: str
    created: bool


class Within(NamedTuple):
    """Where a step is told of: the outermost run around it, its path from there (``embed[7]``; ``plan/search`` where
    the step ``plan`` answered with steps), and which try of that run this is, the first one is 1."""

    run: str
    path: str
    attempt: int


class Claimed(NamedTuple):
    """A job that runs now, under this attempt number. ``input`` (JSON text) only where it was asked for."""

    attempt: int
    timeout_s: float | None
    deadline_at: float | None
    failures: int
    ooms: int
    #: It may have taken a worker down before, and was claimed alone.
    suspect: bool = False
    #: That of a step. Not whether it is one: SQLite 3.40 takes a RETURNING column for NOT NULL.
    run_id: str | None = None
    input: str | None = None
    #: Why there is none: what the step of a run is given has no value.
    fault: str | None = None


class Moment(NamedTuple):
    """Where a job stands among all by time, those of one moment by their ids."""

    accepted_at: float
    id: str


class LeftOver(NamedTuple):
    """A job that could not be claimed. ``output`` is JSON text, ``error`` is decoded.

    ``suspect``: it may run now, but only alone, and was asked for together with others.
    """

    id: str
    state: JobState
    attempt: int
    worker: str | None
    output: str | None
    error: dict[str, Any] | None
    canvas: str | None
    canvas_done: bool
    suspect: bool = False


class Settled(NamedTuple):
    """A job whose state was changed for it, and whom to tell. ``error`` is JSON text."""

    id: str
    state: JobState
    attempt: int
    reply_to: str | None
    error: str | None
    model: str
    lane: str
    webhook: str | None
    #: Of a step: its run, and which step of it this is. Of a run: its graph.
    run_id: str | None = None
    path: str | None = None
    generation: int | None = None
    graph: str | None = None
    #: Of a run that has ended: whether it may have open steps.
    closing: bool | None = None
    #: The beginning of Celery's message, where it came as one. Not whether it did: SQLite 3.40 takes that for true.
    celery: str | None = None
    #: JSON text, of a run that ended; everybody else's is known to whoever settled it.
    output: str | None = None


@dataclass(slots=True)
class ClaimResult:
    """What a claim found: each id is in exactly one of the four."""

    claimed: dict[str, Claimed]
    others: dict[str, LeftOver] = field(default_factory=dict)
    expired: list[Settled] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Latency(NamedTuple):
    """What was learned of one model's batch times: ``LatencyModel.state`` and ``report`` under one key."""

    model: str
    version: str
    device: str
    key: str
    state: dict[str, Any]


class Deadline(NamedTuple):
    """When a job of this queue ends, done or not (Unix seconds)."""

    model: str
    lane: str
    at: float


@dataclass(frozen=True, slots=True)
class Count:
    """How many open jobs of one model and lane are in one state.

    ``version`` is the one that these ask for; ``None``: any. Each has a queue of its own at the broker.
    """

    model: str
    lane: str
    state: JobState
    count: int
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """A worker with a lease. ``info`` is what it said about itself when it registered, ``lane`` the one that it keeps
    to now (empty: it is parked and takes nothing; ``None``: it does both)."""

    instance: str
    name: str
    pool: str
    started_at: float
    seen_at: float
    lease_until: float
    info: dict[str, Any]
    lane: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A webhook event: ``payload`` is posted to ``url`` as it is, under the message id ``id``.

    ``state`` is ``pending``, ``delivered``, ``dead`` (given up) or ``gone`` (the receiver wants no more).
    """

    id: str
    job_id: str
    url: str
    host: str
    type: str
    payload: str
    state: str
    attempts: int
    created_at: float
    next_at: float
    attempted_at: float | None
    status_code: int | None
    error: str | None


#: The columns of ``penstock_delivery`` in the order of ``Delivery``.
DELIVERY_COLUMNS = (
    "id, job_id, url, host, type, payload, state, attempts, created_at, next_at, attempted_at, status_code, error"
)

#: The columns of ``penstock_job`` in the order that ``job_of`` reads.
JOB_COLUMNS = (
    "id, model, version, lane, tenant, priority, state, attempt, input, output, error, available_at, deadline_at,"
    " timeout_s, idempotency_key, webhook, tags, trace, reply_to, canvas, worker, cancel_requested, failures, losses,"
    " ooms, batch_size, batch_reason, accepted_at, queued_at, claimed_at, started_at, settled_at, batch_wait_s, load_s,"
    " compute_s, transfer_s, suspicions, kills, asked_version, run_id, path, generation, graph, start_by"
)


def job_of(row: tuple[Any, ...]) -> Job:
    """A row of ``JOB_COLUMNS`` as a job."""
    return Job(
        id=row[0],
        model=row[1],
        version=row[2],
        lane=row[3],
        tenant=row[4],
        priority=row[5],
        state=STATES[row[6]],
        attempt=row[7],
        input=_decode(row[8]),
        output=None if row[9] is None else _decode(row[9]),
        error=None if row[10] is None else _decode(row[10]),
        available_at=row[11],
        deadline_at=row[12],
        timeout_s=row[13],
        idempotency_key=row[14],
        webhook=row[15],
        tags={} if row[16] is None else _decode(row[16]),
        trace=row[17],
        reply_to=row[18],
        canvas=row[19],
        asked_version=row[38],
        run_id=row[39],
        path=row[40],
        generation=row[41],
        graph=row[42],
        start_by=row[43],
        worker=row[20],
        cancel_requested=bool(row[21]),
        failures=row[22],
        losses=row[23],
        ooms=row[24],
        suspicions=row[36],
        kills=row[37],
        batch_size=row[25],
        batch_reason=row[26],
        ledger=Ledger(
            accepted_at=row[27],
            queued_at=row[28],
            claimed_at=row[29],
            started_at=row[30],
            settled_at=row[31],
            batch_wait_s=row[32],
            load_s=row[33],
            compute_s=row[34],
            transfer_s=row[35],
        ),
    )


def delivery_of(row: tuple[Any, ...]) -> Delivery:
    """A row of ``DELIVERY_COLUMNS`` as a delivery."""
    names = DELIVERY_COLUMNS.split(", ")
    return Delivery(**dict(zip(names, row, strict=True)))


def settled_of(row: tuple[Any, ...]) -> Settled:
    """A row of ``SETTLED_COLUMNS``."""
    return _settled(Settled, (row[0], STATES[row[1]], *row[2:], None))


def plain_of(row: tuple[Any, ...], attempt: int) -> Settled:
    """A row of ``PLAIN_COLUMNS``."""
    id, state, reply_to, model, lane = row
    return _settled(Settled, (id, STATES[state], attempt, reply_to, None, model, lane) + _NOTHING_ELSE)  # noqa: RUF005 - it is faster


def claimed_of(row: tuple[Any, ...]) -> Claimed:
    """A row of ``CLAIMED_COLUMNS``, without the id that it begins with."""
    return _claimed(Claimed, (*row[1:], None, None))


#: From ``webhook`` on.
_NOTHING_ELSE = (None,) * 8

# `_make` and the call of a named tuple are written in Python.
_settled: Callable[[type[Settled], tuple[Any, ...]], Settled] = tuple.__new__
_claimed: Callable[[type[Claimed], tuple[Any, ...]], Claimed] = tuple.__new__

#: In the order of ``Settled``.
SETTLED_COLUMNS = (
    "penstock_job.id, state, attempt, reply_to, error, model, lane, webhook, run_id, penstock_job.path, generation,"
    " graph, closing, substr(canvas, 1, 1)"
)
#: Of a job that has succeeded, without a webhook and in no run, where the attempt is known.
PLAIN_COLUMNS = "penstock_job.id, state, reply_to, model, lane"
#: The id, and what ``Claimed`` begins with.
CLAIMED_COLUMNS = "penstock_job.id, attempt, timeout_s, deadline_at, failures, ooms, suspicions > 0, run_id"
