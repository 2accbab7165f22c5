"""The earliest deadlines of work that could run now: one bounded walk along an index, however many jobs there are."""

from __future__ import annotations

from penstock.store.engine import Database
from penstock.store.records import Deadline

# The walk ends after ``limit`` rows, whether they are due or not: behind a thousand delayed jobs, nobody is seen.
_SOONEST = """
    SELECT model, lane, deadline_at FROM (
        SELECT model, lane, deadline_at, available_at, graph FROM penstock_job {by ix_penstock_job_deadline}
        WHERE deadline_at IS NOT NULL AND state IN ('accepted', 'queued') AND deadline_at > :now
        ORDER BY deadline_at LIMIT :limit
    ) AS soonest WHERE available_at <= :now AND graph IS NULL ORDER BY deadline_at"""


def soonest(db: Database, *, now: float, limit: int) -> list[Deadline]:
    """See ``Store.deadlines``."""
    with db.read() as session:
        return [Deadline(*row) for row in session.all(_SOONEST, {"now": now, "limit": limit})]
