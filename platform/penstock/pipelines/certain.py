"""The steps that a run will need whatever comes out: those that it is admitted by. PURE."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.pipelines.expression import Expression, parts_of, word_of
from penstock.pipelines.frontier import Outline


def certain(plan: Outline) -> list[str]:
    """Their names, in the order of the graph: not what only a branch, a substitute or one of several needs."""
    found: set[str] = set()
    waiting = [*plan.unnamed, *_names(plan.graph.output)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [each for expression in plan.steps[name].expressions for each in _names(expression)]
    return [name for name in plan.steps if name in found]


def _names(expression: Expression) -> Iterator[str]:
    waiting = [expression]
    while waiting:
        here = waiting.pop()
        word = word_of(here)
        if word == "$out":
            yield here[word]
        elif word in ("$if", "$else"):  # the condition, and what something stands in for
            waiting.append(here[word][0])
        elif word == "$first":
            count, values = here[word]
            if count == len(values):
                waiting += values
        else:
            waiting += parts_of(here)
