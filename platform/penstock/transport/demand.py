"""What a channel may claim now: a PURE combination of what its sink asks for and what kombu's prefetch allows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

#: Messages claimed at once by a consumer without a prefetch limit.
UNLIMITED_CLAIM = 64


@dataclass(frozen=True, slots=True)
class Demand:
    """Messages wanted per queue, in the order of service. Queues without a sink share one credit."""

    quotas: Mapping[str, int]
    shared: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.quotas)

    @property
    def limit(self) -> int:
        """Most messages in all."""
        own = sum(n for queue, n in self.quotas.items() if queue not in self.shared)
        return own + max((self.quotas[queue] for queue in self.shared if queue in self.quotas), default=0)

    def without(self, queues: Collection[str]) -> Demand:
        """The same for the other queues."""
        return Demand({queue: n for queue, n in self.quotas.items() if queue not in queues}, self.shared)

    def dry(self, got: Mapping[str, int]) -> frozenset[str]:
        """The queues that a claim of this demand has found empty, when it brought ``got`` messages per queue."""
        if sum(got.values()) >= self.limit:  # it may have ended before it came to the last queues
            return frozenset()
        return frozenset(queue for queue, n in self.quotas.items() if got.get(queue, 0) < n)


def demand(
    consumed: Collection[str], asked: Mapping[str, int], *, credit: int | None, others: Iterable[str] = ()
) -> Demand:
    """Combine them.

    ``consumed`` are the queues that the channel consumes from, ``asked`` the sink's quotas, which come first.
    ``credit`` is how many more messages kombu's prefetch limit allows (``None``: no limit); the ``others``, as far
    as the sink does not ask for them, share it in the given order.
    """
    quotas = {queue: n for queue, n in asked.items() if n > 0 and queue in consumed}
    if credit is None:
        credit = UNLIMITED_CLAIM
    shared = [queue for queue in others if queue not in asked] if credit > 0 else []
    return Demand(quotas | dict.fromkeys(shared, credit), frozenset(shared))
