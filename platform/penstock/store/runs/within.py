"""The outermost run around a step: users follow that one, so what the step tells is published there."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.pipelines.writing.expansion import MAX_DEPTH
from penstock.store.engine import Database
from penstock.store.records import Within

# A run that is a step has the generation of the run around it, and so have its own steps.
_AROUND = """
    WITH RECURSIVE around (id, run, path, generation, depth) AS (
        SELECT id, run_id, CAST(path AS text), generation, 0 FROM penstock_job
        WHERE id {in ids} AND run_id IS NOT NULL
        UNION ALL
        SELECT around.id, outer_run.run_id, CAST(outer_run.path AS text) || '/' || around.path, around.generation,
            depth + 1
        FROM around JOIN penstock_job AS outer_run ON outer_run.id = around.run
        WHERE outer_run.run_id IS NOT NULL AND depth <= :most
    ) SELECT id, run, path, coalesce(generation, 0) + 1 FROM around ORDER BY depth"""


def within(db: Database, ids: Sequence[str]) -> dict[str, Within]:
    """See ``Store.within``."""
    if not ids:
        return {}
    with db.read() as session:
        rows = session.all(_AROUND, {"ids": session.ids(ids), "most": MAX_DEPTH})
    return {row[0]: Within(*row[1:]) for row in rows}  # the last one of each is the outermost run's
