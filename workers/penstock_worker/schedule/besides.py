"""Queues that are no model's: asked for together with those of the models.

While the device is busy and wants nothing, a claim for these alone at each turn of the loop would cost more than many a
batch. But it may be busy for long, and they are not for it: so then they are asked for after a while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penstock.clock import monotonic_s

#: How long the device is busy before they are asked for alone, seconds.
BUSY_S = 0.05


class Besides:
    """For the hub thread. ``quota`` says how many of each are wanted; ``later`` calls a function after so many seconds,
    and ``wake`` has the loop look at the quotas again."""

    def __init__(
        self,
        quota: Callable[[], Mapping[str, int]],
        *,
        later: Callable[[float, Callable[[], None]], object],
        wake: Callable[[], None],
        clock: Callable[[], float] = monotonic_s,
    ) -> None:
        self._quota = quota
        self._later = later
        self._wake = wake
        self._clock = clock
        #: Since when nothing else was wanted, if nothing is.
        self._busy_since: float | None = None
        self._called = False

    def quota(self, *, others: bool) -> Mapping[str, int]:
        """How many to claim now; ``others``: whether messages for models are wanted, too."""
        wanted = self._quota()
        if others:
            self._busy_since = None
            return wanted
        now = self._clock()
        if self._busy_since is None:
            self._busy_since = now
        if now - self._busy_since >= BUSY_S:
            return wanted
        if not self._called:
            self._called = True
            self._later(BUSY_S, self._look)
        return dict.fromkeys(wanted, 0)

    def _look(self) -> None:
        self._called = False
        self._wake()
