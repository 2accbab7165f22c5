"""What a producer can say of an input by the JSON schema that a model's workers announced. PURE.

It refuses only what the item type refuses for certain: the worker, which has the type itself, validates in any case. So
it looks at the values that JSON has and lets everything else pass, and at the first items of long lists only, and not
far into what is nested deeply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

#: Items of a list, or entries of an object, that are looked at: bounds what a submission costs.
MOST = 50
#: How far it is looked into a value: types that hold themselves have no end, and a choice of types doubles each step.
DEEPEST = 8

#: Core schemas whose JSON schema says all: no validator of the user's own, which may accept anything.
_PLAIN = frozenset(
    {
        *("any", "none", "bool", "int", "float", "str", "literal", "list", "tuple", "dict", "nullable", "union"),
        *("model", "model-fields", "model-field", "dataclass", "dataclass-args", "dataclass-field", "typed-dict"),
        *("typed-dict-field", "default", "definitions", "definition-ref"),
    }
)
#: What makes a type accept more than its schema tells, by key of a core schema.
_OPENINGS = ("validation_alias", "coerce_numbers_to_str", "from_attributes", "custom_init", "validate_by_name")


def tells_all(core: Any) -> bool:
    """Whether the JSON schema of a type with this core schema (of pydantic) may be used to refuse inputs."""
    if isinstance(core, Mapping):
        if isinstance(core.get("type"), str) and core["type"] not in _PLAIN:
            return False
        if any(core.get(key) for key in _OPENINGS):
            return False
        rest = (value for key, value in core.items() if key not in ("serialization", "metadata", "default", "expected"))
        return all(map(tells_all, rest))
    return all(map(tells_all, core)) if isinstance(core, (list, tuple)) else True


_TYPES: dict[str, frozenset[type]] = {
    "string": frozenset({str}),
    "integer": frozenset({int}),
    "number": frozenset({int, float}),
    "boolean": frozenset({bool}),
}
_NONE: frozenset[type] = frozenset()


def at_once(schema: Any) -> frozenset[type]:
    """Types of which every value fits, as far as ``misfit`` looks: what most inputs are, told without a look."""
    if not isinstance(schema, Mapping) or schema.keys() & {"enum", "const", "anyOf", "oneOf", "$ref"}:
        return _NONE
    kind = schema.get("type")
    return _TYPES.get(kind, _NONE) if isinstance(kind, str) else _NONE


def misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """Why ``value`` does not fit; ``None`` when it may."""
    return next(_faults(schema, value, schema.get("$defs", {}), "", DEEPEST), None)


def _faults(schema: Any, value: Any, defs: Mapping[str, Any], path: str, left: int) -> Iterator[str]:
    if isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str):
        schema = defs.get(reference.removeprefix("#/$defs/"))  # that is never another reference
    if not isinstance(schema, Mapping) or left < 0:
        return
    for branches in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(branches, list) and branches:
            first = [next(_faults(branch, value, defs, path, left), None) for branch in branches]
            if None not in first:
                yield str(first[0])
    kind = schema.get("type")
    choices = _choices(schema)
    if isinstance(kind, str) and "format" not in schema and (words := _wrong_kind(kind, value)):
        yield f"{path}{words}"
    elif isinstance(value, str) and choices and value not in choices:
        yield f"{path}Input should be {' or '.join(map(repr, choices))}"
    elif kind == "object" and isinstance(value, dict):
        yield from _object(schema, value, defs, path, left - 1)
    elif kind == "array" and isinstance(value, (list, tuple)):
        of = schema.get("items")
        fine = at_once(of)
        for place, item in enumerate(islice(value, MOST)):
            if type(item) not in fine:
                yield from _faults(of, item, defs, f"{_inside(path)}{place}: ", left - 1)


def _object(
    schema: Mapping[str, Any], value: Mapping[Any, Any], defs: Mapping[str, Any], path: str, left: int
) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{_inside(path)}{name}: Field required"
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, item in islice(value.items(), MOST):
        yield from _faults(properties.get(name, others), item, defs, f"{_inside(path)}{name}: ", left)


def _inside(path: str) -> str:
    return path.removesuffix(": ") + "." if path else ""


#: What each type of JSON is called by pydantic, and which values it never takes, however lax.
_WORDS = {
    "string": "Input should be a valid string",
    "integer": "Input should be a valid integer",
    "number": "Input should be a valid number",
    "boolean": "Input should be a valid boolean",
    "array": "Input should be a valid list",
    "object": "Input should be an object",
    "null": "Input should be None",
}


def _wrong_kind(kind: str, value: Any) -> str | None:
    plain = value is None or isinstance(value, (str, int, float, list, tuple, dict))
    if not plain or kind not in _WORDS:
        return None
    fits = {
        "string": isinstance(value, str),
        "integer": isinstance(value, int) or (isinstance(value, float) and value.is_integer()) or is_number(value),
        "number": isinstance(value, (int, float)) or is_number(value),
        "boolean": isinstance(value, (int, float, str)),
        "array": isinstance(value, (list, tuple)),
        "object": isinstance(value, dict),
        "null": value is None,
    }
    return None if fits[kind] else _WORDS[kind]


def is_number(value: Any) -> bool:
    """Whether a number's type takes this text."""
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _choices(schema: Mapping[str, Any]) -> list[str]:
    """The texts that alone are allowed; empty where others may be."""
    choices = [schema["const"]] if "const" in schema else list(schema.get("enum", ()))
    return choices if all(isinstance(choice, str) for choice in choices) else []
