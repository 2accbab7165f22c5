"""Plans: the policy itself on recorded traffic."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.lane import Lane
from penstock.policy.scaling import Terms
from penstock.policy.scaling.plan import Plan, lasting, learned, need, plan, roughness, traffic_of
from penstock.policy.scaling.replay import Past, recorded, replay

TERMS = Terms(least=1, most=20, target_s={Lane.INTERACTIVE: 1.0, Lane.BACKGROUND: 60.0}, ready_in_s=5.0)
HOUR = 60


def minute(index: int, rate: float, **fields: Any) -> Past:
    wanted = max(1, math.ceil(rate))
    values: dict[str, Any] = {"seconds": 60.0, "demand_s": rate * 60, "demand_most": rate, "wanted_s": wanted * 60.0}
    return Past(at=1e9 + index * 60.0, **values | fields)


def flat(rate: float, minutes: int, **fields: Any) -> list[Past]:
    return [minute(index, rate, **fields) for index in range(minutes)]


def ask(minutes: list[Past], terms: Terms = TERMS, *, asked_s: float | None = None, **fields: Any) -> Plan:
    seen_s = sum(each.seconds for each in minutes)
    return plan(minutes, terms, asked_s=asked_s or seen_s, **{"others": {}, "traffics": {}} | fields)


# Replaying ------------------------------------------------------------------------------------------------------


def test_steady_traffic_is_carried_by_what_it_needs() -> None:
    found = replay(flat(3.4, 2 * HOUR), TERMS)
    assert found.seconds == 2 * 3600 and found.demand_s == pytest.approx(3.4 * 7200)
    assert 3.4 < found.workers < 8
    assert found.late < 0.02


def test_nothing_to_do_costs_the_least_number_of_workers() -> None:
    for least in (0, 1, 3):
        found = replay(flat(0.0, 3 * HOUR), replace(TERMS, least=least))
        assert found.late == 0.0
        assert found.workers == pytest.approx(least, abs=0.2), "but for the time that they take to go"


def test_too_small_a_max_is_late_and_costs_no_more_than_the_max() -> None:
    found = replay(flat(6.0, HOUR), replace(TERMS, most=4))
    assert found.most == 4 and found.worker_s <= 4 * 3600
    assert found.late > 0.9


def test_a_burst_is_late_until_workers_have_come() -> None:
    minutes = [*flat(0.5, 30), *(replace(m, at=m.at + 1800) for m in flat(8.0, 30))]
    quick, slow = (replay(minutes, replace(TERMS, ready_in_s=ready_in_s)) for ready_in_s in (1.0, 60.0))
    assert 0 < quick.late < slow.late


def test_twice_the_traffic_costs_about_twice() -> None:
    minutes = flat(4.0, 4 * HOUR)
    once, twice = replay(minutes, TERMS), replay(minutes, TERMS, times=2.0)
    assert twice.demand_s == pytest.approx(2 * once.demand_s)
    assert 1.5 < twice.worker_s / once.worker_s < 2.2


def test_what_was_not_seen_is_left_out_and_not_taken_for_quiet() -> None:
    """After a gap it begins anew, with the workers that the record says there were."""
    before, after = flat(8.0, 30), [replace(m, at=m.at + 7 * 86400) for m in flat(8.0, 30)]
    found = replay([*before, *after], TERMS)
    assert found.seconds == 3600 and found.late < 0.02 and found.workers >= 8
    half = [replace(each, seconds=30.0, demand_s=each.demand_s / 2, wanted_s=each.wanted_s / 2) for each in before]
    assert replay(half, TERMS).seconds == pytest.approx(900, rel=0.05)


@given(
    rates=st.lists(st.floats(0, 30), min_size=1, max_size=40),
    peak=st.floats(1, 5),
    least=st.integers(0, 3),
    most=st.integers(3, 12),
    warm=st.integers(0, 2),
    wake_in_s=st.none() | st.floats(0.01, 2),
)
def test_whatever_comes_is_kept_within_the_terms(
    rates: list[float], peak: float, least: int, most: int, warm: int, wake_in_s: float | None
) -> None:
    terms = replace(TERMS, least=least, most=most, warm=warm, wake_in_s=wake_in_s)
    minutes = [minute(index, rate, demand_most=rate * peak) for index, rate in enumerate(rates)]
    found = replay(minutes, terms)
    assert found.seconds == pytest.approx(60 * len(rates))
    assert found.demand_s == pytest.approx(sum(rates) * 60, abs=1e-6)
    assert least * found.seconds - 1e-6 <= found.worker_s <= most * found.seconds + 1e-6
    assert found.most <= most and 0 <= found.late <= 1 + 1e-9 and found.parked_s >= 0


# Questions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traffic", [0.0, 0.3, 2.5, 7.0])
def test_a_traffic_needs_at_least_as_many_workers_as_it_keeps_busy(traffic: float) -> None:
    found = need(traffic, TERMS)
    assert not found.bound and max(1, math.ceil(traffic)) <= found.workers <= 2 * traffic + 3


def test_a_worker_that_is_busy_all_the_time_is_in_time_only_where_nothing_is_left_to_chance() -> None:
    assert need(0.999, TERMS).workers == 1
    assert need(0.999, TERMS, rough=1.5).workers > 1
    assert need(9.0, TERMS, rough=3.0).workers > need(9.0, TERMS).workers


def test_how_rough_it_was_is_told_by_the_worst_seconds() -> None:
    assert roughness([minute(0, 0.0), minute(1, 4.0, demand_most=7.0), minute(2, 1.0, demand_most=1.5)]) == 1.5
    assert roughness(flat(0.0, 3)) == roughness([]) == 0.0


def test_workers_are_told_for_the_terms_that_are_asked_about() -> None:
    minutes = flat(3.0, HOUR, demand_most=9.0)
    tight, patient = (
        ask(minutes, sized=replace(TERMS, target_s={Lane.INTERACTIVE: target_s})).needs["mean"].workers
        for target_s in (0.2, 30.0)
    )
    assert tight > patient


def test_a_need_beyond_max_says_so() -> None:
    found = need(40.0, TERMS)
    assert found.bound and found.workers == 20


def test_traffic_is_told_by_its_mean_its_busy_minutes_and_its_worst_second() -> None:
    minutes = [*flat(1.0, 94), *(replace(m, at=m.at + 94 * 60) for m in flat(5.0, 6, demand_most=9.0))]
    found = traffic_of(minutes)
    assert (found.median, found.high, found.minute, found.second) == (1.0, 5.0, 5.0, 9.0)
    assert found.mean == pytest.approx(1.24)


def test_other_settings_are_compared_with_todays() -> None:
    minutes = flat(2.0, 4 * HOUR)
    found = ask(minutes, others={"more": (replace(TERMS, least=10), 1.0), "2 times": (TERMS, 2.0)}, traffics={"x": 6.0})
    as_set = found.replayed["as set"]
    assert found.replayed["more"].worker_s > 9 * 4 * 3600 > as_set.worker_s
    assert found.replayed["2 times"].demand_s == pytest.approx(2 * as_set.demand_s)
    assert found.needs["x"].traffic == 6.0 and found.needs["x"].workers >= 6
    assert found.recorded == recorded(minutes) and found.recorded.workers == 2


def test_what_was_learned_last_counts() -> None:
    minutes = [minute(0, 1.0, ready_in_s=30.0), minute(1, 1.0, ready_in_s=20.0, wake_in_s=0.1), minute(2, 1.0)]
    assert (learned(minutes, TERMS).ready_in_s, learned(minutes, TERMS).wake_in_s) == (20.0, 0.1)
    assert learned([minute(0, 1.0)], TERMS) == TERMS


KNOWN = {"ready_in_s": 5.0}


@pytest.mark.parametrize(
    "minutes, asked_s, words",
    [
        (flat(2.0, 3 * HOUR, **KNOWN), None, "only 3 h were seen"),
        (flat(2.0, 30 * HOUR, **KNOWN), 7 * 86400.0, "30 h of 7 d were seen"),
        (flat(0.0, 25 * HOUR, **KNOWN), None, "no work came"),
        (flat(2.0, 25 * HOUR), None, "5 s is assumed"),
        (flat(2.0, 25 * HOUR, wanted_s=1200.0, **KNOWN), None, "other settings were in force"),
        (flat(30.0, 25 * HOUR, wanted_s=1200.0, **KNOWN), None, "max, 20, was reached"),
    ],
)
def test_doubts_are_told(minutes: list[Past], asked_s: float | None, words: str) -> None:
    assert any(words in doubt for doubt in ask(minutes, asked_s=asked_s).doubts)


def test_a_week_like_the_model_leaves_no_doubt() -> None:
    minutes = flat(2.0, 25 * HOUR, **KNOWN)
    like = replay(minutes, TERMS)
    minutes = [replace(each, wanted_s=like.workers * 60) for each in minutes]
    assert ask(minutes).doubts == []


def test_a_span_is_told_in_a_unit_that_fits_it() -> None:
    told = {590.0: "10 min", 7199.0: "120 min", 3 * 3600.0: "3 h", 95400.0: "26.5 h", 7 * 86400.0: "7 d"}
    assert {seconds: lasting(seconds) for seconds in told} == told


def test_that_late_is_measured_against_the_tightest_target_is_said_where_it_matters() -> None:
    def doubted(rate: float, terms: Terms) -> bool:
        return any("tightest target, 1 s" in doubt for doubt in ask(flat(rate, HOUR), terms).doubts)

    late = replace(TERMS, most=4)
    assert doubted(6.0, late)
    assert not doubted(0.0, late), "nothing is late"
    assert not doubted(6.0, replace(late, target_s={Lane.INTERACTIVE: 1.0})), "there is one target"
