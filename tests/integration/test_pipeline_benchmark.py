"""The pipeline benchmark's own machinery, on the part of it that no clock decides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.soak)])
def test_messages_of_steps_are_small_whatever_the_graph(database: str) -> None:
    """A whole system: servers, a worker that is paused, a dispatcher, and a client that submits runs."""
    options = ("--quick", "--json", "--part", "messages", "--free", "--database", database)
    command = [sys.executable, ROOT / "benchmarks" / "pipeline.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [bar["holds"] for bar in report["bars"]] == [True, True, True]
    counts = {row["case"]: row["value"] for row in report["rows"] if row["figure"] == "messages"}
    assert counts == {"one-step": 1, "wide-graph": 399, "wide-graph, its last step": 1}
