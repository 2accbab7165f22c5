"""Whether a value is surely made of JSON's own, at a fraction of the cost of writing it: most values are vectors.

``False`` means "look", not "no".
"""

from __future__ import annotations

from typing import Any

#: No float can hold more.
_HUGE = 10**308
_LEAST = -_HUGE
_SURE = frozenset({str, bool, type(None)})


def own(value: Any) -> bool:
    """Whether a value is surely one of JSON's own. Cheap: for many it says no and means "look"."""
    kind = type(value)
    if kind in _SURE:
        return True
    if kind is int:
        return bool(_LEAST < value < _HUGE)
    if kind is float:
        return bool(value - value == 0.0)  # neither NaN nor infinite
    if kind is list:
        return _own_list(value)
    return kind is dict and _own_dict(value)


def _own_dict(values: dict[Any, Any]) -> bool:
    # Written out: a call for each value would cost more than all the rest.
    for key, value in values.items():
        if type(key) is not str:
            return False
        kind = type(value)
        if kind in _SURE:
            continue
        if kind is float:
            if value - value != 0.0:
                return False
        elif kind is list:
            if not _own_list(value):
                return False
        elif kind is dict:
            if not _own_dict(value):
                return False
        elif not own(value):
            return False
    return True


def _own_list(values: list[Any]) -> bool:
    if not values:
        return True
    first = type(values[0])
    if first is str:
        try:
            "".join(values)
        except TypeError:
            return False
        return True
    if first is float or first is int:
        # The quickest way through a long list: a sum meets every type, and one NaN or infinity makes it one.
        try:
            total = sum(values)
        except (TypeError, ValueError, ArithmeticError):
            return False
        return type(total) in (float, int) and _LEAST < total < _HUGE
    if first is dict:
        return all(type(each) is dict and _own_dict(each) for each in values)
    return first is list and all(type(each) is list and _own_list(each) for each in values)
