"""Graphs within graphs: what the steps of kind ``run`` have in them. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.pipelines.graph import Graph, Step


def all_steps(graph: Graph) -> Iterator[Step]:
    """The steps of a graph, and of those in it."""
    waiting = [graph]
    while waiting:
        here = waiting.pop()
        yield from here.steps
        waiting += [step.graph for step in here.steps if step.graph is not None]


def models_of(steps: Iterable[Step]) -> set[str]:
    """The models that these call, perhaps with a version; also those that they call in graphs of their own."""
    found: set[str] = set()
    for step in steps:
        found |= {each.model for each in ([step] if step.graph is None else all_steps(step.graph)) if each.model}
    return found
