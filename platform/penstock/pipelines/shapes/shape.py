"""What is known of a value before there is one: its shape. PURE.

A shape is made of a JSON schema as ``penstock.valuetypes`` writes it, or of what an expression does with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: How far it is looked into a type: those that hold themselves have no end.
DEEPEST = 6
#: Most alternatives of a shape; what has more is anything.
MOST = 16
#: Most parts of the shape of a step's output, and levels of them: what is in others, which are in others, would have a
#: size that doubles with each step.
MOST_PARTS, MOST_LEVELS = 200, 8
#: What a type is called, by JSON's own name of it.
_WORDS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


@dataclass(frozen=True, slots=True)
class Anything:
    """Nothing is known."""

    def __str__(self) -> str:
        return "Any"


@dataclass(frozen=True, slots=True)
class Plain:
    """A value without parts: ``kind`` is JSON schema's name of its type. ``texts`` are the only ones it can be."""

    kind: str
    texts: frozenset[str] | None = None

    def __str__(self) -> str:
        if self.texts is None:
            return _WORDS[self.kind]
        return f"Literal[{', '.join(sorted(repr(text)[:40] for text in self.texts)[:8])}]"


@dataclass(frozen=True, slots=True)
class Items:
    """A list of whatever length."""

    of: Shape

    def __str__(self) -> str:
        return f"list[{self.of}]"


@dataclass(frozen=True, slots=True)
class Row:
    """A list whose elements are known one by one."""

    items: tuple[Shape, ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items[:8]))}{', …' if len(self.items) > 8 else ''}]"


@dataclass(frozen=True, slots=True)
class Record:
    """An object. What it has besides ``fields`` is a ``rest``; ``None``: nothing."""

    fields: Mapping[str, Shape]
    required: frozenset[str]
    rest: Shape | None

    def __str__(self) -> str:
        if not self.fields:
            return "{}" if self.rest is None else f"dict[str, {self.rest}]"
        told = [f"{name}: {shape}" for name, shape in list(self.fields.items())[:8]]
        return f"{{{', '.join(told)}{', …' if len(self.fields) > 8 else ''}}}"


@dataclass(frozen=True, slots=True)
class Either:
    """One of several."""

    of: tuple[Shape, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.of))


Shape = Anything | Plain | Items | Row | Record | Either
ANY = Anything()
BOOLEAN, INTEGER, NUMBER, TEXT, NULL = (Plain(kind) for kind in ("boolean", "integer", "number", "string", "null"))


def either(shapes: Iterable[Shape]) -> Shape:
    """One of these; ``ANY`` where one of them is."""
    found: list[Shape] = []
    for shape in shapes:
        for each in shape.of if isinstance(shape, Either) else (shape,):
            if each not in found:
                found.append(each)
    if not found or ANY in found or len(found) > MOST:
        return ANY
    return found[0] if len(found) == 1 else Either(tuple(found))


def alternatives(shape: Shape) -> tuple[Shape, ...]:
    """Those of a choice, else itself."""
    return shape.of if isinstance(shape, Either) else (shape,)


def bounded(shape: Shape) -> Shape:
    """The same, of which so much is known as can be looked at whatever it is made of."""
    left = MOST_PARTS

    def walk(here: Shape, levels: int) -> Shape:
        nonlocal left
        left -= 1
        if left < 0 or not levels:
            return ANY
        if isinstance(here, Either):
            return either([walk(each, levels) for each in here.of])
        if isinstance(here, Items):
            return Items(walk(here.of, levels - 1))
        if isinstance(here, Row):
            return Row(tuple(walk(each, levels - 1) for each in here.items))
        if isinstance(here, Record):
            fields = {name: walk(each, levels - 1) for name, each in here.fields.items()}
            return Record(fields, here.required, here.rest and walk(here.rest, levels - 1))
        return here

    return walk(shape, MOST_LEVELS)


def of_value(value: Any) -> Shape:
    """The shape of a constant."""
    if value is None:
        return NULL
    if isinstance(value, str):
        return Plain("string", frozenset([value]))
    if isinstance(value, list):
        return Row(tuple(map(of_value, value))) if len(value) <= MOST else Items(ANY)
    if isinstance(value, dict):
        return Record({key: of_value(each) for key, each in value.items()}, frozenset(value), None)
    if isinstance(value, float):
        return INTEGER if value.is_integer() else NUMBER
    return BOOLEAN if isinstance(value, bool) else INTEGER


def read(schema: Mapping[str, Any] | None) -> Shape:
    """The shape of a schema; ``ANY`` for what is not understood."""
    return _read(schema, (schema or {}).get("$defs", {}), DEEPEST)


def _read(schema: Any, defs: Mapping[str, Any], left: int) -> Shape:
    if isinstance(schema, Mapping) and isinstance(name := schema.get("$ref"), str):
        schema, left = defs.get(name.removeprefix("#/$defs/")), left - 2
    if not isinstance(schema, Mapping) or left <= 0:
        return ANY
    if isinstance(choices := schema.get("anyOf"), list):
        return either([_read(each, defs, left) for each in choices])
    kind = schema.get("type")
    if kind == "array":
        if isinstance(items := schema.get("prefixItems"), list):
            return Row(tuple(_read(each, defs, left - 1) for each in items))
        return Items(_read(schema.get("items"), defs, left - 1))
    if kind == "object":
        fields = schema.get("properties") or {}
        rest = schema.get("additionalProperties", True)
        return Record(
            {name: _read(each, defs, left - 1) for name, each in fields.items()},
            frozenset(schema.get("required") or ()),
            None if rest is False else _read(rest, defs, left - 1),
        )
    if not isinstance(kind, str) or kind not in _WORDS:
        return ANY
    texts = schema.get("enum") if kind == "string" else None
    return Plain(kind, None if texts is None else frozenset(texts))
