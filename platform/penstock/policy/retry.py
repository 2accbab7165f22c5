"""Whether and when to try again: jobs after a failed attempt, webhooks after a failed delivery.

A job has three budgets that do not draw on each other: its model's own failures, lost workers, and a device that
ran out of memory. A webhook has a fixed schedule over three days. Both spread their retries at random, so that what
failed together does not come back together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from random import Random
from typing import Protocol

# Jobs -----------------------------------------------------------------------------------------------------------


class Cause(StrEnum):
    """Which budget an attempt that did not succeed draws on."""

    FAILURE = "failure"
    LOSS = "loss"
    OOM = "oom"


class Budgets(Protocol):
    """Retries allowed per cause and the shape of the back-off; ``RetrySettings`` is one."""

    @property
    def failures(self) -> int: ...
    @property
    def losses(self) -> int: ...
    @property
    def ooms(self) -> int: ...
    @property
    def backoff_s(self) -> float: ...
    @property
    def backoff_max_s(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """How often a job was tried in vain so far, by cause; the attempt being judged is not counted yet."""

    failures: int = 0
    losses: int = 0
    ooms: int = 0

    def of(self, cause: Cause) -> int:
        """The count of one cause."""
        return {Cause.FAILURE: self.failures, Cause.LOSS: self.losses, Cause.OOM: self.ooms}[cause]


def retry_at(
    cause: Cause, spent: Spent, budgets: Budgets, *, now: float, rng: Random, deadline_at: float | None = None
) -> float | None:
    """When the job may run again (Unix seconds), or ``None`` when it has to be given up.

    It is given up when the cause's budget is used up, or when the retry could not begin before the deadline: the
    job then ends as ``failed`` with its own error, which says more than ``expired`` would. The loss of a worker is
    not the job's doing, so that retry does not wait.
    """
    limit = {Cause.FAILURE: budgets.failures, Cause.LOSS: budgets.losses, Cause.OOM: budgets.ooms}[cause]
    before = spent.of(cause)
    if before >= limit:
        return None
    wait_s = 0.0
    if cause is not Cause.LOSS:
        wait_s = backoff_s(before, first_s=budgets.backoff_s, longest_s=budgets.backoff_max_s, rng=rng)
    if deadline_at is not None and now + wait_s >= deadline_at:
        return None
    return now + wait_s


def backoff_s(retries: int, *, first_s: float, longest_s: float, rng: Random) -> float:
    """Exponential back-off with full jitter: uniform between 0 and ``first_s * 2**retries``, at most ``longest_s``.

    Full jitter gives the least total work for clients that compete (M. Brooker, "Exponential Backoff And Jitter",
    2015). ``retries`` counts from 0.
    """
    # The exponent is bounded since 2.0**1024 overflows; 2**64 seconds are beyond any limit.
    return rng.uniform(0.0, min(longest_s, first_s * 2.0 ** min(retries, 64)))


# Webhooks -------------------------------------------------------------------------------------------------------

#: Seconds between one attempt at a delivery and the next, the first being at once: ten attempts in about three days.
WEBHOOK_SCHEDULE_S: tuple[float, ...] = (
    0,
    5,
    5 * 60,
    30 * 60,
    2 * 3600,
    5 * 3600,
    10 * 3600,
    14 * 3600,
    20 * 3600,
    24 * 3600,
)

#: Each wait is made up to this share longer at random.
WEBHOOK_JITTER = 0.2

#: The longest wait that a receiver can ask for with ``Retry-After``.
RETRY_AFTER_MAX_S = 24 * 3600.0


class Verdict(StrEnum):
    """What one attempt at a delivery means for the delivery."""

    DELIVERED = "delivered"
    RETRY = "retry"
    DEAD = "dead"
    #: The receiver answered 410: it wants nothing more at this address.
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, and for ``RETRY`` when to try again (Unix seconds)."""

    verdict: Verdict
    next_at: float | None = None


def judge_delivery(
    *,
    attempts: int,
    status: int | None,
    retry_after_s: float | None = None,
    refused: bool = False,
    now: float,
    rng: Random,
    schedule_s: Sequence[float] = WEBHOOK_SCHEDULE_S,
) -> Judgement:
    """Judge one attempt at a delivery.

    ``attempts`` counts this one. ``status`` is the HTTP status, ``None`` when there was no answer. Anything but 2xx
    is a failure, redirects too. ``Retry-After`` can only lengthen the wait. ``refused`` means that the address is
    not allowed: it is tried again like any failure, since what a name resolves to can be put right.
    """
    if status is not None and not refused:
        if 200 <= status < 300:
            return Judgement(Verdict.DELIVERED)
        if status == 410:
            return Judgement(Verdict.GONE)
    if attempts >= len(schedule_s):
        return Judgement(Verdict.DEAD)
    wait_s = schedule_s[attempts] * rng.uniform(1.0, 1.0 + WEBHOOK_JITTER)
    if retry_after_s is not None:
        wait_s = max(wait_s, min(retry_after_s, RETRY_AFTER_MAX_S))
    return Judgement(Verdict.RETRY, now + wait_s)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """The seconds that a ``Retry-After`` header asks for (RFC 9110: a number, or a date); ``None`` if it is neither.

    A date in the past is 0. The answer is not capped.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # Longer numbers are beyond every cap, and int() of a huge text is slow.
        return float(int(text[:12]))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)  # "-0000" parses as naive and means UTC
    try:
        return max(0.0, at.timestamp() - now)
    except (OverflowError, ValueError):
        return None
