"""Removing what is past its retention, in bounded transactions."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from penstock.store.engine import Database, Survives
from penstock.store.session import Session

# Steps go with their runs, however long ago they ended.
_OLD_JOBS = """
    SELECT id, graph FROM penstock_job
    WHERE settled_at IS NOT NULL AND run_id IS NULL AND settled_at < :before
        AND NOT EXISTS (SELECT 1 FROM penstock_fork WHERE source = penstock_job.id)
    ORDER BY settled_at LIMIT :limit {skip locked}"""
# Steps that have gone on as runs: their own steps first, or nobody would find those.
_WITHIN = "SELECT id, graph FROM penstock_job WHERE run_id {in runs} AND graph IS NOT NULL LIMIT :limit"
_DELETE_STEPS = """
    DELETE FROM penstock_job
    WHERE id IN (SELECT id FROM penstock_job WHERE run_id {in runs} AND graph IS NULL LIMIT :limit)"""
_DELETE_MAPS = "DELETE FROM penstock_map WHERE run_id {in runs}"
_DELETE_CHUNKS = "DELETE FROM penstock_map_chunk WHERE run_id {in runs}"
_DELETE_WAITS = "DELETE FROM penstock_wait WHERE run_id {in runs}"
_DELETE_ROOMS = "DELETE FROM penstock_map_room WHERE run_id {in runs}"
_DELETE_SIGNALS = "DELETE FROM penstock_signal WHERE run_id {in runs}"
_DELETE_TODO = "DELETE FROM penstock_todo WHERE run_id {in runs}"
_DELETE_FORKS = "DELETE FROM penstock_fork WHERE run_id {in runs}"
_OF_RUNS = (
    _DELETE_MAPS,
    _DELETE_CHUNKS,
    _DELETE_ROOMS,
    _DELETE_WAITS,
    _DELETE_SIGNALS,
    _DELETE_TODO,
    _DELETE_FORKS,
)
_DELETE_TAGS = "DELETE FROM penstock_job_tag WHERE job_id {in ids}"
_DELETE_JOBS = "DELETE FROM penstock_job WHERE id {in ids}"
# Held first: who stores a run of one meanwhile is seen by the statement that follows.
_HOLD_GRAPHS = "SELECT digest FROM penstock_graph WHERE digest {in digests} ORDER BY digest {locked}"
_DELETE_GRAPHS = """
    DELETE FROM penstock_graph WHERE digest {in digests} AND NOT EXISTS (
        SELECT 1 FROM penstock_job WHERE graph IS NOT NULL AND graph = penstock_graph.digest)"""
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
            runs = {row[0]: row[1] for row in old if row[1] is not None}
            if within := _innermost(session, runs, limit):
                removed = _prune_steps(session, within, limit)
                if removed == limit:
                    return removed
                _prune_jobs(session, within, within.values())
                return removed + len(within)  # there may be more of them, and the runs around them go last
            if runs and (removed := _prune_steps(session, runs, limit)) == limit:
                return removed
            _prune_jobs(session, [row[0] for row in old], runs.values())
            session.run(_DELETE_DELIVERIES, {"before": before, "limit": limit})
        return len(old)

    return db.again(call)


def _innermost(session: Session, runs: Collection[str], limit: int) -> dict[str, str]:
    """Some of the runs within these that have no others in them, with their graphs: of maps there may be very many."""
    found: dict[str, str] = {}
    while runs:
        below = dict(session.all(_WITHIN, {"runs": session.ids(runs), "limit": limit}))
        runs, found = below, below or found
    return found


def _prune_jobs(session: Session, jobs: Collection[str], graphs: Iterable[str]) -> None:
    ids = session.ids(jobs)
    session.run(_DELETE_TAGS, {"ids": ids})
    session.run(_DELETE_JOBS, {"ids": ids})
    prune_graphs(session, set(graphs))


def _prune_steps(session: Session, runs: Collection[str], limit: int) -> int:
    ids = session.ids(runs)
    removed = session.run(_DELETE_STEPS, {"runs": ids, "limit": limit})
    if removed < limit:
        for statement in _OF_RUNS:
            session.run(statement, {"runs": ids})
    return removed


def prune_graphs(session: Session, digests: set[str]) -> None:
    """Remove those of these graphs that no run has any more."""
    if digests:
        values = {"digests": session.ids(sorted(digests))}
        session.all(_HOLD_GRAPHS, values)
        session.run(_DELETE_GRAPHS, values)
