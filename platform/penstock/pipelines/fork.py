"""What a new run of the same graph takes over from an old one. PURE."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.pipelines.expression import named
from penstock.pipelines.frontier import Outline
from penstock.pipelines.names import check_names


def affected(plan: Outline, *, from_step: str | None, inputs: Iterable[str]) -> set[str]:
    """The steps that are to be done again: from this one on, and whatever these inputs have a part in.

    Raises ``InvalidInput`` for a step or an input that the graph has not.
    """
    changed = set(inputs)
    check_names("input", changed, plan.graph.inputs)
    first = set() if from_step is None else {from_step}
    check_names("step", first, plan.steps)
    again = {
        step.name
        for step in plan.graph.steps
        if step.name in first or any(name in changed for each in step.expressions for name in named(each, "$in"))
    }
    for name in plan.order:
        if not again.isdisjoint(plan.parents[name]):
            again.add(name)
    return again
