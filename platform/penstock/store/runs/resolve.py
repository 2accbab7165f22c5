"""What steps are given: the graph's template and the outputs that it names, put together when the step is claimed.

So a value that a thousand steps are given is stored once, and a message never carries it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

from penstock.errors import NoValue
from penstock.pipelines.frontier import Outline
from penstock.pipelines.graph import input_of
from penstock.store.runs.paths import element, place
from penstock.store.runs.plans import readable
from penstock.store.runs.release import NO_ELEMENT
from penstock.store.runs.stepstates import step_states
from penstock.store.runs.values import Outputs, element_outputs, load, value_of, written
from penstock.store.session import Session

_RUNS = """
    SELECT id, graph, input, coalesce(generation, 0) FROM penstock_job WHERE id {in ids} AND graph IS NOT NULL"""


_UNREADABLE = "the graph of its run cannot be read by this release, or is not in the database"


class Given(NamedTuple):
    """The input, JSON text; or why there is none."""

    input: str | None
    fault: str | None = None
    #: Whether it is that of a step.
    step: bool = False


class _Run:
    """What the steps of one run share: values that are read once."""

    def __init__(self, session: Session, id: str, plan: Outline, inputs: str, generation: int) -> None:
        self.id = id
        self._session, self._generation = session, generation
        self.plan = plan
        self._inputs = inputs
        self._all = Outputs(session, id, self.plan)

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """What the run was given, by name; raises ``NoValue``."""
        given: dict[str, Any] = value_of(self._inputs)
        return given

    @functools.cached_property
    def _ended(self) -> Outputs:
        ended = step_states(self._session, self.id, self._generation, self.plan).ended
        return Outputs(self._session, self.id, self.plan, ended)

    def outputs(self, name: str) -> Outputs:
        """For a step; what it names has ended, but for what something else stands in for."""
        return self._ended if name in self.plan.forked else self._all


def resolve(session: Session, steps: Iterable[tuple[str, str, str, str]]) -> dict[str, Given]:
    """What each step is given, by its id. ``steps`` are ids, what the maps around are at, runs and paths."""
    steps = list(steps)
    runs: dict[str, _Run] = {}
    lost: set[str] = set()
    for run, digest, inputs, generation in session.all(_RUNS, {"ids": session.ids({run for _, _, run, _ in steps})}):
        plan = readable(session, digest)
        if plan is None:
            lost.add(run)
        else:
            runs[run] = _Run(session, run, plan, inputs, generation)
    # A run may be gone by now, and then its steps are, too.
    there = [(id, items, runs[run], path) for id, items, run, path in steps if run in runs]
    load((run.outputs(name), run.plan.read[name]) for *_, run, path in there for name in [place(path)[0]])
    pairs = {id: pair for id, items, run, path in there if (pair := _followed(run, path, items)) is not None}
    texts = element_outputs(session, pairs.values())
    found = {
        id: _given(run, place(path)[0], f"[{texts.get(pairs[id])}]" if id in pairs else items)
        for id, items, run, path in there
    }
    return found | {id: Given(None, _UNREADABLE, step=True) for id, _, run, _ in steps if run in lost}


def _followed(run: _Run, path: str, items: str) -> tuple[str, str] | None:
    """The element whose output this one is of: its run and its path. Such a one is stored without an item."""
    name, index = place(path)
    source = run.plan.elementwise.source.get(name) if items == NO_ELEMENT else None
    return None if source is None or index is None else (run.id, element(source, index))


def _given(run: _Run, name: str, around: str) -> Given:
    step, outputs = run.plan.steps[name], run.outputs(name)
    try:
        items = value_of(around)
        return Given(written(input_of(step, inputs=run.inputs, outputs=outputs, items=items)), step=True)
    except NoValue as error:
        return Given(None, error.message, step=True)
    except KeyError as error:  # somebody has deleted rows
        return Given(None, f"the output of step {error} is not in the database any more", step=True)
