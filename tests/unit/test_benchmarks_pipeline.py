"""The pipeline benchmark's arithmetic: shapes, the schedule that they are compared with, and the bars."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import live, parts, pipeline, shapes
from benchmarks import pipelinebars as bars
from benchmarks.affinity import affinity
from benchmarks.listschedule import Devices, makespan_s
from benchmarks.parts import Part
from benchmarks.pipelines import PIPELINES, WIDE, shapes_of
from benchmarks.processes import BenchmarkError
from benchmarks.shapes import Node, Shape
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipelines import memory
from penstock.pipelines.graph import parents

ROOT = Path(__file__).resolve().parents[2]
SHAPES = shapes_of(1)


def devices(count: int = 1, max_size: int = 64, alpha_s: float = 8.0, beta_s: float = 0.25) -> Devices:
    return Devices(count=count, max_size=max_size, alpha_s=alpha_s, beta_s=beta_s)


def one_by_one(count: int) -> Devices:
    return devices(count, max_size=1, alpha_s=0.0, beta_s=1.0)


@pytest.mark.parametrize(
    ("shape", "on", "lasts"),
    [
        ((), devices(), 0.0),
        ([Node()], devices(), 8.25),
        ([Node(cost=4)], devices(), 9.0),
        ([Node()] * 64, devices(), 24.0),
        ([Node()] * 65, devices(), 24.0 + 8.25),
        ([Node()] * 65, devices(2), 24.0),
        ([Node(), Node((0,))], devices(2), 16.5),
        (shapes.fan(200), devices(), 2 * 8.25 + 3 * 24.0 + 10.0),
        (shapes.fan(200), devices(4), 2 * 8.25 + 24.0),
        (shapes.diamond(), one_by_one(1), 64.0),
        (shapes.diamond(), one_by_one(2), 56.0),
        # A to 8, B to 60; C from 8 to 68 beside B; D from 60. With a barrier, C would begin at 60 and end at 120.
        (shapes.zigzag(), one_by_one(2), 68.0),
        ([Node(cost=1), Node(cost=2), Node(cost=2)], one_by_one(2), 3.0),
    ],
)
def test_the_list_schedule(shape: Shape, on: Devices, lasts: float) -> None:
    assert makespan_s(shape, on) == pytest.approx(lasts)


@given(steps=st.integers(1, 60), seed=st.integers(0, 99), count=st.integers(1, 5))
def test_the_list_schedule_is_within_grahams_bounds(steps: int, seed: int, count: int) -> None:
    """No shorter than the longest way, nor than the work shared out; no longer than both together."""
    shape = shapes.drawn(steps, random.Random(seed))
    ends: list[float] = []
    for node in shape:
        ends.append(node.cost + max((ends[parent] for parent in node.parents), default=0.0))
    longest, shared = max(ends), sum(node.cost for node in shape) / count
    assert max(longest, shared) - 1e-9 <= makespan_s(shape, one_by_one(count)) <= longest + shared + 1e-9


@given(steps=st.integers(1, 60), seed=st.integers(0, 99))
def test_one_device_alone_is_busy_all_the_time(steps: int, seed: int) -> None:
    shape = shapes.drawn(steps, random.Random(seed))
    assert makespan_s(shape, one_by_one(1)) == pytest.approx(sum(node.cost for node in shape))


@pytest.mark.parametrize(
    ("shape", "steps"), [((), 0), (shapes.diamond(), 3), (shapes.zigzag(), 2), (shapes.fan(9), 3), ([Node()] * 5, 1)]
)
def test_the_depth_is_that_of_the_longest_way(shape: Shape, steps: int) -> None:
    assert shapes.depth(shape) == steps


def test_a_drawn_graph_is_its_seeds() -> None:
    first, second = (shapes.drawn(40, random.Random(7)) for _ in range(2))
    assert first == second != shapes.drawn(40, random.Random(8))
    assert all(parent < place for place, node in enumerate(first) for parent in node.parents)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "map-200"])
def test_a_pipeline_has_its_shapes_edges(name: str) -> None:
    steps = PIPELINES[name].graph.steps
    places = {step.name: place for place, step in enumerate(steps)}
    assert [tuple(places[parent] for parent in parents(step)) for step in steps] == [
        node.parents for node in SHAPES[name]
    ]


@pytest.mark.parametrize(
    ("name", "given", "calls"),
    [("map-200", {"number": 1.0}, [1, 200, 1]), ("wide-map", {"values": ["x"] * 9}, [9, 1]),
     ("wide-graph", {"text": "x"}, [1] * (WIDE + 1)), ("six-noop", {"item": "x"}, [1] * 6)],
)  # fmt: skip
def test_the_other_pipelines_call_as_often_as_they_say(name: str, given: Any, calls: list[int]) -> None:
    called: list[int] = []

    def call(step: Any, items: Any) -> list[Any]:
        called.append(len(items))
        return [item if step.model == "noop" else 1.0 for item in items]

    memory.run(PIPELINES[name].graph, given, call)
    assert called == calls


def holds(verdicts: list[dict[str, Any]]) -> list[bool]:
    return [verdict["holds"] for verdict in verdicts]


@pytest.mark.parametrize(
    ("edges_ms", "held"),
    [
        ([8.0] * 100, [True, True]),
        ([8.1] * 100, [False, True]),
        ([5.0] * 98 + [30.0] * 2, [True, True]),
        ([5.0] * 98 + [30.1] * 2, [True, False]),
        ([], [False, False]),
    ],
)
def test_an_edge_is_compared_with_the_round_trips_p50(edges_ms: list[float], held: list[bool]) -> None:
    trips = [10.0] * 60 + [99.0] * 40
    assert holds(bars.edge_bars(trips, {"idle": edges_ms})) == held
    assert holds(bars.edge_bars([], {"idle": edges_ms})) == [False, False]


@pytest.mark.parametrize(
    ("spans_s", "edge_s", "held"),
    [
        ([1.11], 0.02, True),
        ([1.12], 0.02, False),
        ([0.9, 1.1, 9.0], 0.02, True),
        ([1.0], None, False),
        ([], 0.1, False),
    ],
)
def test_a_makespan_is_judged_without_an_edge_for_each_step(
    spans_s: list[float], edge_s: float | None, held: bool
) -> None:
    assert bars.makespan_bar("it", spans_s, schedule_s=1.0, edge_s=edge_s, depth=3)["holds"] is held


def test_ratios_are_made_within_a_round() -> None:
    """In the second one the machine was at a tenth of its speed."""
    assert bars.of_pairs([(80.0, 10.0), (8.0, 1.0), (90.0, 10.0)]) == 8.0
    assert bars.of_pairs([]) is None
    assert bars.of_pairs([(8.0, 1.0), (8.0, 0.0)]) is None, "a round in which stock did nothing is no comparison"


@pytest.mark.parametrize(
    ("rates", "fills", "ended", "held"),
    [
        ([(80.0, 10.0)], [(58.0, 64.0)], [1.0], [True, True, True]),
        ([(79.0, 10.0)], [(57.0, 64.0)], [1.0, 0.999], [False, False, False]),
        ([(80.0, 10.0)], [], [1.0], [True, True]),
        ([], [], [], [False, False]),
    ],
)
def test_many_runs_have_to_end_to_be_quick_and_to_share_batches(
    rates: Any, fills: Any, ended: list[float], held: list[bool]
) -> None:
    assert holds(bars.flood_bars("device", rates, fills, ended=ended, limit=8.0)) == held


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, []),
        ({"released": [(0.49, 1.0)]}, ["map: released, x enqueue_many's rate"]),
        ({"whole": [(0.69, 1.0)]}, ["map: all of it, x the rate of enqueue_many and drain"]),
        ({"joins_s": [0.01, 0.11]}, ["map: join behind the last element, s"]),
        ({"growth_bytes": {"worker": 50 * 10**6 + 1}}, ["map: growth of the worker, bytes"]),
    ],
)
def test_a_losing_figure_of_a_map_fails_its_bar_and_no_other(changes: dict[str, Any], fails: list[str]) -> None:
    good: dict[str, Any] = {
        "released": [(0.5, 1.0)], "whole": [(0.7, 1.0)], "joins_s": [0.1], "growth_bytes": {"worker": 50 * 10**6},
    }  # fmt: skip
    assert live.failed(bars.map_bars(**{**good, **changes})) == fails


@pytest.mark.parametrize(("sizes", "held"), [([2048, 9], True), ([2049, 9], False), ([], False)])
def test_the_largest_message_decides(sizes: list[int], held: bool) -> None:
    assert holds(bars.message_bars({"it": sizes})) == [held]


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, [True, True, True, True]),
        ({"in_flight": [199, 7]}, [False, True, True, True]),
        ({"in_flight": []}, [False, True, True, True]),
        ({"good": 0.999}, [True, False, True, True]),
        ({"again": 1}, [True, True, False, True]),
        ({"unclean": 1}, [True, True, True, False]),
    ],
)
def test_a_deployment_loses_nothing_and_does_nothing_twice(changes: dict[str, Any], held: list[bool]) -> None:
    given: dict[str, Any] = {"runs": 200, "in_flight": [200, 7], "good": 1.0, "again": 0, "unclean": 0}
    assert holds(bars.redeploy_bars(**(given | changes))) == held


def found() -> dict[str, Part]:
    part = Part(bars=[live.bar("late", 1.0, 2.0)])
    part.tell("it", "edge p50", None, "ms")
    return {"edge": part}


def test_the_report_ends_with_its_bars_and_names_their_parts() -> None:
    report = parts.report_of("pipeline-postgres", pipeline.PARTS, found(), {"quiet": True}, {"seed": 1})
    assert list(report)[-1] == "bars"
    assert report["benchmark"] == "pipeline-postgres-edge"
    assert [(bar["part"], bar["name"], bar["holds"]) for bar in report["bars"]] == [("edge", "late", False)]
    assert parts.table(report["rows"]).splitlines()[1].split() == ["edge", "it", "edge", "p50", "-", "ms"]


@pytest.mark.parametrize("fails", [False, True])
def test_the_exit_status_tells_a_bar_from_a_measurement_that_failed(
    fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*_: Any) -> Part:
        if fails:
            raise BenchmarkError("no broker")
        return found()["edge"]

    monkeypatch.setitem(pipeline.PARTS, "edge", measure)
    monkeypatch.setattr(parts, "facts", lambda seed: {"quiet": True})
    monkeypatch.setattr(live, "stop_on_sigterm", lambda: None)
    told: list[dict[str, Any]] = []

    def conclude(report: dict[str, Any], *_: Any, **__: Any) -> int:
        told.append(report)
        return len(live.failed(report["bars"]))

    monkeypatch.setattr(live, "conclude", conclude)
    assert pipeline.main(["--part", "edge", "--free", "--database", "postgres"]) == (2 if fails else 1)
    assert [(report["benchmark"], report["facts"]["modes"]) for report in told] == (
        [] if fails else [("pipeline-postgres-edge", {"edge": "free"})]
    )
    assert ("no broker" in capsys.readouterr().err) is fails


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins nothing")
def test_pinned_is_one_core_and_ends() -> None:
    before = os.sched_getaffinity(0)
    with affinity("pinned"):
        assert len(os.sched_getaffinity(0)) == 1
    with affinity("free"):
        assert os.sched_getaffinity(0) == before


def test_the_script_starts() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "pipeline.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout
