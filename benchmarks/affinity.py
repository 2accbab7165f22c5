"""Where a benchmark runs: on one core, where only work counts and figures repeat, or on all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.processes import BenchmarkError

PINNED, FREE = "pinned", "free"


@contextmanager
def affinity(mode: str) -> Iterator[None]:
    """Pinned: this process, and all that it starts, on one core."""
    if mode == FREE:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise BenchmarkError("this system cannot pin processes to a core: use --free")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
