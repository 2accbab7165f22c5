"""How a local worker is called, and the words with which it is started: PURE."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from penstock.processes.agreed import SLOT_FENCE
from penstock.settings import Settings
from penstock.store.elastic import Slot


@dataclass(frozen=True, slots=True)
class Named:
    """A worker's place on its machine: its number in the pool, and in all, which is the port of its metrics."""

    pool: str
    number: int
    place: int

    @property
    def name(self) -> str:
        """As people, Flower and log files know it."""
        return f"worker-{self.pool}-{self.number}"

    @classmethod
    def free(cls, pool: str, taken: Iterable[Named]) -> Named:
        """The first that is free."""
        others = list(taken)
        numbers = {other.number for other in others if other.pool == pool}
        places = {other.place for other in others}
        return cls(
            pool,
            next(number for number in count(1) if number not in numbers),
            next(place for place in count(1) if place not in places),
        )

    def as_json(self) -> dict[str, int]:
        """For the row."""
        return {"number": self.number, "place": self.place}

    @classmethod
    def read(cls, place: Mapping[str, Any], pool: str) -> Named:
        """What ``as_json`` gave."""
        return cls(pool, int(place.get("number", 0)), int(place.get("place", 0)))


def words_of(
    command: Sequence[str], settings: Settings, slot: Slot, named: Named, fence: str
) -> tuple[list[str], dict[str, str]]:
    """The command line, and what its environment has beside that of all."""
    argv = [*command, "--slot", slot.id, "--pool", slot.pool, "--name", named.name]
    port = settings.metrics.port
    if port is not None:
        argv += ["--metrics-port", str(port + named.place if port else 0)]
    env = {SLOT_FENCE: fence}
    if models := slot.spec.get("models"):  # a rollout's, in the place of the settings'
        env["PENSTOCK_MODELS"] = json.dumps(models)
    return argv, env
