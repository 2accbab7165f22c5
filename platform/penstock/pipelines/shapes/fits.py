"""Whether a value of one shape can ever be taken where another one is wanted. PURE.

Only what is certain is said: pydantic reads ``"5"`` as a number, ``1`` as true, and passes over fields that it does not
know. A list is taken to have an element, and an object that has any keys to have one.
"""

from __future__ import annotations

from typing import NamedTuple

from penstock.itemschema import is_number
from penstock.pipelines.shapes.shape import ANY, Anything, Either, Items, Plain, Record, Row, Shape, alternatives

#: What a plain value may be read as, by JSON schema's names.
_READ_AS = {
    "string": frozenset(("string", "integer", "number", "boolean")),
    "integer": frozenset(("integer", "number", "boolean")),
    "number": frozenset(("integer", "number", "boolean")),
    "boolean": frozenset(("integer", "number", "boolean")),
    "null": frozenset(("null",)),
}


class Clash(NamedTuple):
    """Where a value never fits, by the keys that lead there; ``given`` is ``None`` for what is missing, ``taken`` for
    what is too much."""

    path: tuple[str, ...]
    given: Shape | None
    taken: Shape | None


def clash(given: Shape, taken: Shape) -> Clash | None:
    """Why no value of the shape ``given`` is taken; ``None`` where one may be."""
    if isinstance(given, Anything) or isinstance(taken, Anything):
        return None
    if isinstance(given, Either) or isinstance(taken, Either):
        all_clash = all(clash(one, other) for one in alternatives(given) for other in alternatives(taken))
        return Clash((), given, taken) if all_clash else None
    if isinstance(given, Record) and isinstance(taken, Record):
        return _records(given, taken)
    return None if _fits(given, taken) else Clash((), given, taken)


def _fits(given: Shape, taken: Shape) -> bool:
    if isinstance(given, Plain) and isinstance(taken, Plain):
        return _plain(given, taken)
    if isinstance(given, Items | Row) and isinstance(taken, Items | Row):
        return _lists(given, taken)
    return False


def _plain(given: Plain, taken: Plain) -> bool:
    if taken.kind not in _READ_AS[given.kind]:
        return False
    if given.texts is None or taken.kind == "boolean":
        return True
    if taken.kind == "string":
        return taken.texts is None or not given.texts.isdisjoint(taken.texts)
    return any(map(is_number, given.texts))


def _lists(given: Items | Row, taken: Items | Row) -> bool:
    if isinstance(given, Row) and isinstance(taken, Row) and len(given.items) != len(taken.items):
        return False
    length = len(given.items) if isinstance(given, Row) else len(taken.items) if isinstance(taken, Row) else 1
    pairs = zip(_elements(given, length), _elements(taken, length), strict=True)
    return not any(clash(one, other) for one, other in pairs)


def _elements(shape: Items | Row, length: int) -> tuple[Shape, ...]:
    return shape.items if isinstance(shape, Row) else (shape.of,) * length


def _records(given: Record, taken: Record) -> Clash | None:
    for name in sorted(taken.required):
        if name not in given.fields and given.rest is None:
            return Clash((name,), None, taken.fields.get(name, ANY))
    for name, wanted in taken.fields.items():
        own = given.fields.get(name, given.rest)
        there = name in given.required or name in taken.required
        if own is not None and there and (found := clash(own, wanted)):
            return found._replace(path=(name, *found.path))
    for name in sorted(given.required - taken.fields.keys()):
        if taken.rest is None:
            return Clash((name,), given.fields[name], None)
        if found := clash(given.fields[name], taken.rest):
            return found._replace(path=(name, *found.path))
    return _rests(given, taken)


def _rests(given: Record, taken: Record) -> Clash | None:
    """What objects have besides the fields that are known: of ``dict[str, float]``, all."""
    if given.fields or taken.fields or given.rest is None or taken.rest is None:
        return None
    return Clash((), given, taken) if clash(given.rest, taken.rest) else None
