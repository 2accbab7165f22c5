"""What workers are called, and who is called the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from penstock.store.records import WorkerInfo
from penstock_worker.report.names import lives, namesake, node_name


@pytest.mark.parametrize(
    ("name", "pool", "expected"),
    [
        (None, None, "penstock@h"),
        (None, "cpu", "penstock-cpu@h"),
        ("gpu0", "default", "gpu0@h"),
        ("gpu0@other", None, "gpu0@other"),
        ("", None, "penstock@h"),
    ],
)
def test_workers_of_two_pools_have_two_names(name: str | None, pool: str | None, expected: str) -> None:
    assert node_name(name, pool, "h") == expected


def worker(instance: str, name: str = "w@h", pid: int | None = 7, lease_until: float = 20.0) -> WorkerInfo:
    info = {"pid": pid}
    return WorkerInfo(
        instance=instance, name=name, pool="default", started_at=0, seen_at=0, lease_until=lease_until, info=info
    )


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ([], None),
        ([worker("mine")], None),
        ([worker("mine"), worker("other")], 7),
        ([worker("other", name="x@h")], None),
        ([worker("other", lease_until=9.0)], None),
        ([worker("predecessor", pid=8)], None),
        ([worker("unknown", pid=None)], None),
        ([worker("predecessor", pid=8), worker("other")], 7),
    ],
)
def test_a_namesake_is_alive_and_somebody_else(others: list[WorkerInfo], found: int | None) -> None:
    assert namesake(others, instance="mine", name="w@h", now=10.0, lives=lambda pid: pid == 7) == found


def test_a_process_that_has_ended_does_not_live() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert lives(os.getpid()) and not lives(ended.pid)
