"""Which steps decided when a run ended: from its last step back, to each what it waited for last. PURE.

A step begins in the transaction that ends the last thing it waits for. That is one of its parents, a step of a
condition that chose the branch which needs it, or one that has failed and that it stands in for. A map that follows
another one element by element waits for that all the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import NamedTuple

from penstock.pipelines.elementwise import followed
from penstock.pipelines.expression import Expression, named, parts_of, word_of
from penstock.pipelines.graph import Graph, parents, unnamed
from penstock.pipelines.show.levels import levels


class Times(NamedTuple):
    """When a step became a job and when it ended, Unix seconds; both ``None`` for a map of nothing, which ends as it
    begins. A map's are its first element's and its last one's."""

    begun: float | None = None
    ended: float | None = None


def critical(graph: Graph, times: Mapping[str, Times], *, last: str | None = None) -> list[str]:
    """The chain, the first step first. ``times`` has the steps that have begun; ``last`` is the step that a run ended
    with which has no output: without it, that is the last of those that the output needs."""
    known = _with_maps_of_nothing(graph, times)
    deciding = _deciding(graph)
    above = {step.name: parents(step) for step in graph.steps}
    source = followed(graph)
    if last is None:
        last = _latest([*named(graph.output, "$out"), *unnamed(graph), *deciding], known)
    chain: dict[str, None] = {}
    while last is not None and last in known:
        chain[last] = None
        begun = known[last].begun
        if begun is None:
            break
        before = known.get(source.get(last, ""))
        if before is not None and before.ended is not None and before.ended > begun:
            last = source[last]
            continue
        # Parents first: of those that ended at one moment, it is them that the graph shows. Whatever chose the branch
        # began before the step, which tells it from the step's own descendants.
        earlier = [name for name in deciding if name in known and (known[name].begun or 0.0) < begun]
        last = _latest([name for name in (*above[last], *earlier) if name not in chain], known, until=begun)
    return [*chain][::-1]


def _latest(names: Iterable[str], known: Mapping[str, Times], *, until: float = inf) -> str | None:
    """The one that ended last, but not later than ``until``; the first of several."""
    ends = {name: ended for name in names if name in known and (ended := known[name].ended) is not None}
    return max((name for name, ended in ends.items() if ended <= until), key=ends.__getitem__, default=None)


def _with_maps_of_nothing(graph: Graph, times: Mapping[str, Times]) -> dict[str, Times]:
    """They have no jobs: they began and ended with the last of their parents."""
    known = dict(times)
    for level in levels(graph):
        for step in level:
            if known.get(step.name) == Times():
                ends = [known[name].ended or 0.0 for name in parents(step) if name in known]
                at = max(ends, default=0.0)
                known[step.name] = Times(at, at)
    return known


def _expressions(graph: Graph) -> Iterator[Expression]:
    for step in graph.steps:
        yield from step.expressions
    yield graph.output


def _deciding(graph: Graph) -> dict[str, None]:
    """The steps in the conditions of choices, and those that something stands in for, with all that these wait for:
    when one of those has failed, these have."""
    found: dict[str, None] = {}
    stood_for: list[str] = []
    waiting = list(_expressions(graph))
    while waiting:
        here = waiting.pop()
        match word_of(here):
            case "$if":
                found |= dict.fromkeys(named(here["$if"][0], "$out"))
            case "$else":
                stood_for += named(here["$else"][0], "$out")
        waiting += parts_of(here)
    above = {step.name: parents(step) for step in graph.steps}
    seen: set[str] = set()
    while stood_for:
        name = stood_for.pop()
        if name not in seen:
            seen.add(name)
            found[name] = None
            stood_for += above[name]
    return found
