"""Removing what is past its retention, in bounded transactions."""

from __future__ import annotations

from penstock.store.engine import Database, Survives
from penstock.store.session import Session

# Steps go with their runs, however long ago they ended.
_OLD_JOBS = """
    SELECT id, graph IS NOT NULL FROM penstock_job
    WHERE settled_at IS NOT NULL AND run_id IS NULL AND settled_at < :before
    ORDER BY settled_at LIMIT :limit {skip locked}"""
_DELETE_STEPS = """
    DELETE FROM penstock_job WHERE id IN (SELECT id FROM penstock_job WHERE run_id {in runs} LIMIT :limit)"""
_DELETE_MAPS = "DELETE FROM penstock_map WHERE run_id {in runs}"
_DELETE_CHUNKS = "DELETE FROM penstock_map_chunk WHERE run_id {in runs}"
_DELETE_SIGNALS = "DELETE FROM penstock_signal WHERE run_id {in runs}"
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
            old = session.all(_OLD_JOBS, {"before": before, "limit": limit})
            runs = [row[0] for row in old if row[1]]
            if runs and (removed := _prune_steps(session, runs, limit)) == limit:
                return removed  # there may be more of them, and their runs go last
            ids = session.ids(row[0] for row in old)
            session.run(_DELETE_TAGS, {"ids": ids})
            removed = session.run(_DELETE_JOBS, {"ids": ids})
            session.run(_DELETE_DELIVERIES, {"before": before, "limit": limit})
        return removed

    return db.again(call)


def _prune_steps(session: Session, runs: list[str], limit: int) -> int:
    ids = session.ids(runs)
    removed = session.run(_DELETE_STEPS, {"runs": ids, "limit": limit})
    if removed < limit:
        session.run(_DELETE_MAPS, {"runs": ids})
        session.run(_DELETE_CHUNKS, {"runs": ids})
        session.run(_DELETE_SIGNALS, {"runs": ids})
    return removed
