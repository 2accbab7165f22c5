"""What steps are given: the graph's template and the outputs that it names, put together when the step is claimed.

So a value that a thousand steps are given is stored once, and a message never carries it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from penstock.errors import NoValue
from penstock.pipelines.expression import named
from penstock.pipelines.graph import input_of
from penstock.store.runs.plans import Plan, plan_of
from penstock.store.runs.values import Outputs, place
from penstock.store.session import Session

_encode = msgspec.json.encode
_decode = msgspec.json.decode

_RUNS = "SELECT id, graph, input FROM penstock_job WHERE id {in ids} AND graph IS NOT NULL"


class Given(NamedTuple):
    """The input, JSON text; or why there is none."""

    input: str | None
    fault: str | None = None
    #: Whether it is that of a step.
    step: bool = False


class _Run(NamedTuple):
    plan: Plan
    inputs: dict[str, Any]
    outputs: Outputs


def resolve(session: Session, steps: Iterable[tuple[str, str, str, str]]) -> dict[str, Given]:
    """What each step is given, by its id. ``steps`` are ids, what the maps around are at, runs and paths."""
    steps = list(steps)
    runs = {
        id: _Run(plan := plan_of(session, digest), _decode(inputs), Outputs(session, id, plan))
        for id, digest, inputs in session.all(_RUNS, {"ids": session.ids({run for _, _, run, _ in steps})})
    }
    given = {}
    for id, items, run_id, path in steps:
        run = runs.get(run_id)
        if run is not None:  # its run may be gone by now, and then the job is, too
            given[id] = _given(run, place(path)[0], _decode(items))
    return given


def _given(run: _Run, name: str, items: list[Any]) -> Given:
    step = run.plan.steps[name]
    try:
        run.outputs.load(dict.fromkeys(named(step.input, "$out")))
        return Given(_encode(input_of(step, inputs=run.inputs, outputs=run.outputs, items=items)).decode(), step=True)
    except NoValue as error:
        return Given(None, error.message, step=True)
