"""A run begins: with its submission, or when it is due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from penstock.job import NewJob
from penstock.store.records import Settled
from penstock.store.runs import pins
from penstock.store.runs.advance import advance
from penstock.store.runs.fork import take_over
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
        ORDER BY available_at, id LIMIT :limit {skip locked}
    ) AND {hidden state = 'accepted'} RETURNING id"""


def start(session: Session, jobs: Sequence[NewJob], *, now: float) -> list[Settled]:
    """The first steps of runs that this transaction has stored; the rows of those that have ended by that."""
    return advance(session, [as_run(job, digest_of(job.graph or "")) for job in jobs], now=now)


def fork(session: Session, source: str, job: NewJob, again: Collection[str]) -> list[Settled]:
    """The same for a run that takes over what ``source`` has done, but for the steps that are to be done ``again``."""
    run = as_run(job, digest_of(job.graph or ""))
    take_over(session, source, job, plan_of(session, run.graph), again)
    return advance(session, [replace(run, new=False)], now=job.accepted_at)


def start_due(session: Session, *, now: float, limit: int) -> list[Settled]:
    """The same for those that had to wait for their time."""
    ids = [row[0] for row in session.all(_TAKE_DUE, {"now": now, "limit": limit})]
    return advance(session, pins.due(session, locked(session, ids), now=now), now=now)
