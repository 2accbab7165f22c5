"""What has been learned of a pool's new work: its rate on several time scales, how it varies, and how often capacity
came too late for it.

Means are exponentially weighted; at the beginning, plain.
"""

from __future__ import annotations

import math

from msgspec import Struct

#: Time constants, seconds: six and sixty are Knative's panic and stable windows; the reserve is on top of the longest.
FAST_S, MIDDLE_S, SLOW_S, LONG_S = 6.0, 20.0, 60.0, 200.0
#: Before the first look there was nothing, for so long: one second is no mean of a minute. Not for the longest, which
#: would go on rising for minutes although nothing changes.
PRIOR_S = 1.0
#: Of the variance.
SPREAD_S = 600.0
#: Share of work that may be late because capacity came late, and by how much a second in which all is late raises the
#: reserve. In balance as much is late as may be, whatever the traffic is like: an adaptive quantile (Gibbs and Candès,
#: 2021), instead of a forecast of its distribution.
LATE_BUDGET, RESERVE_STEP = 0.005, 0.0003
#: The reserve before anything was learned, and at most: shares of the rate.
FIRST_RESERVE, MOST_RESERVE = 0.15, 2.0


class Flow(Struct, frozen=True, kw_only=True):
    """Device seconds of new work per second. ``seen_s`` is how long it has been looked at."""

    seen_s: float = 0.0
    fast: float = 0.0
    middle: float = 0.0
    slow: float = 0.0
    long: float = 0.0
    #: Variance of the middle mean about the slow one.
    spread: float = 0.0
    #: What is kept on top of the long mean, as a share of it.
    reserve: float = FIRST_RESERVE

    @property
    def dispersion(self) -> float:
        """Variance of the work that comes in a second, as it shows on the middle time scale."""
        # An exponential mean of time constant t over noise keeps 1 / 2t of its variance; about a longer one, less.
        return self.spread * 2 * MIDDLE_S * SLOW_S / (SLOW_S - MIDDLE_S)

    def rate(self, sure: float) -> float:
        """The highest of the means; of the quick ones what chance does not explain (``sure`` deviations)."""
        noise = self.dispersion
        return max(
            self.slow,
            self.middle - sure * math.sqrt(noise / (2 * MIDDLE_S)),
            self.fast - sure * math.sqrt(noise / (2 * FAST_S)),
        )

    def after(self, demand: float, elapsed_s: float, *, late: bool) -> Flow:
        """The flow after one more look, ``elapsed_s`` after the one before.

        ``late``: what has come since will not be in time.
        """
        seen = self.seen_s + elapsed_s

        def mean(old: float, new: float, constant_s: float, prior_s: float = PRIOR_S) -> float:
            return old + (new - old) * min(
                max(1 - math.exp(-elapsed_s / constant_s), elapsed_s / (seen + prior_s)), 1.0
            )

        slow, middle = mean(self.slow, demand, SLOW_S), mean(self.middle, demand, MIDDLE_S)
        long = mean(self.long, demand, LONG_S, 0.0)
        away = (middle - slow) ** 2
        if middle < slow:  # that traffic falls is no reason to expect more
            away = min(away, self.spread)
        # A second counts by the work that came in it; a burst for no more than three.
        weight = min(demand / long, 3.0) * elapsed_s if long > 0 else 0.0
        reserve = self.reserve + RESERVE_STEP * weight * (late - LATE_BUDGET)
        return Flow(
            seen_s=seen,
            fast=mean(self.fast, demand, FAST_S),
            middle=middle,
            slow=slow,
            long=long,
            spread=mean(self.spread, away, SPREAD_S),
            reserve=min(max(reserve, 0.0), MOST_RESERVE),
        )
