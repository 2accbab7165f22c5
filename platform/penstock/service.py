"""What runs in a thread of ours: one contract for all of them.

A service is constructed, then started, once; it ends within a bound when it is stopped, and says whether it lives.
Its thread is a daemon named ``penstock-NAME``. It also says since when it has not come a turn further, so that probes
can tell a thread that is stuck from one that waits for work (``telemetry/probes.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog

from penstock import clock

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: How long ``stop`` waits unless told otherwise, seconds.
STOP_S = 5.0
#: How long a loop pauses after a turn that failed, seconds.
AFTER_FAILURE_S = 1.0

_own = threading.local()


class Pulse:
    """Since when a thread is at one turn of its work."""

    def __init__(self, now_mono: Callable[[], float] = clock.monotonic_s) -> None:
        self.now_mono = now_mono
        self._since: float | None = None

    def own(self) -> None:
        """It is this thread's from now on, and beats."""
        _own.pulse = self
        self.beat()

    def beat(self) -> None:
        """A turn begins."""
        self._since = self.now_mono()

    def rest(self) -> None:
        """No turn: it waits for work, has ended, or does what may take as long as it likes."""
        self._since = None

    @property
    def resting(self) -> bool:
        """Whether it is at no turn."""
        return self._since is None

    def stuck_s(self) -> float:
        """For how long it is at one turn, seconds; 0 while it rests."""
        since = self._since
        return 0.0 if since is None else max(0.0, self.now_mono() - since)


class ThreadService:
    """``run``, given here or overridden, is what its thread does until ``stopping`` is set.

    Several that are to end together share ``stopping``. Its ``pulse`` beats by itself in ``turns`` and ``waiting``;
    ``now_mono`` is its clock, seconds.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], object] | None = None,
        *,
        stopping: threading.Event | None = None,
        now_mono: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self.name = name
        self.stopping = stopping or threading.Event()
        self.now_mono = now_mono
        self.pulse = Pulse(now_mono)
        self._does = run or self.run
        self._thread = threading.Thread(target=self._main, name=f"penstock-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float | None = STOP_S) -> bool:
        """End it; whether it ended in time. Idempotent, also where it was never started."""
        self.stopping.set()
        self.wake()
        return self.join(timeout_s)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for its end, which somebody else brings about; whether it came in time."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    # For those who write one ----------------------------------------------------------------------------------

    def run(self) -> object:
        """What the thread does."""
        raise NotImplementedError

    def wake(self) -> None:
        """Have ``run`` look at ``stopping``: for those that wait for something else."""

    def turns(self, pause_s: float, *, at_once: bool = True) -> Iterator[None]:
        """One turn now (or not ``at_once``), and one after each pause, until it is to stop."""
        if not at_once and self.pause(pause_s):
            return
        while True:
            yield
            if self.pause(pause_s):
                return

    def pause(self, seconds: float) -> bool:
        """Wait between two turns; whether it is to stop."""
        return self.waiting(lambda: self.stopping.wait(seconds))

    def waiting(self, get: Callable[[], T]) -> T:
        """What ``get`` gives, which waits for work: until then nothing of this service is stuck."""
        self.pulse.rest()
        try:
            return get()
        finally:
            self.pulse.beat()

    def _main(self) -> None:
        self.pulse.own()
        try:
            self._does()
        finally:
            self.pulse.rest()


class Loop(ThreadService):
    """Calls ``turn`` until stopped; it gives the seconds until the next one. One that fails is logged, and goes on."""

    def __init__(self, name: str, turn: Callable[[], float], *, stopping: threading.Event | None = None) -> None:
        super().__init__(name, stopping=stopping)
        self._turn = turn
        #: Whether a turn has ended yet.
        self.turned_once = False

    def run(self) -> None:
        """Turn after turn."""
        while not self.stopping.is_set():
            try:
                pause_s = self._turn()
            except Exception:  # a defect: say so and go on, since others depend on this loop
                log.exception("turn failed", action="service.turn_failed", service=self.name)
                pause_s = AFTER_FAILURE_S
            self.turned_once = True
            self.pause(pause_s)


def turned() -> None:
    """The thread that calls this has come a turn further: it waits for a server that is away, and tries again.

    Nothing happens on threads without a pulse, and to those that rest.
    """
    pulse: Pulse | None = getattr(_own, "pulse", None)
    if pulse is not None and not pulse.resting:
        pulse.beat()
