"""Counting: what is not right and in time is a miss, and a run whose generator lagged is void."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.loadgen.tally import Fate, Sample, batches, percentile, report


def sample(fate: Fate = Fate.OK, latency_s: float | None = 0.05, **fields: object) -> Sample:
    values = {"at_s": 0.0, "lane": "interactive", "tenant": "default", "fate": fate, "latency_s": latency_s}
    return Sample(**{**values, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "counts"),
    [
        (sample(), True),
        (sample(latency_s=0.1), True),
        (sample(latency_s=0.1001), False),
        (sample(Fate.WRONG), False),
        (sample(Fate.REFUSED, 0.001), False),
        (sample(Fate.FAILED, 0.01), False),
        (sample(Fate.EXPIRED, 0.01), False),
        (sample(Fate.UNFINISHED, None), False),
    ],
)
def test_goodput_is_right_and_in_time_over_offered(one: Sample, counts: bool) -> None:
    found = report([one, sample(Fate.UNFINISHED, None)], duration_s=2.0, target_s=0.1)
    assert found["goodput"] == (0.5 if counts else 0.0)
    assert found["goodput_per_s"] == (0.5 if counts else 0.0)
    assert (found["offered"], found["offered_per_s"]) == (2, 1.0)


def test_each_lane_has_its_own_target() -> None:
    samples = [sample(latency_s=1.0, lane=lane) for lane in ("interactive", "background")]
    found = report(samples, duration_s=1.0, target_s={"interactive": 0.1, "background": 60.0})
    assert [found["lanes"][lane]["goodput"] for lane in ("interactive", "background")] == [0.0, 1.0]
    assert found["goodput"] == 0.5


def test_percentiles_are_of_right_results_per_lane_and_tenant() -> None:
    samples = [sample(latency_s=n / 1000, tenant="ab"[n % 2]) for n in range(1, 101)]
    samples.append(sample(Fate.REFUSED, 0.0001, answer_s=0.0001))
    found = report(samples, duration_s=1.0, target_s=1.0)
    assert [found[f"p{p}_ms"] for p in (50, 95, 99)] == [50, 95, 99]
    assert (found["tenants"]["a"]["p99_ms"], found["tenants"]["b"]["p99_ms"]) == (100, 99)
    assert found["refusal_p99_ms"] == 0.1


@pytest.mark.parametrize(("lags_s", "void"), [([], False), ([0.0009] * 100, False), ([0.0] * 98 + [0.0011] * 2, True)])
def test_a_run_that_lagged_is_void(lags_s: list[float], void: bool) -> None:
    assert report([sample()], duration_s=1.0, target_s=1.0, lags_s=lags_s)["void"] is void


@given(st.lists(st.tuples(st.floats(0, 9.99), st.sampled_from(list(Fate)), st.sampled_from("abc"))))
def test_every_request_is_counted_once_in_each_view(rows: list[tuple[float, Fate, str]]) -> None:
    samples = [sample(fate, at_s=at_s, tenant=tenant, lane=tenant * 2) for at_s, fate, tenant in rows]
    found = report(samples, duration_s=10.0, target_s=0.1, bucket_s=0.3)
    assert sum(found[fate.value] for fate in Fate) == found["offered"] == len(rows)
    for view in (found["lanes"].values(), found["tenants"].values(), found["timeline"]):
        assert sum(part["offered"] for part in view) == len(rows)
        assert sum(part["in_time"] for part in view) == found["in_time"]


def test_batches_are_counted_from_their_members() -> None:
    rows = [(4, "full")] * 4 + [(2, "idle")] * 2 + [(1, "idle"), (None, None)]
    found = batches(rows)
    assert (found["jobs"], found["batches"], found["max_size"]) == (7, 3.0, 4)
    assert found["mean_size"] == pytest.approx(7 / 3)
    assert found["reasons"] == {"full": pytest.approx(1 / 3, abs=1e-4), "idle": pytest.approx(2 / 3, abs=1e-4)}
    assert batches([(None, None)]) == {}


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.0), (51, 3.0), (99, 4.0), (100, 4.0)])
def test_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == expected
    assert percentile([], percent) is None
