"""What a run can do next: a pure question about its graph and what has ended so far."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.errors import NoValue
from penstock.pipelines.elementwise import Elementwise
from penstock.pipelines.expression import Dead, Expression, missing, named
from penstock.pipelines.graph import Graph, Step, in_order, parents, unnamed

#: What makes the answer depend on values, or on failures: which branch is taken, what stands in, what was first.
CHOICES = ("$if", "$else", "$first")


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a run can do now: ``ready`` steps may start; with ``done`` the output is known, and nothing is needed.

    ``failed`` is the step without which the run cannot end well.
    """

    ready: list[str]
    done: bool
    failed: str | None = None


class Outline:
    """What can be said of a graph once, so that nothing is walked through again for each step that ends."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.steps: Mapping[str, Step] = {step.name: step for step in graph.steps}
        #: Those that are no maps.
        self.plain: Sequence[str] = [step.name for step in graph.steps if not step.maps]
        self.order = in_order(graph)
        #: Called for what they do: nobody uses their outputs.
        self.unnamed = unnamed(graph)
        self.parents = {step.name: parents(step) for step in graph.steps}
        self.children: dict[str, list[str]] = {name: [] for name in self.steps}
        for name, above in self.parents.items():
            for parent in above:
                self.children[parent].append(name)
        #: With these the run has ended, where it has no choices.
        self.last = frozenset([*self.unnamed, *named(graph.output, "$out")])
        #: Those whose input may be another one when something has failed.
        self.forked = frozenset(step.name for step in graph.steps if _has(step.input, ["$else"]))
        #: Whether steps may be needed no longer while they run.
        self.picks = any(step.kind == "pick" for step in graph.steps)
        self._choosing = frozenset(step.name for step in graph.steps if any(_has(e, CHOICES) for e in step.expressions))
        #: Whether every step is needed, whatever comes out: then only the children of what ends can start.
        self.straight = not self._choosing and not _has(graph.output, CHOICES)
        #: Maps that begin before the list that they are of is whole.
        self.elementwise = Elementwise(graph, straight=self.straight)
        #: The steps whose outputs are read when a step is given its input: an element is at hand, the list is not read.
        self.read = {step.name: list(dict.fromkeys(named(step.input, "$out"))) for step in graph.steps}

    def waits_for(
        self, name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], dead: Mapping[str, str]
    ) -> list[str]:
        """The steps without which this one cannot start yet; raises ``Dead`` where it never will, or ``NoValue``."""
        if name in self._choosing:
            first: dict[str, None] = {}
            for each in self.steps[name].expressions:
                first |= dict.fromkeys(missing(each, inputs=inputs, outputs=outputs, dead=dead))
            return list(first)
        found = [parent for parent in self.parents[name] if parent not in outputs]
        if dead:
            for parent in found:
                if parent in dead:
                    raise Dead(dead[parent])
        return found

    def wanted(self, ended: Collection[str]) -> set[str]:
        """The steps that may be needed yet, in whatever branch; what is behind one that has ended is not, for it."""
        found: set[str] = set()
        waiting = [*self.unnamed, *named(self.graph.output, "$out")]
        while waiting:
            name = waiting.pop()
            if name not in ended and name not in found:
                found.add(name)
                waiting += self.parents[name]
        return found

    def following(self, ended: Iterable[str]) -> list[str]:
        """The steps that may begin now that these have ended, in the order of the graph; of a straight graph."""
        after = {child for name in ended for child in self.children[name]}
        if self.elementwise.source:
            after.update(self.elementwise.behind(after))
        return [name for name in self.order if name in after] if len(after) > 1 else list(after)


def frontier(
    graph: Graph | Outline, *, inputs: Mapping[str, Any], outputs: Mapping[str, Any], failed: Collection[str] = ()
) -> Frontier:
    """What can start, given what has ended: steps that are needed, all of whose own needs are met.

    The output needs steps, and one that nobody names is needed for what it does. A step that only a branch needs is
    not needed before its branch is chosen, nor what stands in for another one before that has ``failed``. Raises
    ``NoValue`` where an expression that decides it has none.
    """
    of = graph if isinstance(graph, Outline) else Outline(graph)
    dead = _dead(of, inputs, outputs, failed) if failed else {}
    try:
        needed = dict.fromkeys(missing(of.graph.output, inputs=inputs, outputs=outputs, dead=dead))
    except Dead as end:
        return Frontier([], done=False, failed=end.step)
    for name in of.unnamed:
        if name in dead:
            return Frontier([], done=False, failed=dead[name])
        if name not in outputs:
            needed[name] = None
    if not needed:
        return Frontier([], done=True)
    ready: set[str] = set()
    waiting, seen = list(needed), set(needed)
    while waiting:
        name = waiting.pop()
        first = of.waits_for(name, inputs, outputs, dead)
        if not first:
            ready.add(name)
        for each in first:
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    return Frontier([name for name in of.steps if name in ready], done=False)


def _dead(
    of: Outline, inputs: Mapping[str, Any], outputs: Mapping[str, Any], failed: Collection[str]
) -> dict[str, str]:
    """The steps that will never have an output, each with the one that has failed."""
    dead: dict[str, str] = {}
    for name in of.order:
        if name in failed:
            dead[name] = name
        elif name not in outputs:
            try:
                of.waits_for(name, inputs, outputs, dead)
            except Dead as end:
                dead[name] = end.step
            except NoValue:  # whoever needs it meets that; perhaps nobody does
                pass
    return dead


def _has(expression: Expression, words: Sequence[str]) -> bool:
    return any(True for word in words for _ in named(expression, word))
