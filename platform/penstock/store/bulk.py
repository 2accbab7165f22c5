"""Cancel and retry for many jobs at a time: a page of ids, then one statement for all of them.

Ids come either from the caller or from a walk over the jobs of one state in the order of their acceptance, which an
index holds. A page of it looks at a bounded number of jobs, however few of them fit: nobody waits long for a reader.
A writer holds its lock for one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from penstock.job import Job
from penstock.store.engine import Database, Survives
from penstock.store.events import write_events
from penstock.store.records import JOB_COLUMNS, SETTLED_COLUMNS, STATES, Settled, job_of, settled_of
from penstock.store.users import CANCEL_SET, RETRY_SET

#: ``only`` is the state that was asked for: a job may have left it since its page was read. Empty for any.
_CANCEL = f"""
    UPDATE penstock_job SET {CANCEL_SET}
    WHERE penstock_job.id {{in ids}} AND {{hidden state IN ('accepted', 'queued', 'running')}} AND NOT cancel_requested
        AND (:only = '' OR {{hidden state = :only}})
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
_RETRY = f"""
    UPDATE penstock_job SET {RETRY_SET}
    WHERE penstock_job.id {{in ids}} AND {{hidden state IN ('failed', 'cancelled', 'expired')}}
        AND (:only = '' OR {{hidden state = :only}})
    RETURNING {JOB_COLUMNS}"""  # noqa: S608 - constants only
_STATUS = "SELECT id, state, cancel_requested FROM penstock_job WHERE id {in ids}"

#: What a job must be to fit, by filter.
_FITS = {
    "model": "model = :model",
    "asked": "asked_version = :asked",
    "tenant": "tenant = :tenant",
    "lane": "lane = :lane",
    "tag": "EXISTS (SELECT 1 FROM penstock_job_tag t WHERE t.job_id = page.id AND t.name = :tag AND t.value = :value)",
    "tag_name": "EXISTS (SELECT 1 FROM penstock_job_tag t WHERE t.job_id = page.id AND t.name = :tag_name)",
    "until": "accepted_at <= :until",
}


#: Behind which job a page begins: its time of acceptance and its id.
Place = tuple[float, str]
FIRST: Place = (0.0, "")


class Page(NamedTuple):
    """Ids that fit, and behind which job the next page begins; ``None`` when there is none."""

    ids: list[str]
    after: Place | None


def page(db: Database, *, state: str, fits: dict[str, Any], after: Place, scan: int) -> Page:
    """See ``Store.page``."""
    conditions = " AND ".join(_FITS[name] for name in fits if name in _FITS) or "true"
    text = f"""
        SELECT id, {conditions}, accepted_at FROM (
            SELECT id, model, asked_version, lane, tenant, accepted_at FROM penstock_job {{by ix_penstock_job_time}}
            WHERE state = :state AND (accepted_at, id) > (:at, :after) ORDER BY accepted_at, id LIMIT :scan) AS page
        ORDER BY accepted_at, id"""  # noqa: S608 - constants only
    with db.read() as session:
        rows = session.all(text, {**fits, "state": state, "at": after[0], "after": after[1], "scan": scan})
    return Page([id for id, fit, _ in rows if fit], (rows[-1][2], rows[-1][0]) if len(rows) == scan else None)


def cancel(db: Database, ids: Sequence[str], *, only: str, now: float) -> list[Settled]:
    """See ``Store.cancel_many``."""
    ids = sorted(ids)  # in the same order as everybody: fewer deadlocks

    def call() -> list[Settled]:
        with db.write(Survives.POWER) as session:
            rows = session.all(_CANCEL, {"ids": session.ids(ids), "only": only, "now": now})
            changed = [settled_of(row) for row in rows]
            write_events(session, changed, now=now)
        return changed

    return db.again(call)


def retry(db: Database, ids: Sequence[str], *, only: str, now: float, publish_lease_s: float) -> list[Job]:
    """See ``Store.retry_many``."""
    ids = sorted(ids)

    def call() -> list[Job]:
        with db.step(Survives.POWER) as session:
            values = {"ids": session.ids(ids), "only": only, "now": now, "lease_until": now + publish_lease_s}
            return [job_of(row) for row in session.all(_RETRY, values)]

    return db.again(call)


def statuses(db: Database, ids: Sequence[str]) -> dict[str, str]:
    """See ``Store.statuses``."""
    if not ids:
        return {}
    with db.read() as session:
        rows = session.all(_STATUS, {"ids": session.ids(ids)})
    return {id: "cancelling" if state == "running" and asked else str(STATES[state]) for id, state, asked in rows}
