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


class Growth:
    """The most that each process, by its role, had more than at the beginning, bytes."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = {role: own_bytes(pid) for role, pid in pids.items()}
        self.most = dict.fromkeys(pids, 0)

    def look(self) -> None:
        """Compare now."""
        for role, pid in self._pids.items():
            self.most[role] = max(self.most[role], own_bytes(pid) - self._before[role])

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Compare all the time, from a thread."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(EVERY_S):
                self.look()

        thread = threading.Thread(target=watch, name="growth", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.look()
