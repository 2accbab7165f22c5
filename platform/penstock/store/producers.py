"""Accepting jobs: idempotent, in bulk, many callers per transaction."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from penstock.arguments import storable
from penstock.errors import IdempotencyConflict, InvalidInput, PenstockError
from penstock.job import NewJob
from penstock.store.engine import Database, Survives
from penstock.store.records import Inserted, Settled
from penstock.store.runs import fleet, pins, plans
from penstock.store.runs import start as runs
from penstock.store.runs.bounds import text_of
from penstock.store.runs.conclude import concluded
from penstock.store.session import Session
from penstock.store.sql import Dialect, insert_sql

#: Columns that are copied from a ``NewJob``.
_FIELDS = (
    "id",
    "model",
    "version",
    "asked_version",
    "input",
    "lane",
    "accepted_at",
    "available_at",
    "tenant",
    "priority",
    "deadline_at",
    "timeout_s",
    "idempotency_key",
    "digest",
    "webhook",
    "trace",
    "reply_to",
    "canvas",
    "run_id",
    "path",
    "generation",
)
_fields = attrgetter(*_FIELDS)
#: Those that only runs have.
_OF_RUNS = ("graph", "started_at", "bounds")
#: Those that most jobs leave empty: to bind them took a third of the time of an insert on SQLite.
_RARE = (
    "asked_version",
    "deadline_at",
    "timeout_s",
    "idempotency_key",
    "digest",
    "webhook",
    "trace",
    "canvas",
    "run_id",
    "tags",
    "graph",
    "path",
    "generation",
)
_rare = attrgetter(*_RARE)
_NOTHING_RARE = (None,) * len(_RARE)
_PLAIN = [name for name in _FIELDS if name not in _RARE]
_plain = attrgetter(*_PLAIN)

# An id that exists already is the same job: a caller that does not know whether its commit arrived repeats it.
_ONCE = "ON CONFLICT DO NOTHING"
_INSERT = insert_sql("penstock_job", [*_FIELDS, "tags", "state", "publish_lease_until", "queued_at", *_OF_RUNS], _ONCE)
_INSERT_PLAIN = insert_sql("penstock_job", [*_PLAIN, "state", "publish_lease_until"], _ONCE)
_INSERT_TAGS = insert_sql("penstock_job_tag", ["name", "value", "job_id"], _ONCE)
_BY_KEY = """
    SELECT tenant, idempotency_key, penstock_job.id, digest FROM {each rows}
    JOIN penstock_job ON tenant = {0 text} AND idempotency_key = {1 text}"""
# Before there were queues of versions, a digest was that of the version that the producer had found.
_SAME = "SELECT 1 FROM penstock_job WHERE id = :id AND model = :model AND input = :input AND asked_version IS NULL"
_TAGS = "SELECT id, tags FROM penstock_job WHERE id {in ids}"
_EXISTING = "SELECT id FROM penstock_job WHERE id {in ids}"

_encode = msgspec.json.encode
#: Text columns whose content comes from outside and is stored as it is.
_outside = attrgetter("id", "asked_version", "tenant", "idempotency_key", "digest", "webhook", "trace", "reply_to")

#: The digests of earlier releases; what tells those of this one from them.
_OLD_FORM = re.compile("[0-9a-f]{32}")
DIGEST_FORM = "2:"

_Key = tuple[str, str]
Group = Sequence[NewJob]
GroupResult = list[Inserted] | PenstockError


class _Raced(Exception):
    """Another transaction took one of our idempotency keys after we had looked."""


def insert(db: Database, jobs: Group, *, publish_lease_s: float, more_follow: bool) -> list[Inserted]:
    """See ``Store.insert``."""
    result = insert_groups(db, [jobs], publish_lease_s=publish_lease_s, more_follow=more_follow)[0]
    if isinstance(result, PenstockError):
        raise result
    return result


def insert_groups(
    db: Database, groups: Sequence[Group], *, publish_lease_s: float, more_follow: bool = False
) -> list[GroupResult]:
    """See ``Store.insert_groups``."""
    refused = [_refusal(group) or _too_early(db, group) for group in groups]
    if any(refused):
        # Rare, so simple: the good groups alone, then everything in place.
        results = iter(
            insert_groups(
                db, [g for g, r in zip(groups, refused, strict=True) if not r], publish_lease_s=publish_lease_s
            )
        )
        return [refusal or next(results) for refusal in refused]
    jobs = [job for group in groups for job in group]
    plain = all(_rare(job) == _NOTHING_RARE for job in jobs)
    if plain or not any(job.idempotency_key is not None or job.tags or job.graph is not None for job in jobs):
        # One statement is the whole transaction.
        spell, rows = (_INSERT_PLAIN, _plain_rows) if plain else (_INSERT, _rows)
        with db.step(Survives.CRASH if more_follow else Survives.POWER) as session:
            session.insert(spell, rows(jobs, publish_lease_s))
        return [[Inserted(job.id, True) for job in group] for group in groups]
    keyed = [job for job in jobs if job.idempotency_key is not None]
    while True:
        try:
            return _insert_keyed(db, groups, keyed, publish_lease_s)
        except _Raced:
            continue  # whoever won has committed: the next look finds it


def fork(db: Database, source: str, job: NewJob, again: Collection[str]) -> list[Settled]:
    """See ``Store.fork``."""

    def work(session: Session) -> list[Settled]:
        new = pins.forked(session, job, now=job.accepted_at)
        session.insert(_INSERT, _rows([new], 0.0))
        session.insert(_INSERT_TAGS, _tag_rows([new]))
        return runs.fork(session, source, new, again)

    rows, followed = concluded(db, Survives.POWER, work, now=job.accepted_at)
    return [*rows, *followed, *runs.complete(db, job.id, now=job.accepted_at)]


def adopt(db: Database, jobs: Group) -> list[str]:
    """See ``Store.adopt``."""
    if refusal := _refusal(jobs):
        raise refusal
    rows = [
        (
            *_fields(job),
            _tags(job),
            *(("accepted", 0.0, None) if _delayed(job) else ("queued", 0.0, job.accepted_at)),
            *[None] * len(_OF_RUNS),
        )
        for job in jobs
    ]
    ids = [job.id for job in jobs]

    def call() -> list[str]:
        with db.write(Survives.POWER) as session:
            known = {row[0] for row in session.all(_EXISTING, {"ids": session.ids(ids)})}
            session.insert(_INSERT, [row for row in rows if row[0] not in known])
            if tagged := {job.id: job for job in jobs if job.tags and job.id not in known}:
                # Another message of the same id may have been first: its tags are the job's.
                stored = session.all(_TAGS, {"ids": session.ids(tagged)})
                session.insert(_INSERT_TAGS, _tag_rows(tagged[id] for id, tags in stored if tags == _tags(tagged[id])))
        return [id for id in ids if id not in known]

    return db.again(call)


def _insert_keyed(db: Database, groups: Sequence[Group], keyed: Group, publish_lease_s: float) -> list[GroupResult]:
    results: list[GroupResult] = []

    def work(session: Session) -> list[Settled]:
        results.clear()
        taken = _keys_in_use(session, keyed)
        _renew_digests(session, keyed, taken)
        fresh: list[NewJob] = []
        for group in groups:
            result, new = _decide(group, taken)
            results.append(result)
            fresh += new
        begin = [job for job in fresh if _starts(job)]
        if begin:  # a repeated call finds them begun
            known = {row[0] for row in session.all(_EXISTING, {"ids": session.ids([job.id for job in begin])})}
            begin = [job for job in begin if job.id not in known]
            begin = pins.begun(session, begin, now=now)
            pinned = {job.id: job for job in begin}
            fresh = [pinned.get(job.id, job) for job in fresh]
        plans.store(session, [job.graph for job in fresh if job.graph is not None])
        session.insert(_INSERT, _rows(fresh, publish_lease_s))
        session.insert(_INSERT_TAGS, _tag_rows(fresh))
        if db.dialect is not Dialect.SQLITE:
            # SQLite's writer is alone; here a key can be taken between the look and the insert, which then did nothing.
            mine = [job for job in fresh if job.idempotency_key is not None]
            now_taken = _keys_in_use(session, mine)
            if any(now_taken[_key(job)][0] != job.id for job in mine):
                raise _Raced
        return runs.start(session, begin, now=now)

    now = max(job.accepted_at for group in groups for job in group)
    plans.know(job.graph for group in groups for job in group if _starts(job))
    concluded(db, Survives.POWER, work, now=now)
    return results


def _decide(group: Group, taken: dict[_Key, tuple[str, str | None]]) -> tuple[GroupResult, list[NewJob]]:
    """What becomes of one caller's jobs, and which of them are new. Adds their keys to ``taken``."""
    result: list[Inserted] = []
    new: list[NewJob] = []
    mine: dict[_Key, tuple[str, str | None]] = {}
    for job in group:
        if job.idempotency_key is not None:
            key = _key(job)
            holder = mine.get(key) or taken.get(key)
            if holder is not None:
                if holder[1] != job.digest:
                    return _conflict(job, holder[0]), []
                # Under its own id it is this very call, repeated.
                result.append(Inserted(holder[0], holder[0] == job.id))
                continue
            mine[key] = (job.id, job.digest)
        result.append(Inserted(job.id, True))
        new.append(job)
    taken.update(mine)
    return result, new


def _keys_in_use(session: Session, jobs: Group) -> dict[_Key, tuple[str, str | None]]:
    keys = [_key(job) for job in jobs]
    if not keys:
        return {}
    return {(row[0], row[1]): (row[2], row[3]) for row in session.all(_BY_KEY, {"rows": session.rows(keys)})}


def _renew_digests(session: Session, jobs: Group, taken: dict[_Key, tuple[str, str | None]]) -> None:
    """Take the digests of earlier releases for what they would be today, where the request is the same."""
    for job in jobs:
        id, old = taken.get(_key(job), ("", None))
        if job.asked_version is None and old is not None and old != job.digest and _OLD_FORM.fullmatch(old):
            values = {"id": id, "model": job.model, "input": job.input}
            if session.one(_SAME, values) is not None:
                taken[_key(job)] = (id, job.digest)


def _delayed(job: NewJob) -> bool:
    return job.available_at > job.accepted_at


def _starts(job: NewJob) -> bool:
    """Whether it is a run that begins now; one that is delayed begins when it is due."""
    return job.graph is not None and not _delayed(job)


def _key(job: NewJob) -> _Key:
    return (job.tenant, job.idempotency_key or "")


def _rows(jobs: Iterable[NewJob], publish_lease_s: float) -> list[tuple[Any, ...]]:
    return [
        (
            *_fields(job),
            _tags(job),
            *(("accepted", _lease_until(job, publish_lease_s), None) if not _starts(job) else ("running", 0.0, None)),
            None if job.graph is None else plans.digest_of(job.graph),
            job.accepted_at if _starts(job) else None,
            text_of(job.max_parallel, job.budget_s),
        )
        for job in jobs
    ]


def _plain_rows(jobs: Iterable[NewJob], publish_lease_s: float) -> list[tuple[Any, ...]]:
    return [(*_plain(job), "accepted", _lease_until(job, publish_lease_s)) for job in jobs]


def _tags(job: NewJob) -> str | None:
    return _encode(job.tags).decode() if job.tags else None


def _tag_rows(jobs: Iterable[NewJob]) -> list[tuple[str, str, str]]:
    return [(name, value, job.id) for job in jobs if job.tags for name, value in job.tags.items()]


def _lease_until(job: NewJob, publish_lease_s: float) -> float:
    # Whoever inserts a job that may run at once is about to publish it: a lease keeps dispatchers from doing so too.
    return 0.0 if _delayed(job) else job.accepted_at + publish_lease_s


def _conflict(job: NewJob, holder: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"idempotency key {job.idempotency_key!r} of tenant {job.tenant!r} is that of job {holder}, with another body",
        fix="use a new key for a new request, or repeat the first one unchanged",
    )


def _too_early(db: Database, group: Group) -> PenstockError | None:
    return fleet.refusal(db) if any(job.graph is not None for job in group) else None


def _refusal(group: Group) -> InvalidInput | None:
    """Text that Postgres cannot store; refused on SQLite too, so that both behave alike."""
    texts = [text for job in group for text in _outside(job) if text is not None]
    texts += [text for job in group if job.tags for text in (*job.tags, *job.tags.values())]
    if not storable("".join(texts)):
        return InvalidInput(
            "an id, version, tenant, key, webhook or tag contains a NUL character or half of a surrogate pair",
            fix="remove it; inputs and outputs may contain NUL",
        )
    return None
