"""Values as JSON text, for inputs and outputs: strict JSON, fast for plain values, helpful for the usual others.

Beyond what msgspec writes by itself (dataclasses, datetimes, UUIDs, enums, sets …) this takes pydantic models, numpy
arrays and scalars, and torch tensors, without importing any of those packages. ``NaN`` and infinities become ``null``,
since JSON has no such numbers; an input that holds one is refused (``dispatch.catalog``).
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from penstock.errors import safe_text


class NotJSON(ValueError):
    """The value, or something inside it, has no JSON form."""


def _hook(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    if hasattr(value, "detach") and hasattr(value, "tolist"):  # torch; bfloat16 has no numpy, tolist() needs none
        return value.detach().tolist()
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # numpy
        return value.tolist()
    raise NotImplementedError(f"{type(value).__module__}.{type(value).__qualname__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_hook)


def dumps(value: Any) -> str:
    """``value`` as JSON text; raises ``NotJSON``."""
    try:
        return _encoder.encode(value).decode()
    except (TypeError, NotImplementedError, ValueError, OverflowError, RecursionError) as error:
        raise NotJSON(str(error)) from error
    except Exception as error:
        # What a value's own `model_dump` or `tolist` raised.
        raise NotJSON(f"{type(error).__name__} was raised by a value's own code: {safe_text(error)}") from error


def has_nonfinite(value: Any) -> bool:
    """Whether ``NaN`` or an infinity is in ``value``, or in the lists, tuples and dicts that it is made of."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, (list, tuple)):
            rest.extend(item)
        elif isinstance(item, dict):
            rest.extend(item.values())
    return False


def loads(text: str | bytes) -> Any:
    """The value of JSON text; raises ``NotJSON``."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotJSON(str(error)) from error
