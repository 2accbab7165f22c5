"""Stops the children of a ``penstock up`` that was killed.

A process of its own, run by file name without site packages (it must start at once and stay small). It reads lines
from its standard input, ``+ STAGE PID GRACE_S`` and ``- PID``, and when that pipe closes, because whoever held the
other end is gone, however it went, it stops what is still listed, stage by stage: SIGTERM, and SIGKILL after the
grace. Signals to the terminal's process group do not reach it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress


class Watched:
    """A process that is not our child."""

    def __init__(self, pid: int, stage: int, grace_s: float) -> None:
        self.pid = pid
        self.stage = stage
        self.grace_s = grace_s
        # A handle, so that a number that was given to another process meanwhile is never signalled.
        self.handle: int | None = None
        if sys.platform == "linux":
            with suppress(OSError):
                self.handle = os.pidfd_open(pid)

    def kill(self, number: signal.Signals) -> None:
        with suppress(OSError):
            if sys.platform == "linux" and self.handle is not None:
                signal.pidfd_send_signal(self.handle, number)
            else:
                os.kill(self.pid, number)

    def kill_all(self) -> None:
        """SIGKILL, to it and to what it started: each leads a process group of its own."""
        with suppress(OSError):
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
        self.kill(signal.SIGKILL)

    def gone(self, timeout_s: float) -> bool:
        if self.handle is not None:
            poll = select.poll()
            poll.register(self.handle, select.POLLIN)
            return bool(poll.poll(max(0.0, timeout_s) * 1000))
        until = time.monotonic() + timeout_s
        while True:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)

    def close(self) -> None:
        if self.handle is not None:
            os.close(self.handle)


def main() -> None:
    """Read until the pipe closes, then stop what is left."""
    watched: dict[int, Watched] = {}
    for line in sys.stdin:
        verb, *words = line.split()
        if verb == "+":
            stage, pid, grace_s = int(words[0]), int(words[1]), float(words[2])
            watched[pid] = Watched(pid, stage, grace_s)
        elif (old := watched.pop(int(words[0]), None)) is not None:
            old.close()
    for stage in sorted({process.stage for process in watched.values()}):
        stop([process for process in watched.values() if process.stage == stage])


def stop(processes: list[Watched]) -> None:
    """Ask all of one stage together, then insist."""
    for process in processes:
        process.kill(signal.SIGTERM)
    until = time.monotonic() + max(process.grace_s for process in processes)
    for process in processes:
        if not process.gone(until - time.monotonic()):
            process.kill_all()
            process.gone(5.0)


if __name__ == "__main__":
    main()
