"""What a worker does about its slot: PURE."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Duty(StrEnum):
    """What the row asks of the worker that looks at it."""

    #: Consume.
    WORK = "work"
    #: Stay loaded, and do not consume.
    PARK = "park"
    #: Finish what runs, and end.
    DRAIN = "drain"
    #: Take the slot again, and drain if that fails: somebody has taken this worker for dead, and nobody has come yet.
    TAKE = "take"


class Slot(Protocol):
    """A slot, as it was read."""

    @property
    def state(self) -> str: ...
    @property
    def worker(self) -> str | None: ...


def duty(slot: Slot | None, *, worker: str) -> Duty:
    """What ``worker`` does, that has had this slot; ``None``: it is there no longer."""
    if slot is None or slot.state == "draining":
        return Duty.DRAIN
    if slot.worker != worker:
        return Duty.TAKE if slot.worker is None else Duty.DRAIN
    return Duty.PARK if slot.state == "parked" else Duty.WORK
