"""What a run can do next: a pure question about its graph and what has ended so far."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.errors import NoValue
from penstock.pipelines.effort import NAMES, Effort
from penstock.pipelines.elementwise import Elementwise
from penstock.pipelines.expression import Dead, Reading, check, flat_parts
from penstock.pipelines.graph import Graph, Step, ordered


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
        inside = {step.name: [check(each) for each in step.expressions] for step in graph.steps}
        output = check(graph.output)
        self.parents: Mapping[str, Sequence[str]] = {
            name: list(dict.fromkeys(parent for found in each for parent in found.given("$out")))
            for name, each in inside.items()
        }
        self.order = ordered(self.parents)
        self.children: dict[str, list[str]] = {name: [] for name in self.steps}
        for name, above in self.parents.items():
            for parent in above:
                self.children[parent].append(name)
        self.named: Sequence[str] = list(dict.fromkeys(output.given("$out")))
        #: Called for what they do: nobody uses their outputs.
        used = set(self.named)
        self.unnamed = [name for name in self.steps if not self.children[name] and name not in used]
        #: Those that can start at once, whatever comes out, if they are needed.
        self.first: Sequence[Step] = [step for step in graph.steps if not self.parents[step.name]]
        #: With these the run has ended, where it has no choices.
        self.last = frozenset([*self.unnamed, *self.named])
        #: Those whose input may be another one when something has failed.
        self.forked = frozenset(step.name for step in graph.steps if inside[step.name][-1].given("$else"))
        #: Whether a map of it has a bound.
        self.bounded = any(step.max_parallel is not None for step in graph.steps)
        #: Whether steps may be needed no longer while they run.
        self.picks = any(step.kind == "pick" for step in graph.steps)
        #: Those of which only values and failures tell what they wait for.
        self.choosing = frozenset(name for name, each in inside.items() if any(found.chooses for found in each))
        #: Whether every step is needed, whatever comes out: then only the children of what ends can start.
        self.straight = not self.choosing and not output.chooses
        #: Maps that begin before the list that they are of is whole.
        self.elementwise = Elementwise(graph, straight=self.straight, order=self.order)
        #: The steps whose outputs are read when a step is given its input: an element is at hand, the list is not read.
        self.read = {name: list(dict.fromkeys(each[-1].given("$out"))) for name, each in inside.items()}
        #: Of the parts without choices of all expressions that have some: the steps that they name.
        self.flat = flat_parts(graph.output)
        for name in self.choosing:
            for each in self.steps[name].expressions:
                self.flat |= flat_parts(each)

    def wanted(self, ended: Collection[str]) -> set[str]:
        """The steps that may be needed yet, in whatever branch; what is behind one that has ended is not, for it."""
        found: set[str] = set()
        waiting = [*self.unnamed, *self.named]
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


class Asked:
    """Steps, and what has come out of them when they are asked about. ``effort`` is what is spent on that; ``waits``
    what they waited for when fewer had ended, and is kept up.
    """

    def __init__(
        self,
        of: Outline,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        effort: Effort | None = None,
        waits: dict[str, list[str]] | None = None,
    ) -> None:
        self.of, self.outputs = of, outputs
        self._waits = {} if waits is None else waits
        self.effort = Effort() if effort is None else effort
        self._reading = Reading(inputs=inputs, outputs=outputs, items=(), effort=self.effort, flat=of.flat)
        # What a map is called with names items, which there are none of yet.
        self._of_maps = Reading(inputs=inputs, outputs=outputs, items=None, effort=self.effort, flat=of.flat)

    def output(self, dead: Mapping[str, str]) -> list[str]:
        """The steps without which the graph's output is not known yet; raises ``Dead``, or as ``frontier``."""
        return self._reading.missing(self.of.graph.output, dead)

    def step(self, name: str, dead: Mapping[str, str]) -> list[str]:
        """The steps without which this one cannot start yet; as ``output``."""
        before = self._waits.get(name)
        if before and self.outputs.keys().isdisjoint(before):
            self.effort.spend(1)
            return before
        found = self._waits[name] = self._ask(name, dead)
        return found

    def _ask(self, name: str, dead: Mapping[str, str]) -> list[str]:
        parents = self.of.parents[name]
        self.effort.spend(1 + len(parents) // NAMES)
        if name in self.of.choosing:
            step, first = self.of.steps[name], dict[str, None]()
            for each in step.expressions:
                reading = self._of_maps if step.maps and each is step.input else self._reading
                first |= dict.fromkeys(reading.missing(each, dead))
            return list(first)
        found = [parent for parent in parents if parent not in self.outputs]
        if dead:
            for parent in found:
                if parent in dead:
                    raise Dead(dead[parent])
        return found


def frontier(
    graph: Graph | Outline,
    *,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    failed: Collection[str] = (),
    effort: Effort | None = None,
    waits: dict[str, list[str]] | None = None,
) -> Frontier:
    """What can start, given what has ended: steps that are needed, all of whose own needs are met.

    The output needs steps, and one that nobody names is needed for what it does. A step that only a branch needs is
    not needed before its branch is chosen, nor what stands in for another one before that has ``failed``. Raises
    ``NoValue`` where an expression that decides it has none, ``TooMuchWork`` where it takes more than ``effort``.

    ``waits`` is for who asks again when more has ended, and nothing else has failed: begin with an empty one.
    """
    of = graph if isinstance(graph, Outline) else Outline(graph)
    dead = _dead(Asked(of, inputs, outputs, effort), failed) if failed else {}
    asked = Asked(of, inputs, outputs, effort, waits)
    try:
        needed = dict.fromkeys(asked.output(dead))
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
        first = asked.step(name, dead)
        if not first:
            ready.add(name)
        for each in first:
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    return Frontier([name for name in of.steps if name in ready], done=False)


def _dead(asked: Asked, failed: Collection[str]) -> dict[str, str]:
    """The steps that will never have an output, each with the one that has failed."""
    dead: dict[str, str] = {}
    for name in asked.of.order:
        if name in failed:
            dead[name] = name
        elif name not in asked.outputs:
            try:
                asked.step(name, dead)
            except Dead as end:
                dead[name] = end.step
            except NoValue:  # whoever needs it meets that; perhaps nobody does
                pass
    return dead
