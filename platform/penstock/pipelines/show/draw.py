"""A graph as text: its steps by levels, each with what it calls and what it is given. PURE."""

from __future__ import annotations

import textwrap

from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.show.infix import cut, infix
from penstock.pipelines.show.levels import levels
from penstock.pipelines.show.limits import limits, words

#: Names are aligned up to this length; lines are broken no narrower than this, characters.
ALIGNED, NARROWEST = 20, 24
#: Longest name of a model that is shown whole.
MAX_CALLED = 80


def draw(graph: Graph, *, width: int | None = None) -> list[str]:
    """Lines of at most ``width`` characters; whole ones without it."""
    names = min(max((len(step.name) for step in graph.steps), default=0), ALIGNED)
    found = levels(graph)
    margin = len(str(len(found))) + 2
    lines = []
    for number, steps in enumerate(found, 1):
        for place, step in enumerate(steps):
            head = f"{'' if place else number:<{margin}}{step.name:<{names}} = "
            lines += _wrapped(head, _held(call(step), step), width, margin)
    return [*lines, *_wrapped("-> ".ljust(margin), infix(graph.output), width, margin)]


def call(step: Step) -> str:
    """What a step calls, and with what: ``embed(item) for item in $texts``."""
    if step.kind in ("wait", "sleep", "pick"):
        after = step.input if step.kind == "wait" else (step.input[1:] or [None])[0]
        what = step.signal if step.kind == "wait" else infix(step.input[0])
        text = f"{'wait_for' if step.kind == 'wait' else 'sleep'}({what})"
        return text if after is None else f"{text} after {infix(after)}"
    text = f"{called(step)}({infix(step.input)})"
    return f"{text} for item in {infix(step.over)}" if step.maps else text


def called(step: Step) -> str:
    """The model, and the version that is asked for; of one that calls none, what it does."""
    if step.graph is not None:
        return f"run of {step.graph.name}"
    if step.kind == "call":
        return cut(step.model, MAX_CALLED)
    if step.task is not None:
        return cut(step.task.name, MAX_CALLED)
    return f"wait for {step.signal}" if step.kind == "wait" else step.kind


def _held(text: str, step: Step) -> str:
    """What it calls, and what holds it back: ``embed(item) for item in $texts using max_parallel=2``."""
    found = words(limits(step))
    return f"{text} using {found}" if found else text


def _wrapped(head: str, text: str, width: int | None, margin: int) -> list[str]:
    if width is None:
        return [head + text]
    return textwrap.wrap(
        head + text,
        max(width, NARROWEST),
        subsequent_indent=" " * (margin + 2),
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
