"""How large a batch the device has memory for, learned from batches that had none.

The ceiling falls by half of what did not fit and rises again in small steps after many batches close to it went well:
additive increase, multiplicative decrease (D.-M. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms",
1989). Memory is not shared fairly here, but the same two traits are wanted: to leave a wrong size at once, and to
find back when what took the memory (another process, a fragmented allocator) is gone. Every failed rise doubles the
patience before the next, so that a fixed limit is probed ever more rarely.

The unit is the model's cost, or items where it has no cost function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock.model import Batching

#: Batches near the ceiling that must go well before it rises, at first and at most.
PATIENCE, MOST_PATIENCE = 32, 4096
#: A batch is near the ceiling from this share of it on.
NEAR = 0.75
#: One rise, as a share of the size that last did not fit; at least 1.
STEP = 1 / 16


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model: the cost of its items, how many, and whether memory ran out."""

    size: int
    cost: float
    oom: bool


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What one model may take at once on one device. ``limit`` ``None``: nothing learned."""

    limit: float | None = None
    #: The smallest cost that did not fit.
    failed: float | None = None
    good: int = 0
    patience: int = PATIENCE

    def after(self, calls: Sequence[Call], *, by_cost: bool) -> Ceiling:
        """What the calls of one run teach. ``by_cost``: the model has a cost function, and cost is the unit.

        A single item that does not fit alone says nothing about batches, so such a call is not counted; the caller
        leaves out those that contained the item, too.
        """
        ceiling = self
        for call in calls:
            if call.oom and call.size > 1:
                ceiling = ceiling._failed(call.cost if by_cost else call.size)
        fitted = max((call.cost if by_cost else call.size for call in calls if not call.oom), default=0.0)
        if ceiling is not self:
            # Halving is a guess; what did fit in this very run is known.
            return replace(ceiling, limit=max(ceiling.limit or 1.0, fitted))
        return self._fitted(fitted)

    def _failed(self, amount: float) -> Ceiling:
        limit = max(1.0, amount / 2 if self.limit is None else min(self.limit, amount / 2))
        patience = PATIENCE if self.limit is None else min(self.patience * 2, MOST_PATIENCE)
        return Ceiling(limit, amount, 0, patience)

    def _fitted(self, amount: float) -> Ceiling:
        if self.limit is None or self.failed is None or amount < NEAR * self.limit:
            return self
        if self.good + 1 < self.patience:
            return replace(self, good=self.good + 1)
        return replace(self, limit=self.limit + max(1.0, self.failed * STEP), good=0)

    def apply(self, batching: Batching) -> Batching:
        """The model's own limits, lowered to the ceiling where that is less."""
        if self.limit is None:
            return batching
        if batching.cost is None:
            return replace(batching, max_size=max(1, min(batching.max_size, int(self.limit))))
        most = self.limit if batching.max_cost is None else min(batching.max_cost, self.limit)
        return replace(batching, max_cost=most)
