"""Whose job next: weighted virtual counters, the sharing of a queue between tenants.

Each tenant has a counter per queue, in device seconds divided by its weight. The job of the tenant with the least
counter goes first, and its counter grows by what a job is expected to cost; when the cost is known, the difference is
added. So tenants that always have jobs waiting get device time in proportion to their weights: what two of them got,
over their weights, never differs by more than twice the largest single charge.

A tenant that comes back starts at the least counter of those that are busy, or at its own, if that is larger: time
without jobs earns nothing, and a debt is not forgiven by a pause. When all have left, the last one's counter is kept as
the start of whoever comes next. A tenant with a cap has at most so many jobs running; at its cap it is passed over, and
that earns nothing either: its counter is raised to the least of those that can be served.

The counters are per queue, that is per model and lane. A counter over several queues would let a tenant pay in one
queue for what nobody wanted in another, and wait there without a bound.

The algorithm is the Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024),
charged in device seconds. Production runs ``transport/lua/fair.lua`` and ``tenants.lua``; this module is the reference
that a test compares them with, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

#: The tenant whose jobs stand on a queue's own lists: it need not announce itself.
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Terms:
    """A tenant's weight (above 0; twice the weight, twice the share), and its most running jobs."""

    weight: float = 1.0
    cap: int | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError("a weight is above 0")
        if self.cap is not None and self.cap < 1:
            raise ValueError("a cap is 1 or more")


#: What applies to a tenant of whom nothing was said.
PLAIN = Terms()


@dataclass(frozen=True, slots=True)
class Books:
    """The counters of one queue, weighted device seconds.

    ``busy`` has the tenants with jobs waiting, ``come`` those that arrived since the last deal, ``idle`` the counters
    of others as far as they are ahead, ``start`` the least counter when a tenant last left.
    """

    busy: Mapping[str, float] = field(default_factory=dict)
    come: frozenset[str] = frozenset()
    idle: Mapping[str, float] = field(default_factory=dict)
    start: float = 0.0

    @property
    def least(self) -> float:
        """Where a tenant starts that becomes busy now."""
        return min(self.busy.values(), default=self.start)


@dataclass(frozen=True, slots=True)
class Turn:
    """One job of a tenant may go, for a charge (weighted device seconds) that ``settle`` and ``refund`` name again.

    A charge of 0 means that nothing is counted, since the tenant is alone; then neither of them applies.
    """

    tenant: str
    charge: float


def arrive(books: Books, tenant: str) -> Books:
    """A tenant's job has come, or has come back."""
    return books if tenant in books.busy else replace(books, come=books.come | {tenant})


def deal(
    books: Books,
    waiting: Mapping[str, int],
    terms: Mapping[str, Terms],
    running: Mapping[str, int],
    *,
    quota: int,
    expected_s: float,
) -> tuple[Books, list[Turn]]:
    """Give out up to ``quota`` turns, each expected to take ``expected_s`` of a device.

    ``waiting`` and ``running`` are how many jobs each tenant has. Ties go to the lower counter before this deal, then
    to the name.
    """
    if quota <= 0:
        return books, []
    if not books.busy and not books.come and terms.get(DEFAULT, PLAIN).cap is None:
        return books, [Turn(DEFAULT, 0.0)] * min(quota, waiting.get(DEFAULT, 0))
    if waiting.get(DEFAULT):
        books = arrive(books, DEFAULT)
    books = _admit(books)
    order = sorted(books.busy, key=lambda tenant: (books.busy[tenant], tenant))
    left = {tenant: waiting.get(tenant, 0) for tenant in order}
    room = {tenant: _room(terms.get(tenant, PLAIN), running.get(tenant, 0)) for tenant in order}
    counters = dict(books.busy)
    first = min((counters[tenant] for tenant in order if left[tenant] > 0 and room[tenant] > 0), default=0.0)
    for tenant in order:
        if left[tenant] > 0 and room[tenant] <= 0:
            counters[tenant] = max(counters[tenant], first)
    turns: list[Turn] = []
    while len(turns) < quota:
        able = [tenant for tenant in order if left[tenant] > 0 and room[tenant] > 0]
        if not able:
            break
        tenant = min(able, key=counters.__getitem__)  # the first of the least, in `order`
        charge = expected_s / terms.get(tenant, PLAIN).weight
        turns.append(Turn(tenant, charge))
        counters[tenant] += charge
        left[tenant] -= 1
        room[tenant] -= 1
    books = replace(books, busy=counters)
    for tenant in order:
        if left[tenant] == 0:
            books = _leave(books, tenant)
    if set(books.busy) == {DEFAULT}:
        # Alone it need not be counted: whoever comes starts where it stands.
        books = _leave(books, DEFAULT)
    return books, turns


def settle(books: Books, tenant: str, charge: float, terms: Mapping[str, Terms], *, seconds: float) -> Books:
    """A job that was charged ``charge`` took ``seconds`` of a device: charge the difference."""
    return _add(books, tenant, seconds / terms.get(tenant, PLAIN).weight - charge)


def refund(books: Books, tenant: str, charge: float) -> Books:
    """A job that was charged went back to its queue, and waits there again: undo the charge."""
    books = _add(books, tenant, -charge)
    return books if tenant == DEFAULT else arrive(books, tenant)


def _add(books: Books, tenant: str, amount: float) -> Books:
    if tenant in books.busy:
        return replace(books, busy={**books.busy, tenant: max(books.busy[tenant] + amount, 0.0)})
    if tenant in books.idle or amount > 0:
        return replace(books, idle={**books.idle, tenant: max(books.idle.get(tenant, books.least) + amount, 0.0)})
    return books


def _admit(books: Books) -> Books:
    come = {tenant: max(books.idle.get(tenant, 0.0), books.least) for tenant in books.come}
    idle = {tenant: counter for tenant, counter in books.idle.items() if tenant not in come}
    return replace(books, busy={**books.busy, **come}, come=frozenset(), idle=idle)


def _leave(books: Books, tenant: str) -> Books:
    busy = dict(books.busy)
    counter = busy.pop(tenant)
    start = min(busy.values(), default=counter)
    # Who is not ahead would start there anyway, so nothing is kept of it: the books stay as small as the competition.
    idle = {name: ahead for name, ahead in books.idle.items() if ahead >= start}
    if counter > start:
        idle[tenant] = counter
    return replace(books, busy=busy, start=start, idle=idle)


def _room(terms: Terms, running: int) -> float:
    return float("inf") if terms.cap is None else terms.cap - running
