"""How many parked workers are kept: as many as need has risen by within the time that a cold start takes."""

from __future__ import annotations

import math
from dataclasses import replace

from penstock.policy.scaling.state import State
from penstock.policy.scaling.terms import Context

#: A rise counts half after this many seconds, so that one big one is not paid for for ever.
HALF_S = 3600.0


def risen(state: State, staff: float, *, at: float, within_s: float) -> State:
    """The state after need is ``staff``: how far it is above the mean of the time that a start takes, if that is the
    farthest so far, of what is not forgotten."""
    flow = state.flow
    # The slow mean is what need was about a minute ago, the long one some minutes ago.
    before = flow.slow if within_s < 60.0 else flow.long
    remembered = _faded(state, at)
    rise = max(staff - before, 0.0)
    if rise < remembered:
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
    rise = math.ceil(_faded(state, context.now) - 0.05) if quick else 0
    return max(min(max(terms.warm, rise), terms.most - target), 0)


def _faded(state: State, now: float) -> float:
    if not state.rise:
        return 0.0
    return float(state.rise * 0.5 ** (max(now - state.rise_at, 0.0) / HALF_S))
