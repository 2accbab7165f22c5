"""Cancel and retry for many jobs at a time: a page of ids, then one statement for all of them.

Ids come either from the caller or from a walk over the jobs of one state in the order of their acceptance, which an
index holds. A page of it looks at a bounded number of jobs, however few of them fit: nobody waits long for a reader.
A writer holds its lock for one statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from penstock.job import Job
from penstock.store.engine import Database, Survives
from penstock.store.records import JOB_COLUMNS, SETTLED_COLUMNS, STATES, Settled, job_of, settled_of
from penstock.store.runs.closing import CANCEL_SET
from penstock.store.runs.conclude import concluded
from penstock.store.session import Session
from penstock.store.users import RETRY_SET

#: ``only`` is the state that was asked for: a job may have left it since its page was read. Empty for any.
_CANCEL = f"""
    UPDATE penstock_job SET {CANCEL_SET}
    WHERE penstock_job.id {{in ids}} AND {{hidden state IN ('accepted', 'queued', 'running')}} AND NOT cancel_requested
        AND (:only = '' OR {{hidden state = :only}}) AND run_id IS NULL
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
_RETRY = f"""
    UPDATE penstock_job SET {RETRY_SET}
    WHERE penstock_job.id {{in ids}} AND {{hidden state IN ('failed', 'cancelled', 'expired')}}
        AND (:only = '' OR {{hidden state = :only}}) AND run_id IS NULL AND graph IS NULL
    RETURNING {JOB_COLUMNS}"""  # noqa: S608 - constants only
_STATUS = "SELECT id, state, cancel_requested FROM penstock_job WHERE id {in ids}"

_TAGS = "SELECT count(*) FROM penstock_job_tag t WHERE t.job_id = page.id"
#: What a job must be to fit, by filter.
_FITS = {
    "model": "model = :model",
    "asked": "asked_version = :asked",
    "tenant": "tenant = :tenant",
    "lane": "lane = :lane",
    # Counted, job by job: for an EXISTS, or by the tag's name, Postgres reads all that have the tag, for each page.
    "tag": f"({_TAGS} AND {{hidden t.name = :tag}} AND {{hidden t.value = :value}}) > 0",
    "tag_name": f"({_TAGS} AND {{hidden t.name = :tag_name}}) > 0",
}
#: A bound of the walk itself, which goes by that time, and what belongs to another filter.
_NO_FILTERS = frozenset({"until", "value"})


#: Behind which job a page begins: its time of acceptance and its id.
Place = tuple[float, str]
FIRST: Place = (0.0, "")


class Page(NamedTuple):
    """Ids that fit, and behind which job the next page begins; ``None`` when there is none."""

    ids: list[str]
    after: Place | None


def page(db: Database, *, state: str, fits: dict[str, Any], after: Place, scan: int) -> Page:
    """See ``Store.page``."""
    with db.read() as session:
        rows = session.all(page_sql(fits), {**fits, "state": state, "at": after[0], "after": after[1], "scan": scan})
    rows.sort(key=lambda row: (row[2], row[0]))  # as they came, most likely, but nobody promises that
    return Page([id for id, fit, _ in rows if fit], (rows[-1][2], rows[-1][0]) if len(rows) == scan else None)


def page_sql(fits: Iterable[str]) -> str:
    """The statement of ``page``: in the order of an index, whose next ``scan`` entries are all that it reads."""
    # What is not known is an error: a filter that is passed over would mean more jobs, not fewer.
    # Steps belong to their runs.
    conditions = " AND ".join(["run_id IS NULL", *(_FITS[name] for name in fits if name not in _NO_FILTERS)])
    until = "AND accepted_at <= :until" if "until" in fits else ""
    return f"""
        SELECT id, {conditions}, accepted_at FROM (
            SELECT id, model, asked_version, lane, tenant, accepted_at, run_id
            FROM penstock_job {{by ix_penstock_job_time}}
            WHERE state = :state AND (accepted_at, id) > (:at, :after) {until}
            ORDER BY accepted_at, id LIMIT :scan) AS page"""  # noqa: S608 - constants only


def cancel(db: Database, ids: Sequence[str], *, only: str, now: float) -> list[Settled]:
    """See ``Store.cancel_many``."""
    ids = sorted(ids)  # in the same order as everybody: fewer deadlocks

    def work(session: Session) -> list[Settled]:
        rows = session.all(_CANCEL, {"ids": session.ids(ids), "only": only, "now": now})
        return [settled_of(row) for row in rows]

    return concluded(db, Survives.POWER, work, now=now)[0]


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
