"""How much processes grow while something happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil
from benchmarks.processes import tree

EVERY_S = 0.02


def own_bytes(pid: int) -> int:
    """Memory of a process and its descendants that is not mapped from files: a database in use is not growth."""
    total = 0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            info = process.memory_info()
            total += info.rss - getattr(info, "shared", 0)
    return total


@contextmanager
def watched(pids: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Gives the most that each process, by its role, had more than at the beginning, bytes; complete at the end."""
    before = {role: own_bytes(pid) for role, pid in pids.items()}
    most = dict.fromkeys(pids, 0)
    over = threading.Event()

    def look() -> None:
        for role, pid in pids.items():
            most[role] = max(most[role], own_bytes(pid) - before[role])

    def watch() -> None:
        while not over.wait(EVERY_S):
            look()

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()
        look()
