"""A queue at the imagined broker, its jobs dealt out by ``policy.fairness``. PURE."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

from penstock.loadgen.simulator.world import Item
from penstock.policy import fairness
from penstock.policy.fairness import DEFAULT, PLAIN, Books, Terms
from penstock.policy.sharing import Standing


class Queue:
    """One model's lane. ``held`` counts each tenant's claimed jobs, over all queues: what a cap bounds."""

    def __init__(self, terms: Mapping[str, Terms], held: Counter[str]) -> None:
        self._terms = terms
        self._held = held
        self._lines: dict[str, deque[Item]] = {}
        self._books = Books()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def put(self, item: Item) -> None:
        """A job has come."""
        tenant = item.sample.tenant
        self._lines.setdefault(tenant, deque()).append(item)
        if tenant != DEFAULT:
            self._books = fairness.arrive(self._books, tenant)

    def standings(self) -> dict[str, Standing]:
        """Every tenant that was ever here: how much of it waits, and its terms."""
        found = {}
        for tenant, line in self._lines.items():
            terms = self._terms.get(tenant, PLAIN)
            found[tenant] = Standing((len(line), 0, 0, 0), terms.weight, terms.cap)
        return found

    def waiting(self, tenant: str) -> int:
        """How many jobs of a tenant wait."""
        return len(self._lines.get(tenant, ()))

    def since(self) -> float | None:
        """Since when the job has waited that goes next; ``None`` when none may."""
        for tenant in self._order():
            line = self._lines.get(tenant)
            cap = self._terms.get(tenant, PLAIN).cap
            if line and (cap is None or self._held[tenant] < cap):
                return line[0].sample.at_s
        return None

    def take(self, quota: int, expected_s: float) -> list[Item]:
        """Claim up to ``quota`` jobs, each expected to take so much of a device."""
        waiting = {tenant: len(line) for tenant, line in self._lines.items() if line}
        if not waiting or quota <= 0:
            return []
        self._books, turns = fairness.deal(
            self._books, waiting, self._terms, self._held, quota=quota, expected_s=expected_s
        )
        items = []
        for turn in turns:
            item = self._lines[turn.tenant].popleft()
            item.charge = turn.charge
            self._held[turn.tenant] += 1
            items.append(item)
        return items

    def settle(self, item: Item, seconds: float) -> None:
        """A claimed job has ended and took so much of a device, 0 if it did not run."""
        tenant = item.sample.tenant
        self._held[tenant] -= 1
        if item.charge:
            self._books = fairness.settle(self._books, tenant, item.charge, self._terms, seconds=seconds)

    def _order(self) -> Iterable[str]:
        """Tenants as a claim comes to them: those nobody has looked at, then by their counters."""
        books = self._books
        if DEFAULT not in books.busy and DEFAULT not in books.come:
            yield DEFAULT
        yield from sorted(books.come)
        yield from sorted(books.busy, key=lambda tenant: (books.busy[tenant], tenant))
