"""The dispatcher's verbs. Several dispatchers may call them at once: each job is given to one of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.errors import Quarantined, WorkerLost
from penstock.job import Job
from penstock.store.elastic import slots
from penstock.store.engine import Database, Survives
from penstock.store.records import (
    JOB_COLUMNS,
    SETTLED_COLUMNS,
    Moment,
    Settled,
    job_of,
    settled_of,
)
from penstock.store.runs.conclude import concluded
from penstock.store.session import Session

# Marks are made late and in bulk. By then the job may have run and be held back for a retry: nobody has a lease on
# publishing it then, and the mark of its first message must not stick to it.
_MARK_QUEUED = """
    UPDATE penstock_job SET state = 'queued', queued_at = :now, publish_lease_until = 0
    WHERE id {in ids} AND {hidden state = 'accepted'} AND publish_lease_until > 0"""

_TAKE_DUE = f"""
    UPDATE penstock_job SET publish_lease_until = :until
    WHERE id IN (
        SELECT id FROM penstock_job {{by ix_penstock_job_due}}
        WHERE state = 'accepted' AND available_at <= :now AND publish_lease_until <= :now AND graph IS NULL
        ORDER BY available_at LIMIT :limit {{skip locked}}
    ) RETURNING {JOB_COLUMNS}"""  # noqa: S608 - constants only

# Those that were never delayed and have not run: with them, "due at" says no more than when they came. Their time of
# acceptance is a place in an index where otherwise nothing is.
_REDATE = """
    UPDATE penstock_job SET available_at = :now, publish_lease_until = 0
    WHERE id IN (
        SELECT id FROM penstock_job {by ix_penstock_job_time}
        WHERE state = 'accepted' AND accepted_at > :ahead AND available_at <= accepted_at AND attempt = 0
            AND (available_at > :ahead OR publish_lease_until > :ahead)
        LIMIT :limit {skip locked}
    ) AND {hidden state = 'accepted'}"""

# Of the first few by time; one with a lease is due when the lease ends.
_NEXT_DUE = """
    SELECT min(CASE WHEN publish_lease_until > available_at THEN publish_lease_until ELSE available_at END) FROM (
        SELECT publish_lease_until, available_at FROM penstock_job {by ix_penstock_job_due}
        WHERE state = 'accepted' AND graph IS NULL ORDER BY available_at LIMIT 100
    ) AS soonest"""

_EXPIRE = f"""
    UPDATE penstock_job SET state = 'expired', settled_at = :now
    WHERE penstock_job.id IN (
        SELECT id FROM penstock_job {{by ix_penstock_job_deadline}}
        WHERE deadline_at IS NOT NULL AND state IN ('accepted', 'queued') AND deadline_at <= :now
        ORDER BY deadline_at LIMIT :limit {{skip locked}}
    ) RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only

# The lease goes first: from here on the worker's heartbeat is told that it has none, and its outcomes are refused.
_BURY = """
    DELETE FROM penstock_worker WHERE EXISTS (
        SELECT 1 FROM {each rows} WHERE {0 text} = penstock_worker.instance
        AND abs({1 float} - penstock_worker.lease_until) < 0.000001) RETURNING instance"""
_OVERDUE = "SELECT instance, lease_until FROM penstock_worker WHERE lease_until <= :now"
# Two kinds of evidence against a job, see `policy.suspicion`: its worker died (a lease that ran out; one that
# unregistered has only been stopped), and it was the only job which that worker held.
_RESCUE = f"""
    UPDATE penstock_job SET
        losses = losses + 1,
        suspicions = suspicions + died,
        kills = kills + died_alone,
        worker = NULL,
        state = CASE WHEN cancel_requested THEN 'cancelled' WHEN deadline_at <= :now THEN 'expired'
            WHEN (kills + 1) * died_alone >= :max_kills OR losses >= :max_losses THEN 'failed' ELSE 'accepted' END,
        error = CASE WHEN cancel_requested OR deadline_at <= :now THEN error
            WHEN (kills + 1) * died_alone >= :max_kills THEN :quarantined
            WHEN losses >= :max_losses THEN :lost ELSE error END,
        settled_at = CASE WHEN cancel_requested OR deadline_at <= :now OR (kills + 1) * died_alone >= :max_kills
            OR losses >= :max_losses THEN :now END,
        available_at = :now, publish_lease_until = 0, queued_at = NULL
    FROM (
        SELECT worker AS holder, CASE WHEN worker {{in dead}} THEN 1 ELSE 0 END AS died,
            CASE WHEN worker {{in dead}} AND count(*) = 1 THEN 1 ELSE 0 END AS died_alone
        FROM penstock_job WHERE state = 'running' AND worker IS NOT NULL GROUP BY worker
    ) AS held
    WHERE state = 'running' AND worker = holder
        AND NOT EXISTS (SELECT 1 FROM penstock_worker AS w WHERE w.instance = penstock_job.worker)
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
# Looked at first, since it is almost always empty and a look takes no lock.
_ANY_ORPHAN = """
    SELECT 1 WHERE EXISTS (SELECT 1 FROM penstock_job WHERE state = 'running' AND worker IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM penstock_worker AS w WHERE w.instance = penstock_job.worker))"""

_QUEUED = """
    SELECT accepted_at, id FROM penstock_job WHERE state = 'queued' AND (accepted_at, id) > (:at, :after)
    ORDER BY accepted_at, id LIMIT :limit"""
_REQUEUE = """
    UPDATE penstock_job SET state = 'accepted', publish_lease_until = 0, queued_at = NULL, available_at = :now
    WHERE id {in ids} AND {hidden state = 'queued'}"""

_UNFINISHED = f"""
    SELECT {JOB_COLUMNS} FROM penstock_job {{by ix_penstock_job_canvas}}
    WHERE canvas IS NOT NULL AND NOT canvas_done AND settled_at IS NOT NULL AND settled_at <= :older_than
        AND NOT (id {{in exclude}})
    ORDER BY settled_at LIMIT :limit"""  # noqa: S608 - constants only


def mark_queued(db: Database, ids: Sequence[str], *, now: float) -> int:
    """See ``Store.mark_queued``."""
    if not ids:
        return 0
    ids = sorted(ids)

    def call() -> int:
        with db.step(Survives.NOTHING) as session:
            return session.run(_MARK_QUEUED, {"ids": session.ids(ids), "now": now})

    return db.again(call)


def take_due(db: Database, *, now: float, limit: int, lease_s: float) -> list[Job]:
    """See ``Store.take_due``."""
    with db.step(Survives.NOTHING) as session:
        rows = session.all(_TAKE_DUE, {"now": now, "until": now + lease_s, "limit": limit})
    jobs = [job_of(row) for row in rows]
    # In the order in which they would have been published, had all gone well.
    jobs.sort(key=lambda job: (job.available_at, job.id))
    return jobs


def redate(db: Database, *, now: float, ahead_s: float, limit: int) -> int:
    """See ``Store.redate``."""
    with db.step(Survives.NOTHING) as session:
        return session.run(_REDATE, {"now": now, "ahead": now + ahead_s, "limit": limit})


def next_due_at(db: Database) -> float | None:
    """See ``Store.next_due_at``."""
    with db.read() as session:
        row = session.one(_NEXT_DUE)
    return None if row is None else row[0]


def rescue(
    db: Database,
    *,
    now: float,
    max_losses: int,
    max_kills: int,
    dead: Sequence[tuple[str, float]] | None = None,
) -> list[Settled]:
    """See ``Store.rescue``."""
    with db.read() as session:
        if dead is None:
            dead = [(row[0], row[1]) for row in session.all(_OVERDUE, {"now": now})]
        if not dead and session.one(_ANY_ORPHAN) is None:
            return []
    graves = sorted(dead)
    lost = WorkerLost(f"its worker died, as did those of {max_losses} attempts before")
    quarantined = Quarantined(
        f"{max_kills} {'worker' if max_kills == 1 else 'workers'} died while they ran nothing but this job;"
        " `penstock job retry` runs it again"
    )

    def work(session: Session) -> list[Settled]:
        buried = [row[0] for row in session.all(_BURY, {"rows": session.rows(graves)})] if graves else []
        if buried:
            slots.lose(session, buried)
        values = {
            "now": now,
            "dead": session.ids(buried),
            "max_losses": max_losses,
            "max_kills": max_kills,
            "lost": msgspec.json.encode(lost.as_dict()).decode(),
            "quarantined": msgspec.json.encode(quarantined.as_dict()).decode(),
        }
        return [settled_of(row) for row in session.all(_RESCUE, values)]

    rescued, followed = concluded(db, Survives.CRASH, work, now=now)
    return [*rescued, *followed]


def expire(db: Database, *, now: float, limit: int) -> list[Settled]:
    """See ``Store.expire``."""

    def work(session: Session) -> list[Settled]:
        return [settled_of(row) for row in session.all(_EXPIRE, {"now": now, "limit": limit})]

    settled, followed = concluded(db, Survives.CRASH, work, now=now)
    return settled + followed


def queued(db: Database, *, after: Moment | None, limit: int) -> list[Moment]:
    """See ``Store.queued``."""
    at, id = after or (-1e300, "")
    with db.read() as session:
        return [Moment(*row) for row in session.all(_QUEUED, {"at": at, "after": id, "limit": limit})]


def requeue(db: Database, ids: Sequence[str], *, now: float) -> int:
    """See ``Store.requeue``."""
    if not ids:
        return 0
    ids = sorted(ids)

    def call() -> int:
        with db.step(Survives.NOTHING) as session:
            return session.run(_REQUEUE, {"ids": session.ids(ids), "now": now})

    return db.again(call)


def unfinished_canvas(db: Database, *, older_than: float, limit: int, exclude: Sequence[str]) -> list[Job]:
    """See ``Store.unfinished_canvas``."""
    with db.read() as session:
        values = {"older_than": older_than, "limit": limit, "exclude": session.ids(exclude)}
        rows = session.all(_UNFINISHED, values)
        return [job_of(row) for row in rows]
