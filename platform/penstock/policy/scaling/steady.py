"""What keeps a target steady, around any need: a window for going down, panic, and whether fewer carry the load.

Up is at once. Down is to the highest need of a window that is as long as a start is dear (at most five minutes), at
most to half, once in half a minute, and only if those who stay carry the backlog as well. In a panic nothing stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct

#: The window for going down, as a multiple of the time to be ready, and its bounds, seconds.
HOLD, HOLD_LEAST_S, HOLD_MOST_S = 10.0, 5.0, 300.0
#: Stretches that a window is kept in.
STRETCHES = 10
#: Panic, as Knative has it: the mean of six seconds wants twice what is ready. It lasts a minute after the last time.
PANIC, PANIC_S = 2.0, 60.0
#: Between two times of stopping some, seconds; at most this share stops at once.
DOWN_EVERY_S, DOWN_SHARE = 30.0, 0.5
#: Fractions of a worker that are no need of one more, and that must be free before one fewer is enough: between the two
#: a target stays.
SPARE_UP, SPARE_DOWN = 0.05, 0.05

Peaks = tuple[tuple[float, float], ...]


class Steady(Struct, frozen=True):
    """A target, and the stable word of why it is that."""

    target: int
    code: str


def hold_s(ready_in_s: float) -> float:
    """The window for going down."""
    return min(max(HOLD * ready_in_s, HOLD_LEAST_S), HOLD_MOST_S)


def with_peak(peaks: Peaks, *, at: float, height: float, window_s: float) -> Peaks:
    """The window's peaks with one more, in stretches."""
    kept = [(begin, high) for begin, high in peaks if begin > at - window_s]
    if kept and kept[-1][0] > at - window_s / STRETCHES:
        kept[-1] = (kept[-1][0], max(kept[-1][1], height))
    else:
        kept.append((at, height))
    return tuple(kept)


def panics(fast: float, ready: int) -> bool:
    """Whether need has run away from what is ready."""
    return fast >= PANIC * max(ready, 1)


def steady(
    *,
    have: int,
    need: float,
    held: float,
    panic: bool,
    rested_s: float,
    window_s: float,
    carries: Callable[[int], bool],
) -> Steady:
    """The target from what is wanted now (``have``).

    ``need`` is of this moment, ``held`` the highest of the window. ``rested_s``: since some were last stopped.
    ``carries`` says of a number of workers whether they would have the backlog done in time.
    """
    up = math.ceil(max(need - SPARE_UP, 0.0))
    if up > have:
        return Steady(up, "panic" if panic else "up")
    least = max(math.ceil(held + SPARE_DOWN), math.ceil(have * DOWN_SHARE), up)
    if least >= have:
        return Steady(have, "steady" if math.ceil(need + SPARE_DOWN) >= have else "hold.window")
    if panic:
        return Steady(have, "hold.panic")
    if rested_s < min(DOWN_EVERY_S, window_s):
        return Steady(have, "hold.rest")
    for target in range(least, have):
        if carries(target):
            return Steady(target, "down")
    return Steady(have, "hold.backlog")
