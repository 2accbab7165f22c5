"""Values as JSON text, and nothing changed on the way: what is read back equals what was written, or it is refused.

JSON's own values are written as they are. Tuples, arrays and tensors become lists, array scalars numbers, dataclasses
and pydantic models dicts (``plain``). Everything else that a writer of JSON would quietly turn into something similar
(bytes into base64, a date into text, NaN into ``null``, the key 1 into ``"1"``) is ``NotJSON``, with its place.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from penstock.errors import safe_text
from penstock.own import own
from penstock.plain import Plain, Strange, plain

#: Up to so many bytes a value, and a list of dicts, is read back at once.
LITTLE, MANY = 64, 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
_copy = msgspec.to_builtins
#: More digits than any float's; see ``plain``.
_HUGE = b"0" * 309
#: Whole numbers below it are read as they were written.
_EXACT = 2**63
_ZEROED = bytes.maketrans(b"123456789", b"000000000")
#: A number of so many digits has one at ten of the places that are so far apart.
_APART = len(_HUGE) // 10

#: What msgspec raises for JSON that it cannot read, deeply nested or cut inside a character included.
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


class NotJSON(ValueError):
    """The value, or something inside it, has no JSON form. ``fix`` says what to write instead."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


def quick(value: Any) -> bytes | None:
    """The JSON of a value that is made of JSON's own; ``None`` for any other, which needs a closer look."""
    try:
        data = _encode(value)
        kind = type(value)
        if kind is str or (kind is int and -_EXACT < value < _EXACT):
            return data
        # Three ways to see that nothing was changed, each the cheapest for some values: to look at each part, to copy
        # what a writer of JSON would change, and to read the text back.
        if len(data) > LITTLE:
            if kind is not list or type(value[0]) is not dict:
                if own(value):
                    return data
            elif b"null" not in data:  # what has no number is copied as it is, and null in the text
                return data if _copy(value, str_keys=True) == value and not _has_huge(data) else None
            elif len(data) > MANY and own(value):
                return data
        if _decode(data) == value and not _has_huge(data):
            return data
    except Exception:  # an array's comparison has no truth value, for one
        pass
    return None


def _has_huge(data: bytes) -> bool:
    if len(data) < len(_HUGE) or _HUGE[:10] not in data[::_APART].translate(_ZEROED):
        return False
    return _HUGE in data.translate(_ZEROED)


def dumps(value: Any) -> str:
    """``value`` as JSON text; raises ``NotJSON``."""
    data = quick(value)
    if data is not None:
        return data.decode()
    return written(look(value))


def look(value: Any) -> Plain:
    """The value in JSON's own, and what in it has no such form; raises ``NotJSON`` where that cannot be told."""
    try:
        return plain(value)
    except RecursionError:
        raise NotJSON("too many values inside each other") from None
    except Exception as error:  # what an object's own attributes raise
        raise NotJSON(f"a value that cannot be read: {type(error).__name__}: {safe_text(error)}") from error


def written(found: Plain) -> str:
    """The text of a value that was looked through; raises ``NotJSON`` naming the first thing that has none."""
    if found.strange:
        raise not_json(found.strange[0])
    try:
        return _encode(found.form).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotJSON(f"what JSON has not: {error}") from error


def not_json(strange: Strange) -> NotJSON:
    """The refusal of one thing inside a value."""
    return NotJSON(f"{strange.what}{f' at {strange.path}' if strange.path else ''}", fix=strange.fix)


def loads(text: str | bytes) -> Any:
    """The value of JSON text; raises ``NotJSON``."""
    try:
        return _decode(text)
    except UNREADABLE as error:
        raise NotJSON(str(error)) from error


def lax(text: str | bytes) -> Any:
    """The value of what Python's own writer makes and is no JSON: ``NaN``, ``Infinity``, half of a surrogate pair,
    whole numbers that no float is as large as (0 stands for these). ``None`` for what cannot be read so, either.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except (ValueError, RecursionError):
        return None


def _whole(digits: str) -> int:
    return int(digits) if len(digits) < len(_HUGE) else 0
