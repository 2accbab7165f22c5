"""How much a worker claims ahead: only what it can start soon.

What is claimed can no longer be taken by an idle worker, counted by the autoscaler, or overtaken by a job of a better
lane. So a worker claims late: while the device is busy for longer than a claim needs to arrive, it leaves everything at
the broker, and idle workers take it.
"""

from __future__ import annotations


def wanted(*, most: int, waiting: int, starts_in_s: float, lead_s: float) -> int:
    """How many more items of a queue to claim now.

    ``most`` may wait in the worker, ``waiting`` do; something claimed now would start in ``starts_in_s`` at the
    earliest, and ``lead_s`` is how long ahead of that a claim is worth it.
    """
    return max(0, most - waiting) if starts_in_s <= lead_s else 0
