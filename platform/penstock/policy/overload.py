"""What a worker learns about overload: the admission level of a model, and how many retries are bearable.

Both are pure bookkeeping: ``now`` comes in. The level is published with the worker's load and obeyed by producers
(``policy.admission``); the retry budget is the worker's own.
"""

from __future__ import annotations

import math

#: A wait beyond this share of the target (or of so many batches, if those are longer) is too long. When every batch for
#: so long (seconds, or batches of the model) had waited too long, the queue stands. Waits of so many times what is too
#: long count for as much more time: of a queue that grows this fast, every moment costs others their targets.
WAIT_SHARE, WAIT_BATCHES = 0.35, 5.0
STANDING_S, STANDING_BATCHES = 0.5, 10.0
GRAVEST = 4.0
#: One lowering is by as much as the wait was too long, within these factors. Its effect is seen with the jobs that were
#: admitted after it: those that were so long after it, when every producer has heard of it, seconds.
STEEPEST, SLIGHTEST, HEARD_S = 0.7, 0.98, 0.15
#: The step of a raise per second, and the lowest level.
RAISE, LOWEST = 0.01, 0.3
#: Batches that are not full say that the overload is over, whatever the level is: with empty ones it would be raised so
#: much more a second, with batches of this fill no more, up to a level below 1, from which on bursts are admitted. Else
#: jobs would be refused for minutes after a spike.
RECOVER, BUSY_FILL, RECOVERED = 0.5, 0.75, 0.95
#: The first lowering: until then every burst was admitted, so a queue stands that has to go.
FIRST = 0.7

#: Share of the target that a batch may take where two of them, and the way in and out, have to fit; and the share of a
#: full batch's rate that smaller ones must reach for that.
TWICE, ENOUGH = 0.45, 0.75

#: Share of the recent accepted work that may be retries; retries per second that are always bearable; and how many
#: may come at once.
RETRY_SHARE, RETRIES_PER_S, RETRIES_AT_ONCE = 0.1, 1.0, 10.0
#: Accepted work counts half after so long, seconds.
RECENT_S = 10.0


def keeping(target_s: float, *, alpha: float, beta: float, size: float) -> tuple[float, float] | None:
    """The longest batch with which a model keeps its target under load: its seconds and items; ``None``: it cannot.

    A job waits for one such batch and is in the next, so two have to fit. They may be smaller than full ones, of
    ``size``, as long as they get ``ENOUGH`` of the work of these done.
    """
    full_s, most_s = alpha + beta * size, TWICE * target_s
    if most_s >= full_s:
        return full_s, size
    items = (most_s - alpha) / beta if beta > 0 else 0.0
    return (most_s, items) if items >= 1.0 and items / most_s >= ENOUGH * size / full_s else None


def fitting(limit_s: float, *, alpha: float, beta: float, size: float) -> float:
    """Items of the largest batch of which two fit into this limit; never fewer than get ``ENOUGH`` of the work done.

    The same as ``keeping`` where that finds one. It grows with the limit.
    """
    enough = ENOUGH * size * alpha / max(alpha + (1.0 - ENOUGH) * beta * size, 1e-9)
    most_s = TWICE * limit_s
    items = size if most_s >= alpha + beta * size else (most_s - alpha) / beta if beta > 0 else 0.0
    return min(size, max(1.0, enough, items))


class Level:
    """Share of the room that interactive jobs of one model may spend waiting, 0.3 to 1."""

    def __init__(self) -> None:
        self.value = 1.0
        #: For how long the queue has stood, seconds, graver waits counting more; ``None``: it does not.
        self._standing_s: float | None = None
        self._last: float | None = None
        self._lowered_at = float("-inf")

    def saw(
        self,
        wait_s: float,
        *,
        target_s: float,
        batch_s: float,
        now: float,
        fill: float = 1.0,
        kept_s: float | None = None,
    ) -> None:
        """A batch began whose interactive items had waited ``wait_s`` (their median); ``fill`` of a full one (0..1).

        A model that is slower than its target is measured by its own batches; of one that keeps it with smaller ones,
        ``kept_s`` is how long these take (``keeping``), and ``fill`` is of one of these, by interactive items alone.
        """
        since_s = 0.0 if self._last is None else max(0.0, now - self._last)
        if self._last is not None and now < self._last:
            # The clock was set back: what is in its future does not hold lowerings up.
            self._lowered_at = float("-inf")
        self._last = now
        standing_s = max(STANDING_S, STANDING_BATCHES * (batch_s if kept_s is None else kept_s))
        if since_s > max(standing_s, wait_s):
            # Nothing began for longer than a queue takes to stand, and nobody waited all that time.
            self._standing_s = None
        too_long_s = WAIT_SHARE * max(target_s, WAIT_BATCHES * batch_s)
        if kept_s is not None:
            # With few waiting, their wait is for the batch before: a background batch may be as long.
            too_long_s = WAIT_SHARE * target_s if fill >= BUSY_FILL else float("inf")
        if wait_s <= too_long_s:
            self._standing_s = None
            slowly = min(1.0, self.value + RAISE * since_s)
            quickly = slowly + RECOVER * max(0.0, 1.0 - fill / BUSY_FILL) * since_s
            self.value = max(slowly, min(quickly, RECOVERED))
            return
        if self._standing_s is None:
            self._standing_s = 0.0
        else:
            self._standing_s += since_s * min(wait_s / too_long_s, GRAVEST)
        if self._standing_s < standing_s or now - wait_s < self._lowered_at + HEARD_S:
            return
        step = FIRST if self.value >= 1.0 else min(max(too_long_s / wait_s, STEEPEST), SLIGHTEST)
        self.value, self._lowered_at = max(LOWEST, self.value * step), now


class RetryBudget:
    """Retries of interactive jobs at no more than a tenth of the accepted work: what is beyond comes later.

    A token bucket (Finagle's retry budget): each first attempt pays in a tenth of a retry, each retry takes one. A
    retry that finds it empty is not given up but put off, so that retries cannot multiply an overload.
    """

    def __init__(self) -> None:
        self._tokens = RETRIES_AT_ONCE
        self._accepted_per_s = 0.0
        self._at: float | None = None

    def accepted(self, count: int, now: float) -> None:
        """So many jobs began their first attempt."""
        self._elapse(now)
        self._accepted_per_s += count * math.log(2.0) / RECENT_S
        self._tokens = min(RETRIES_AT_ONCE, self._tokens + RETRY_SHARE * count)

    def delay_s(self, now: float) -> float:
        """Spend one retry; how much longer than its back-off it has to wait, seconds."""
        self._elapse(now)
        self._tokens -= 1.0
        if self._tokens >= 0:
            return 0.0
        return -self._tokens / (RETRIES_PER_S + RETRY_SHARE * self._accepted_per_s)

    def _elapse(self, now: float) -> None:
        since_s = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._tokens = min(RETRIES_AT_ONCE, self._tokens + RETRIES_PER_S * since_s)
        self._accepted_per_s *= 0.5 ** (since_s / RECENT_S)
