"""The run that all others around a step are in: that is whose stream a user follows."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.pipelines.expansion import MAX_DEPTH
from penstock.store.session import Session

#: Its id, and what comes before a path in a run to make it one from there: ``plan/``.
Outermost = tuple[str, str]

#: Runs that a process remembers: none ever moves into another one.
MOST_KEPT = 4096

_AROUND = """
    WITH RECURSIVE around (id, run, path, depth) AS (
        SELECT id, run_id, CAST(path AS text) || '/', 1 FROM penstock_job WHERE id {in ids} AND run_id IS NOT NULL
        UNION ALL
        SELECT around.id, outer_run.run_id, CAST(outer_run.path AS text) || '/' || around.path, depth + 1
        FROM around JOIN penstock_job AS outer_run ON outer_run.id = around.run
        WHERE outer_run.run_id IS NOT NULL AND depth <= :most
    ) SELECT id, run, path FROM around ORDER BY depth"""

_kept: dict[str, Outermost] = {}


def outermost(session: Session, runs: Sequence[str]) -> dict[str, Outermost]:
    """Of each of these runs that is itself a step."""
    found = {run: known for run in runs if (known := _kept.get(run)) is not None}
    unknown = [run for run in runs if run not in found]
    if unknown:
        values = {"ids": session.ids(unknown), "most": MAX_DEPTH}
        # The last row of each is the outermost one's.
        read = {row[0]: (row[1], row[2]) for row in session.all(_AROUND, values)}
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        _kept.update(read)
        found |= read
    return found
