"""Admission under overload, simulated: the policies of production, seeded arrivals, no clock."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.policy.fairness import Terms
from tests.fixtures.overloadsim import Outcome, simulate

#: The first setting of the benchmarks: 2,667 items a second with full batches.
ALPHA_S, BETA_S, SIZE, TARGET_S = 0.008, 0.00025, 64, 0.1
CAPACITY = SIZE / (ALPHA_S + BETA_S * SIZE)


def offered(times: float, **options: Any) -> Outcome:
    return run(lambda t: CAPACITY * times, **options)


def run(rate: Any, **options: Any) -> Outcome:
    given = {"alpha": ALPHA_S, "beta": BETA_S, "size": SIZE, "target_s": TARGET_S, "seconds": 4.3, "deadlines": True}
    return simulate(rate=rate, **(given | options))


@pytest.mark.parametrize("deadlines", [True, False])
@pytest.mark.parametrize("producers", [1, 4])
@pytest.mark.parametrize("times", [pytest.param(2.0, marks=pytest.mark.soak), 3.0])
def test_goodput_holds_beyond_capacity(times: float, producers: int, deadlines: bool) -> None:
    peak = max(offered(x, producers=producers, deadlines=deadlines).in_time(2, 4) for x in (0.8, 0.9, 1.0))
    over = offered(times, producers=producers, deadlines=deadlines)
    assert over.in_time(2, 4) >= 0.90 * peak
    assert over.refused(2, 4) == pytest.approx(1 - 1 / times, abs=0.08)


@pytest.mark.parametrize("targets", [20, pytest.param(50, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("producers", "deadlines"),
    [
        (1, True),
        (4, False),
        pytest.param(1, False, marks=pytest.mark.soak),
        pytest.param(4, True, marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize(
    ("alpha", "beta", "size", "target_s"),
    [(0.04, 0.004, 64, 0.4), (0.02, 0.002, 32, 0.15), (0.01, 0.001, 64, 0.12), (0.002, 0.0004, 64, 0.05)],
)
def test_goodput_holds_where_only_smaller_batches_keep_the_target(
    alpha: float, beta: float, size: int, target_s: float, producers: int, deadlines: bool, targets: int
) -> None:
    """Two full ones take longer than it. Observed for so many targets, twice."""
    device = {"alpha": alpha, "beta": beta, "size": size, "target_s": target_s}
    options: dict[str, Any] = device | {"producers": producers, "deadlines": deadlines}
    most, seconds = size / (alpha + beta * size), targets * target_s
    given = options | {"seconds": 3 * seconds + 0.3}
    peak = max(run(lambda t, x=x: x * most, **given).in_time(seconds, 3 * seconds) for x in (0.7, 0.8, 0.9))
    for times in (2, 3):
        assert run(lambda t, x=times: x * peak, **given).in_time(seconds, 3 * seconds) >= 0.9 * peak
    assert run(lambda t: peak / 2, **given).refused() < 0.005


def test_without_admission_goodput_collapses() -> None:
    assert offered(2.0, admission=False, deadlines=False).in_time(2, 4) < 0.1 * CAPACITY


@pytest.mark.parametrize("deadlines", [True, False])
@pytest.mark.parametrize("producers", [1, 4])
def test_recovery_within_two_seconds_of_a_spike(producers: int, deadlines: bool) -> None:
    base = 0.7 * CAPACITY
    spiked = run(lambda t: base * (3 if 2 <= t < 4 else 1), seconds=7.3, producers=producers, deadlines=deadlines)
    assert spiked.in_time(6, 7) >= 0.95 * spiked.in_time(1, 2)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("alpha", "beta", "size"), [(0.008, 0.00025, 64), (0.3, 0.0, 1), (0.05, 0.05, 8), (2.0, 0.1, 4)]
)
def test_low_load_is_never_refused(alpha: float, beta: float, size: int, seed: int) -> None:
    rate = 0.3 * size / (alpha + beta * size)
    seconds = max(4.0, 400 / rate)
    calm = run(lambda t: rate, alpha=alpha, beta=beta, size=size, seconds=seconds, deadlines=False, seed=seed)
    assert calm.refused() == 0


def test_high_priority_is_refused_last() -> None:
    over = offered(2.0, deadlines=False, priorities=(0, 0, 0, 9))
    assert over.refused(2, 4, priority=9) < 0.02
    assert over.refused(2, 4, priority=0) > 0.5


@pytest.mark.parametrize("deadlines", [True, False])
@pytest.mark.parametrize("producers", [1, 3])
@pytest.mark.parametrize("light", [0.02, pytest.param(0.05, marks=pytest.mark.soak)])
def test_a_light_tenant_is_not_refused_for_a_flood(light: float, producers: int, deadlines: bool) -> None:
    """At 2x, of which it has a few percent: the flood is refused, and the devices' time is not wasted."""
    tenants = {"default": 1.0 - light, "light": light}
    over = offered(2.0, producers=producers, deadlines=deadlines, tenants=tenants)
    assert over.refused(2, 4, tenant="light") < 0.05
    assert over.in_time(2, 4, tenant="light") > 0.9 * 2 * light * CAPACITY
    assert over.refused(2, 4, tenant="default") == pytest.approx(0.5, abs=0.08)
    assert over.in_time(2, 4) > 0.9 * CAPACITY


@pytest.mark.parametrize("deadlines", [True, False])
def test_equal_floods_are_refused_alike(deadlines: bool) -> None:
    over = offered(2.0, deadlines=deadlines, tenants={"a": 0.5, "b": 0.5})
    assert over.refused(2, 4, tenant="a") == pytest.approx(over.refused(2, 4, tenant="b"), abs=0.1)
    assert over.in_time(2, 4) > 0.75 * CAPACITY


@pytest.mark.parametrize("deadlines", [True, False])
def test_a_tenant_at_its_cap_is_refused_and_nobody_else(deadlines: bool) -> None:
    over = offered(1.0, deadlines=deadlines, tenants={"capped": 0.5, "free": 0.5}, terms={"capped": Terms(cap=8)})
    assert over.refused(2, 4, tenant="capped") > 0.5
    assert over.refused(2, 4, tenant="free") < 0.02
    assert over.in_time(2, 4, tenant="free") > 0.95 * 0.5 * CAPACITY
