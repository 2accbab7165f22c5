"""Where on this machine the next worker of a pool goes, and how many of each pool there is room for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from penstock.policy.placing import Machine, NoSeat, Seat, environ, fit, seat
from penstock.settings import Settings
from penstock.store.elastic import Slot

#: What a row's ``place`` calls it.
SEAT = "seat"


class Seats:
    """``weighs`` are the bytes that the models of each pool say they need."""

    def __init__(self, settings: Settings, machine: Machine, weighs: Mapping[str, int] | None = None) -> None:
        self._settings = settings
        self._machine = machine
        self._weighs = weighs or {}

    def room(self, pools: Collection[str]) -> dict[str, int]:
        """How many workers each of these pools has at most, if all are to have what they may."""
        return fit(self._machine, [self._settings.needs(pool, self._machine, models=self._of(pool)) for pool in pools])

    def free(self, pool: str, slots: Iterable[Slot]) -> Seat | NoSeat:
        """A seat beside those that the slots have, or why there is none."""
        taken = [Seat.from_json(slot.place[SEAT]) for slot in slots if slot.place and SEAT in slot.place]
        return seat(self._machine, self._settings.needs(pool, self._machine, models=self._of(pool)), taken)

    @staticmethod
    def environ(given: Mapping[str, str], seat: Seat) -> dict[str, str]:
        """The variables with which a worker starts there."""
        return environ(seat, given)

    def _of(self, pool: str) -> int:
        return self._weighs.get(pool, 0)
