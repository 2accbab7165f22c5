"""Steps whose model, or the version of it that they ask for, nobody serves: they wait for a while, and then fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.pipelines.task import is_task
from penstock.store.engine import Database, Survives
from penstock.store.records import SETTLED_COLUMNS, Settled, settled_of
from penstock.store.runs.conclude import concluded
from penstock.store.session import Session

# Where there are none, nothing else is looked at.
_RUNS = """
    SELECT 1 FROM penstock_job {by ix_penstock_job_run}
    WHERE graph IS NOT NULL AND closing IS NULL AND state = 'running' LIMIT 1"""
_WAITING = """
    SELECT DISTINCT model, asked_version FROM penstock_job {by ix_penstock_job_time}
    WHERE state IN ('accepted', 'queued') AND accepted_at <= :before AND run_id IS NOT NULL"""
_FAIL = f"""
    UPDATE penstock_job SET state = 'failed', settled_at = :now, error = :error, publish_lease_until = 0
    WHERE penstock_job.id IN (
        SELECT id FROM penstock_job {{by ix_penstock_job_time}}
        WHERE state IN ('accepted', 'queued') AND accepted_at <= :before AND run_id IS NOT NULL
            AND available_at <= :now AND model = :model AND coalesce(asked_version, '') = :version
        ORDER BY id LIMIT :limit {{skip locked}}
    ) AND {{hidden state IN ('accepted', 'queued')}} RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only


def waiting(db: Database, *, before: float) -> list[tuple[str, str | None]]:
    """See ``Store.waiting_steps``."""
    with db.read() as session:
        if session.one(_RUNS) is None:
            return []
        rows = session.all(_WAITING, {"before": before})
    # Plain Celery tasks are other programs' workers' to serve, of whom nothing is known here.
    return [(row[0], row[1]) for row in rows if not is_task(row[0])]


def fail(
    db: Database, model: str, version: str | None, *, before: float, error: Mapping[str, Any], now: float, limit: int
) -> list[Settled]:
    """See ``Store.fail_steps``."""
    values = {"model": model, "version": version or "", "before": before, "now": now, "limit": limit}
    values["error"] = msgspec.json.encode(error).decode()

    def work(session: Session) -> list[Settled]:
        return [settled_of(row) for row in session.all(_FAIL, values)]

    rows, followed = concluded(db, Survives.CRASH, work, now=now)
    return [*rows, *followed]
