"""What a run does next, now that something in it has ended: the one place that asks ``frontier``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from penstock.errors import NoValue
from penstock.job import JobState
from penstock.pipelines.expression import evaluate
from penstock.pipelines.graph import frontier, items_of
from penstock.store.records import SETTLED_COLUMNS, Settled, settled_of
from penstock.store.runs import maps
from penstock.store.runs.plans import Plan, plan_of
from penstock.store.runs.release import NO_ELEMENT, release
from penstock.store.runs.run import OpenRun
from penstock.store.runs.values import Outputs
from penstock.store.session import Session

_encode = msgspec.json.encode

# By name, one look-up each: the elements of maps are passed over without being read.
_STEPS = """
    SELECT path, {hidden state = 'succeeded'}, generation FROM penstock_job
    WHERE run_id = :run AND path {in names}"""
_MAPS = "SELECT path, pending FROM penstock_map WHERE run_id = :run"
_END = f"""
    UPDATE penstock_job SET state = :state, settled_at = :now, output = :output, error = :error, closing = :closing
    WHERE id = :id AND {{hidden state = 'running'}} AND graph IS NOT NULL
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only


class _Standing(NamedTuple):
    ended: set[str]
    begun: set[str]


def advance(session: Session, run: OpenRun, *, now: float) -> list[Settled]:
    """Begin all that can begin; the run's own row when it has ended with this."""
    plan = plan_of(session, run.graph)
    try:
        while True:
            standing = _standing(session, run, plan)
            outputs = Outputs(session, run.id, plan, standing.ended)
            now_possible = frontier(plan.graph, inputs=run.inputs, outputs=outputs)
            if now_possible.done:
                output = evaluate(plan.graph.output, inputs=run.inputs, outputs=outputs)
                return end(session, run, JobState.SUCCEEDED, output=_encode(output).decode(), now=now)
            fresh = [name for name in now_possible.ready if name not in standing.begun]
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
        "closing": True if state is not JobState.SUCCEEDED else None,
    }
    return [settled_of(row)._replace(output=output) for row in session.all(_END, values)]


def _begin(session: Session, run: OpenRun, plan: Plan, names: list[str], outputs: Outputs, *, now: float) -> bool:
    """Begin these steps; whether one of them has ended by that: a map of nothing."""
    ended = False
    for name in names:
        step = plan.steps[name]
        if step.maps:
            items = items_of(step, inputs=run.inputs, outputs=outputs)
            ended |= maps.begin(session, run, step, items, now=now)
        else:
            release(session, run, step, [(name, NO_ELEMENT)], now=now)
    return ended


def _standing(session: Session, run: OpenRun, plan: Plan) -> _Standing:
    plain = [step.name for step in plan.graph.steps if not step.maps]
    rows = session.all(_STEPS, {"run": run.id, "names": session.ids(plain)})
    ended = {path for path, succeeded, _ in rows if succeeded}
    begun = ended | {path for path, _, generation in rows if generation == run.generation}
    if len(plain) < len(plan.steps):
        counted = session.all(_MAPS, {"run": run.id})
        ended |= {path for path, pending in counted if pending == 0}
        begun |= {path for path, _ in counted}
    return _Standing(ended, begun)
