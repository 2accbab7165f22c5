"""Steps that are plain Celery tasks: jobs that no penstock worker takes, and whose states the dispatcher writes.

``accepted`` is not sent yet (the outbox, as for any job); ``running``, without a worker, is sent; ``available_at`` is
then until when somebody must have heard of it, which ``penstock_task`` has in order. What ends one is guarded: what
comes late or twice changes nothing. Jobs are changed before rows of that table, by everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from penstock.errors import TaskLost
from penstock.job import JobState
from penstock.pipelines.task import PREFIX, Task
from penstock.store.engine import Database, Survives
from penstock.store.records import SETTLED_COLUMNS, Settled, settled_of
from penstock.store.runs.conclude import concluded
from penstock.store.runs.paths import place
from penstock.store.runs.plans import readable
from penstock.store.runs.resolve import Given, resolve
from penstock.store.session import Session
from penstock.store.sql import insert_sql

_MINE = f"substr(model, 1, {len(PREFIX)}) = '{PREFIX}'"
_UNSENT = """
    SELECT id, input, run_id, path, attempt, losses, accepted_at, deadline_at, timeout_s FROM penstock_job
    WHERE id {in ids} AND {hidden state = 'accepted'} AND run_id IS NOT NULL AND graph IS NULL"""
_GRAPHS = "SELECT id, graph FROM penstock_job WHERE id {in ids} AND graph IS NOT NULL"
# The attempt is the same, however often its message is sent: who answers first answers for it.
_SENT = """
    UPDATE penstock_job SET state = 'running', attempt = CASE WHEN attempt = 0 THEN 1 ELSE attempt END,
        queued_at = coalesce(queued_at, :now), claimed_at = :now, started_at = coalesce(started_at, :now),
        available_at = {1 float}, publish_lease_until = 0
    FROM {each rows} WHERE penstock_job.id = {0 text} AND {hidden state = 'accepted'} AND run_id IS NOT NULL
    RETURNING penstock_job.id"""
# One whose message was sent may return before that is noted here.
_END = f"""
    UPDATE penstock_job SET
        state = CASE WHEN deadline_at <= :now THEN 'expired' ELSE {{2 text}} END, attempt = {{1 int}},
        output = CASE WHEN deadline_at <= :now THEN NULL ELSE {{3 text}} END, error = {{4 text}}, settled_at = :now,
        queued_at = coalesce(queued_at, :now), started_at = coalesce(started_at, :now), publish_lease_until = 0
    FROM {{each rows}}
    WHERE penstock_job.id = {{0 text}} AND {{hidden state IN ('accepted', 'running')}}
        AND attempt IN (0, {{1 int}}) AND run_id IS NOT NULL AND worker IS NULL AND graph IS NULL AND {_MINE}
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
_NOTE = insert_sql(
    "penstock_task",
    ["job_id", "until"],
    "ON CONFLICT (job_id) DO UPDATE SET until = excluded.until",
)
_FORGET = "DELETE FROM penstock_task WHERE job_id {in ids}"
# Those whose runs were cancelled or pruned, or have expired, are in it until somebody walks over it.
_OPEN = """
    SELECT penstock_task.until, penstock_task.job_id, job.attempt,
        CASE WHEN job.state IN ('accepted', 'running') THEN job.state ELSE '' END
    FROM penstock_task LEFT JOIN penstock_job AS job ON job.id = penstock_task.job_id
    WHERE (penstock_task.until, penstock_task.job_id) > (:at, :after)
    ORDER BY penstock_task.until, penstock_task.job_id LIMIT :limit"""
_OVERDUE = """
    SELECT job.id, job.run_id, job.path, job.losses
    FROM penstock_task JOIN penstock_job AS job ON job.id = penstock_task.job_id
    WHERE job.id {in ids} AND penstock_task.until <= :now AND job.state = 'running' ORDER BY penstock_task.until"""
# Its row says until when, too: it may have been sent again since it was looked for.
_STILL = "{hidden state = 'running'} AND available_at <= :now"
_LOSE = f"""
    UPDATE penstock_job SET state = 'failed', settled_at = :now, error = :error, losses = losses + 1
    WHERE penstock_job.id {{in ids}} AND {_STILL} RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
_RESEND = f"""
    UPDATE penstock_job SET state = 'accepted', available_at = :now, losses = losses + 1, publish_lease_until = 0
    WHERE penstock_job.id {{in ids}} AND {_STILL} RETURNING penstock_job.id"""  # noqa: S608 - constants only
_LOST = TaskLost(
    "nobody has heard of the task in time: its message or its worker is lost, or it still runs; the signature's"
    ' penstock={"timeout": …} gives it longer, {"resend": True} lets it be sent again'
)


class Unsent(NamedTuple):
    """A task that is to be sent, and what it is given; ``sending`` counts, from 0, how often it was sent before."""

    id: str
    run: str
    attempt: int
    sending: int
    task: Task
    given: Given
    expires_at: float | None
    timeout_s: float | None


class Ended(NamedTuple):
    """How a task ended: ``output`` is JSON text."""

    id: str
    attempt: int
    state: JobState
    output: str | None = None
    error: dict[str, Any] | None = None


class OpenTask(NamedTuple):
    """A task that was sent; nobody waits for it beyond ``until``, Unix seconds. ``open``: it has not ended yet."""

    until: float
    id: str
    attempt: int
    open: bool = True


def unsent(db: Database, ids: Sequence[str]) -> list[Unsent]:
    """See ``Store.unsent_tasks``."""
    with db.read() as session:
        rows = session.all(_UNSENT, {"ids": session.ids(sorted(ids))})
        plans = _plans(session, {row[2] for row in rows})
        given = resolve(session, [row[:4] for row in rows])
    found = []
    for id, _, run, path, attempt, losses, accepted_at, deadline_at, timeout_s in rows:
        task = plans[run].steps[place(path)[0]].task if run in plans else None
        if task is not None and id in given:
            ends = [at for at in (task.ends_at(accepted_at), deadline_at) if at is not None]
            expires_at = min(ends, default=None)
            found.append(Unsent(id, run, attempt or 1, losses, task, given[id], expires_at, timeout_s))
    return found


def sent(db: Database, until: Iterable[tuple[str, float]], *, now: float) -> set[str]:
    """See ``Store.tasks_sent``."""
    times = dict(until)

    def call() -> set[str]:
        with db.write(Survives.CRASH) as session:
            ids = sorted(
                row[0] for row in session.all(_SENT, {"rows": session.rows(sorted(times.items())), "now": now})
            )
            session.insert(_NOTE, [(id, times[id]) for id in ids])
            return set(ids)

    return db.again(call) if times else set()


def end(db: Database, ends: Iterable[Ended], *, now: float) -> list[Settled]:
    """See ``Store.end_tasks``."""
    first: dict[str, Ended] = {}
    for each in ends:
        first.setdefault(each.id, each)
    rows = [
        (id, one.attempt, one.state.value, one.output, None if one.error is None else _encode(one.error))
        for id, one in sorted(first.items())
    ]
    if not rows:
        return []

    def work(session: Session) -> list[Settled]:
        settled = [settled_of(row) for row in session.all(_END, {"rows": session.rows(rows), "now": now})]
        session.run(_FORGET, {"ids": session.ids([row.id for row in settled])})
        return settled

    settled, followed = concluded(db, Survives.CRASH, work, now=now)
    return [*settled, *followed]


def open_tasks(db: Database, *, after: OpenTask | None, limit: int) -> list[OpenTask]:
    """See ``Store.open_tasks``."""
    at, id = (-1e300, "") if after is None else (after.until, after.id)
    with db.read() as session:
        rows = session.all(_OPEN, {"at": at, "after": id, "limit": limit})
    over = [row[1] for row in rows if not row[3]]
    if over:  # nothing becomes open again: a retry is another job
        with db.step(Survives.NOTHING) as session:
            session.run(_FORGET, {"ids": session.ids(sorted(over))})
    return [OpenTask(until, id, attempt or 1, state == "running") for until, id, attempt, state in rows]


def lose(db: Database, ids: Sequence[str], *, now: float, most: int) -> list[Settled]:
    """See ``Store.lose_tasks``."""
    if not ids:
        return []

    def work(session: Session) -> list[Settled]:
        rows = session.all(_OVERDUE, {"now": now, "ids": session.ids(sorted(ids))})
        if not rows:
            return []
        plans = _plans(session, {row[1] for row in rows})
        again: list[str] = []
        gone: list[str] = []
        for id, run, path, losses in rows:
            task = plans[run].steps[place(path)[0]].task if run in plans else None
            (again if task is not None and task.resend and losses < most else gone).append(id)
        back = [row[0] for row in session.all(_RESEND, {"ids": session.ids(sorted(again)), "now": now})]
        values = {"ids": session.ids(sorted(gone)), "now": now, "error": _encode(_LOST.as_dict())}
        lost = [settled_of(row) for row in session.all(_LOSE, values)]
        session.run(_FORGET, {"ids": session.ids(sorted([*back, *(row.id for row in lost)]))})
        session.revoked += [row.id for row in lost]
        return lost

    settled, followed = concluded(db, Survives.CRASH, work, now=now)
    return [*settled, *followed]


def _plans(session: Session, runs: set[str]) -> dict[str, Any]:
    rows = session.all(_GRAPHS, {"ids": session.ids(sorted(runs))}) if runs else []
    return {run: plan for run, digest in rows if (plan := readable(session, digest)) is not None}


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
