"""Item types that JSON cannot carry, found in a model's hints before anything is served: PURE.

``bytes`` is the trap: pydantic reads a JSON text as its own UTF-8 bytes, so that whoever sends base64 gets the base64,
not the picture. A type that says how it is encoded (``pydantic.Base64Bytes``) is fine.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

_RAW = (bytes, bytearray, memoryview)
#: Validators of pydantic that are given the input as it came.
_FIRST = frozenset({"BeforeValidator", "PlainValidator", "WrapValidator"})


def raw_bytes(hint: Any) -> tuple[str, str] | None:
    """Where a type has bytes that are not said to be encoded, and of which type; ``None`` where it has none."""
    return _find(hint, "", frozenset())


def _find(hint: Any, path: str, above: frozenset[Any]) -> tuple[str, str] | None:
    hint = getattr(hint, "__value__", hint)  # `type Name = …`
    if typing.get_origin(hint) is typing.Annotated:
        inner, *said = typing.get_args(hint)
        # An encoder, or a validator that sees the text first: it is known what the text means.
        if any(hasattr(each, "encoder") or type(each).__name__ in _FIRST for each in said):
            return None
        return _find(inner, path, above)
    if isinstance(hint, typing.NewType):
        return _find(hint.__supertype__, path, above)
    if hint in _RAW:
        return path, hint.__name__
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        if hint in above or _reads_base64(hint):
            return None
        found = (_find(each, f"{path}.{name}", above | {hint}) for name, each in _parts(hint))
        return next((each for each in found if each is not None), None)
    if typing.get_origin(hint) is typing.Literal:
        return None
    inside = (_find(each, path, above) for each in (*typing.get_args(hint), *_generic(hint)))
    return next((each for each in inside if each is not None), None)


def _generic(hint: Any) -> tuple[Any, ...]:
    """The class behind ``Page[str]``, for its other fields."""
    origin = typing.get_origin(hint)
    return (origin,) if isinstance(origin, type) and origin.__module__ not in ("builtins", "collections.abc") else ()


def _reads_base64(kind: type) -> bool:
    """Whether a pydantic model or dataclass says so of all its bytes."""
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None)
    return isinstance(config, Mapping) and config.get("val_json_bytes") in ("base64", "hex")


def _parts(kind: type) -> Iterator[tuple[str, Any]]:
    """The fields of a record and their types. Hints that cannot be read yet have none."""
    known = getattr(kind, "model_fields", None)  # pydantic
    if isinstance(known, Mapping):
        read = _read_first(kind)
        for name, field in known.items():
            if name in read or "*" in read:
                continue
            said = tuple(field.metadata)
            yield name, typing.Annotated[(field.annotation, *said)] if said else field.annotation
        return
    named = is_dataclass(kind) or typing.is_typeddict(kind) or hasattr(kind, "_fields") or _is_typed_dict(kind)
    if not named:
        return
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # names that are defined further down
        return
    wanted = {field.name for field in fields(kind)} if is_dataclass(kind) else hints
    for name, hint in hints.items():
        if name in wanted:
            yield name, hint


def _read_first(kind: type) -> set[str]:
    """The fields that a pydantic model reads by validators of its own, before anything else does."""
    validators = getattr(getattr(kind, "__pydantic_decorators__", None), "field_validators", {})
    return {name for each in validators.values() if each.info.mode != "after" for name in each.info.fields}


def _is_typed_dict(kind: type) -> bool:
    return issubclass(kind, dict) and hasattr(kind, "__total__")  # typing_extensions' own
