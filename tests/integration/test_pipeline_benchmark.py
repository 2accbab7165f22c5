"""The pipeline benchmark's own machinery, on the part of it that no clock decides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.soak)])
def test_messages_of_steps_are_small_whatever_the_graph(database: str) -> None:
    """A whole system: servers, a worker that is paused, a dispatcher, and a client that submits runs."""
    report = measured("messages", database)
    assert [bar["holds"] for bar in report["bars"]] == [True, True, True]
    counts = {row["case"]: row["value"] for row in report["rows"] if row["figure"] == "messages"}
    assert counts == {"one-step": 1, "wide-graph": 399, "wide-graph, its last step": 1}


@pytest.mark.soak
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_deployment_while_runs_are_in_flight(database: str) -> None:
    report = measured("redeploy", database)
    assert [bar["holds"] for bar in report["bars"]] == [True] * 4
    [called] = [row for row in report["rows"] if row["figure"] == "steps called"]
    assert [called[name] for name in ("first", "second", "third")] == [200] * 3


def measured(part: str, database: str) -> Any:
    options = ("--quick", "--json", "--part", part, "--free", "--database", database)
    command = [sys.executable, ROOT / "benchmarks" / "pipeline.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
