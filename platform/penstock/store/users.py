"""What people and their programs ask of the store: look, cancel, run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock import arguments
from penstock.errors import IllegalTransition, InvalidInput, JobNotFound
from penstock.job import DEFAULT_TENANT, Job, JobState
from penstock.lane import split_name
from penstock.pipelines.task import is_task
from penstock.store.engine import Database, Survives
from penstock.store.records import JOB_COLUMNS, SETTLED_COLUMNS, STATES, Count, Settled, job_of, settled_of
from penstock.store.runs.again import again
from penstock.store.runs.closing import CANCEL_SET
from penstock.store.runs.conclude import concluded
from penstock.store.session import Session

_MANY = f"SELECT {JOB_COLUMNS} FROM penstock_job WHERE id {{in ids}}"  # noqa: S608 - constants only
_MODELS = "SELECT id, model FROM penstock_job WHERE id {in ids}"
_IN_CANVAS = "SELECT id FROM penstock_job WHERE id {in ids} AND canvas IS NOT NULL"
_ENDS = """
    SELECT id, state, settled_at FROM penstock_job
    WHERE id {in ids} AND state IN ('succeeded', 'failed', 'cancelled', 'expired')"""
_ONE = f"SELECT {JOB_COLUMNS} FROM penstock_job WHERE id = :id"  # noqa: S608 - constants only
_ACCEPTED_AT = "SELECT accepted_at FROM penstock_job WHERE id = :id"
_NEWEST = "ORDER BY accepted_at DESC, id DESC LIMIT :limit"
_HOLDER = "SELECT id FROM penstock_job WHERE tenant = :tenant AND idempotency_key = :key"
_FROM = "SELECT id FROM penstock_job WHERE id >= :low AND id < :high ORDER BY id LIMIT :limit"
_NEIGHBOURS = """
    SELECT (SELECT max(id) FROM penstock_job WHERE id < {0 text}),
        (SELECT min(id) FROM penstock_job WHERE id > {0 text})
    FROM {each rows}"""
# Those that ask for a version are among them; they are few, and have an index of their own.
_COUNTS = """
    SELECT model, lane, state, count(*) FROM penstock_job
    WHERE state IN ('accepted', 'queued', 'running') GROUP BY model, lane, state ORDER BY model, lane, state"""

# Runs wait for their steps, as some steps wait for signals (those have no model), and hold nothing: nobody's work.
_RUNS = """
    SELECT model, lane, state, count(*) FROM penstock_job {by ix_penstock_job_run}
    WHERE graph IS NOT NULL AND closing IS NULL AND state IN ('accepted', 'queued', 'running')
    GROUP BY model, lane, state"""
_ASKED = """
    SELECT model, lane, state, asked_version, count(*) FROM penstock_job {by ix_penstock_job_asked}
    WHERE asked_version IS NOT NULL AND state IN ('accepted', 'queued', 'running')
    GROUP BY model, lane, asked_version, state ORDER BY model, lane, asked_version, state"""

_CANCEL = f"""
    UPDATE penstock_job SET {CANCEL_SET}
    WHERE penstock_job.id = :id AND {{hidden state IN ('accepted', 'queued', 'running')}} AND NOT cancel_requested
        AND run_id IS NULL
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only

# A replay by hand is a new chance: new budgets, and no deadline if the old one has passed. The attempt number goes on,
# since it fences off workers that still hold an old attempt.
# Suspicion stays: a job that somebody sends again after it killed its workers still runs alone.
RETRY_SET = """
        state = 'accepted', available_at = :now, publish_lease_until = :lease_until, queued_at = NULL,
        claimed_at = NULL, started_at = NULL, settled_at = NULL, batch_wait_s = NULL, load_s = NULL, compute_s = NULL,
        transfer_s = NULL, batch_size = NULL, batch_reason = NULL, worker = NULL, cancel_requested = false,
        canvas_done = false, failures = 0, losses = 0, ooms = 0, kills = 0, error = NULL, output = NULL,
        deadline_at = CASE WHEN deadline_at > :now THEN deadline_at END, version = ''"""
_RETRY = f"""
    UPDATE penstock_job SET {RETRY_SET}
    WHERE id = :id AND {{hidden state IN ('failed', 'cancelled', 'expired')}} AND run_id IS NULL AND graph IS NULL
    RETURNING {JOB_COLUMNS}"""  # noqa: S608 - constants only

_FILTERS = {
    "status": "state = :status",
    "cancelling": "state = 'running' AND cancel_requested",
    "model": "model = :model",
    "asked": "asked_version = :asked",
    "tenant": "tenant = :tenant",
    # Said twice, so that the planner sees that the partial index has all of them.
    "named_tenant": f"tenant = :tenant AND tenant <> '{DEFAULT_TENANT}'",
    "lane": "lane = :lane",
    "before": "(accepted_at, id) < (:at, :before)",
    "whole": "run_id IS NULL",
    "run": "run_id = :run",
    "its_status": "{hidden state = :status}",
    "tag": "id IN (SELECT job_id FROM penstock_job_tag WHERE name = :tag_name AND value = :tag_value)",
    "tag_name": "id IN (SELECT job_id FROM penstock_job_tag WHERE name = :tag_name)",
}


def get(db: Database, id: str) -> Job:
    """See ``Store.get``."""
    arguments.job_id(id)
    with db.read() as session:
        row = session.one(_ONE, {"id": id})
    if row is None:
        raise JobNotFound(
            f"there is no job {id!r}: it never existed, or its retention is over",
            fix="`penstock job list` shows the jobs that are kept",
        )
    return job_of(row)


def holder(db: Database, tenant: str, key: str) -> str | None:
    """See ``Store.holder``."""
    with db.read() as session:
        row = session.one(_HOLDER, {"tenant": tenant, "key": key})
    return None if row is None else str(row[0])


def get_many(db: Database, ids: Sequence[str]) -> dict[str, Job]:
    """See ``Store.get_many``."""
    if not ids:
        return {}
    with db.read() as session:
        return {row[0]: job_of(row) for row in session.all(_MANY, {"ids": session.ids(ids)})}


def models_of(db: Database, ids: Sequence[str]) -> dict[str, str]:
    """See ``Store.models_of``."""
    if not ids:
        return {}
    with db.read() as session:
        return dict(session.all(_MODELS, {"ids": session.ids(ids)}))


def in_canvas(db: Database, ids: Sequence[str]) -> set[str]:
    """See ``Store.in_canvas``."""
    if not ids:
        return set()
    with db.read() as session:
        return {row[0] for row in session.all(_IN_CANVAS, {"ids": session.ids(ids)})}


def ends(db: Database, ids: Sequence[str]) -> dict[str, tuple[JobState, float]]:
    """See ``Store.ends``."""
    if not ids:
        return {}
    with db.read() as session:
        rows = session.all(_ENDS, {"ids": session.ids(ids)})
    return {id: (STATES[state], settled_at or 0.0) for id, state, settled_at in rows}


def ids_from(db: Database, prefix: str, *, limit: int) -> list[str]:
    """See ``Store.ids_from``."""
    with db.read() as session:
        values = {"low": prefix, "high": prefix + "\U0010ffff", "limit": limit}
        return [row[0] for row in session.all(_FROM, values)]


def neighbours(db: Database, ids: Sequence[str]) -> set[str]:
    """See ``Store.neighbours``."""
    with db.read() as session:
        rows = session.all(_NEIGHBOURS, {"rows": session.rows([[id] for id in ids])})
    return {id for row in rows for id in row if id is not None}


def list_jobs(
    db: Database,
    *,
    status: str | None,
    model: str | None,
    tenant: str | None,
    tag: tuple[str, str] | str | None,
    lane: str | None,
    limit: int,
    before: str | None,
    run: str | None,
) -> list[Job]:
    """See ``Store.list``."""
    arguments.limit(limit)
    for name, value in (("model", model), ("tenant", tenant), ("lane", lane)):
        if value is not None:
            arguments.text(name, value)
    if before is not None:
        arguments.job_id(before, "before")
    if run is not None:
        arguments.job_id(run, "run")
    values: dict[str, Any] = {
        "status": status, "model": model, "tenant": tenant, "lane": lane, "before": before, "limit": limit, "at": None,
        "run": run,
    }  # fmt: skip
    if model is not None:
        values["model"], values["asked"] = split_name(model)
    wanted = [name for name in ("status", "model", "asked", "tenant", "lane", "before") if values.get(name) is not None]
    if status == "cancelling":
        wanted[0] = "cancelling"
    elif status is not None and status not in STATES:
        raise InvalidInput(f"no job is ever {status!r}", fix=f"use one of {', '.join(STATES)}, cancelling")
    if tenant is not None and tenant != DEFAULT_TENANT:
        wanted[wanted.index("tenant")] = "named_tenant"
    if tag is not None:
        values["tag_name"], values["tag_value"] = arguments.tag(tag)
        wanted.append("tag_name" if values["tag_value"] is None else "tag")
    wanted.append("whole" if run is None else "run")
    if run is not None and "status" in wanted:  # of all jobs in that state, few are this run's
        wanted[wanted.index("status")] = "its_status"
    where = " AND ".join(_FILTERS[name] for name in wanted)
    with db.read() as session:
        if before is not None:
            values["at"] = _time_of(session, before)
        walk = status is None and tag is None and run is None
        return [job_of(row) for row in session.all(_list_sql(where, walk=walk), values)]


def _list_sql(where: str, *, walk: bool) -> str:
    if not walk:  # one state, or the few jobs of a tag
        return f"SELECT {JOB_COLUMNS} FROM penstock_job WHERE {where} {_NEWEST}"  # noqa: S608 - constants only
    # The index has the jobs of each state by time: the newest of all are among the newest of each.
    each = " UNION ALL ".join(
        f"SELECT * FROM (SELECT id, accepted_at FROM penstock_job WHERE state = '{state}' AND {where} {_NEWEST}) AS {state}"  # noqa: S608, E501
        for state in STATES
    )
    return f"""
        SELECT {JOB_COLUMNS} FROM penstock_job WHERE id IN (SELECT id FROM ({each}) AS every {_NEWEST}) {_NEWEST}"""  # noqa: S608


def _time_of(session: Session, id: str) -> float:
    """When the job was accepted, where a page ended."""
    row = session.one(_ACCEPTED_AT, {"id": id})
    if row is None:
        raise JobNotFound(
            f"there is no job {id!r} to go on from: its retention is over, or it never existed",
            fix="begin again with the newest: `penstock job list` without --before",
        )
    return float(row[0])


def counts(db: Database) -> list[Count]:
    """See ``Store.counts``."""
    with db.read() as session:
        total = session.all(_COUNTS)
        pinned = _asked(session)
        runs = session.all(_RUNS)
    left = {(model, lane, STATES[state]): n for model, lane, state, n in total}
    for model, lane, state, n in runs:
        left[model, lane, STATES[state]] = max(0, left.get((model, lane, STATES[state]), 0) - n)
    for one in pinned:
        # More than one statement, so jobs may have moved in between.
        left[one.model, one.lane, one.state] = max(0, left.get((one.model, one.lane, one.state), 0) - one.count)
    # Neither are calls of plain tasks: their workers and their queues are another program's.
    return [Count(*place, n) for place, n in left.items() if n and place[0] and not is_task(place[0])] + pinned


def asked(db: Database) -> list[Count]:
    """See ``Store.asked``."""
    with db.read() as session:
        return _asked(session)


def _asked(session: Session) -> list[Count]:
    return [Count(model, lane, STATES[state], n, version) for model, lane, state, version, n in session.all(_ASKED)]


def cancel(db: Database, id: str, *, now: float) -> Job:
    """See ``Store.cancel``."""
    arguments.job_id(id)

    def work(session: Session) -> list[Settled]:
        return [settled_of(row) for row in session.all(_CANCEL, {"id": id, "now": now})]

    rows, _ = concluded(db, Survives.POWER, work, now=now)
    job = get(db, id)
    if not rows and not job.state.is_terminal:
        _refuse_step(job, "cancelled")
    return job


def retry(db: Database, id: str, *, now: float, publish_lease_s: float) -> Job:
    """See ``Store.retry``."""
    arguments.job_id(id)
    with db.step(Survives.POWER) as session:
        row = session.one(_RETRY, {"id": id, "now": now, "lease_until": now + publish_lease_s})
    if row is not None:
        # As this left it: who read it again could meet a mark that was made late, for the message of the try before,
        # and take the job for published.
        return job_of(row)
    job = get(db, id)
    _refuse_step(job, "run again")
    if job.graph is not None and job.state in (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED):
        again(db, id, now=now)
        return get(db, id)
    if job.state is JobState.SUCCEEDED:
        raise IllegalTransition(f"job {id} has succeeded: it cannot run again", fix="submit it as a new job")
    return job


def _refuse_step(job: Job, verb: str) -> None:
    if job.run_id is not None:
        raise IllegalTransition(
            f"job {job.id} is step {job.path!r} of run {job.run_id}: it cannot be {verb} by itself",
            fix=f"use the run's id: {job.run_id}",
        )
