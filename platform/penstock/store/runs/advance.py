"""What a run does next, now that something in it has ended: the one place that asks ``frontier``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.errors import NoValue
from penstock.job import JobState
from penstock.pipelines.expression import evaluate
from penstock.pipelines.graph import frontier, items_of
from penstock.store.records import SETTLED_COLUMNS, Settled, settled_of
from penstock.store.runs import maps, waits
from penstock.store.runs.plans import Plan, plan_of
from penstock.store.runs.release import NO_ELEMENT, release
from penstock.store.runs.run import OpenRun
from penstock.store.runs.values import Outputs, standing
from penstock.store.session import Session

_encode = msgspec.json.encode

_ERROR = """
    SELECT id, path, error FROM penstock_job
    WHERE run_id = :run AND (path = :path OR (path >= :low AND path < :high)) AND generation = :generation
        AND {hidden state = 'failed'} ORDER BY path LIMIT 1"""
_END = f"""
    UPDATE penstock_job SET state = :state, settled_at = :now, output = :output, error = :error,
        closing = CASE WHEN EXISTS (SELECT 1 FROM penstock_job AS step WHERE step.run_id = :id
            AND step.state IN ('accepted', 'queued', 'running')) THEN true END
    WHERE id = :id AND {{hidden state = 'running'}} AND graph IS NOT NULL
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only


def advance(session: Session, run: OpenRun, *, now: float) -> list[Settled]:
    """Begin all that can begin; the run's own row when it has ended with this."""
    plan = plan_of(session, run.graph)
    try:
        while True:
            now_is = standing(session, run.id, run.generation, plan)
            outputs = Outputs(session, run.id, plan, now_is.ended)
            possible = frontier(plan.graph, inputs=run.inputs, outputs=outputs, failed=now_is.failed)
            if possible.failed is not None:
                return end(session, run, JobState.FAILED, error=_error(session, run, possible.failed), now=now)
            if possible.done:
                output = evaluate(plan.graph.output, inputs=run.inputs, outputs=outputs)
                return end(session, run, JobState.SUCCEEDED, output=_encode(output).decode(), now=now)
            fresh = [name for name in possible.ready if name not in now_is.begun]
            if not _begin(session, run, plan, fresh, outputs, now=now):
                return []
    except NoValue as error:
        return end(session, run, JobState.FAILED, error=error.as_dict(), now=now)


def end(
    session: Session,
    run: OpenRun,
    state: JobState,
    *,
    now: float,
    output: str | None = None,
    error: Mapping[str, Any] | None = None,
) -> list[Settled]:
    """End a run; its row, or none when it had ended before."""
    values = {
        "id": run.id,
        "state": state.value,
        "now": now,
        "output": output,
        "error": None if error is None else _encode(error).decode(),
    }
    return [settled_of(row)._replace(output=output) for row in session.all(_END, values)]


def _begin(session: Session, run: OpenRun, plan: Plan, names: list[str], outputs: Outputs, *, now: float) -> bool:
    """Begin these steps; whether one of them has ended by that: a map of nothing, a wait for what has come."""
    ended = False
    for name in names:
        step = plan.steps[name]
        if step.kind != "call":
            ended |= waits.begin(session, run, step, outputs, now=now)
        elif step.maps:
            items = items_of(step, inputs=run.inputs, outputs=outputs)
            ended |= maps.begin(session, run, step, items, now=now)
        else:
            release(session, run, step, [(name, NO_ELEMENT)], now=now)
    return ended


def _error(session: Session, run: OpenRun, name: str) -> Mapping[str, Any]:
    """The error of a step that has failed, with its path."""
    values = {"run": run.id, "path": name, "low": f"{name}[", "high": f"{name}\\", "generation": run.generation}
    row = session.one(_ERROR, values)
    if row is None:
        return {"code": "failed", "message": f"step {name!r} failed", "retryable": False, "step": name}
    id, path, error = row
    return {**({} if error is None else msgspec.json.decode(error)), "step": path, "job": id}
