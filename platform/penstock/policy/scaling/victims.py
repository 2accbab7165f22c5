"""Who stops when there are too many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Phase = Literal["starting", "parked", "idle", "busy"]

#: What is lost by stopping it, least first: nothing yet, a warm start, a ready worker, a ready worker that must drain.
ORDER: dict[Phase, int] = {"starting": 0, "parked": 1, "idle": 2, "busy": 3}


class Candidate(Struct, frozen=True):
    """A worker that may be stopped; ``since`` is when it was made."""

    id: str
    phase: Phase
    since: float


def victims(slots: Iterable[Candidate], surplus: int) -> list[str]:
    """The ids of ``surplus`` of them (all, where there are fewer), in the order of stopping.

    What is starting goes before what is parked, idle before busy, and of equals the newest: the oldest has the warmest
    caches. A busy one is to drain; nothing here kills.
    """
    ordered = sorted(slots, key=lambda slot: (ORDER[slot.phase], -slot.since, slot.id))
    return [slot.id for slot in ordered[: max(surplus, 0)]]
