"""Removing what is past its retention, in bounded transactions."""

from __future__ import annotations

from penstock.store.engine import Database, Survives

_OLD_JOBS = """
    SELECT id FROM penstock_job WHERE settled_at IS NOT NULL AND settled_at < :before
    ORDER BY settled_at LIMIT :limit {skip locked}"""
_DELETE_TAGS = "DELETE FROM penstock_job_tag WHERE job_id {in ids}"
_DELETE_JOBS = "DELETE FROM penstock_job WHERE id {in ids}"
# An event that is still to be delivered outlives its job: the body is complete in itself.
_DELETE_DELIVERIES = """
    DELETE FROM penstock_delivery WHERE id IN (
        SELECT id FROM penstock_delivery WHERE created_at < :before AND state <> 'pending'
        ORDER BY created_at LIMIT :limit {skip locked}
    )"""


def prune(db: Database, *, before: float, limit: int) -> int:
    """See ``Store.prune``."""

    def call() -> int:
        with db.write(Survives.NOTHING) as session:
            ids = session.ids(row[0] for row in session.all(_OLD_JOBS, {"before": before, "limit": limit}))
            session.run(_DELETE_TAGS, {"ids": ids})
            removed = session.run(_DELETE_JOBS, {"ids": ids})
            session.run(_DELETE_DELIVERIES, {"before": before, "limit": limit})
        return removed

    return db.again(call)
