"""What commands share that signals may end: an end that is not an error, and steps that are not cut in half."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: An exception that a signal raised and that got lost is raised again after so long, seconds.
AGAIN_S = 3.0

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stop(BaseException):
    """A signal asked to stop. Not an ``Exception``: nothing on the way may swallow it."""


class Signals:
    """SIGINT and SIGTERM as something to wait for, or to look at between two steps. On the main thread only.

    Nothing is raised at a moment that the program did not choose: an exception in a weak reference's callback, say, is
    lost. And the interpreter itself writes to our pipe (``set_wakeup_fd``): a handler in Python runs only when the main
    thread runs, so a signal that comes just before it blocks would not be seen.
    """

    def __init__(self) -> None:
        self.arrived = False
        self._old: dict[int, Any] = {}
        self._reader, self._writer, self._old_writer = -1, -1, -1

    def __enter__(self) -> Signals:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._handle) for number in _NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_writer)
        os.close(self._writer)
        os.close(self._reader)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for a signal that came since the last ``wait``; whether one did. Any thread may call it."""
        readable, _, _ = select.select([self._reader], [], [], timeout_s)
        if not readable:
            return False
        os.read(self._reader, 4096)
        self.arrived = True
        return True

    def check(self) -> None:
        """Raise ``Stop`` if a signal has come."""
        if self.arrived:
            raise Stop

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.arrived = True


@contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block, as ``KeyboardInterrupt``; a second one at once. Main thread only.

    For a short step of which half would be worse than none, such as a submission whose id is not known yet.
    """
    arrived = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal arrived
        if arrived:
            raise KeyboardInterrupt
        arrived = True

    old = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)
    if arrived:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise ``Stop`` in the block, wherever it is. On the main thread only.

    For work that cannot look out for signals itself and may be cut off anywhere.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise Stop

    old = {number: signal.signal(number, handle) for number in (*_NUMBERS, signal.SIGALRM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in old.items():
            signal.signal(number, handler)
