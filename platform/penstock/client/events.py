"""What ``stream`` yields: a job's changes of state, derived from snapshots, and its partial output. PURE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from penstock.arguments import shown
from penstock.clock import as_datetime
from penstock.errors import InvalidInput
from penstock.job import Job, JobState

# Places within one attempt. A number leaves room for kinds of events that come between them.
_RUNNING, _PROGRESS, _ACCEPTED, _QUEUED, _ENDED = 0, 5, 10, 20, 90
_PER_ATTEMPT = 100
#: Longest cursor, characters: two numbers of 64 bits.
_LONGEST = 39
#: Behind all partial output of an attempt.
_LAST = 2**63

#: ``(place, index)``: where an event stands among all of its job's. The index counts partial output, else it is -1.
Position = tuple[int, int]


class Entry(Protocol):
    """A piece of partial output."""

    @property
    def attempt(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def at(self) -> float: ...
    @property
    def data(self) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Something that happened to a job.

    ``kind`` is ``"state"`` or ``"progress"`` (later releases add others: ignore what you do not know). ``state`` is the
    job's state after it, ``at`` when it happened, ``data`` what else is known (``attempt``, ``worker``, ``output``,
    ``error`` …). Progress has ``data["progress"]``, what the model gave, and ``data["index"]``, its number within
    ``data["attempt"]``; where pieces before it are not kept any more, ``data["missed"]`` says how many. A new attempt
    begins with a state event and with index 0: what an earlier one gave is void.
    ``cursor`` resumes a stream behind this event: ``job.stream(after=event.cursor)``.
    """

    kind: str
    state: JobState
    at: datetime | None
    data: dict[str, Any] = field(default_factory=dict)
    cursor: str = ""


def events_of(
    job: Job, after: str | None = None, entries: Sequence[Entry] = (), *, more: bool = False
) -> Iterator[JobEvent]:
    """The events that this snapshot and these pieces of partial output prove, in order, behind the cursor ``after``.

    With ``more``, other pieces follow the given ones, so nothing that comes after those is told yet.
    Of earlier attempts only the last is known: a state that came and went between two snapshots is left out.
    """
    last = position(job, after)
    story: list[tuple[Position, JobEvent]] = [
        ((place, -1), JobEvent(kind="state", state=state, at=as_datetime(at), data=data, cursor=str(place)))
        for place, state, at, data in _story(job)
    ]
    story += [_progress(entry) for entry in entries if entry.attempt <= job.attempt]
    ends = (entries[-1].attempt * _PER_ATTEMPT + _PROGRESS, entries[-1].index) if more else None
    for at_position, event in sorted(story, key=lambda pair: pair[0]):
        if ends is not None and at_position > ends:
            return
        if at_position <= last:
            continue
        if event.kind == "progress":
            base, index = at_position
            missed = index - (last[1] + 1 if last[0] == base else 0)
            if missed > 0:
                event.data["missed"] = missed
        last = at_position
        yield event


def wanted(job: Job, after: str | None) -> tuple[int, int]:
    """``(attempt, index)`` of the first piece of partial output behind the cursor."""
    place, index = position(job, after)
    attempt, within = divmod(max(place, 0), _PER_ATTEMPT)
    if within > _PROGRESS:
        return attempt + 1, 0
    return attempt, min(index + 1, _LAST) if within == _PROGRESS else 0


def position(job: Job, after: str | None) -> Position:
    """Where the cursor stands, given what the job is now."""
    place, index = _parse(after)
    if place % _PER_ATTEMPT == _ENDED and not job.state.is_terminal:
        # The job had ended and was started again by `retry`.
        return place - _ENDED + _PROGRESS, _LAST
    return place, index


def _progress(entry: Entry) -> tuple[Position, JobEvent]:
    place = entry.attempt * _PER_ATTEMPT + _PROGRESS
    event = JobEvent(
        kind="progress",
        state=JobState.RUNNING,
        at=as_datetime(entry.at),
        data={"attempt": entry.attempt, "index": entry.index, "progress": entry.data},
        cursor=f"{place}.{entry.index}",
    )
    return (place, entry.index), event


def _story(job: Job) -> Iterator[tuple[int, JobState, float | None, dict[str, Any]]]:
    ledger = job.ledger
    if job.graph is not None:
        yield from _run_story(job)
        return
    base = job.attempt * _PER_ATTEMPT
    tried = {"attempt": job.attempt}
    # The ledger keeps one time per state, so these two times belong to the first attempt while there was only one.
    yield _ACCEPTED, JobState.ACCEPTED, ledger.accepted_at, {"attempt": 0}
    if ledger.queued_at is not None and job.attempt <= 1:
        yield _QUEUED, JobState.QUEUED, ledger.queued_at, {"attempt": 0}
    if job.attempt and ledger.claimed_at is not None:
        yield base + _RUNNING, JobState.RUNNING, ledger.started_at or ledger.claimed_at, tried | {"worker": job.worker}
    if job.attempt and job.state is JobState.ACCEPTED:
        yield base + _ACCEPTED, JobState.ACCEPTED, None, tried | {"available_at": job.available_at, "error": job.error}
    if job.attempt and job.state is JobState.QUEUED:
        yield base + _QUEUED, JobState.QUEUED, ledger.queued_at, tried
    if job.state.is_terminal:
        yield base + _ENDED, job.state, ledger.settled_at, tried | _end(job) | {"batch_size": job.batch_size}


def _run_story(job: Job) -> Iterator[tuple[int, JobState, float | None, dict[str, Any]]]:
    """A run is no message and nobody's attempt: its tries are its generations, the first one is 1 as for any job."""
    ledger = job.ledger
    number = 0 if ledger.started_at is None else 1 + (job.generation or 0)
    base = number * _PER_ATTEMPT
    tried = {"attempt": number}
    yield _ACCEPTED, JobState.ACCEPTED, ledger.accepted_at, {"attempt": 0}
    if number:
        yield base + _RUNNING, JobState.RUNNING, ledger.started_at, tried | {"worker": None}
    if job.state.is_terminal:
        yield base + _ENDED, job.state, ledger.settled_at, tried | _end(job)


def _end(job: Job) -> dict[str, Any]:
    return {"output": job.output} if job.state is JobState.SUCCEEDED else {"error": job.error}


def _parse(cursor: str | None) -> Position:
    if cursor is None:
        return -1, -1
    # One of ours is short; digits without end would be no number.
    known = isinstance(cursor, str) and len(cursor) <= _LONGEST
    place, dot, index = cursor.partition(".") if known else ("", "", "")
    if not place.isdecimal() or (dot and not (index.isdecimal() and int(place) % _PER_ATTEMPT == _PROGRESS)):
        raise InvalidInput(f"after={shown(cursor)} is no cursor", fix="pass the cursor of an event that stream() gave")
    return int(place), min(int(index), _LAST) if dot else -1
