"""A graph in the language of Mermaid, which code hosts and notebooks draw. PURE.

A dotted arrow is needed only if a choice falls that way, or if what it stands in for fails; a thick one decides a
choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from penstock.pipelines.expression import Expression, parts_of, word_of
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.show.draw import called
from penstock.pipelines.show.infix import cut
from penstock.pipelines.show.limits import limits, of_graph, words

#: Longest label, characters.
MAX_LABEL = 120


class Use(IntEnum):
    """How a value is needed: in a branch alone, in any case, to choose a branch."""

    MAYBE = 0
    ALWAYS = 1
    CHOOSES = 2


_ARROWS = {Use.MAYBE: "-.->", Use.ALWAYS: "-->", Use.CHOOSES: "==>"}


def mermaid(graph: Graph) -> str:
    """The drawing, top down: inputs, steps (with two bars at each side where one is a map), the output, and a flag with
    the bounds of its runs, if there are any."""
    ids = {("$in", name): f"in{number}" for number, name in enumerate(graph.inputs)}
    ids |= {("$out", step.name): f"step{number}" for number, step in enumerate(graph.steps)}
    lines = ["flowchart TD"]
    lines += [f"    {ids['$in', name]}([{_quoted(name)}])" for name in graph.inputs]
    lines += [f"    {ids['$out', step.name]}{_box(step)}" for step in graph.steps]
    lines.append("    output([output])")
    if held := of_graph(graph):
        lines.append(f"    bounds>{_quoted(held)}]")
    for step in graph.steps:
        lines += _arrows(ids, ids["$out", step.name], *step.expressions)
    return "\n".join([*lines, *_arrows(ids, "output", graph.output)]) + "\n"


def uses(expression: Expression) -> dict[tuple[str, str], Use]:
    """The inputs (``"$in"``) and outputs (``"$out"``) that an expression names, in the order of the text."""
    found: dict[tuple[str, str], Use] = {}
    waiting = [(expression, Use.ALWAYS)]
    while waiting:
        here, use = waiting.pop()
        word = word_of(here)
        if word in ("$in", "$out"):
            found[word, here[word]] = max(use, found.get((word, here[word]), use))
        elif word == "$if":
            condition, one, other = here[word]
            branch = Use.MAYBE if use is Use.ALWAYS else use
            waiting += [(other, branch), (one, branch), (condition, Use.MAYBE if use is Use.MAYBE else Use.CHOOSES)]
        elif word == "$else":
            one, other = here[word]
            waiting += [(other, Use.MAYBE if use is Use.ALWAYS else use), (one, use)]
        else:
            waiting += [(each, use) for each in reversed(parts_of(here))]
    return found


def _arrows(ids: dict[tuple[str, str], str], to: str, *expressions: Expression) -> Iterator[str]:
    found: dict[tuple[str, str], Use] = {}
    for expression in expressions:
        for name, use in uses(expression).items():
            found[name] = max(use, found.get(name, use))
    for name, use in found.items():
        yield f"    {ids[name]} {_ARROWS[use]} {to}"


def _box(step: Step) -> str:
    calls = called(step)
    label = _quoted(step.name if calls == step.name else f"{step.name}\n{calls}", words(limits(step)))
    return f"[[{label}]]" if step.maps else f"[{label}]"


def _quoted(text: str, below: str = "") -> str:
    """A label, and what stands ``below``, which is never cut: what Mermaid or HTML would read as a sign of theirs is
    written by its number."""
    whole = cut(text, MAX_LABEL) + (f"\n{below}" if below else "")
    safe = "".join(letter if letter.isalnum() or letter in " _-.@\n" else f"#{ord(letter)};" for letter in whole)
    return '"' + safe.replace("\n", "<br>") + '"'
