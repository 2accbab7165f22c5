"""A Python value in JSON's own words: the slow and careful way, for what is not made of them already.

``plain`` never changes a value to a similar one. What has no equal in JSON is listed with its place and what to write
instead; whoever asked decides what comes of it. Imports neither numpy nor torch nor pydantic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from penstock.errors import safe_text
from penstock.own import own

#: A longer whole number would become infinite where a float is wanted.
_TOO_LONG = 10**308
#: Kinds of numpy's dtypes whose elements are Python's own numbers, texts or objects.
_PLAIN_KINDS = frozenset("biufUO")


class Strange(NamedTuple):
    """Something that JSON has no word for."""

    path: str
    what: str
    fix: str
    leaf: Any
    is_key: bool = False


@dataclass(slots=True)
class Plain:
    """``form`` is JSON's own but for ``strange``, which stands in it as it was."""

    form: Any
    strange: list[Strange]


def plain(value: Any) -> Plain:
    """See the module's docstring. Raises ``RecursionError`` for what is nested too deeply, or in itself."""
    look = _Look()
    return Plain(look.at(value, ""), look.strange)


class _Look:
    def __init__(self) -> None:
        self.strange: list[Strange] = []

    def at(self, value: Any, path: str) -> Any:
        """The value at ``path`` in JSON's own words."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(str.__str__(value), path)
        if isinstance(value, int):
            return self._int(int.__index__(value), path)
        if isinstance(value, float):
            return self._float(float.__float__(value), path)
        if isinstance(value, Enum):
            return self._not(value, path, _named(value), "pass its .value")
        if isinstance(value, Mapping):
            return self._mapping(value.items(), path)
        if isinstance(value, (list, tuple)):
            return [self.at(each, f"{path}[{place}]") for place, each in enumerate(value)]
        if hasattr(value, "tolist") and hasattr(value, "dtype"):
            return self._array(value, path)
        if isinstance(value, type):
            return self._not(value, path, f"the class {value.__qualname__}", "pass a value")
        names = _fields(value)
        if names is None:
            return self._other(value, path)
        return self._record(value, names, path)

    def _not(self, value: Any, path: str, what: str, fix: str) -> Any:
        self.strange.append(Strange(path, what, fix, value))
        return value

    def _text(self, text: str, path: str) -> str:
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError:
            self._not(text, path, "text with half of a surrogate pair", "pass valid Unicode")
        return text

    def _int(self, number: int, path: str) -> int:
        if abs(number) >= _TOO_LONG:
            # No item type makes it right: NaN equals nothing that is read.
            self._not(math.nan, path, "a whole number of more than 308 digits", "pass it as text")
        return number

    def _float(self, number: float, path: str) -> float:
        if not math.isfinite(number):
            what = "NaN" if math.isnan(number) else "an infinity"
            self._not(number, path, what, "use None where there is no number")
        return number

    def _mapping(self, pairs: Iterable[tuple[Any, Any]], path: str) -> dict[str, Any]:
        form: dict[str, Any] = {}
        for key, value in pairs:
            if isinstance(key, str):
                name = self._text(str.__str__(key), path)
                here = f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]"
            else:
                name = str(key)
                here = f"{path}[{key!r}]"
                what = f"the key {key!r:.80} of type {type(key).__name__}"
                self.strange.append(Strange(path, what, "keys are text: str(key)", key, is_key=True))
            if name in form:
                self._not(pairs, path, f"two keys that are both {name!r:.80} as text", "make them differ as text")
            form[name] = self.at(value, here)
        return form

    def _record(self, value: Any, names: Mapping[str, str], path: str) -> Any:
        if "root" in names and hasattr(value, "__pydantic_root_model__") and value.__pydantic_root_model__:
            return self.at(value.root, path)
        form = {
            name: self.at(getattr(value, attribute), f"{path}.{attribute}")
            for attribute, name in names.items()
            if hasattr(value, attribute)
        }
        extra = getattr(value, "__pydantic_extra__", None)
        return form | self._mapping(extra.items(), path) if extra else form

    def _array(self, value: Any, path: str) -> Any:
        dtype = value.dtype
        kind = getattr(dtype, "kind", None)
        name = f"{type(value).__module__}.{type(value).__qualname__} of dtype {dtype}"
        if kind is None:  # torch
            if getattr(dtype, "is_complex", False):
                return self._not(value, path, f"a {name}", "split it into real and imaginary parts")
            value = value.detach() if hasattr(value, "detach") else value
        elif (kind not in _PLAIN_KINDS and str(dtype) != "bfloat16") or (kind == "f" and dtype.itemsize > 8):
            return self._not(value, path, f"a {name}", "convert it to numbers or text, for example with .astype(…)")
        if getattr(getattr(value, "mask", None), "any", bool)():
            return self._not(value, path, "a masked array", "use .filled(…)")
        try:
            listed = value.tolist()
        except Exception as error:
            what = f"a {name} that cannot be listed ({safe_text(error)})"
            return self._not(value, path, what, "make it dense, on a device")
        if hasattr(listed, "dtype"):
            return self._not(value, path, f"a {name}", "convert it to numbers or text")
        return listed if own(listed) else self.at(listed, path)

    def _other(self, value: Any, path: str) -> Any:
        if isinstance(value, (bytes, bytearray, memoryview)):
            fix = "pass text (base64.b64encode(data).decode(), say), or a path or URL that the worker can read"
            return self._not(value, path, f"{type(value).__name__}", fix)
        if isinstance(value, Set):
            return self._not(value, path, _named(value), "it has no order: pass a list, sorted(…)")
        if isinstance(value, (date, time)):
            return self._not(value, path, _named(value), "pass .isoformat()")
        if isinstance(value, timedelta):
            return self._not(value, path, _named(value), "pass .total_seconds()")
        if isinstance(value, (Decimal, UUID)):
            return self._not(value, path, _named(value), "pass str(…)")
        if hasattr(value, "__next__"):
            return self._not(value, path, _named(value), "pass a list: list(…)")
        fix = "pass text, numbers, lists, dicts, dataclasses, pydantic models, arrays or tensors"
        return self._not(value, path, _named(value), fix)


def _named(value: Any) -> str:
    kind = type(value)
    place = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a value of type {place}{kind.__qualname__}"


def _fields(value: Any) -> Mapping[str, str] | None:
    """The attributes of a record, and what they are called in JSON; ``None`` for any other value."""
    kind = type(value)
    if (known := getattr(kind, "model_fields", None)) is not None:  # pydantic
        return {name: _alias(field) or name for name, field in known.items()}
    if is_dataclass(value):
        # A pydantic dataclass may read its fields by other names.
        known = getattr(kind, "__pydantic_fields__", {})
        return {f.name: (f.name in known and _alias(known[f.name])) or f.name for f in fields(value)}
    if (names := getattr(kind, "__struct_fields__", None)) is not None:  # msgspec
        return dict(zip(names, kind.__struct_encode_fields__, strict=True))
    if (attributes := getattr(kind, "__attrs_attrs__", None)) is not None:
        return {each.name: each.name for each in attributes}
    return None


def _alias(field: Any) -> str | None:
    """What a pydantic field is read by, where that is one other name."""
    for name in (field.validation_alias, field.alias):
        if name is not None:
            return name if isinstance(name, str) else None
    return None
