"""What goes before a tenant's next job where tenants share a queue: fair order, as a producer can foresee it.

The broker serves the tenant that has had the least over its weight (``policy.fairness``). So before the ``k``-th of a
tenant's waiting jobs come at most ``k * w / own_w`` jobs of a tenant of weight ``w``, and never more than it has
waiting: a flood of another tenant counts as much as its share, however long it is.

Left out: what a counter is ahead or behind by, which is two charges at most between tenants that are busy all along,
and that the jobs of different tenants take different times.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil
from typing import NamedTuple

from penstock.policy.fairness import DEFAULT


@dataclass(frozen=True, slots=True)
class Standing:
    """One tenant in a queue: messages of priority step 0, 3, 6, 9, its weight, its most running jobs."""

    ready: tuple[int, ...] = (0, 0, 0, 0)
    weight: float = 1.0
    cap: int | None = None

    @property
    def total(self) -> int:
        """All its messages."""
        return sum(self.ready)


NOTHING = Standing()


class Line(NamedTuple):
    """Who waits in a queue: tenants by name, and how many there are, if not all of them are named."""

    standings: Mapping[str, Standing]
    busy: int = 0

    def beside(self, other: Line, part: float) -> Line:
        """As if ``part`` of another queue stood in this one: the same workers serve both, the oldest head first."""
        names = {*self.standings, *other.standings}
        mine, theirs = self.standings, other.standings
        merged = {
            name: replace(
                mine.get(name) or theirs[name],
                ready=tuple(
                    a + ceil(b * part)
                    for a, b in zip(mine.get(name, NOTHING).ready, theirs.get(name, NOTHING).ready, strict=True)
                ),
            )
            for name in names
        }
        return Line(merged, max(self.busy, other.busy))


class Shares:
    """All tenants of one queue at one instant. ``busy`` is how many there are, if not all of them are named.

    Tenants that are not named are taken to be like those that are. A question costs the logarithm of their number,
    and one step per other tenant with a cap.
    """

    __slots__ = ("_capped", "_more", "_ratios", "_standings", "_totals", "_weight", "_weights", "total")

    def __init__(self, standings: Mapping[str, Standing], *, busy: int | None = None) -> None:
        self._standings = standings
        waiting = [one for one in standings.values() if one.total]
        self._more = max(1.0, (busy or 0) / len(waiting)) if waiting else 1.0
        #: All messages.
        self.total = sum(one.total for one in waiting) * self._more
        self._weight = sum(one.weight for one in standings.values()) * self._more
        free = sorted((one for one in waiting if one.cap is None), key=lambda one: one.total / one.weight)
        self._capped = {name: one for name, one in standings.items() if one.total and one.cap is not None}
        self._ratios = [one.total / one.weight for one in free]
        self._totals = [0, *accumulate(one.total for one in free)]
        self._weights = [0.0, *accumulate(one.weight for one in free)]

    def of(self, tenant: str = DEFAULT) -> Share:
        """What this tenant can count on."""
        own = self._standings.get(tenant, NOTHING)
        named = self._weight if tenant in self._standings else self._weight + own.weight
        loose = self._totals[-1] * self._more - (own.total if own.cap is None else 0)
        return Share(self, tenant, own, max(0.0, self.total - own.total), max(0.0, loose), own.weight / named)

    def before(self, tenant: str, own: Standing, place: float, capacity: float) -> float:
        """Others' messages that go before this tenant's one at ``place`` (1: its next).

        ``capacity`` is how many the devices take in one round of full batches: at its cap, a tenant is passed over.
        """
        level = place / own.weight
        cut = bisect_right(self._ratios, level)
        count = self._totals[cut] + level * (self._weights[-1] - self._weights[cut])
        if own.cap is None:
            count -= min(own.total, place)
        capped = [
            (min(one.total, level * one.weight), one.cap or 1) for name, one in self._capped.items() if name != tenant
        ]
        rounds = 1.0 + (place + count + sum(fair for fair, _ in capped)) / max(capacity, 1.0)
        return max(0.0, count + sum(min(fair, cap * rounds) for fair, cap in capped)) * self._more


@dataclass(frozen=True, slots=True)
class Share:
    """One tenant's view of a queue's ``Shares``.

    ``own`` are its messages, ``others`` how many the others have, ``loose`` those of them without a cap, ``part`` is
    its part of the devices while everybody's last.
    """

    _all: Shares
    _tenant: str
    own: Standing
    others: float
    loose: float
    part: float

    def served(self, items: float, come: float = 0.0) -> float:
        """How many of its jobs are among the next ``items``, if it has so many; ``come`` more of others come meanwhile.

        What the others do not have they cannot take.
        """
        return max(self.part * items, items - self.others - come)

    def before(self, place: float, capacity: float, others: float) -> float:
        """See ``Shares.before``; now that the others have so many messages."""
        if not self.others:
            return min(others, place * (1.0 - self.part) / self.part)
        growth = others / self.others
        return growth * self._all.before(self._tenant, self.own, place / growth, capacity) if growth else 0.0
