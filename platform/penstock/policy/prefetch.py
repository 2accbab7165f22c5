"""How much a worker claims ahead: only what it can start soon.

What is claimed can no longer be taken by an idle worker, counted by the autoscaler, or overtaken by a job of a better
lane. So a worker claims late: while the device is busy for longer than a claim needs to arrive, it leaves everything at
the broker, and idle workers take it.
"""

from __future__ import annotations

#: What the way from the broker takes, seconds; how much longer than usual a claim may take; and the most that a claim
#: is made ahead, in times of what is set.
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


class Lead:
    """How long before a batch ends the next one is claimed: as long as that takes, at least ``least_s``.

    Never more than half of the batch: what comes in its first half can still be claimed with the rest.
    """

    def __init__(self, least_s: float) -> None:
        self.least_s = least_s
        self._took_s = 0.0

    def claimed(self, seconds: float) -> None:
        """A claim took so long."""
        self._took_s += NEWEST * (seconds - self._took_s)

    def before(self, batch_s: float) -> float:
        """For a batch that takes ``batch_s``, seconds."""
        return max(self.least_s, min(FETCH_S + SPARE * self._took_s, MOST * self.least_s, batch_s / 2))
