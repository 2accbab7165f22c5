"""What a new run of the same graph takes over from an old one. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from penstock.errors import InvalidInput
from penstock.pipelines.expression import named
from penstock.pipelines.frontier import Outline


def affected(plan: Outline, *, from_step: str | None, inputs: Iterable[str]) -> set[str]:
    """The steps that are to be done again: from this one on, and whatever these inputs have a part in.

    Raises ``InvalidInput`` for a step or an input that the graph has not.
    """
    changed = set(inputs)
    _known("input", changed, plan.graph.inputs)
    first = set() if from_step is None else {from_step}
    _known("step", first, plan.steps)
    again = {
        step.name
        for step in plan.graph.steps
        if step.name in first or any(name in changed for each in step.expressions for name in named(each, "$in"))
    }
    for name in plan.order:
        if not again.isdisjoint(plan.parents[name]):
            again.add(name)
    return again


def _known(what: str, names: Iterable[str], there: Iterable[str]) -> None:
    for name in names:
        if name not in there:
            near = get_close_matches(name, list(there), n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(list(there)[:20]) or 'none'}"
            raise InvalidInput(f"the run's graph has no {what} {name!r:.80}", fix=fix)
