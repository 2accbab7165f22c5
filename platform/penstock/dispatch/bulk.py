"""Cancel and retry for many jobs: by their ids, or all that fit a filter.

In chunks: one short transaction, then one round trip to the broker that tells everybody or publishes. Between two of
them others come to write. Cut off in the middle (a kill, a database that goes away), the jobs of whole chunks are done;
the same call again does the rest. Messages of what was cancelled stay at the broker and fall out when they are claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypedDict, Unpack

from penstock import arguments, clock
from penstock.dispatch.fastpath import PAUSE_FACTOR, PAUSE_S, FastPath
from penstock.dispatch.notices import tell
from penstock.errors import IllegalTransition, InvalidInput
from penstock.job import Job, JobState
from penstock.lane import split_name
from penstock.store import Store
from penstock.store.bulk import FIRST
from penstock.transport.publisher import Publisher

#: How often the states are walked through at most: a job may go back to one that was passed.
PASSES = 3

#: The states that a verb moves jobs out of, in the order in which jobs go through them.
CANCELLABLE = (JobState.ACCEPTED, JobState.QUEUED, JobState.RUNNING)
RETRYABLE = (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)


@dataclass(slots=True)
class Bulk:
    """What a bulk verb did, job by job."""

    #: Jobs that it moved: their status after it, by id. One that runs is ``cancelling``.
    changed: dict[str, str] = field(default_factory=dict)
    #: Jobs that were named and needed nothing: had ended, were cancelled or running already. Their status.
    left: dict[str, str] = field(default_factory=dict)
    #: Ids that were named and that no job has.
    unknown: list[str] = field(default_factory=list)

    def add(self, other: Bulk) -> None:
        """Take in what another part did."""
        self.changed |= other.changed
        self.left |= other.left
        self.unknown += other.unknown


class Filters(TypedDict, total=False):
    """Which jobs are meant; all that are given must fit. Names as in ``Client.list``, ``older_than`` in seconds."""

    status: str | JobState | None
    model: str | None
    tenant: str | None
    lane: str | None
    tag: tuple[str, str] | str | None
    older_than: float | None


def gathered(chunks: Iterable[Bulk], on_chunk: Callable[[Bulk], object] | None = None) -> Bulk:
    """All chunks in one; ``on_chunk`` hears each when it is done."""
    whole = Bulk()
    for chunk in chunks:
        whole.add(chunk)
        if on_chunk is not None:
            on_chunk(chunk)
    return whole


@dataclass(frozen=True, slots=True)
class _Told:
    """What ``notices`` needs of a job."""

    id: str
    model: str
    state: JobState | str
    attempt: int
    reply_to: str | None
    error: str | None = None


class BulkVerbs:
    """Thread-safe. ``grace_s`` is how long jobs that run again are ours to publish."""

    def __init__(self, store: Store, publisher: Publisher, fast_path: FastPath, *, grace_s: float) -> None:
        self._store = store
        self._publisher = publisher
        self._fast_path = fast_path
        self._grace_s = grace_s
        #: With the broker away nobody is told: not each chunk waits for it.
        self._quiet_until = 0.0

    def cancel(self, ids: Iterable[Any]) -> Iterator[Bulk]:
        """By id, a chunk at a time. Raises ``StoreUnavailable``; what was given back by then is done."""
        return self._named(ids, self._cancel)

    def retry(self, ids: Iterable[Any]) -> Iterator[Bulk]:
        """By id. One that succeeded is left."""
        return self._named(ids, self._retry)

    def cancel_where(self, **filters: Unpack[Filters]) -> Iterator[Bulk]:
        """All that fit, and were accepted before this call."""
        return self._fitting(dict(filters), CANCELLABLE, self._cancel)

    def retry_where(self, **filters: Unpack[Filters]) -> Iterator[Bulk]:
        """All that fit."""
        return self._fitting(dict(filters), RETRYABLE, self._retry)

    def _named(self, ids: Iterable[Any], verb: Callable[[Sequence[str], str], Bulk]) -> Iterator[Bulk]:
        names = iter(dict.fromkeys(map(_id_of, arguments.many(ids))))
        while chunk := list(islice(names, self._store.change_rows)):
            fit = [id for id in chunk if arguments.storable(id)]
            done = verb(fit, "")
            known = self._store.statuses([id for id in fit if id not in done.changed])
            done.left = known
            done.unknown = [id for id in chunk if id not in done.changed and id not in known]
            yield done

    def _fitting(
        self, filters: dict[str, Any], states: Sequence[JobState], verb: Callable[[Sequence[str], str], Bulk]
    ) -> Iterator[Bulk]:
        wanted, fits = _checked(filters, states)
        rows = self._store.change_rows
        moved: set[str] = set()  # one that is back in its state (a run that fails at once) is not meant again
        for _ in range(PASSES):
            found = False
            for state in wanted:
                after: tuple[float, str] | None = FIRST
                while after is not None:
                    ids, after = self._store.page(state, fits, after=after, scan=rows)
                    ids = [id for id in ids if id not in moved]
                    if ids and (done := verb(ids, state)).changed:
                        found = True
                        moved |= done.changed.keys()
                        yield done
            if not found:
                return

    def _cancel(self, ids: Sequence[str], only: str) -> Bulk:
        now = clock.now()
        rows = self._store.cancel_many(ids, only=only, now=now)
        told = [_Told(row.id, row.model, _status(row.state), row.attempt, row.reply_to, row.error) for row in rows]
        self._tell(told)
        return Bulk({row.id: str(row.state) for row in told})

    def _retry(self, ids: Sequence[str], only: str) -> Bulk:
        now = clock.now()
        jobs = self._store.retry_many(ids, only=only, now=now, publish_lease_s=self._grace_s)
        self._fast_path.publish(jobs)
        runs = self._retry_runs(set(ids) - {job.id for job in jobs}, only)
        self._tell([_Told(job.id, job.model, job.state, job.attempt, job.reply_to) for job in (*jobs, *runs)])
        return Bulk({job.id: str(job.state) for job in (*jobs, *runs)})

    def _retry_runs(self, left: Iterable[str], only: str) -> list[Job]:
        """Those of what is left that are runs, one by one: each is a transaction that begins its steps. One whose steps
        have not stopped yet is left."""
        states = (only,) if only else RETRYABLE
        ended = [id for id, status in self._store.statuses(sorted(left)).items() if status in states]
        runs = []
        for job in self._store.get_many(ended).values():
            if job.graph is not None:
                with suppress(IllegalTransition):
                    runs.append(self._store.retry(job.id, now=clock.now()))
        return runs

    def _tell(self, told: Sequence[_Told]) -> None:
        started = clock.monotonic_s()
        if told and started >= self._quiet_until and not tell(self._publisher, told, now=clock.now()):
            ended = clock.monotonic_s()
            self._quiet_until = ended + max(PAUSE_S, PAUSE_FACTOR * (ended - started))


def _status(state: JobState) -> JobState | str:
    return "cancelling" if state is JobState.RUNNING else state


def _id_of(job: Any) -> str:
    id = getattr(job, "id", job)
    if not isinstance(id, str):
        raise InvalidInput(f"{arguments.shown(job)} is no job", fix="pass ids or handles")
    return id


def _checked(filters: dict[str, Any], states: Sequence[JobState]) -> tuple[Sequence[JobState], dict[str, Any]]:
    """The states to walk through, and the conditions of ``Store.page``; raises ``InvalidInput``."""
    if misspelt := filters.keys() - Filters.__annotations__.keys():
        # Left out, it would leave more jobs in.
        raise TypeError(f"there is no filter {min(misspelt)!r}; there are {', '.join(Filters.__annotations__)}")
    given = {name: value for name, value in filters.items() if value is not None}
    if not given:
        raise InvalidInput(
            "no filter was given, and every job there is would be meant",
            fix="name a model, tenant, lane, status, tag or older_than",
        )
    status, older_than = arguments.status(given.pop("status", None)), given.pop("older_than", 0.0)
    tag = given.pop("tag", None)
    if status is not None and status not in states:
        raise InvalidInput(f"no such job is {status!r}", fix=f"use one of {', '.join(states)}")
    if isinstance(older_than, bool) or not isinstance(older_than, (int, float)) or not 0 <= older_than < 1e11:
        raise InvalidInput("older_than is no number of seconds", fix="pass seconds, 0 or more")
    for name, value in given.items():
        arguments.text(name, value)
    fits: dict[str, Any] = {name: str(value) for name, value in given.items()}
    if "model" in fits:
        fits["model"], version = split_name(fits["model"])
        fits |= {} if version is None else {"asked": version}
    if tag is not None:
        fits |= _tag(tag)
    # Jobs that come while we are at it are not meant: it has an end.
    return [JobState(status)] if status else states, fits | {"until": clock.now() - older_than}


def _tag(tag: Any) -> dict[str, str]:
    name, value = arguments.tag(tag)
    if not name:
        raise InvalidInput(f"{arguments.shown(tag)} is no tag", fix="write NAME=VALUE, or NAME for any value")
    return {"tag_name": name} if value is None else {"tag": name, "value": value}
