"""From settings to the terms of a pool: PURE."""

from __future__ import annotations

from collections.abc import Collection

from penstock.lane import LANES, Lane
from penstock.policy.scaling import Terms
from penstock.settings import Settings

#: From a decision to a ready worker, until it was seen: a cold start with torch, seconds.
COLD_S = 10.0
#: The same of a parked one, whose slot is set and which is told to look at it (``benchmarks/warm.py``: 60 ms).
WAKE_S = 0.1


def target_of(settings: Settings, pool: str, lane: Lane) -> float:
    """The latency target of a lane in a pool, seconds."""
    lanes = settings.lanes
    default = lanes.interactive.target if lane is Lane.INTERACTIVE else lanes.background.target
    return settings.pool(pool).target_s(lane, default)


def terms_of(settings: Settings, pool: str, *, room: int, ready_in_s: float | None = None) -> Terms:
    """The terms of one pool. ``room`` is how many of its workers there is room for; fewer than its least are not: those
    for which there is none are told of. ``ready_in_s`` is what a start has taken, where any was seen.
    """
    said = settings.pool(pool)
    return Terms(
        least=said.min,
        most=max(said.min, room if said.max is None else min(said.max, room)),
        warm=said.warm,
        target_s={lane: target_of(settings, pool, lane) for lane in LANES},
        ready_in_s=COLD_S if ready_in_s is None else ready_in_s,
        lost_after_s=settings.autoscaler.lost_after_s,
        # Who only tells others how many there are to be cannot have any of them wait.
        wake_in_s=None if settings.autoscaler.backend == "external" else WAKE_S,
    )


def pools_of(settings: Settings, known: Collection[str], only: Collection[str] = ()) -> list[str]:
    """The pools to look after: those of models that are known and those of the settings, or ``only`` some."""
    return sorted(pool for pool in {*known, *settings.pools} if not only or pool in only)
