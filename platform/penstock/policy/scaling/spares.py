"""How many parked workers are kept: as many as need has lately risen by within the time that a cold start takes."""

from __future__ import annotations

import math

from msgspec.structs import replace

from penstock.policy.scaling.state import State
from penstock.policy.scaling.terms import Context

#: A rise counts half after this many seconds, and for nothing when less than half a worker is left of it: one of a
#: worker has a spare for so long, one of eight the last of its spares for two hours.
HALF_S = 1800.0


def risen(state: State, staff: float, *, before: float, least: int, at: float) -> State:
    """The state after need is ``staff``, of the rate with its margin, and was ``before`` as long ago as a start takes.

    What the pool's ``least`` workers answer is no rise, nor is its first worker: who is idle or lightly used has no
    spare. The farthest rise counts, of what is not forgotten.
    """
    rise = staff - max(before, least, 1.0)
    if rise <= 0 or rise < _faded(state, at):
        return state
    return replace(state, rise=rise, rise_at=at)


def spares(context: Context, state: State, target: int) -> int:
    """Parked workers to have beside ``target``; none where the pool cannot park.

    A pool that wants nobody keeps those that the settings say: a burst that is over would hold memory, and a device,
    for hours.
    """
    terms = context.terms
    if terms.wake_in_s is None:
        return 0
    quick = target > 0 and terms.wake_in_s < terms.ready_in_s
    rise = math.ceil(_faded(state, context.now) - 0.5) if quick else 0
    return max(min(max(terms.warm, rise), terms.most - target), 0)


def _faded(state: State, now: float) -> float:
    if not state.rise:
        return 0.0
    return float(state.rise * 0.5 ** (max(now - state.rise_at, 0.0) / HALF_S))
