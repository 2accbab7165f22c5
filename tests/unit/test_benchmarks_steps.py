"""The part of ``benchmarks/isolation.py`` beside generations, and the one report: arithmetic that must not pass by
accident, and runs that do not count."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks import isolation, live
from benchmarks.flood import FloodPlan
from benchmarks.generations import ALONE, BESIDE, LONG, StepPlan, bars_of, kept
from benchmarks.isolation import PARTS, Part, main, report_of, table
from benchmarks.processes import BenchmarkError


def row(
    condition: str, *, steps_s: float = 0.0, window_s: float = 100.0, latencies_ms: Any = (), void: bool = False
) -> dict[str, Any]:
    samples = [[0.0, "interactive", "default", "ok", ms / 1e3] for ms in latencies_ms]
    return {
        "part": "generations", "side": "penstock", "condition": condition, "seed": 1, "goodput": 1.0, "p50_ms": 1.0,
        "p99_ms": 2.0, "max_ms": None, "void": void, "generations_device_s": steps_s, "window_s": window_s,
        "samples": samples, "batches": {"mean_size": 1.0},
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


def flooded(**fields: Any) -> dict[str, Any]:
    given = {"part": "flood", "condition": "the flood alone", "background_per_s": 1500.0, "background_batch": 60.2}
    return {**row(""), **given, "goodput": None, **fields}


def parts() -> dict[str, Part]:
    plan = StepPlan()
    rows = [row(ALONE, latencies_ms=[20.0]), row(BESIDE, steps_s=5.0, latencies_ms=[30.0], void=True)]
    return {
        "flood": Part(FloodPlan(), [flooded()], [live.bar("later", 1.0, 25.0, at_most=True)]),
        "generations": Part(plan, rows, bars_of(rows, plan)),
    }


def test_one_report_has_both_parts_and_says_what_its_bars_stand_on() -> None:
    report = report_of(parts(), {"quiet": True})
    assert report["benchmark"] == "isolation"
    assert report["plan"]["generations"]["steps"] == 250
    assert report["plan"]["flood"]["backlog"] == 10_000
    assert [each["part"] for each in report["rows"]] == ["flood", "generations", "generations"]
    assert [(bar["part"], bar["void"], bar["runs"]) for bar in report["bars"]] == [
        ("flood", 0, 1), ("generations", 1, 2), ("generations", 1, 2),
    ]  # fmt: skip
    assert live.failed(report["bars"]) == ["generations keep, of what interactive work leaves over"], "not measured"


def test_the_table_marks_what_is_void() -> None:
    report = report_of(parts(), {})
    lines = table(report["rows"]).splitlines()
    assert [line.endswith("void") for line in lines] == [True, False, False, True], "the header, and one run"
    assert "1500/s by 60.2" in lines[1] and "5.0 of 100.0 s" in lines[3]
    ends = [line.endswith("(1 of 2 runs void)") for line in live.show_bars(report["bars"]).splitlines()]
    assert ends == [False, True, True], "a bar says what it stands on"


@pytest.mark.parametrize(
    ("argv", "measured"),
    [((), ["flood", "generations"]), (("--part", "generations"), ["generations"]), (("--part", "flood"), ["flood"])],
)
def test_the_parts_that_are_asked_for_are_measured(
    argv: tuple[str, ...], measured: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = parts()
    kept_reports: list[Any] = []
    for name, part in found.items():
        monkeypatch.setitem(PARTS, name, lambda _, part=part: part)
    monkeypatch.setattr(isolation, "facts", lambda seed: {"quiet": True})
    monkeypatch.setattr(live, "stop_on_sigterm", lambda: None)
    monkeypatch.setattr(live, "conclude", lambda report, *_, **__: kept_reports.append(report) or 1)
    assert main(argv) == 1
    assert list(kept_reports[0]["plan"]) == measured

    def broken(_: Any) -> Part:
        raise BenchmarkError("no broker")

    for name in PARTS:
        monkeypatch.setitem(PARTS, name, broken)
    assert main(argv) == 2
    assert "no broker" in capsys.readouterr().err
