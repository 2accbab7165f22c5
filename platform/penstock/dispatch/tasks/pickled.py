"""Pickles of JSON's own values, read without trust in who wrote them. PURE.

A pickle can do more than call functions: six bytes have the reader make a list of gigabytes for what it is to
remember, and two hundred bytes are a list of lists that are all the same one, whose JSON fills any memory.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

#: What may be longer as JSON than as a pickle, by what occurs in it more than once: up to so many characters.
SHARED = 16 * 2**20

_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
#: What pickles of JSON's values consist of, whatever their protocol.
_OF_JSON = _PUTS | {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("LIST", "EMPTY_LIST", "APPEND", "APPENDS", "DICT", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
}


def unpickled(raw: bytes) -> Any:
    """The value of a pickle of JSON's own values; raises for any other, and for one that is cut: nothing is imported,
    and nothing called."""
    for number, (code, argument, _) in enumerate(pickletools.genops(raw)):
        if code.name not in _OF_JSON:
            raise pickle.UnpicklingError(f"{code.name} is not JSON's")
        if code.name in _PUTS and int(argument or 0) > number:  # they are numbered in their order
            raise pickle.UnpicklingError(f"{argument} values are not there to be remembered")
    value = _Plain(io.BytesIO(raw)).load()
    if _size(value, {}) > max(SHARED, len(raw)):
        raise pickle.UnpicklingError("its JSON would be many times as long")
    return value


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not JSON's")


def _size(value: Any, known: dict[int, int]) -> int:
    """About how many characters its JSON has. What occurs more than once is looked at once; raises ``RecursionError``
    for what has itself in it."""
    if isinstance(value, str):
        return len(value) + 1
    if not isinstance(value, list | tuple | dict):
        return 1
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(each, known) for each in parts)
    return known[id(value)]
