"""How much a worker claims ahead: only what it can start soon.

What is claimed can no longer be taken by an idle worker, counted by the autoscaler, or overtaken by a job of a better
lane. So a worker claims late: while the device is busy for longer than a claim needs to arrive, it leaves everything at
the broker, and idle workers take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.lane import Lane

#: What the way from the broker is taken to be at first, seconds; how much longer than usual a claim may take; and the
#: most that a claim is made ahead, in times of what is set.
FETCH_S, SPARE, MOST = 0.002, 1.2, 4.0
#: Weight of the newest claim in what claims usually take.
NEWEST = 0.1


def room(size: int, batches: float, *, batch_s: float, least_s: float) -> int:
    """How many items of a queue may wait in a worker, where ``size`` make a full batch that takes ``batch_s``.

    One batch, where the next claim can be made while that one runs (it is made ``least_s`` ahead at least). More would
    only stand in the way of those that come first by then: of an urgent one, or of a tenant who has had less. Of
    batches that are over before the next claim is made, ``batches``.
    """
    return size if batch_s > least_s else max(1, int(size * batches))


def wanted(*, most: int, waiting: int, starts_in_s: float, lead_s: float) -> int:
    """How many more items of a queue to claim now.

    ``most`` may wait in the worker, ``waiting`` do; something claimed now would start in ``starts_in_s`` at the
    earliest, and ``lead_s`` is how long ahead of that a claim is worth it.
    """
    return max(0, most - waiting) if starts_in_s <= lead_s else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue as the worker that claims from it sees it.

    ``waiting`` of at most ``room`` items are here. They will keep the device for ``ahead_s``, the full batches among
    them for ``full_s``. ``begun`` counts the running sequences of a step-wise model; ``None`` for one of whole batches.
    ``closed``: nothing may be claimed of it now.
    """

    name: str
    lane: Lane
    waiting: int
    room: int
    ahead_s: float = 0.0
    full_s: float = 0.0
    begun: int | None = None
    closed: bool = False


def quotas(
    queues: Sequence[Queue],
    *,
    busy_s: float,
    lead_s: float,
    fed: bool = False,
    fed_urgent: bool = False,
    overtaken_s: float = 0.0,
) -> dict[str, int]:
    """How many more items of each queue to claim now; ``queues`` are in the order of service, lane by lane.

    The device is busy for ``busy_s``, a batch claimed ahead included; interactive work would go before ``overtaken_s``
    of that. ``fed``: something was claimed for the next batch already, ``fed_urgent``: interactive items among it. One
    claim per batch, as late as can be: one per message would cost more than the messages.
    """
    found: dict[str, int] = {}
    before_s = {lane: sum(queue.ahead_s for queue in queues if queue.lane is lane) for lane in Lane}
    for queue in queues:
        if queue.closed:
            found[queue.name] = 0
            continue
        if queue.begun is not None:
            # Newcomers join between two steps. One may always wait: it is what the device thread decides by.
            found[queue.name] = max(0, max(1, queue.room - queue.begun) - queue.waiting)
            continue
        # What is claimed now joins the next batch of its model, unless that is full already.
        starts_in_s = busy_s + before_s[queue.lane] - queue.ahead_s + queue.full_s
        if queue.lane is Lane.BACKGROUND:
            starts_in_s += before_s[Lane.INTERACTIVE]
        else:
            starts_in_s -= overtaken_s
        if fed and (queue.lane is Lane.BACKGROUND or fed_urgent):
            starts_in_s = float("inf")
        more = wanted(most=queue.room, waiting=queue.waiting, starts_in_s=starts_in_s, lead_s=lead_s)
        found[queue.name] = more
    return found


class Usual:
    """What something usually takes, seconds, by how many items it is done for: sixty-four take longer than one."""

    def __init__(self, at_first_s: float) -> None:
        self._all_s = at_first_s
        #: By the number of binary digits.
        self._by_size: dict[int, float] = {}

    def took(self, seconds: float, items: int) -> None:
        """It took so long for so many."""
        self._all_s += NEWEST * (seconds - self._all_s)
        size = items.bit_length()
        usual_s = self._by_size.get(size, seconds)
        self._by_size[size] = usual_s + NEWEST * (seconds - usual_s)

    def of(self, items: int) -> float:
        """For so many; where there never were about as many, what it takes on average."""
        return self._by_size.get(items.bit_length(), self._all_s)


class Lead:
    """How long before a batch ends the next one is claimed: as long as that takes, at least ``least_s``.

    Never more than half of the batch: what comes in its first half can still be claimed with the rest. Where messages
    at the head of a queue are abandoned, it takes several rounds to get behind them.
    """

    def __init__(self, least_s: float) -> None:
        self.least_s = least_s
        #: The way from the broker, and the claim in SQL.
        self.fetch, self.claim = Usual(FETCH_S), Usual(0.0)
        self._search_s = 0.0

    def searched(self, seconds: float) -> None:
        """It took so long to get behind those that were abandoned; 0 where there were none."""
        self._search_s += NEWEST * (seconds - self._search_s)

    def before(self, batch_s: float, items: int) -> float:
        """For a batch of so many items that takes ``batch_s``, seconds. The next one is taken to be as large."""
        usual_s = self.fetch.of(items) + SPARE * self.claim.of(items) + self._search_s
        return max(self.least_s, min(usual_s, MOST * self.least_s, batch_s / 2))
