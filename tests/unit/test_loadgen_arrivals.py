"""Schedules: the same for a seed, of the rate and burstiness that was asked for, and readable from a file."""

from __future__ import annotations

import statistics
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.lane import Lane
from penstock.loadgen.arrivals import COSTS, SHAPES, Stream, draw_cost, offsets, read_trace, schedule
from penstock.loadgen.seeds import seeded


@given(
    shape=st.sampled_from(SHAPES),
    rate=st.floats(0.1, 300),
    duration_s=st.floats(0.01, 5),
    cv2=st.none() | st.floats(0.2, 16),
    factor=st.none() | st.floats(0.1, 8),
    at_s=st.none() | st.floats(0, 10),
    for_s=st.none() | st.floats(0, 10),
    seed=st.integers(0, 1000),
)
def test_times_rise_lie_within_the_duration_and_repeat(
    shape: str,
    rate: float,
    duration_s: float,
    cv2: float | None,
    factor: float | None,
    at_s: float | None,
    for_s: float | None,
    seed: int,
) -> None:
    stream = Stream(rate=rate, arrivals=shape, cv2=cv2, factor=factor, at_s=at_s, for_s=for_s)
    times = list(offsets(stream, duration_s, Random(seed)))
    assert times == sorted(times)
    assert all(0 <= at <= duration_s for at in times)
    assert times == list(offsets(stream, duration_s, Random(seed)))


@pytest.mark.parametrize(
    ("shape", "cv2", "expected"),
    [("poisson", None, 1.0), ("gamma", None, 4.0), ("gamma", 16.0, 16.0), ("constant", None, 0.0)],
)
def test_rate_and_burstiness_are_what_was_asked_for(shape: str, cv2: float | None, expected: float) -> None:
    times = list(offsets(Stream(rate=100, arrivals=shape, cv2=cv2), 2000.0, Random(5)))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) / 2000.0 == pytest.approx(100, rel=0.05)
    assert statistics.pvariance(gaps) / statistics.fmean(gaps) ** 2 == pytest.approx(expected, rel=0.1, abs=1e-9)


@pytest.mark.parametrize(
    ("stream", "pieces"),
    [
        (Stream(rate=50, arrivals="step"), [(0, 50, 50), (50, 100, 250)]),
        (Stream(rate=50, arrivals="step", factor=2, at_s=20, for_s=30), [(0, 20, 50), (20, 50, 100), (50, 100, 50)]),
        (Stream(rate=200, arrivals="spike", at_s=40, for_s=20), [(0, 40, 200), (40, 60, 600), (60, 100, 200)]),
        (Stream(rate=50, arrivals="spike", at_s=500), [(0, 100, 50)]),
        (Stream(rate=100, arrivals="step", cv2=4.0), [(0, 50, 100), (50, 100, 500)]),
    ],
)
def test_steps_and_spikes_are_as_high_and_long_as_asked(stream: Stream, pieces: list[tuple[int, int, int]]) -> None:
    times = list(offsets(stream, 100.0, Random(2)))
    for begins, ends, rate in pieces:
        count = sum(begins <= at < ends for at in times)
        assert count / (ends - begins) == pytest.approx(rate, rel=0.12)


def test_a_spike_lasts_three_seconds_from_a_third_on() -> None:
    times = list(offsets(Stream(rate=1000, arrivals="spike"), 30.0, Random(1)))
    dense = [sum(second <= at < second + 1 for at in times) > 2000 for second in range(30)]
    assert [second for second in range(30) if dense[second]] == [10, 11, 12]


def test_a_constant_stream_is_exact() -> None:
    assert list(offsets(Stream(rate=4, arrivals="constant"), 1.1, Random(0))) == [0.25, 0.5, 0.75, 1.0]


def test_streams_are_merged_and_do_not_disturb_each_other() -> None:
    one = Stream(rate=20, tenant="a")
    two = Stream(rate=5, tenant="b", lane=Lane.BACKGROUND, deadline_s=1.0, cost="pareto")
    alone = schedule([one], 10, rng=seeded(7))
    both = schedule([one, two], 10, rng=seeded(7))
    assert [arrival for arrival in both if arrival.tenant == "a"] == alone
    assert [arrival.at_s for arrival in both] == sorted(arrival.at_s for arrival in both)
    light = [arrival for arrival in both if arrival.tenant == "b"]
    assert light
    assert all((arrival.lane, arrival.deadline_s) == (Lane.BACKGROUND, 1.0) for arrival in light)
    assert schedule([one], 10, rng=seeded(8)) != alone


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_positive_with_mean_one(name: str) -> None:
    rng = Random(3)
    costs = [draw_cost(name, rng) for _ in range(100_000)]
    assert min(costs) > 0
    assert statistics.fmean(costs) == pytest.approx(1.0, rel=0.15)
    assert (max(costs) > 10) is (name != "one")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": 0}, "rate=0"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"rate": 1, "arrivals": "uniform"}, "'uniform'"),
        ({"rate": 1, "cost": "dear"}, "'dear'"),
        ({"rate": 1, "cv2": -1}, "cv2=-1"),
        ({"rate": 1, "lane": "fast"}, "'fast'"),
        ({"rate": 1, "burst": 2}, "'burst'"),
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Stream.of(values)
    assert said in error.value.message
    assert error.value.fix


def test_a_trace_is_read_in_the_order_of_its_times() -> None:
    lines = [
        '{"at_s": 2, "lane": "background", "tenant": "b", "cost": 3.5, "input": {"n": 1}, "deadline_s": 9}',
        "",
        '{"at_s": 0.5}',
    ]
    first, second = read_trace(lines)
    assert (first.at_s, first.lane, first.tenant, first.cost) == (0.5, Lane.INTERACTIVE, "default", 1.0)
    assert (second.at_s, second.lane, second.tenant, second.cost) == (2.0, Lane.BACKGROUND, "b", 3.5)
    assert (second.input, second.deadline_s) == ({"n": 1}, 9)


@pytest.mark.parametrize(
    "line",
    [
        "at_s: 1",
        "[1, 2]",
        "{}",
        '{"at_s": -1}',
        '{"at_s": "soon"}',
        '{"at_s": 1, "cost": 0}',
        '{"at_s": 1, "lane": "x"}',
        '{"at_s": 1, "at": 2}',
        '{"at_s": 1, "cost": [1]}',
    ],
)
def test_a_bad_line_of_a_trace_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2 of the trace is not usable"):
        read_trace(['{"at_s": 0}', line])
