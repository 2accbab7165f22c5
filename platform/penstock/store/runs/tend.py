"""What the dispatcher does for runs: what is due, what is overdue, and what somebody who died has left."""

from __future__ import annotations

from penstock.store.engine import Database, Survives
from penstock.store.records import SETTLED_COLUMNS, Settled, settled_of
from penstock.store.runs.advance import advance
from penstock.store.runs.closing import close
from penstock.store.runs.conclude import concluded, finish, finish_map
from penstock.store.runs.fork import abandoned
from penstock.store.runs.run import locked
from penstock.store.runs.start import complete, start_due
from penstock.store.runs.todo import left
from penstock.store.runs.waits import over
from penstock.store.session import Session

# Their steps have the same deadline, but a run may have none that waits.
_EXPIRE = f"""
    UPDATE penstock_job SET state = 'expired', settled_at = :now, closing = true
    WHERE penstock_job.id IN (
        SELECT id FROM penstock_job {{by ix_penstock_job_run}}
        WHERE graph IS NOT NULL AND closing IS NULL AND state = 'running' AND deadline_at <= :now
        ORDER BY deadline_at LIMIT :limit {{skip locked}}
    ) AND {{hidden state = 'running'}} RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
# In the order of the index: for that of ids, Postgres, which knows nothing of a new table, walks through all jobs.
_CLOSING = """
    SELECT id FROM penstock_job {by ix_penstock_job_run}
    WHERE graph IS NOT NULL AND closing = true ORDER BY closing, state, deadline_at LIMIT :limit"""
_MAPS = """
    SELECT m.run_id, m.path FROM penstock_map AS m JOIN penstock_job AS j ON j.id = m.run_id
    WHERE m.begun < m.size AND m.begun_at <= :before AND j.state = 'running' LIMIT :limit"""
# Runs in which nothing is open: somebody who does not know runs has ended their steps.
_IDLE = """
    SELECT id FROM penstock_job AS run {by ix_penstock_job_run}
    WHERE graph IS NOT NULL AND closing IS NULL AND state = 'running'
        AND NOT EXISTS (SELECT 1 FROM penstock_job AS step WHERE step.run_id = run.id
            AND step.state IN ('accepted', 'queued', 'running'))
    LIMIT :limit"""

#: Who has begun elements of a map, or left something to do, less than so long ago is taken to be at it, seconds.
AT_IT_S = 2.0


def tend(db: Database, *, now: float, limit: int, heal: bool) -> list[Settled]:
    """See ``Store.tend_runs``."""

    def begin(session: Session) -> list[Settled]:
        return start_due(session, now=now, limit=limit)

    def expire(session: Session) -> list[Settled]:
        return [settled_of(row) for row in session.all(_EXPIRE, {"now": now, "limit": limit})]

    def wake(session: Session) -> list[Settled]:
        return over(session, now=now, limit=limit)

    def mend(session: Session) -> list[Settled]:
        ids = [row[0] for row in session.all(_IDLE, {"limit": limit})]
        return advance(session, locked(session, ids), now=now)

    ended: list[Settled] = []
    for work in (begin, expire, wake, *([mend] if heal else [])):
        rows, followed = concluded(db, Survives.CRASH, work, now=now)
        ended += [*rows, *followed]
    with db.read() as session:
        closing = [row[0] for row in session.all(_CLOSING, {"limit": limit})]
        maps = [(row[0], row[1]) for row in session.all(_MAPS, {"limit": limit, "before": now - AT_IT_S})]
        todo = left(session, before=now - AT_IT_S, limit=limit)
        forks = abandoned(session, before=now - AT_IT_S, limit=limit)
    for run in closing:
        ended += close(db, run, now=now)
    for run, path in maps:
        ended += finish_map(db, run, path, now=now)
    for run in forks:
        ended += complete(db, run, now=now)
    return ended + finish(db, todo, now=now)
