"""A process by its number and when it started: our own child, or one that a predecessor has left running.

A number may be used again by another process. The start time tells them apart when a process is looked up, and on Linux
a handle of the kernel's keeps them apart from then on.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

import psutil

#: Start times that differ by less are the same, seconds: they are derived from the boot time, which moves a little when
#: the clock is set.
SAME_S = 2.0


class Handle:
    """One process. ``status`` is its exit status once it has ended; of one that is not our child, nobody knows it."""

    def __init__(self, pid: int, born_at: float | None = None) -> None:
        self.pid = pid
        self.status: int | None = None
        self._ended = False
        self._fd: int | None = None
        if sys.platform == "linux":
            with suppress(OSError):
                self._fd = os.pidfd_open(pid)
        self.born_at = born_at if born_at is not None else _born_at(pid)

    @classmethod
    def find(cls, pid: int, born_at: float) -> Handle | None:
        """The process of this number that started then, if it still runs."""
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - born_at) >= SAME_S or process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.Error:
            return None
        found = cls(pid, born_at)
        # It may have ended, and its number been used again, between the two looks.
        return found if abs(_born_at(pid) - born_at) < SAME_S else None

    def ended(self) -> bool:
        """Whether it has ended. Takes in the status of a child."""
        if self._ended:
            return True
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else's
            self._ended = self._gone()
        else:
            if pid:
                self._ended, self.status = True, os.waitstatus_to_exitcode(status)
        if self._ended:
            self.close()
        return self._ended

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended hears nothing."""
        if self._ended:
            return
        with suppress(OSError):
            if sys.platform == "linux" and self._fd is not None:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, to it and to all that it started."""
        with suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                child.kill()
        self.send(signal.SIGKILL)

    def close(self) -> None:
        """Let go of it. Can be called again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _gone(self) -> bool:
        if self._fd is not None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return bool(poll.poll(0))
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return True


def _born_at(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0
