"""``penstock bench load`` against real workers: what it offers, what it counts, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.fixtures.cli import Ended, Penstock


def load(up: Penstock, *options: str) -> Any:
    """The report of a run that was carried out; a busy machine may have made it void, which exits with 1.

    Without admission: what such a machine cannot do in time would be refused.
    """
    ended = up.process("bench", "load", *options, "--json", env={"PENSTOCK_ADMISSION__ENABLED": "false"})
    report = ended.json()
    assert ended.status == (1 if report["void"] else 0), ended.err
    return report


def test_every_request_is_offered_answered_and_found_in_its_row(up: Penstock) -> None:
    report = load(up, "double", "--rate", "100", "--duration", "2s", "--input", "21", "--target", "20s")
    assert 150 < report["offered"] < 250
    assert report["ok"] == report["in_time"] == report["offered"]
    assert report["goodput"] == 1.0
    assert 0 < report["p50_ms"] <= report["p95_ms"] <= report["p99_ms"] <= report["max_ms"]
    assert report["batches"]["all"]["jobs"] == report["offered"]
    assert sum(report["batches"]["all"]["reasons"].values()) == pytest.approx(1.0, abs=0.01)
    again = load(up, "double", "--rate", "100", "--duration", "2s", "--input", "21", "--target", "1ms")
    assert again["offered"] == report["offered"], "the same seed"
    assert again["in_time"] < again["offered"], "no target of a millisecond can be met"


def test_jobs_that_fail_or_expire_are_misses(up: Penstock) -> None:
    failed = load(up, "moody", "--rate", "20", "--duration", "1s", "--input", '"bad"', "--grace", "30s")
    assert failed["failed"] == failed["offered"] > 5
    assert failed["goodput"] == 0.0
    assert failed["errors"] == {"failed": failed["offered"]}
    expired = load(
        up, "double", "--rate", "20", "--duration", "1s", "--input", "1", "--deadline", "0s", "--grace", "30s"
    )
    assert expired["expired"] == expired["offered"]


def test_a_trace_is_played_with_its_lanes_tenants_and_inputs(up: Penstock) -> None:
    lines: list[dict[str, Any]] = [{"at_s": n / 50, "tenant": "ab"[n % 2], "input": n} for n in range(20)]
    lines += [{"at_s": 0.1, "lane": "background"}, {"at_s": 0.2, "model": "moody", "input": "good"}]
    (up.folder / "trace.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = load(up, "double", "--trace", "trace.jsonl", "--input", "5", "--plot", "run.png", "--target", "20s")
    assert report["ok"] == report["offered"] == 22
    assert {name: lane["offered"] for name, lane in report["lanes"].items()} == {"background": 1, "interactive": 21}
    assert {name: tenant["offered"] for name, tenant in report["tenants"].items()} == {"a": 10, "b": 10, "default": 2}
    assert {name: row["ok"] for name, row in report["models"].items()} == {"double": 21, "moody": 1}
    assert (up.folder / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_person_reads_the_same_figures(up: Penstock) -> None:
    ended = up.process(
        "bench",
        "load",
        "double",
        "--rate",
        "30",
        "--duration",
        "1s",
        "--arrivals",
        "gamma",
        "--cv2",
        "4",
        "--input",
        "1",
    )
    for words in ("goodput", "latency", "p99", "batches", "generator lag"):
        assert words in ended.out
    assert ended.status == (1 if "void" in ended.err else 0)


def refused(ended: Ended, *words: str) -> None:
    assert ended.status == 2, ended.err
    for word in words:
        assert word in ended.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--input", "1"), ("--rate", "--trace")),
        (("--rate", "5"), ("--input",)),
        (("--rate", "5", "--input", "1", "--arrivals", "trace"), ("--trace FILE",)),
        (("--rate", "5", "--input", "1", "--trace", "t.jsonl"), ("leave out --rate",)),
        (("--trace", "t.jsonl", "--input", "1"), ("cannot read t.jsonl",)),
        (("--rate", "0", "--input", "1"), ("--rate",)),
        (("--rate", "5", "--input", "1", "--cv2", "-1", "--arrivals", "gamma"), ("cv2",)),
        (("--rate", "5", "--input", "1", "--plot", "run.xyz"), ("run.xyz", ".png")),
        (("--rate", "5", "--input", "1", "--plot", "no/such/run.png"), ("does not exist",)),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(
    penstock: Penstock, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(penstock("bench", "load", "double", *options), *words)


def test_without_matplotlib_the_error_names_the_extra(penstock: Penstock) -> None:
    """In an interpreter that cannot find it."""
    code = (
        "import importlib.util as u, sys; find = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'matplotlib' else find(name, *a);"
        "from penstock_cli.main import run;"
        "sys.exit(run(['bench', 'load', 'double', '--rate', '1', '--input', '1', '--plot', 'x.png']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=penstock.env, cwd=penstock.folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "pip install '.[plot]'" in done.stderr


def test_the_system_must_be_there(penstock: Penstock) -> None:
    ended = penstock("bench", "load", "double", "--rate", "1", "--input", "1")
    assert ended.status == 3, ended.err


def test_an_unknown_model_is_refused(up: Penstock) -> None:
    refused(up.process("bench", "load", "duoble", "--rate", "5", "--duration", "1s", "--input", "1"), "duoble")
