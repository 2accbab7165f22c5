"""The simulator of scaling, its plan, its rivals and its bars."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from benchmarks import elastic, live
from benchmarks.elasticplan import cheapest
from benchmarks.elasticrivals import Keda, Knative, RayServe, grid
from benchmarks.elasticsim import View, simulate
from benchmarks.elastictraces import Workload, workloads

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Fixed:
    """A scaler without ideas."""

    workers: int
    every_s: float = 1.0

    def target(self, view: View) -> int:
        """Always the same."""
        return self.workers


def steady(rate: float, *, span_s: float = 300.0, work_s: float = 1.0, target_s: float = 3.0) -> Workload:
    arrivals = np.arange(0.0, span_s, 1 / rate)
    return Workload(name="steady", arrivals=arrivals, work_s=np.full(len(arrivals), work_s), target_s=target_s)


def view(now: float, *, ready: int = 2, starting: int = 0, waiting: int = 0, arrived: int = 0) -> View:
    return View(
        now=now, ready=ready, busy=ready, starting=starting, waiting=waiting, arrived=arrived, arrived_s=0, backlog_s=0
    )


def test_enough_workers_are_never_late_and_cost_their_seconds() -> None:
    found = simulate(steady(2.0), Fixed(2), delay_s=0, begin=2)
    assert found.late == 0
    assert found.mean == pytest.approx(2.0, rel=0.02)


def test_too_few_are_late_for_all_that_queues() -> None:
    assert simulate(steady(2.0), Fixed(1), delay_s=0, begin=1).late > 0.95
    assert simulate(steady(2.0), Fixed(0), delay_s=0, begin=0).late == 1


def test_what_is_started_comes_after_the_delay_and_is_paid_from_the_decision() -> None:
    at_once, later = (simulate(steady(4.0), Fixed(4), delay_s=delay, begin=1) for delay in (0.0, 60.0))
    assert at_once.late == 0
    assert later.late > 0.2
    assert later.cost == pytest.approx(at_once.cost, rel=0.02)


def test_a_worker_that_is_told_to_stop_finishes_what_it_runs() -> None:
    jobs = Workload(name="one", arrivals=np.array([0.0, 30.0]), work_s=np.array([20.0, 0.1]), target_s=25.0)
    found = simulate(jobs, Fixed(0), delay_s=0, begin=1)
    assert found.late == 0.5  # the first was done, the second found nobody
    assert found.cost == pytest.approx(20.0)


def test_the_plan_knows_a_step_before_it_comes() -> None:
    """One worker's work, then four's: a plan orders three before, so it costs little more than the work."""
    arrivals = np.concatenate([np.arange(0, 200, 1.0), np.arange(200, 400, 0.25)])
    step = Workload(name="step", arrivals=arrivals, work_s=np.full(len(arrivals), 1.0), target_s=4.0)
    found = cheapest(step, late=0.01, delay_s=30.0, most=8)
    assert found.outcome.late <= 0.01
    assert step.need <= found.outcome.mean <= step.need * 1.25


def test_keda_ignores_a_tenth_and_goes_down_to_the_highest_of_its_window() -> None:
    keda = Keda(1.0, 60.0)
    assert keda.target(view(0, ready=20, waiting=0)) == 20
    assert keda.target(view(15, ready=20, waiting=1)) == 20
    assert keda.target(view(30, ready=20, waiting=5)) == 25
    assert keda.target(view(45, ready=2, starting=23, waiting=0)) == 25
    assert keda.target(view(120, ready=2, starting=23, waiting=0)) == 2


def test_knative_panics_and_never_goes_down_meanwhile() -> None:
    knative = Knative(1.0, 60.0, 0.0)
    for second in range(0, 60, 2):
        assert knative.target(view(second)) == 2
    assert knative.target(view(60, waiting=40)) >= 14
    assert knative.target(view(62, ready=14)) >= 14


def test_ray_serve_waits_for_its_delays() -> None:
    ray = RayServe(1.0, 5.0, 10.0, look_back_s=1.0)
    assert [ray.target(view(second, waiting=4)) for second in range(6)] == [2, 2, 2, 2, 2, 6]
    assert [ray.target(view(second, ready=4)) for second in range(3)] == [4, 4, 4]


def test_the_grid_has_every_family_and_quick_has_fewer() -> None:
    whole, few = list(grid(0.5, quick=False)), list(grid(0.5, quick=True))
    assert {family for family, _, _ in whole} == set(elastic.FAMILIES) == {family for family, _, _ in few}
    assert len(few) < len(whole) / 2
    assert len({words for _, words, _ in whole}) == len(whole)


def test_cost_at_a_lateness_is_between_the_settings_that_nobody_beats() -> None:
    rivals = [{"mean": mean, "late": late} for mean, late in ((1.0, 0.5), (2.0, 0.1), (2.5, 0.2), (3.0, 0.0))]
    assert elastic.cost_at(rivals, 0.5) == 1.0
    assert elastic.cost_at(rivals, 0.3) == pytest.approx(1.5)
    assert elastic.cost_at(rivals, 0.05) == pytest.approx(2.5)
    assert elastic.cost_at(rivals, 0.9) == 1.0
    assert elastic.cost_at(rivals[:3], 0.05) is None


def test_bars_fail_for_who_is_late_dear_or_beaten() -> None:
    row = {"case": "conv", "delay_s": 30.0, "late": 0.005, "mean": 10.0, "plan": 9.0}
    row |= {"KEDA": 12.0, "Knative": None, "Ray Serve": 11.0}
    assert live.failed(elastic.judge([row], 0.005, judged=True)) == []
    for change in ({"late": 0.02}, {"mean": 11.9}, {"KEDA": 9.9}):
        assert len(live.failed(elastic.judge([row | change], 0.005, judged=True))) >= 1
    assert len(live.failed(elastic.judge([row], 0.011, judged=True))) == 1


def test_synthetic_work_is_the_same_for_a_seed() -> None:
    one, same, other = (workloads(None, seed=seed, quick=True)["synthetic-bursts"]() for seed in (1, 1, 2))
    assert np.array_equal(one.arrivals, same.arrivals)
    assert not np.array_equal(one.arrivals[:100], other.arrivals[:100])
    assert 6 < one.need < 30


def test_quick_runs_to_its_end_and_prints_one_object(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/elastic.py", "--quick", "--json", "--delay", "30", "--jobs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert {row["case"] for row in report["rows"]} == {"synthetic-waves", "synthetic-bursts"}
    assert any("a turn over 50 pools" in verdict["name"] for verdict in report["bars"])


def test_a_folder_that_is_none_and_a_workload_that_nobody_knows_are_named() -> None:
    assert elastic.main(["--case", "nothing"]) == 2
    assert elastic.main(["--traces", "/nonexistent", "--quick"]) == 2
