"""What ``predict`` returned, as one result per item: the one place where results are listed.

Taken are lists, tuples, other sequences with a length and an order, and arrays and tensors whose first dimension is the
batch. Whatever has no order, or is one value in itself, would give wrong answers that look right: a set in any order, a
dict's keys, a text letter by letter, the fields of a named tuple.
"""

from __future__ import annotations

from collections import UserString
from collections.abc import Container, Mapping, Sequence, Set
from typing import Any

from penstock.errors import WrongResultCount

_FIX = "predict() must return one result per item, in order"


def results_of(model: str, returned: Any, size: int) -> list[Any]:
    """The results for ``size`` items of the model with this name; raises ``WrongResultCount``."""
    if type(returned) is not list:
        if (fault := _fault(returned)) is not None:
            what, fix = fault
            raise WrongResultCount(f"predict() of model {model!r} returned {what}, not a list of results", fix=fix)
        returned = list(_on_host(returned))
    if len(returned) != size:
        raise WrongResultCount(f"model {model!r} returned {len(returned)} results for {size} items", fix=_FIX)
    return returned  # type: ignore[no-any-return]


class BadAnswer(WrongResultCount):
    """``step`` answered for a sequence that does not run, or not with a mapping: the model's fault, whatever the
    items."""


def answers_of(model: str, returned: Any, running: Container[int]) -> list[tuple[int, Any]]:
    """What one ``step`` returned, by the index of a sequence that runs; raises ``BadAnswer``."""
    if not isinstance(returned, Mapping):
        raise BadAnswer(
            f"step() of model {model!r} returned {type(returned).__name__}",
            fix="return a dict: index -> Progress(…), result or exception; empty when there is nothing to tell",
        )
    answers = list(returned.items())
    for index, _ in answers:
        if index not in running:
            raise BadAnswer(
                f"step() of model {model!r} answered for index {index!r}, which does not run",
                fix="answer only for sequences that have begun and not ended; indices are never used again",
            )
    return answers


def _fault(returned: Any) -> tuple[str, str] | None:
    """Why this is no list of results, and what to write instead."""
    kind = type(returned)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if returned is None:
        return "None", "end predict() with return results"
    if isinstance(returned, (str, UserString, bytes, bytearray, memoryview)):
        return f"one {name}", "return a list: [result for item in batch]"
    if isinstance(returned, Mapping):
        return f"a {name}", "return a list with one dict per item"
    if isinstance(returned, tuple) and (hasattr(returned, "_fields") or hasattr(returned, "n_fields")):
        return f"a {name}", "its fields are no results: return a list with one result per item"
    if isinstance(returned, (list, tuple)):
        return None
    if (shape := _shape(returned)) is not None:
        if len(shape):
            return None
        return f"a {name} without dimensions", "the first dimension must be the batch"
    if isinstance(returned, Set):
        return f"a {name}", "it has no order: return a list"
    if isinstance(returned, Sequence):
        return None
    if hasattr(kind, "__await__"):
        if hasattr(returned, "close"):
            returned.close()  # nobody will await it
        return f"a {name}", "predict() is called in a thread of its own: write def, not async def"
    if hasattr(kind, "__next__"):
        return f"a {name}", "return a list: list(…), or [result for item in batch]"
    return f"a {name}", "return a list with one result per item; of a table, its rows"


def _shape(value: Any) -> Any:
    """The shape of an array, a tensor, or what behaves like one (a pandas series); ``None`` for anything else."""
    if not (hasattr(value, "tolist") and hasattr(value, "dtype")):
        return None
    return getattr(value, "shape", None)


def _on_host(returned: Any) -> Any:
    """A tensor in one transfer instead of row by row."""
    return returned.detach().cpu() if hasattr(returned, "detach") and hasattr(returned, "cpu") else returned
