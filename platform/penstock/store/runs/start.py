"""A run begins: with its submission, or when it is due."""

from __future__ import annotations

from penstock.job import NewJob
from penstock.store.records import Settled
from penstock.store.runs.advance import advance
from penstock.store.runs.plans import digest_of
from penstock.store.runs.run import as_run, locked
from penstock.store.session import Session

# One that is overdue by now is left to whoever ends waiting jobs: no step of it begins.
_TAKE_DUE = """
    UPDATE penstock_job SET state = 'running', started_at = :now, publish_lease_until = 0
    WHERE id IN (
        SELECT id FROM penstock_job {by ix_penstock_job_run}
        WHERE graph IS NOT NULL AND state IN ('accepted', 'queued', 'running') AND state = 'accepted'
            AND available_at <= :now AND (deadline_at IS NULL OR deadline_at > :now)
        ORDER BY available_at, id LIMIT :limit {skip locked}
    ) AND {hidden state = 'accepted'} RETURNING id"""


def start(session: Session, job: NewJob) -> list[Settled]:
    """The first steps of a run that this transaction has stored; its row when it has ended by that."""
    return advance(session, as_run(job, digest_of(job.graph or "")), now=job.accepted_at)


def start_due(session: Session, *, now: float, limit: int) -> list[Settled]:
    """The same for those that had to wait for their time."""
    ids = [row[0] for row in session.all(_TAKE_DUE, {"now": now, "limit": limit})]
    return [ended for run in locked(session, ids) for ended in advance(session, run, now=now)]
