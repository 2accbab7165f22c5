"""How much of a run's time each step and all behind it need: the longest path that remains, by learned times. PURE.

What a run has left beyond it is its slack, and each step may use all of it ("effective deadline" in Kao and
Garcia-Molina, *Deadline Assignment in a Distributed Soft Real-Time System*, 1993): were it shared out, steps would be
late whose run is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from penstock.pipelines.certain import certain
from penstock.pipelines.expression import Expression, parts_of, word_of
from penstock.pipelines.frontier import Outline
from penstock.pipelines.graph import MAX_TIMEOUT_S, Graph, Step

#: What is looked at of choices, and of the steps that they choose and ask for: parts, parents and pairs; and of graphs
#: within the graph, steps and parts.
MOST_ARCS = 100_000


class Way(NamedTuple):
    """A step, and those that begin behind it. Of one that is a run, the same ``within`` it."""

    step: Step
    after: Iterable[str]
    within: Sequence[Way] = ()


#: In an order in which those that begin behind a step come later.
Paths = Sequence[Way]


class Needed(NamedTuple):
    """Seconds of the longest path: the one that begins with a step, and the one behind it."""

    all_s: float
    behind_s: float


def paths(plan: Outline) -> Paths:
    """What waits for each step: what is given its output, and what is needed only once a condition has chosen by it.

    The latter as far as one order has both: what one condition chooses may be needed by another one before that; and
    no further than to ``MOST_ARCS``, runs within the run included: it is asked while nobody else can write.
    """
    return _paths(plan, _Room(MOST_ARCS))


class _Room:
    """How much more is looked at."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, count: int) -> bool:
        """Whether there was room for so many; from where there was not, there is none."""
        self._left -= count
        return self._left >= 0


def _paths(plan: Outline, room: _Room) -> Paths:
    return [Way(plan.steps[name], after, _within(plan.steps[name].graph, room)) for name, after in _after(plan, room)]


def _within(graph: Graph | None, room: _Room) -> Paths:
    if graph is None or not room.take(_size(graph)):
        return ()
    return _paths(Outline(graph), room)


def _size(graph: Graph) -> int:
    """Steps of a graph, and parts of their expressions; without the graphs in it."""
    whole = [graph.output, *(each for step in graph.steps for each in step.expressions)]
    return len(graph.steps) + sum(_names(each)[1] for each in whole)


def _after(plan: Outline, room: _Room) -> Iterable[tuple[str, Iterable[str]]]:
    if plan.straight:
        return [(name, plan.children[name]) for name in plan.order]
    always = set(certain(plan))
    place = {name: number for number, name in enumerate(_in_order(plan, always))}
    after = {name: dict.fromkeys(plan.children[name]) for name in place}
    for condition, branches in _conditions(plan):
        asks, asked_parts = _names(condition)
        chosen, chosen_parts = _names(branches)
        lazy = _closure(plan, chosen, without=always)
        arcs = sum(len(plan.parents[name]) for name in lazy) + len(lazy) * len(asks)
        if not room.take(asked_parts + chosen_parts + arcs):
            break
        for asked in asks:
            after[asked] |= dict.fromkeys(name for name in lazy if place[name] > place[asked])
    return after.items()


def remaining(of: Paths, seconds: Callable[[str], float]) -> dict[str, Needed]:
    """What the longest path takes that begins with each step.

    ``seconds`` of a model (``embed``, ``embed@2``) is what one call takes; 0 where nobody knows. A map is as one call,
    since its elements run side by side, and a run as its own longest path; of a condition, both branches count, and of
    what has failed, nothing.
    """
    found: dict[str, Needed] = {}
    for step, after, within in reversed(of):
        behind = max((found[each].all_s for each in after), default=0.0)
        own = longest(within, seconds) if within else _seconds(step, seconds)
        found[step.name] = Needed(own + behind, behind)
    return found


def longest(of: Paths, seconds: Callable[[str], float]) -> float:
    """What a run of these takes, where there are workers for all."""
    return max((needed.all_s for needed in remaining(of, seconds).values()), default=0.0)


def _in_order(plan: Outline, always: set[str]) -> Iterator[str]:
    """Each step behind those that it is given; what may not be needed as late as that allows."""
    number = {name: at for at, name in enumerate(plan.order)}
    missing = {name: len(plan.parents[name]) for name in plan.order}
    ready = [(name not in always, at, name) for name, at in number.items() if not missing[name]]
    heapify(ready)
    while ready:
        _, _, name = heappop(ready)
        yield name
        for child in plan.children[name]:
            missing[child] -= 1
            if not missing[child]:
                heappush(ready, (child not in always, number[child], child))


def _seconds(step: Step, seconds: Callable[[str], float]) -> float:
    found = 0.0
    if step.kind == "call":
        found = seconds(step.model)
    elif step.kind == "sleep" and type(step.input[0]) in (int, float):
        found = step.input[0]
    return min(max(0.0, found), MAX_TIMEOUT_S)


def _closure(plan: Outline, names: Iterable[str], *, without: set[str]) -> set[str]:
    """These steps and all that they wait for, but for those ``without`` and what they alone wait for."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found and name not in without:
            found.add(name)
            waiting += plan.parents[name]
    return found


def _names(expression: Expression) -> tuple[set[str], int]:
    """The steps that it names, and how many parts it has."""
    names, parts, waiting = set[str](), 0, [expression]
    while waiting:
        here = waiting.pop()
        parts += 1
        if word_of(here) == "$out":
            names.add(here["$out"])
        waiting += parts_of(here)
    return names, parts


def _conditions(plan: Outline) -> Iterator[tuple[Expression, list[Expression]]]:
    waiting = [plan.graph.output, *(each for step in plan.graph.steps for each in step.expressions)]
    while waiting:
        here = waiting.pop()
        if word_of(here) == "$if":
            condition, *branches = here["$if"]
            yield condition, branches
        waiting += parts_of(here)
