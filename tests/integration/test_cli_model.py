"""``penstock model`` of workers as they announce themselves, in a real database."""

from __future__ import annotations

from contextlib import closing

import pytest

from penstock import clock
from penstock.policy.latency import LatencyModel
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Latency
from tests.integration.test_versions import each, said


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def announce(settings: Settings, name: str, version: str, *, parked: bool = False) -> None:
    info = {"models": {"embed": {"version": version}}, "parked": parked, "device": "cpu"}
    with closing(Store.open(settings.database)) as store:
        store.register_worker(name, name=name, pool="gpu", lease_until=clock.now() + 60, now=clock.now(), info=info)


@pytest.mark.parametrize(("batch_s", "told"), [(0.001, "median 0.5 ms, p99 0.5 ms"), (1.0, "median 50.0%, p99 50.0%")])
def test_errors_of_predictions_are_told_in_a_unit_that_says_something(
    settings: Settings, batch_s: float, told: str
) -> None:
    announce(settings, "gpu-1", "1")
    state = LatencyModel().state() | {"mean_s": batch_s, "seen": 9, "error_p50": 0.5, "error_p99": 0.5, "error_of": 8}
    with closing(Store.open(settings.database)) as store:
        store.keep_latencies([Latency("embed", "1", "cpu", "", state)], now=clock.now())
    shown = said(settings.model_copy(update={"models": []}), "model", "show", "embed")[0]
    assert f"prediction error: {told} over the last 8" in shown


def test_parked_workers_are_counted_apart_and_warned_of_by_nobody(settings: Settings) -> None:
    settings = settings.model_copy(update={"models": []})
    announce(settings, "gpu-1", "1")
    for name, version in (("gpu-2", "1"), ("gpu-3", "1"), ("gpu-4", "2")):
        announce(settings, name, version, parked=True)
    out, err = said(settings, "model", "list")
    first, second = out.splitlines()[1:]
    assert "1 + 2 parked" in first and "0 + 1 parked" in second and err == "", (out, err)
    [listed, other] = each(said(settings, "model", "list", "--json")[0])
    assert (listed["workers"], listed["parked"]) == (["gpu-1"], ["gpu-2", "gpu-3"])
    assert (other["version"], other["workers"], other["parked"]) == ("2", [], ["gpu-4"])
    assert "parked: gpu-2, gpu-3, gpu-4" in said(settings, "model", "show", "embed")[0]

    announce(settings, "gpu-5", "2")
    assert "run on any of 1 (gpu-1), 2 (gpu-5)" in said(settings, "model", "list")[1]
