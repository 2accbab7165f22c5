"""Steps of runs that are late go first, through a real worker; nothing ends before its run's deadline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import Client, Lane
from penstock.clock import now
from penstock.settings import Lanes, LaneSettings, Settings
from penstock.store import Store
from penstock.store.records import Latency
from tests.fixtures.models import echo, inc
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import unrefused


@penstock.pipeline
def later(x: int) -> Any:
    """A step that begins when a test wants it to, and one behind it of which workers know that it takes long."""
    go = penstock.wait_for("go", after=x)
    return echo(inc(x + go))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # What can no longer meet the interactive target makes room for more, which are then claimed before the late step.
    lanes = Lanes(interactive=LaneSettings(target=PATIENCE_S))
    return unrefused(settings).model_copy(update={"lanes": lanes})


#: Batches of ``inc`` have 16 items at most; a worker has claimed one or two of them before it hears of anything else.
BATCH, JOBS = 16, 10 * 16


@pytest.mark.parametrize("lane", [Lane.INTERACTIVE, Lane.BACKGROUND])
def test_a_late_run_goes_before_others_of_its_lane(
    lane: Lane, sdk: Client, settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any, gate: Path
) -> None:
    store = Store.open(settings.database)
    takes_long = Latency("echo", "9", "none", "", {"alpha": 3600.0, "beta": 0.0})
    store.keep_latencies([takes_long], now=now() + 3600)
    store.close()
    worker_factory()
    held = sdk.enqueue("gated", str(gate), lane="interactive")
    held_started(held)
    first = sdk.enqueue_many("inc", range(JOBS), lane=lane)
    runs = {
        name: sdk.enqueue(later, {"x": 1}, lane=lane, **options)
        for name, options in (("plain", {}), ("early", {"deadline": 9 * 3600}), ("late", {"deadline": 1800}))
    }
    for run in runs.values():
        sdk.signal(run, "go", 1)
    last = sdk.enqueue_many("inc", range(BATCH), lane=lane)
    gate.touch()
    assert [run.result(PATIENCE_S) for run in runs.values()] == [3, 3, 3], "late is not over"
    began = [job.refresh().ledger.started_at or 0.0 for job in (*first, *last) if job.wait(PATIENCE_S)]
    before = {}
    for name, run in runs.items():
        step = next(each.job for each in sdk.list(run=run.id) if each.job.path == "inc")
        assert (step.start_by is not None and step.start_by < (step.ledger.started_at or 0.0)) is (name == "late")
        before[name] = sum(at < (step.ledger.started_at or 0.0) for at in began)
    assert before["late"] <= 3 * BATCH, before
    assert min(before["plain"], before["early"]) >= JOBS - 3 * BATCH, before


def held_started(job: Any) -> None:
    next(event for event in job.stream() if event.state == "running")
