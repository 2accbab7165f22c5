"""The live benchmarks' own decisions: the search for a limit, and the bars that are judged by it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import batching, live
from benchmarks.batching import ADAPTIVE, ONE, STATIC, Findings
from benchmarks.flood import published_bound_s
from benchmarks.live import SETTINGS
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]


def answer(rate: float, limit: float) -> dict[str, Any]:
    return {"rate": rate, "goodput": 1.0 if rate <= limit else 0.5}


@given(limit=st.floats(1, 1e5), off=st.floats(0.05, 20), resolution=st.sampled_from([0.02, 0.1, 0.25]))
def test_the_search_finds_a_sharp_limit_from_any_guess(limit: float, off: float, resolution: float) -> None:
    found = live.highest_rate(lambda rate: answer(rate, limit), limit * off, resolution=resolution)
    assert found.rate <= limit <= found.rate * (1 + resolution) * 1.0001
    assert len(found.probes) < 25


def test_the_search_gives_up_on_what_holds_nothing() -> None:
    found = live.highest_rate(lambda rate: answer(rate, 0.0), 100.0, resolution=0.1)
    assert found.rate == 0.0
    assert found.probes


def test_a_candidate_that_does_not_beat_the_best_costs_few_probes() -> None:
    found = live.highest_rate(lambda rate: answer(rate, 90.0), 104.0, resolution=0.04, low=100.0)
    assert (found.rate, len(found.probes)) == (100.0, 1)


@pytest.mark.parametrize(("goodput", "holds"), [(0.99, True), (0.9899, False), (None, False)])
def test_a_rate_is_held_by_what_came_back_in_time(goodput: float | None, holds: bool) -> None:
    assert live.held({"goodput": goodput}) is holds


@pytest.mark.parametrize(
    ("value", "limit", "at_most", "holds"),
    [
        (8.0, 8.0, False, True),
        (7.9, 8.0, False, False),
        (35.0, 35.0, True, True),
        (None, 35.0, True, False),
        (float("inf"), 35.0, True, False),
    ],
)
def test_a_bar_holds_when_it_is_reached(value: float | None, limit: float, at_most: bool, holds: bool) -> None:
    found = live.bar("b", value, limit, at_most=at_most)
    assert found["holds"] is holds
    assert live.failed([found]) == ([] if holds else ["b"])
    assert live.failed([{**found, "judged": False}]) == []


def test_a_bar_says_how_many_of_its_runs_are_void() -> None:
    found = live.bar("b", 2.0, 1.0, rows=[{"void": True}, {"void": False}, {"void": True}])
    assert (found["void"], found["runs"]) == (2, 3)
    assert "(2 of 3 runs void)" in live.show_bars([found])
    assert "void" not in live.show_bars([live.bar("b", 2.0, 1.0, rows=[{"void": False}])])


def findings(**changes: Any) -> Findings:
    found = Findings(SETTINGS["gpu"])
    found.limits = {ADAPTIVE: [2000.0, 2100.0, 900.0], STATIC: [2000.0, 2000.0, 2000.0], ONE: [100.0, 110.0, 90.0]}
    found.loads = [
        {"variant": variant, "load": 0.5, "goodput": value}
        for variant, values in ((ADAPTIVE, (1.0, 0.97, 1.0)), (STATIC, (1.0, 1.0, 1.0)))
        for value in values
    ]
    found.low = [{"variant": ADAPTIVE, "p50_ms": 10.0}, {"variant": ONE, "p50_ms": 10.0}]
    found.absolute = [
        {"variant": ADAPTIVE, "rate": 1000.0, "goodput": 1.0, "p99_ms": 30.0},
        {"variant": ADAPTIVE, "rate": 2000.0, "goodput": 0.995, "p99_ms": 60.0},
    ]
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_bars_are_medians_over_the_seeds() -> None:
    verdicts = {verdict["name"]: verdict for verdict in batching.judge([findings()])}
    assert verdicts["gpu: rate, x batch size 1"]["value"] == 20.0
    assert verdicts["gpu: rate, x best static"]["value"] == 1.0
    assert verdicts["gpu: p99 at 1,000/s, ms"]["value"] == 30.0
    assert live.failed(list(verdicts.values())) == []


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"limits": {ADAPTIVE: [1000.0], STATIC: [2000.0], ONE: [100.0]}}, ["gpu: rate, x best static"]),
        ({"limits": {ADAPTIVE: [700.0], STATIC: [700.0], ONE: [100.0]}}, ["gpu: rate, x batch size 1"]),
        (
            {"loads": [{"variant": v, "load": 0.9, "goodput": g} for v, g in ((ADAPTIVE, 0.5), (STATIC, 1.0))]},
            ["gpu: goodput at 0.9 of static's limit, x best static"],
        ),
        (
            {"low": [{"variant": ADAPTIVE, "p50_ms": 12.0}, {"variant": ONE, "p50_ms": 10.0}]},
            ["gpu: p50 at low load, x batch size 1"],
        ),
        ({"low": [{"variant": ADAPTIVE, "p50_ms": None}]}, ["gpu: p50 at low load, x batch size 1"]),
    ],
)
def test_a_losing_figure_fails_its_bar_and_no_other(changes: dict[str, Any], fails: list[str]) -> None:
    assert live.failed(batching.judge([findings(**changes)])) == fails


def test_where_static_gets_nothing_done_adaptive_does_not_lose() -> None:
    loads = [{"variant": v, "load": 1.2, "goodput": g} for v, g in ((ADAPTIVE, 0.5), (STATIC, 0.0))]
    assert live.failed(batching.judge([findings(loads=loads)])) == []


def test_the_bound_is_a_share_of_the_target() -> None:
    setting = SETTINGS["gpu"]
    assert 0 < published_bound_s(setting) <= setting.target_s


@pytest.mark.parametrize("script", ["batching", "isolation", "simulate"])
def test_the_scripts_start(script: str) -> None:
    """In their folder lies a module that is named like one of the standard library."""
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


def simulated(*options: str) -> Any:
    command = [sys.executable, ROOT / "benchmarks" / "simulate.py", "--json", "--duration", "2", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_simulate_answers_what_if_and_repeats_itself() -> None:
    asked = ("--rate", "900", "--traffic", "1,2", "--workers", "2,1", "--background", "0.3", "--tenants", "3")
    first, second = simulated(*asked), simulated(*asked)
    assert first == second
    rows = {(row["workers"], row["traffic"]): row for row in first["rows"]}
    assert sorted(rows) == [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)]
    assert rows[1, 2.0]["p99_ms"] > rows[2, 1.0]["p99_ms"]
    assert set(rows[1, 1.0]["tenants"]) == {"t0", "t1", "t2"}
    assert simulated(*asked, "--seed", "2") != first


def test_simulate_plays_a_trace_and_finds_its_limit(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"at_s": n / 100, "cost": 1 + n % 3}) + "\n" for n in range(300)))
    picture = tmp_path / "p.png"
    (row,) = simulated("--trace", str(trace), "--sweep", "--plot", str(picture))["rows"]
    assert row["offered"] == 300
    assert 100 < row["highest_per_s"] < 3000
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_simulate_names_a_mistake(tmp_path: Path) -> None:
    for options in (["--policy", "psychic"], ["--trace", str(tmp_path / "none")], ["--plot", str(tmp_path / "x.bmp")]):
        command = [sys.executable, ROOT / "benchmarks" / "simulate.py", "--duration", "1", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
