"""From which queues the messages are that consumers hold. PURE bookkeeping.

How many each of them holds is counted at every look; whose they are is read of some of them at a time, and remembered
of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice


class Shares:
    """Of each consumer, how many messages of each queue it held when it was last read: in the order of readings."""

    def __init__(self) -> None:
        self._read: dict[str, Mapping[str, int]] = {}
        self._new: list[str] = []
        self._holding: Mapping[str, int] = {}

    def next(self, most: int) -> list[str]:
        """Whom to read first: those never read, then those not read for longest."""
        known = (consumer for consumer in self._read if consumer in self._holding)
        return list(islice(chain(self._new, known), most))

    def saw(self, holding: Mapping[str, int], read: Mapping[str, Mapping[str, int]]) -> None:
        """All consumers that hold messages, how many, and from which queues those of some of them are.

        Who holds none is forgotten: whatever it claims next is new.
        """
        known = {one: counts for one, counts in self._read.items() if one in holding and one not in read}
        self._read, self._holding = known | dict(read), holding
        self._new = [consumer for consumer in holding if consumer not in self._read]

    def held(self) -> dict[str, float]:
        """Held messages per queue. Consumers that were never read are like the mean of the others."""
        found: dict[str, float] = {}
        known = 0
        for consumer, counts in self._read.items():
            messages, seen = self._holding.get(consumer, 0), sum(counts.values())
            known += messages
            for queue, count in counts.items():
                found[queue] = found.get(queue, 0.0) + messages * count / seen
        unknown = sum(self._holding[consumer] for consumer in self._new)
        return {queue: count * (known + unknown) / known for queue, count in found.items()} if known else {}
