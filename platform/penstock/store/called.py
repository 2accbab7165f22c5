"""Runs that a Celery program has called, and that have ended: somebody has to tell Celery.

Nobody holds a message of such a run while it goes on, and whoever ends it may know nothing of Celery. So its message is
sent once more, after the commit: the worker that is given it does Celery's part, as for a job that was settled by an
earlier delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from penstock.errors import StoreUnavailable
from penstock.job import Job
from penstock.store.engine import Database
from penstock.store.records import JOB_COLUMNS, Settled, job_of

_OWED = f"""
    SELECT {JOB_COLUMNS} FROM penstock_job
    WHERE id {{in ids}} AND canvas IS NOT NULL AND NOT canvas_done AND settled_at IS NOT NULL"""  # noqa: S608 - constants only


def owed(db: Database, ids: Sequence[str]) -> list[Job]:
    """See ``Store.owed``."""
    if not ids:
        return []
    with db.read() as session:
        return [job_of(row) for row in session.all(_OWED, {"ids": session.ids(ids)})]


def tell(db: Database, rows: Sequence[Settled]) -> None:
    """Tell of those among these rows that are such runs; none of them twice."""
    if db.on_owed is None:
        return
    ids = {row.id: None for row in rows if row.celery is not None and row.graph is not None and row.state.is_terminal}
    if not ids:
        return
    with suppress(StoreUnavailable):  # what was committed is; the dispatcher looks for those that nobody was told of
        if jobs := owed(db, list(ids)):
            db.on_owed(jobs)
