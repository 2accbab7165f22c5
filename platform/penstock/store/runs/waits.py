"""Steps that wait without a worker: for a signal, or for a time.

Who begins a wait holds its run and looks for signals that came before. Who sends one looks for the wait, and once more
when it holds the run: so one of the two sees the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.arguments import nearest
from penstock.errors import IllegalTransition, InvalidInput, NoValue, WaitTimeout
from penstock.job import new_id
from penstock.pipelines.effort import Effort
from penstock.pipelines.expression import kind_of
from penstock.pipelines.graph import Step, input_of
from penstock.store.columns import STEP
from penstock.store.events import write_waiting
from penstock.store.records import SETTLED_COLUMNS, STATES, Settled, settled_of
from penstock.store.runs.plans import no_run, plan_of
from penstock.store.runs.run import OpenRun
from penstock.store.runs.values import DECODED, Outputs, limited, written
from penstock.store.session import Session
from penstock.store.sql import insert_sql

#: When a wait without a timeout is over: a time that no clock shows.
NEVER = 1e15
#: Longest sleep, seconds.
MAX_SLEEP_S = 100 * 365.25 * 86400

_COLUMNS = (*STEP, "started_at", "state", "settled_at", "output")
_INSERT = insert_sql("penstock_job", _COLUMNS)
_INSERT_WAIT = insert_sql(
    "penstock_wait",
    ["run_id", "path", "generation", "job_id", "until"],
)
_INSERT_SIGNAL = insert_sql(
    "penstock_signal",
    ["run_id", "name", "id", "value", "sent_at"],
    "ON CONFLICT DO NOTHING",
)
_TAKE = """
    UPDATE penstock_signal SET taken_by = :path
    WHERE run_id = :run AND name = :name AND taken_by IS NULL AND id = (
        SELECT id FROM penstock_signal WHERE run_id = :run AND name = :name AND taken_by IS NULL
        ORDER BY sent_at, id LIMIT 1
    ) RETURNING value"""
_WAITING = """
    SELECT path FROM penstock_job
    WHERE run_id = :run AND path {in paths} AND {hidden state = 'running'} ORDER BY path LIMIT 1 {locked}"""
_RECEIVE = f"""
    UPDATE penstock_job SET state = 'succeeded', settled_at = :now, output = :output
    WHERE run_id = :run AND penstock_job.path = :path AND {{hidden state = 'running'}} RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
# Those that have ended by something else are among them, and go with the others.
_DUE = """
    DELETE FROM penstock_wait WHERE (run_id, path, generation) IN (
        SELECT run_id, path, generation FROM penstock_wait WHERE until <= :now
        ORDER BY until LIMIT :limit {skip locked}
    ) RETURNING job_id"""
# One that has a timeout waits for a signal; the others sleep.
_OVER = f"""
    UPDATE penstock_job SET settled_at = :now, state = CASE WHEN timeout_s IS NULL THEN 'succeeded' ELSE 'failed' END,
        output = CASE WHEN timeout_s IS NULL THEN 'null' END,
        error = CASE WHEN timeout_s IS NULL THEN NULL ELSE :error END
    WHERE penstock_job.id {{in ids}} AND {{hidden state = 'running'}} RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
_RUN = "SELECT state, graph FROM penstock_job WHERE id = :run"
# Whatever its state: one that has not begun may do so in a transaction that is not over.
_HOLD = "SELECT id FROM penstock_job WHERE id = :run {locked}"
_TIMEOUT = WaitTimeout("nobody sent the signal in time").as_dict()


def begin(session: Session, run: OpenRun, step: Step, outputs: Outputs, *, now: float, effort: Effort) -> bool:
    """A wait, a sleep or a pick begins, in a run that is locked; whether it has ended by that. Raises ``NoValue``,
    ``TooMuchWork`` or ``InvalidOutput``.
    """
    until, output = NEVER, None
    if step.kind == "wait":
        until = NEVER if step.timeout is None else now + step.timeout
        output = _sent_before(session, run, step, outputs, until, now=now, effort=effort)
    else:
        given = input_of(step, inputs=run.inputs, outputs=outputs, effort=effort)
        if step.kind == "pick":
            output = written(given)
            effort.spend(len(output) // DECODED)
            limited(session, f"the output of step {step.name!r}", output)
        else:
            until = now + _seconds(step, given)
            output = "null" if until <= now else None
    _store(session, run, step, until, output, now=now)
    return output is not None


def receive(session: Session, run_id: str, name: str, value: str, id: str, *, now: float) -> list[Settled]:
    """Store a signal, and end the step that waits for it; see ``Store.signal``."""
    row = session.one(_RUN, {"run": run_id})
    if row is None or row[1] is None:
        raise no_run(session, run_id)
    paths = [step.name for step in plan_of(session, row[1]).graph.steps if step.signal == name]
    if not paths:
        raise _unknown(session, row[1], run_id, name)
    if STATES[row[0]].is_terminal:
        raise IllegalTransition(f"run {run_id} has ended as {row[0]}: it waits for nothing", fix="start a new run")
    session.insert(_INSERT_SIGNAL, [(run_id, name, id, value, now)])
    ended = _deliver(session, run_id, name, paths, now=now)
    if not ended:
        session.one(_HOLD, {"run": run_id})
        ended = _deliver(session, run_id, name, paths, now=now)
    return ended


def over(session: Session, *, now: float, limit: int) -> list[Settled]:
    """End waits whose time is over."""
    due = sorted(row[0] for row in session.all(_DUE, {"now": now, "limit": limit}))
    if not due:
        return []
    error = msgspec.json.encode(_TIMEOUT).decode()
    return [settled_of(row) for row in session.all(_OVER, {"ids": session.ids(due), "now": now, "error": error})]


def _sent_before(
    session: Session, run: OpenRun, step: Step, outputs: Outputs, until: float, *, now: float, effort: Effort
) -> str | None:
    """The value of a signal that came before its wait, JSON text. Where there is none, whoever follows the run is told
    that it waits.
    """
    row = session.one(_TAKE, {"run": run.id, "name": step.signal, "path": step.name})
    if row is not None:
        return row[0]  # type: ignore[no-any-return]
    if run.webhook is not None:
        after = input_of(step, inputs=run.inputs, outputs=outputs, effort=effort)
        effort.walk(after)
        write_waiting(
            session,
            run=run.id,
            url=run.webhook,
            step=step.name,
            signal=step.signal,
            until=None if step.timeout is None else until,
            value=after,
            now=now,
        )
    return None


def _store(session: Session, run: OpenRun, step: Step, until: float, output: str | None, *, now: float) -> None:
    """The row of a step that has ended with this ``output``, or that waits."""
    ended = output is not None
    values = {
        "id": new_id(),
        "model": "",
        "version": "",
        "input": "[]",
        "lane": run.lane,
        "accepted_at": now,
        "available_at": until,
        "started_at": now,
        "tenant": run.tenant,
        "priority": run.priority,
        "timeout_s": step.timeout if step.kind == "wait" else None,
        "trace": run.trace,
        "run_id": run.id,
        "path": step.name,
        "generation": run.generation,
        "state": "succeeded" if ended else "running",
        "settled_at": now if ended else None,
        "output": output,
    }
    session.insert(_INSERT, [[values[name] for name in _COLUMNS]])
    if not ended and until < NEVER:
        session.insert(_INSERT_WAIT, [(run.id, step.name, run.generation, values["id"], until)])


def _deliver(session: Session, run: str, name: str, paths: Sequence[str], *, now: float) -> list[Settled]:
    waiting = session.one(_WAITING, {"run": run, "paths": session.ids(paths)})
    if waiting is None:
        return []
    taken = session.one(_TAKE, {"run": run, "name": name, "path": waiting[0]})
    if taken is None:  # this very signal had come before
        return []
    values = {"run": run, "path": waiting[0], "output": taken[0], "now": now}
    return [settled_of(row) for row in session.all(_RECEIVE, values)]


def _unknown(session: Session, digest: str, run: str, name: str) -> InvalidInput:
    known = sorted({step.signal for step in plan_of(session, digest).graph.steps if step.signal})
    fix = nearest(name, known, f"it waits for: {', '.join(known) or 'nothing'}")
    return InvalidInput(f"no step of run {run} waits for a signal {name!r:.80}", fix=fix)


def _seconds(step: Step, given: Any) -> float:
    seconds = given[0]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise NoValue(f"step {step.name!r} is to sleep for {kind_of(seconds)}, which is no time")
    if seconds > MAX_SLEEP_S:
        raise NoValue(f"step {step.name!r} is to sleep for more than a hundred years")
    return float(max(0, seconds))
