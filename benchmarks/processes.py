"""Child processes of a benchmark: started with a log, paused, measured, and stopped, each with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

#: The repository; children run in it, so that ``benchmarks`` is importable there.
ROOT = Path(__file__).resolve().parent.parent
#: This checkout's own packages go before any that are installed: a second checkout measures itself.
SOURCES = tuple(ROOT / name for name in ("platform", "workers", "cli", "migrations"))

#: How long a process may take to leave after SIGTERM, seconds.
STOP_TIMEOUT_S = 15.0


class BenchmarkError(Exception):
    """A measurement that could not be made: it has no value, rather than a wrong one."""


class Child:
    """One process and whatever it starts. Its output goes to ``log``."""

    def __init__(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self.command = " ".join(command)
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(command),
                cwd=options.pop("cwd", ROOT),
                env=environment(env or {}),
                stdout=options.pop("stdout", output),
                stderr=output,
                **options,
            )
        self.pid = self.process.pid

    def tree(self) -> list[psutil.Process]:
        """The process and its descendants that live now."""
        return tree(self.pid)

    def pause(self) -> None:
        """Stop the whole tree in its tracks (SIGSTOP); children last, so that nobody restarts them."""
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let a paused tree run on; the children first, so that they are ready when work is handed to them."""
        for process in reversed(self.tree()):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what has not left in time. Idempotent."""
        family = self.tree()
        if self.process.poll() is None:
            self.resume()
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def check(self) -> None:
        """Raise ``BenchmarkError`` with the end of the log when the process has ended."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            raise BenchmarkError(f"{self.command} ended with status {self.process.returncode}:\n{tail}")


def python(*arguments: str) -> list[str]:
    """A command that runs this Python."""
    return [sys.executable, *arguments]


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without any setting of penstock or Celery, plus ``extra``."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PENSTOCK_", "CELERY_"))}
    return clean | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *SOURCES)))} | dict(extra)


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants, parents first; empty when it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes so far, with their descendants, those that have ended included.

    An ended child counts once its parent has waited for it, so a difference of two readings is right as soon as
    whoever ended in between has been collected. The clock ticks every 10 ms: measure over seconds.
    """
    total = 0.0
    for pid in pids:
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # user, system, and both of the collected children
    return total


def eventually(condition: Callable[[], bool], what: str, *, timeout_s: float, every_s: float = 0.02) -> None:
    """Wait until ``condition`` holds; ``BenchmarkError`` when it does not in time."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise BenchmarkError(f"gave up after {timeout_s:g} s: {what}")
        time.sleep(every_s)
