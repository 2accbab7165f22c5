"""The retry policy of jobs and the delivery schedule of webhooks."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.retry import (
    RETRY_AFTER_MAX_S,
    WEBHOOK_JITTER,
    WEBHOOK_SCHEDULE_S,
    Cause,
    Spent,
    Verdict,
    backoff_s,
    judge_delivery,
    parse_retry_after,
    retry_at,
)
from penstock.settings import RetrySettings

NOW = 1_800_000_000.0
BUDGETS = RetrySettings(failures=2, losses=1, ooms=0, backoff_s=1.0, backoff_max_s=10.0)


class Highest(Random):
    """Draws the upper end, so that a back-off is its longest."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Lowest(Random):
    """Draws the lower end."""

    def uniform(self, a: float, b: float) -> float:
        return a


@pytest.mark.parametrize(
    ("cause", "spent", "expected"),
    [
        (Cause.FAILURE, Spent(), 1.0),
        (Cause.FAILURE, Spent(failures=1), 2.0),
        (Cause.FAILURE, Spent(failures=2), None),
        (Cause.LOSS, Spent(), 0.0),
        (Cause.LOSS, Spent(losses=1), None),
        (Cause.OOM, Spent(), None),
        # Budgets are separate: another cause's count changes nothing.
        (Cause.FAILURE, Spent(losses=99, ooms=99), 1.0),
        (Cause.LOSS, Spent(failures=99, ooms=99), 0.0),
    ],
)
def test_each_cause_draws_on_its_own_budget(cause: Cause, spent: Spent, expected: float | None) -> None:
    at = retry_at(cause, spent, BUDGETS, now=NOW, rng=Highest())
    assert at == (None if expected is None else NOW + expected)


def test_a_retry_that_could_not_begin_before_the_deadline_is_not_made() -> None:
    assert retry_at(Cause.FAILURE, Spent(), BUDGETS, now=NOW, rng=Highest(), deadline_at=NOW + 1.0) is None
    assert retry_at(Cause.FAILURE, Spent(), BUDGETS, now=NOW, rng=Highest(), deadline_at=NOW + 1.1) == NOW + 1.0


@given(retries=st.integers(0, 10_000), seed=st.integers(0, 2**32))
def test_backoff_stays_within_its_bounds(retries: int, seed: int) -> None:
    wait_s = backoff_s(retries, first_s=0.5, longest_s=60.0, rng=Random(seed))
    assert 0.0 <= wait_s <= min(60.0, 0.5 * 2.0 ** min(retries, 20))


def test_backoff_uses_the_whole_range() -> None:
    """Full jitter: retries that failed together spread over the interval, down to its start."""
    rng = Random(7)
    waits = sorted(backoff_s(3, first_s=1.0, longest_s=100.0, rng=rng) for _ in range(1000))
    assert waits[0] < 0.1
    assert waits[-1] > 7.9
    assert 3.6 < sum(waits) / len(waits) < 4.4


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.DELIVERED),
        (204, Verdict.DELIVERED),
        (299, Verdict.DELIVERED),
        (None, Verdict.RETRY),
        (301, Verdict.RETRY),
        (307, Verdict.RETRY),
        (400, Verdict.RETRY),
        (404, Verdict.RETRY),
        (429, Verdict.RETRY),
        (500, Verdict.RETRY),
        (410, Verdict.GONE),
    ],
)
def test_what_an_answer_means(status: int | None, verdict: Verdict) -> None:
    assert judge_delivery(attempts=1, status=status, now=NOW, rng=Random(1)).verdict is verdict


def test_the_whole_schedule_with_a_clock_that_is_only_a_number() -> None:
    """A receiver that never answers is tried ten times over about three days, then given up."""
    now, waits, attempts = NOW, [0.0], 0
    while True:
        attempts += 1
        judgement = judge_delivery(attempts=attempts, status=503, now=now, rng=Lowest())
        if judgement.verdict is not Verdict.RETRY:
            break
        assert judgement.next_at is not None
        waits.append(judgement.next_at - now)
        now = judgement.next_at
    assert judgement.verdict is Verdict.DEAD
    assert judgement.next_at is None
    assert waits == list(WEBHOOK_SCHEDULE_S)
    assert attempts == 10


@given(attempts=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_jitter_only_lengthens_a_wait(attempts: int, seed: int) -> None:
    """Never sooner than promised, and at most a fifth later."""
    judgement = judge_delivery(attempts=attempts, status=None, now=0.0, rng=Random(seed))
    planned = WEBHOOK_SCHEDULE_S[attempts]
    assert judgement.next_at is not None
    assert planned <= judgement.next_at <= planned * (1 + WEBHOOK_JITTER)


@pytest.mark.parametrize(
    ("asked_s", "expected_s"),
    [(0.0, 5.0), (3.0, 5.0), (60.0, 60.0), (1e9, RETRY_AFTER_MAX_S)],
)
def test_retry_after_can_only_lengthen_the_wait(asked_s: float, expected_s: float) -> None:
    judgement = judge_delivery(attempts=1, status=429, retry_after_s=asked_s, now=NOW, rng=Lowest())
    assert judgement.next_at == NOW + expected_s


def test_a_refused_address_is_tried_again() -> None:
    assert judge_delivery(attempts=1, status=None, refused=True, now=NOW, rng=Lowest()).next_at == NOW + 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("９", None),
        ("9" * 5000, float("9" * 12)),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2027 08:01:00 -0000", 60.0),
        ("Fri, 15 Jan 2027 09:01:00 +0100", 60.0),
        ("Fri, 15 Jan 2016 08:01:00 GMT", 0.0),
        ("Fri, 99 Jan 2027 08:01:00 GMT", None),
    ],
)
def test_retry_after_in_both_forms(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value, now=NOW) == expected


@given(st.text(max_size=40))
def test_no_header_breaks_the_parser(value: str) -> None:
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or seconds >= 0
