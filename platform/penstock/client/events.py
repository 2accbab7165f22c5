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
    @property
    def step(self) -> Part | None: ...


class Part(Protocol):
    """Which step of a run gave it, and which piece of it this is."""

    @property
    def path(self) -> str: ...
    @property
    def job(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def index(self) -> int: ...


#: The last piece that was told of each step, by its id: attempt and index.
Told = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Something that happened to a job.

    ``kind`` is ``"state"`` or ``"progress"`` (later releases add others: ignore what you do not know). ``state`` is the
    job's state after it, ``at`` when it happened, ``data`` what else is known (``attempt``, ``worker``, ``output``,
    ``error`` …). Progress has ``data["progress"]``, what the model gave, and ``data["index"]``, its number within
    ``data["attempt"]``; where pieces before it are not kept any more, ``data["missed"]`` says how many. A new attempt
    begins with a state event and with index 0: what an earlier one gave is void.
    Progress of a run is that of its steps: ``data["step"]`` is the step's path (``generate[3]``), ``data["job"]`` its
    id, and attempt, index and missed are the step's. An index of 0 begins the step anew: what it gave before is void.
    ``cursor`` resumes a stream behind this event: ``job.stream(after=event.cursor)``.
    """

    kind: str
    state: JobState
    at: datetime | None
    data: dict[str, Any] = field(default_factory=dict)
    cursor: str = ""


def events_of(
    job: Job,
    after: str | None = None,
    entries: Sequence[Entry] = (),
    *,
    more: bool = False,
    told: Told | None = None,
) -> Iterator[JobEvent]:
    """The events that this snapshot and these pieces of partial output prove, in order, behind the cursor ``after``.

    With ``more``, other pieces follow the given ones, so nothing that comes after those is told yet. ``told`` is what
    this stream has told of a run's steps, and is brought up to date; without it, it began in the middle: then of a step
    that was not heard of yet nothing can have been missed.
    Of earlier attempts only the last is known: a state that came and went between two snapshots is left out.
    """
    last = position(job, after)
    story: list[tuple[Position, JobEvent]] = [
        ((place, -1), JobEvent(kind="state", state=state, at=as_datetime(at), data=data, cursor=str(place)))
        for place, state, at, data in _story(job)
    ]
    number = tries_of(job)
    story += [_progress(entry) for entry in entries if entry.attempt <= number]
    ends = (entries[-1].attempt * _PER_ATTEMPT + _PROGRESS, entries[-1].index) if more else None
    for at_position, event in sorted(story, key=lambda pair: pair[0]):
        if ends is not None and at_position > ends:
            return
        if at_position <= last:
            continue
        if event.kind == "progress":
            base, index = at_position
            if "step" in event.data:
                missed = _missed(event.data, told)
            else:
                missed = index - (last[1] + 1 if last[0] == base else 0)
            if missed > 0:
                event.data["missed"] = missed
        last = at_position
        yield event


def _missed(data: dict[str, Any], told: Told | None) -> int:
    """How many pieces of this attempt of a step went by before this one."""
    if told is None:
        return 0
    attempt, index = told.get(data["job"], (0, -1))
    told[data["job"]] = data["attempt"], data["index"]
    return int(data["index"]) - (index + 1 if attempt == data["attempt"] else 0)


def tries_of(job: Job) -> int:
    """How often it has begun. A run is nobody's attempt: its tries are its generations, the first one is 1."""
    if job.graph is None:
        return job.attempt
    return 0 if job.ledger.started_at is None else 1 + (job.generation or 0)


def of_step(path: str, name: str) -> bool:
    """Whether a path is that of a step of this name, of an element of it, or of a step that it answered with."""
    return path == name or path.startswith((f"{name}[", f"{name}/"))


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
    piece = entry if entry.step is None else entry.step
    data = {"attempt": piece.attempt, "index": piece.index, "progress": entry.data}
    if entry.step is not None:
        data |= {"step": entry.step.path, "job": entry.step.job}
    event = JobEvent(
        kind="progress",
        state=JobState.RUNNING,
        at=as_datetime(entry.at),
        data=data,
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
    """A run is no message, so it is never queued."""
    ledger = job.ledger
    number = tries_of(job)
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
