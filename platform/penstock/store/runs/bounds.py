"""The bounds of a run as they are stored: one column, since every plain job pays for each that there is."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Bounds(NamedTuple):
    """Most steps in flight at a time, and device seconds that they may take; of a run within one, that one's."""

    max_parallel: int | None = None
    budget_s: float | None = None


NONE = Bounds()

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Bounds).decode


def text_of(max_parallel: int | None, budget_s: float | None) -> str | None:
    """What is stored of them; ``None`` where there are none."""
    return None if max_parallel is None and budget_s is None else _encode(Bounds(max_parallel, budget_s)).decode()


def bounds_of(text: str | None) -> Bounds:
    """What is stored, read."""
    return NONE if text is None else _decode(text)
