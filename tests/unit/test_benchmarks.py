"""The benchmark's arithmetic: a wrong median or a bar that passes by accident would be worse than no benchmark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.fairness import Share, gap
from benchmarks.measure import percentile
from benchmarks.processes import Child, cpu_s, eventually, python
from benchmarks.report import Bar, Sample, as_samples, failed, judge, rows

from tests.fixtures.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


def sample(side: str, metric: str, repeat: int, value: float, mode: str = "pinned") -> Sample:
    return Sample(mode=mode, side=side, metric=metric, repeat=repeat, value=value)


DRAIN = Bar(name="drain", penstock=("penstock-sqlite", "drain_per_s"), stock="drain_per_s", bar=10.0)
CHEAPER = Bar(name="cheaper", penstock=("penstock-sqlite", "many_us"), stock="many_us", bar=12.0, inverse=True)
AT_MOST = Bar(name="at most", penstock=("penstock-sqlite", "many_us"), stock="many_us", bar=1.0, at_most=True)


def test_a_row_has_the_median_and_every_raw_value_in_order() -> None:
    found = rows([sample("celery", "drain_per_s", repeat, value) for repeat, value in [(2, 5.0), (0, 900.0), (1, 7.0)]])
    assert found == [
        {"mode": "pinned", "side": "celery", "metric": "drain_per_s", "median": 7.0, "values": [900.0, 7.0, 5.0]}
    ]


def test_ratios_are_made_within_a_repeat() -> None:
    """The second repeat ran on a machine at half its speed: that says nothing about either side."""
    samples = [
        *[sample("celery", "drain_per_s", repeat, value) for repeat, value in enumerate([1000.0, 500.0, 1000.0])],
        *[sample("penstock-sqlite", "drain_per_s", r, value) for r, value in enumerate([12_000.0, 6000.0, 12_000.0])],
    ]
    (verdict,) = judge(samples, judged_mode="pinned", bars=[DRAIN])
    assert verdict["values"] == [12.0, 12.0, 12.0]
    assert (verdict["value"], verdict["holds"]) == (12.0, True)


@pytest.mark.parametrize(
    ("bar", "ours", "stock", "value", "holds"),
    [
        (DRAIN, 10_000.0, 1000.0, 10.0, True),
        (DRAIN, 9_990.0, 1000.0, 9.99, False),
        (CHEAPER, 40.0, 480.0, 12.0, True),
        (CHEAPER, 48.0, 480.0, 10.0, False),
        (AT_MOST, 500.0, 500.0, 1.0, True),
        (AT_MOST, 550.0, 500.0, 1.1, False),
    ],
)
def test_a_bar_is_reached_exactly(bar: Bar, ours: float, stock: float, value: float, holds: bool) -> None:
    side, metric = bar.penstock
    samples = [sample(side, metric, 0, ours), sample("celery", bar.stock, 0, stock)]
    (verdict,) = judge(samples, judged_mode="pinned", bars=[bar])
    assert verdict["value"] == pytest.approx(value)
    assert verdict["holds"] is holds
    assert bool(failed([verdict])) is not holds


def test_what_was_not_measured_does_not_hold() -> None:
    (verdict,) = judge([sample("celery", "drain_per_s", 0, 1.0)], judged_mode="pinned", bars=[DRAIN])
    assert verdict["value"] is None
    assert failed([verdict]) == ["drain"]


def test_only_the_judged_mode_decides() -> None:
    samples = [
        *as_samples("pinned", "celery", 0, {"drain_per_s": 1.0}),
        *as_samples("pinned", "penstock-sqlite", 0, {"drain_per_s": 20.0}),
        *as_samples("free", "celery", 0, {"drain_per_s": 1.0}),
        *as_samples("free", "penstock-sqlite", 0, {"drain_per_s": 2.0}),
    ]
    verdicts = judge(samples, judged_mode="pinned", bars=[DRAIN])
    assert [(v["mode"], v["holds"], v["judged"]) for v in verdicts] == [("pinned", True, True), ("free", False, False)]
    assert failed(verdicts) == []


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.0), (51, 3.0), (95, 4.0), (100, 4.0)])
def test_nearest_rank_percentile(percent: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == expected


def test_cpu_time_counts_children_that_have_ended(tmp_path: Path) -> None:
    """A pool's children come and go; what they burnt belongs to the worker."""
    burn = "sum(range(12_000_000))"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print('x', flush=True); input()"
    )
    child = Child(python("-c", parent), log=tmp_path / "log", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.process.stdout is not None
        assert child.process.stdout.readline() == "x\n"
        assert cpu_s([child.pid]) > 0.1
    finally:
        child.stop()
        for stream in (child.process.stdin, child.process.stdout):
            if stream is not None:
                stream.close()


def test_a_paused_child_does_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    code = f"import time\nwhile True: open({str(ticks)!r}, 'a').write('x'); time.sleep(0.001)"
    child = Child(python("-c", code), log=tmp_path / "log")
    try:
        eventually(ticks.exists, "the first tick", timeout_s=PATIENCE_S)
        child.pause()
        eventually(lambda: child.tree()[0].status() == "stopped", "the child to stop", timeout_s=PATIENCE_S)
        size = ticks.stat().st_size
        child.resume()
        eventually(lambda: ticks.stat().st_size > size, "more ticks", timeout_s=PATIENCE_S)
    finally:
        child.stop()
    assert child.process.returncode is not None


def test_the_script_starts_although_it_is_named_like_a_standard_module() -> None:
    """``benchmarks/queue.py`` must not be what ``import queue`` finds."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "queue.py", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


@pytest.mark.parametrize(
    ("order", "widest"),
    [
        ("", []),
        ("abab", [1.0, 1.0, 1.0, 1.0]),
        ("aabb", [1.0, 2.0, 2.0, 2.0]),
        ("aabbbb", [1.0, 2.0, 2.0, 2.0, 3.0, 4.0]),  # from two ahead to two behind: four apart over that time
    ],
)
def test_the_service_gap_is_the_widest_swing(order: str, widest: list[float]) -> None:
    shares = [Share(float(at), tenant, 0.5 if tenant == "a" else 1.0) for at, tenant in enumerate(order)]
    line, largest = gap(shares, {"a": 0.5, "b": 1.0})
    assert [apart for _, apart in line] == widest
    assert largest == (1.0 if order else 0.0)


def test_a_batch_is_one_moment_in_the_service_gap() -> None:
    line, _ = gap([Share(1.0, tenant, 1.0) for tenant in "aabb"], {"a": 1.0, "b": 1.0})
    assert line == [(1.0, 0.0)]
