"""Runs that ended before their steps: what is still open in them is cancelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.job import JobState
from penstock.pipelines.task import is_task
from penstock.store.engine import Database, Survives
from penstock.store.records import SETTLED_COLUMNS, Settled, settled_of
from penstock.store.runs.paths import elements_of
from penstock.store.runs.todo import Todo, done
from penstock.store.session import Session

_CANCELLED = JobState.CANCELLED
#: What cancels a job, whatever it waits for; nothing changes in a terminal one. What runs without a worker, as a run
#: does, ends at once.
CANCEL_SET = """
        cancel_requested = CASE WHEN graph IS NULL THEN true ELSE false END,
        state = CASE WHEN state = 'running' AND worker IS NOT NULL THEN 'running' ELSE 'cancelled' END,
        settled_at = CASE WHEN state = 'running' AND worker IS NOT NULL THEN NULL ELSE :now END,
        closing = CASE WHEN graph IS NULL THEN NULL ELSE true END"""

_ENDED = """EXISTS (SELECT 1 FROM penstock_job AS whole
        WHERE whole.id = penstock_job.run_id AND whole.state IN ('succeeded', 'failed', 'cancelled', 'expired'))"""
# Whoever closes a run has read that it had ended. Somebody may have run it again since: those steps are wanted.
_CANCEL = f"""
    UPDATE penstock_job SET {CANCEL_SET}
    WHERE penstock_job.id IN (
        SELECT id FROM penstock_job {{by uq_penstock_job_step}}
        WHERE run_id {{in runs}} AND state IN ('accepted', 'queued', 'running') AND NOT cancel_requested
            AND {_ENDED}
        ORDER BY id LIMIT :limit {{locked}}
    ) AND {{hidden state IN ('accepted', 'queued', 'running')}}
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
_DROP = f"""
    UPDATE penstock_job SET {CANCEL_SET}
    WHERE penstock_job.id IN (
        SELECT id FROM penstock_job {{by uq_penstock_job_step}}
        WHERE run_id = :run AND state IN ('accepted', 'queued', 'running') AND NOT cancel_requested
            AND (path = :path OR (path >= :low AND path < :high)) ORDER BY id LIMIT :limit {{locked}}
    ) AND {{hidden state IN ('accepted', 'queued', 'running')}}
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
_CLOSED = """
    UPDATE penstock_job SET closing = NULL WHERE penstock_job.id {in runs} AND closing AND NOT EXISTS (
        SELECT 1 FROM penstock_job AS step WHERE step.run_id = penstock_job.id
            AND step.state IN ('accepted', 'queued', 'running') AND NOT step.cancel_requested)"""
_OPEN = f"""
    SELECT 1 FROM penstock_job {{by uq_penstock_job_step}}
    WHERE run_id = :run AND state IN ('accepted', 'queued', 'running') AND {_ENDED} LIMIT 1"""  # noqa: S608 - constants only


#: Runs that are closed by one statement.
_TOGETHER = 200


def close(db: Database, run: str, *, now: float) -> list[Settled]:
    """Cancel the open steps of a run that has ended, runs among them with theirs; the rows of those that this ended.

    Nothing in one that goes on.
    """
    cancelled: list[Settled] = []
    waiting = [run]
    while waiting:
        runs = sorted(waiting[:_TOGETHER])
        del waiting[:_TOGETHER]

        def call(runs: list[str] = runs) -> list[Settled]:
            with db.write(Survives.CRASH) as session:
                values = {"runs": session.ids(runs), "now": now, "limit": db.change_rows}
                changed = _changed(session, _CANCEL, values)
                if len(changed) < db.change_rows:
                    session.run(_CLOSED, {"runs": session.ids(runs)})
            return changed

        while True:
            changed = db.again(call)
            cancelled += [row for row in changed if row.state.is_terminal]
            waiting += [row.id for row in changed if row.graph is not None]
            if len(changed) < db.change_rows:
                break
    return cancelled


def drop(db: Database, loser: Todo, *, now: float) -> list[Settled]:
    """Cancel a step that is needed no longer, a map with its open elements; the rows of those that this ended."""

    def call() -> list[Settled]:
        with db.write(Survives.CRASH) as session:
            values = {"run": loser.run, "path": loser.step, "now": now, "limit": db.change_rows}
            rows = _changed(session, _DROP, values | elements_of(loser.step))
            if len(rows) < db.change_rows:
                done(session, loser)
            return rows

    changed = db.again(call)
    dropped = list(changed)
    while len(changed) == db.change_rows:
        changed = db.again(call)
        dropped += changed
    return [row for row in dropped if row.state.is_terminal]


def _changed(session: Session, statement: str, values: Mapping[str, Any]) -> list[Settled]:
    rows = [settled_of(row) for row in session.all(statement, values)]
    # One that nobody has noted as sent may have been: its sender looks.
    session.revoked += [row.id for row in rows if is_task(row.model) and row.attempt and row.state is _CANCELLED]
    return rows


def is_closing(db: Database, run: str) -> bool:
    """Whether it has ended and a step of it has not."""
    with db.read() as session:
        return session.one(_OPEN, {"run": run}) is not None
