"""``penstock demo`` as a user runs it: a process of its own, real weights, real servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.patience import PATIENCE_S

PENSTOCK = Path(sys.executable).with_name("penstock")


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The demo, with its temporary home inside ``folder``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.Popen(
        [PENSTOCK, "demo", *options],
        env=env | {"TMPDIR": str(folder), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: sockets live in it."""
    with tempfile.TemporaryDirectory(prefix="pd") as name:
        yield Path(name)


@pytest.mark.timeout(900)
def test_demo_answers_as_without_the_queue(folder: Path) -> None:
    """Every vector equals the one computed directly, a webhook came and was verified, and nothing is left behind."""
    demo = start(folder, "--passages", "40", "--rate", "10", "--json")
    out, messages = demo.communicate(timeout=600)
    assert demo.returncode == 0, messages
    report = json.loads(out)
    assert report["passed"]
    assert report["burst"]["jobs"] + report["background"]["jobs"] == 40
    assert report["alone"]["jobs"] == 24 and report["alone"]["batch_max"] == 1
    assert report["burst"]["batch_max"] > 4, "and a larger burst gives larger ones"
    # How many times is the machine's affair.
    assert report["gain"] == report["burst_per_s"] / report["alone_per_s"] > 0
    assert report["interactive"]["jobs"] >= 20, "each question is asked"
    assert report["runs"] == report["interactive"]["jobs"] + 20, "and once more when everything is embedded"
    steps = {step["step"]: step for step in report["run"]["steps"]}
    assert set(steps) == {"embed", "by_words", "by_meaning", "rerank"}
    assert {step["status"] for step in steps.values()} == {"succeeded"}
    assert report["run"]["critical_path"][-1] == "rerank" and report["run"]["output"][0]["text"]
    assert report["check"]["questions"] == report["check"]["agreeing"] == 20
    assert report["check"]["max_abs_diff"] < 1e-5
    assert report["webhook"].startswith("job.succeeded")
    assert report["dashboard"].startswith("http://127.0.0.1:")
    assert all(
        seconds >= 0
        for lane in ("interactive", "background", "alone", "burst")
        for seconds in report[lane]["stages"].values()
    )
    assert report["interactive"]["stages"]["in the model"] > 0
    assert list(folder.iterdir()) == []


@pytest.mark.timeout(900)
def test_ctrl_c_stops_all_of_it(folder: Path) -> None:
    demo = start(folder, "--all", "--no-dashboard")
    assert demo.stderr is not None
    for line in demo.stderr:
        if "passages to embed" in line:  # everything runs by now
            break
    children = psutil.Process(demo.pid).children(recursive=True)
    assert children
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert psutil.wait_procs(children, timeout=PATIENCE_S)[1] == []
    assert list(folder.iterdir()) == []
