"""From which queues the messages are that consumers hold. PURE bookkeeping.

How many each of them holds is counted at every look; whose they are is read of some of them at a time, and remembered
of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice


class Shares:
    """Of each consumer the shares of queues in what it held when it was last read. In the order of those readings."""

    def __init__(self) -> None:
        self._shares: dict[str, Mapping[str, float]] = {}
        self._new: list[str] = []
        self._holding: Mapping[str, int] = {}

    def next(self, most: int) -> list[str]:
        """Whom to read first: those never read, then those not read for longest."""
        known = (consumer for consumer in self._shares if consumer in self._holding)
        return list(islice(chain(self._new, known), most))

    def saw(self, holding: Mapping[str, int], read: Mapping[str, Mapping[str, int]]) -> None:
        """All consumers that hold messages, how many, and from which queues those of some of them are.

        Who holds none is forgotten: whatever it claims next is new.
        """
        shares = {consumer: self._shares[consumer] for consumer in self._shares if consumer in holding}
        for consumer, counts in read.items():
            shares.pop(consumer, None)
            seen = sum(counts.values())
            shares[consumer] = {queue: count / seen for queue, count in counts.items()} if seen else {}
        self._shares, self._holding = shares, holding
        self._new = [consumer for consumer in holding if consumer not in shares]

    def held(self) -> dict[str, float]:
        """Held messages per queue. Consumers that were never read are like the mean of the others."""
        found: dict[str, float] = {}
        known = 0
        for consumer, shares in self._shares.items():
            messages = self._holding.get(consumer, 0)
            known += messages
            for queue, share in shares.items():
                found[queue] = found.get(queue, 0.0) + messages * share
        unknown = sum(self._holding[consumer] for consumer in self._new)
        return {queue: count * (known + unknown) / known for queue, count in found.items()} if known else {}
