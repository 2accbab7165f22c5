"""What the live parts of ``benchmarks/elasticlive.py`` serve: a device that takes as long as its job says, and writes
each execution down."""

from __future__ import annotations

import os
import time
from typing import Any

import penstock


class Timed(penstock.Model):
    """``[key, seconds]`` in, the key out. One job at a time."""

    name = "timed"
    batching = penstock.Batching(max_size=1)

    def predict(self, batch: list[list[Any]]) -> list[str]:
        """The keys; each is a line of the file ``BENCH_LEDGER`` before anything else."""
        for key, seconds in batch:
            write(os.environ["BENCH_LEDGER"], f"{key}\n")
            time.sleep(float(seconds))
        return [str(key) for key, _ in batch]


def write(path: str, line: str) -> None:
    """Append a line, whole: a kill leaves all of it or nothing, and two processes never mix theirs."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
