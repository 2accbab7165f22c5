"""A run begins: with its submission, or when it is due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from penstock.errors import JobNotFound
from penstock.job import JobState, NewJob
from penstock.store.engine import Database, Survives
from penstock.store.records import Settled
from penstock.store.runs import fork as forks
from penstock.store.runs import pins
from penstock.store.runs.advance import advance
from penstock.store.runs.conclude import concluded
from penstock.store.runs.ends import Ends
from penstock.store.runs.fork import Fork
from penstock.store.runs.plans import digest_of, plan_of
from penstock.store.runs.run import as_run, locked
from penstock.store.session import Session

# One that is overdue by now is left to whoever ends waiting jobs: no step of it begins.
_TAKE_DUE = """
    UPDATE penstock_job SET state = 'running', started_at = :now, publish_lease_until = 0
    WHERE id IN (
        SELECT id FROM penstock_job {by ix_penstock_job_run}
        WHERE graph IS NOT NULL AND closing IS NULL AND state = 'accepted' AND available_at <= :now
            AND (deadline_at IS NULL OR deadline_at > :now)
            AND NOT EXISTS (SELECT 1 FROM penstock_fork WHERE run_id = penstock_job.id)
        ORDER BY available_at, id LIMIT :limit {skip locked}
    ) AND {hidden state = 'accepted'} RETURNING id"""
# Of a fork that has more to take over.
_PARK = "UPDATE penstock_job SET state = 'accepted', started_at = NULL WHERE id = :id"
_HOLD = "SELECT id FROM penstock_job WHERE id = :id {locked}"
_BEGIN = """
    UPDATE penstock_job SET state = 'running', started_at = :now
    WHERE penstock_job.id = :id AND {hidden state = 'accepted'} AND graph IS NOT NULL"""


def start(session: Session, jobs: Sequence[NewJob], *, now: float) -> list[Settled]:
    """The first steps of runs that this transaction has stored; the rows of those that have ended by that."""
    return advance(session, [as_run(job, digest_of(job.graph or "")) for job in jobs], now=now)


def fork(session: Session, source: str, job: NewJob, again: Collection[str]) -> list[Settled]:
    """The same for a run that takes over what ``source`` has done, but for the steps that are to be done ``again``.

    ``complete`` it behind this transaction.
    """
    run = as_run(job, digest_of(job.graph or ""))
    wanted = forks.taken(session, source, plan_of(session, run.graph), again)
    if forks.take_over(session, Fork(job.id, source, wanted), now=job.accepted_at) is not None:
        session.run(_PARK, {"id": job.id})
        return []
    return advance(session, [replace(run, new=False)], now=job.accepted_at)


def complete(db: Database, run: str, *, now: float) -> list[Settled]:
    """Go on with what a fork has still to take over, and let it begin, unless it was cancelled; as ``concluded``."""
    ended: list[Settled] = []
    more = True

    def work(session: Session) -> list[Settled]:
        nonlocal more
        session.one(_HOLD, {"id": run})
        fork = forks.left(session, run)
        more = False
        if fork is None:
            return []
        try:
            more = forks.take_over(session, fork, now=now) is not None
        except LookupError:
            return _gone(session, fork, now=now)
        if more:
            return []
        session.run(_BEGIN, {"id": run, "now": now})
        return advance(session, locked(session, [run]), now=now)

    with db.read() as session:
        more = forks.left(session, run) is not None
    while more:
        rows, followed = concluded(db, Survives.CRASH, work, now=now)
        ended += [*rows, *followed]
    return ended


def _gone(session: Session, fork: Fork, *, now: float) -> list[Settled]:
    """The source was pruned meanwhile."""
    forks.give_up(session, fork.run)
    session.run(_BEGIN, {"id": fork.run, "now": now})
    ends = Ends(session, now=now)
    error = JobNotFound(f"run {fork.source} was removed before its fork had taken over what it had done")
    for run in locked(session, [fork.run]):
        ends.add(run, JobState.FAILED, error=error.as_dict())
    return ends.store()


def start_due(session: Session, *, now: float, limit: int) -> list[Settled]:
    """The same for those that had to wait for their time."""
    ids = [row[0] for row in session.all(_TAKE_DUE, {"now": now, "limit": limit})]
    return advance(session, pins.due(session, locked(session, ids), now=now), now=now)
