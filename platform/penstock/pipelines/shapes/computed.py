"""What is known of an expression's value before there is one. PURE."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.pipelines.expression import OPERATORS, Expression, word_of
from penstock.pipelines.shapes.shape import (
    ANY,
    BOOLEAN,
    INTEGER,
    NUMBER,
    Anything,
    Items,
    Plain,
    Record,
    Row,
    Shape,
    alternatives,
    either,
    of_value,
)
from penstock.pipelines.show.infix import called

#: Values of each kind, whose operators tell what comes out: of a number any, since JSON has ``1.0`` as ``1``, too.
_EXAMPLES: Mapping[str, tuple[Any, ...]] = {
    "string": ("a",),
    "integer": (3, 2),
    "number": (1.5, 3, 2),
    "boolean": (True,),
    "null": (None,),
    "array": ([],),
    "object": ({},),
}


class NeverAValue(Exception):
    """An expression that has no value, whatever comes: the text says why."""


def shape_of(
    expression: Expression, *, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], items: Sequence[Shape] = ()
) -> Shape:
    """The shape of its value; raises ``NeverAValue``."""

    def of(here: Expression) -> Shape:
        word = word_of(here)
        if word is None:
            if isinstance(here, dict):
                return Record({key: of(each) for key, each in here.items()}, frozenset(here), None)
            return Row(tuple(map(of, here))) if isinstance(here, list) else of_value(here)
        given = here[word]
        if word in ("$in", "$out"):
            return (inputs if word == "$in" else outputs).get(given, ANY)
        if word == "$item":
            return items[given] if given < len(items) else ANY
        if word == "$lit":
            return of_value(given)
        if word == "$object":
            return Record({given[0]: of(given[1])}, frozenset([given[0]]), None)
        if word == "$get":
            return element(of(given[0]), given[1])
        if word == "$if":
            return _chosen(*map(of, given))
        if word == "$else":
            return either(map(of, given))
        if word == "$first":
            return Items(either(map(of, given[1])))
        return _operated(given[0], [of(each) for each in given[1:]])

    return of(expression)


def element(shape: Shape, key: Expression) -> Shape:
    """An element of a value by a key that is known, or of some kind; raises ``NeverAValue``."""
    found = [each for one in alternatives(shape) if (each := _element(one, key)) is not None]
    if found:
        return either(found)
    raise NeverAValue(f"{shape} has no {key!r:.80}")


def _element(shape: Shape, key: Expression) -> Shape | None:
    if isinstance(shape, Anything):
        return ANY
    if isinstance(key, dict | list):  # computed itself
        return None if isinstance(shape, Plain) and shape.kind != "string" else ANY
    if isinstance(shape, Record) and isinstance(key, str):
        return shape.fields.get(key, shape.rest)
    if type(key) is not int:
        return None
    if isinstance(shape, Items):
        return shape.of
    if isinstance(shape, Row):
        return shape.items[key] if -len(shape.items) <= key < len(shape.items) else None
    return Plain("string") if isinstance(shape, Plain) and shape.kind == "string" else None


def _chosen(condition: Shape, one: Shape, other: Shape) -> Shape:
    if ANY not in alternatives(condition) and BOOLEAN not in alternatives(condition):
        raise NeverAValue(f"a condition is {condition}, neither true nor false: compare it, as in `score > 0.5`")
    return either([one, other])


def _operated(name: str, operands: Sequence[Shape]) -> Shape:
    kinds = [frozenset(map(_kind, alternatives(operand))) for operand in operands]
    found = [_result(name, each) for each in itertools.product(*kinds)]
    good = [each for each in found if each is not None]
    if not good:
        raise NeverAValue(f"{called(name, list(map(str, operands)))} has no value")
    return either(good)


def _kind(shape: Shape) -> str:
    if isinstance(shape, Plain):
        return shape.kind
    return "array" if isinstance(shape, Items | Row) else "object" if isinstance(shape, Record) else ""


@functools.cache
def _result(name: str, kinds: tuple[str, ...]) -> Shape | None:
    """What an operator makes of values of these kinds, as examples tell; ``None``: nothing."""
    if name in ("eq", "ne"):
        return BOOLEAN
    if "" in kinds:
        return BOOLEAN if name in ("lt", "le", "gt", "ge") else ANY
    found = []
    for values in itertools.product(*(_EXAMPLES[kind] for kind in kinds)):
        try:
            found.append(_made(name, OPERATORS[name][1](*values)))
        except (TypeError, ValueError):
            continue
    return either(found) if found else None


def _made(name: str, value: Any) -> Shape:
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):  # to the power of a negative one, or divided, it is none
        return NUMBER if name == "pow" else INTEGER
    if isinstance(value, float):
        return NUMBER
    return Plain("string") if isinstance(value, str) else ANY
