"""Whether the steps of a graph can ever be given what they are given: types along its edges. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from penstock.pipelines.expression import Expression, named, word_of
from penstock.pipelines.graph import Graph, Step, in_order
from penstock.pipelines.shapes.computed import NeverAValue, shape_of
from penstock.pipelines.shapes.fits import Clash, clash
from penstock.pipelines.shapes.shape import (
    ANY,
    NULL,
    Anything,
    Items,
    Record,
    Row,
    Shape,
    alternatives,
    bounded,
    either,
)


class Called(NamedTuple):
    """What a model takes, one item, and what it gives for it."""

    takes: Shape = ANY
    gives: Shape = ANY


UNKNOWN = Called()


def fault(graph: Graph, models: Mapping[str, Called], inputs: Mapping[str, Shape]) -> str | None:
    """What can never work, by step; ``None`` where nothing is known to be wrong.

    ``models`` are those that are known, by the names that steps call (``embed``, ``embed@2``); ``inputs`` the shapes of
    the run's inputs, as far as they are known.
    """
    try:
        _output(graph, models, inputs)
    except NeverAValue as error:
        return str(error)
    return None


def _output(graph: Graph, models: Mapping[str, Called], inputs: Mapping[str, Shape]) -> Shape:
    """What comes out; raises ``NeverAValue`` that names the step."""
    outputs: dict[str, Shape] = {}
    steps = {step.name: step for step in graph.steps}
    for name in in_order(graph):
        try:
            given, found = _around(steps[name], models, inputs, outputs)
            outputs[name] = bounded(found)
        except NeverAValue as error:
            raise NeverAValue(f"step {name!r}: {error}") from None
        if (misfit := clash(given, models.get(steps[name].model, UNKNOWN).takes)) is not None:
            raise NeverAValue(_told(steps[name], misfit))
    try:
        return shape_of(graph.output, inputs=inputs, outputs=outputs)
    except NeverAValue as error:
        raise NeverAValue(f"the output: {error}") from None


def _around(
    step: Step, models: Mapping[str, Called], inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]
) -> tuple[Shape, Shape]:
    """What a step is given, and what comes of it."""
    items: tuple[Shape, ...] = ()
    if step.maps:
        items = (_mapped(shape_of(step.over, inputs=inputs, outputs=outputs), step.over),)
    given = shape_of(step.input, inputs=inputs, outputs=outputs, items=items)
    if step.kind not in ("call", "run"):
        return given, {"pick": given, "sleep": NULL}.get(step.kind, ANY)
    if step.graph is None:
        gives = models.get(step.model, UNKNOWN).gives
    else:
        gives = _output(step.graph, models, given.fields if isinstance(given, Record) else {})
    return given, Items(gives) if step.maps else gives


def _mapped(over: Shape, expression: Expression) -> Shape:
    """The shape of a map's items."""
    found = []
    for one in alternatives(over):
        if isinstance(one, Anything | Items):
            found.append(ANY if isinstance(one, Anything) else one.of)
        elif isinstance(one, Row):
            found.append(either(one.items))
    if not found:
        raise NeverAValue(f"it maps {over}{_by(expression)}, which is no list")
    return either(found)


def _told(step: Step, found: Clash) -> str:
    where = f"step {step.name!r}"
    place = ".".join(found.path)
    if found.given is None:
        return f"{where} is given no {found.path[-1]!r}, which {step.model!r} needs"
    if found.taken is None:
        return f"{where} is given {found.path[-1]!r}, which {step.model!r} does not take"
    by = _by(_part(step.input, found.path)) or (_by(step.over) if step.maps else "")
    what = f"{place!r} as {found.taken}" if place else str(found.taken)
    return f"{where}: {step.model!r} takes {what}, and is given {found.given}{by}"


def _part(expression: Expression, path: tuple[str, ...]) -> Expression:
    """What stands for this part of a value, as far as that is written out."""
    for key in path:
        if word_of(expression) is not None or not isinstance(expression, dict) or key not in expression:
            break
        expression = expression[key]
    return expression


def _by(expression: Expression) -> str:
    """Whose output a value is."""
    names = [repr(name) for name in dict.fromkeys(named(expression, "$out"))]
    names += [f"input {name!r}" for name in dict.fromkeys(named(expression, "$in"))]
    return f" by {', '.join(names[:4])}" if names else ""
