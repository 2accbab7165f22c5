"""The bars of the benchmark beside generations: arithmetic that must not pass by accident."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.isolation_steps import ALONE, BESIDE, LONG, StepPlan, bars_of, kept


def row(condition: str, *, steps_s: float = 0.0, window_s: float = 100.0, latencies_ms: Any = ()) -> dict[str, Any]:
    samples = [[0.0, "interactive", "default", "ok", ms / 1e3] for ms in latencies_ms]
    return {
        "condition": condition, "seed": 1, "generations_device_s": steps_s, "window_s": window_s, "samples": samples,
        "batches": {"all": {"mean_size": 1.0}},
    }  # fmt: skip


@pytest.mark.parametrize(("beside_s", "share"), [(90.0, 1.0), (81.0, 0.9), (45.0, 0.5)])
def test_what_is_kept_is_of_what_is_left_over(beside_s: float, share: float) -> None:
    """Alone they reach 98 of 100 s, and 1212 batches of 8.25 ms leave 90 s."""
    rows = [
        row(LONG, steps_s=98.0),
        row(BESIDE, steps_s=beside_s * 0.98, latencies_ms=[20.0] * 1212),
    ]
    assert kept(rows) == pytest.approx(share, abs=0.001)


def test_what_was_not_measured_does_not_hold() -> None:
    assert kept([row(BESIDE, steps_s=9.0)]) is None
    assert [verdict["holds"] for verdict in bars_of([row(ALONE), row(BESIDE)], StepPlan())] == [False, False]


@pytest.mark.parametrize(("beside_ms", "holds"), [(52.9, True), (53.1, False)])
def test_the_latency_bar_is_one_and_a_half_steps_and_switches(beside_ms: float, holds: bool) -> None:
    rows = [row(ALONE, latencies_ms=[20.0] * 100), row(BESIDE, latencies_ms=[beside_ms] * 100)]
    first, _ = bars_of(rows, StepPlan(step_ms=20.0, switch_ms=2.0))
    assert first["holds"] is holds
