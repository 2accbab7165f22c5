"""Small chores a moment later, on one thread that exists only while there are any."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from penstock.clock import monotonic_s

log = logging.getLogger(__name__)

#: The thread ends after so long without a chore, seconds: an idle producer holds no thread.
IDLE_S = 5.0


class Background:
    """Runs calls later. ``close`` drops what is not due: whoever must not lose a chore runs it himself first."""

    def __init__(self, name: str = "penstock-background") -> None:
        self._name = name
        self._changed = threading.Condition()
        self._due: dict[Callable[[], None], float] = {}
        #: When the thread will look again without being told.
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Run ``call`` in ``delay_s`` seconds, unless it is planned already. Never waits for a chore that runs."""
        with self._changed:
            if call in self._due or self._closed:
                return
            due_at = self._due[call] = monotonic_s() + delay_s
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                # At the interpreter's end no thread starts any more; whoever closes does his chores himself.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
            elif due_at < self._wakes_at:
                # Waking a thread costs more than most chores, so only where it would oversleep.
                self._changed.notify()

    def close(self) -> None:
        """End the thread after the chore that it is at."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception:
                log.exception("a background chore failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while True:
                now = monotonic_s()
                call = min(self._due, key=self._due.__getitem__, default=None)
                if call is not None and self._due[call] <= now:
                    del self._due[call]
                    # While the chore runs, nobody needs to wake us: we look again right after it.
                    self._wakes_at = 0.0
                    return call
                if self._closed:
                    return None
                self._wakes_at = now + IDLE_S if call is None else self._due[call]
                told = self._changed.wait(self._wakes_at - now)
                if not told and not self._due:
                    self._thread = None
                    return None
