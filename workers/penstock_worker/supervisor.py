"""Keeps one worker process running: starts it, restarts it when it dies, and passes signals on.

A model that never returns can only be stopped with its process, and a crash in native code takes the process along;
both must not need a person. The child tells through a pipe that it is alive; one that is silent for two leases
(stuck in native code, holding the interpreter lock) is killed. Whoever keeps the supervisor running, as ``penstock up``
does, is told of each death through another pipe, since nobody may be reading the log.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Protocol

import structlog

from penstock.clock import monotonic_s
from penstock.processes.agreed import DEATHS_FD, EXIT_WEDGED, HEALTHY_AFTER_S, PULSE_FD, SLOT_FENCE, restart_delay_s
from penstock.settings import Settings
from penstock_worker.zygote.child import Forked, can_fork

log = structlog.get_logger(__name__)

#: A child that is told to stop is killed so long after it should have drained, seconds.
STOP_MARGIN_S = 5.0
#: A child that was killed and is still there (its driver keeps it) is killed and told of again after so long, seconds.
AGAIN_FIRST_S, AGAIN_LONGEST_S = 1.0, 60.0


def run(settings: Settings, argv: Sequence[str] = ()) -> int:
    """Supervise ``python -m penstock_worker *argv`` until it ends by itself or a signal ends both.

    Returns the exit status for this process: the child's own when it never came up, 0 after a clean stop.
    """
    return Supervisor(settings, argv).run()


class Child(Protocol):
    """The worker, however it was started."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, number: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Supervisor:
    """One child at a time."""

    def __init__(self, settings: Settings, argv: Sequence[str] = ()) -> None:
        self._silence_s = 2 * settings.lease.ttl_s
        self._stop_s = settings.worker.drain_s + STOP_MARGIN_S
        self._stop_by: float | None = None
        deaths = os.environ.get(DEATHS_FD)
        self._deaths = int(deaths) if deaths else None
        # The pipe is ours alone: it is closed when we end, whatever the worker leaves behind.
        self._environ = {name: value for name, value in os.environ.items() if name != DEATHS_FD} | settings.environ()
        # A crash in native code leaves no exception; with this its stack is in the log.
        self._environ.setdefault("PYTHONFAULTHANDLER", "1")
        if any(part.startswith("--slot") for part in argv):
            # Its lives are one start: each takes the slot over from the one before.
            self._environ.setdefault(SLOT_FENCE, uuid.uuid4().hex)
        self._command = [sys.executable, "-m", "penstock_worker", *argv]
        self._argv = ["penstock_worker", *argv]
        self._child: Child | None = None
        self._stopping = False
        #: How often this child was killed, and when that is to be done again.
        self._kills = 0
        self._kill_again_at = 0.0
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)

    def run(self) -> int:
        """See the module's docstring. Only on the main thread, since it handles signals."""
        # The interpreter writes to the pipe itself: a handler in Python runs only when this thread runs, so a signal
        # that comes just before it blocks would not be seen until something else wakes it.
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        deaths, ever_alive = 0, False
        while True:
            started = monotonic_s()
            status, alive = self._once()
            ever_alive = ever_alive or alive
            lived_s = monotonic_s() - started
            if self._stopping or (status == 0 and ever_alive):
                return 0 if self._stopping and status in (0, -signal.SIGTERM, -signal.SIGINT) else status
            if not ever_alive:
                # It never worked: a restart would only repeat the error that is on the screen. Without a word to end, 0
                # is no success either: somebody's code has called `os._exit`.
                return status if status > 0 else 1
            deaths = 1 if lived_s > HEALTHY_AFTER_S or status == EXIT_WEDGED else deaths + 1
            wait_s = restart_delay_s(deaths)
            log.warning(
                "worker died", action="supervisor.restart", status=status, lived_s=round(lived_s, 1), wait_s=wait_s
            )
            self._tell(status, lived_s, wait_s)
            if self._sleep(wait_s):
                return 0

    def _once(self) -> tuple[int, bool]:
        """One child from start to end: its status, and whether it ever was ready."""
        pulse_r, pulse_w = os.pipe()
        os.set_blocking(pulse_w, False)
        try:
            self._child = self._start(pulse_w, pulse_r)
        finally:
            os.close(pulse_w)
        if self._stopping:  # the signal came while the child was being started
            self._child.terminate()
        alive, self._kills = False, 0
        try:
            while True:
                # The pipe reads as closed when the child has ended, whatever ended it.
                readable, _, _ = select.select([pulse_r, self._wake_r], [], [], self._patience_s())
                if self._wake_r in readable:
                    os.read(self._wake_r, 4096)  # a signal: its handler has run
                elif pulse_r in readable:
                    if not os.read(pulse_r, 4096):
                        break
                    alive = True
                elif self._child.poll() is not None:
                    break  # something it had started still holds the pipe
                elif self._kills:
                    if monotonic_s() >= self._kill_again_at:
                        self._kill("worker was killed and is still there; killing it again")
                elif self._stop_by is not None:
                    if monotonic_s() >= self._stop_by:
                        self._kill("worker does not stop; killing it")
                elif alive:
                    self._kill("worker is silent; killing it")
        finally:
            os.close(pulse_r)
        return self._child.wait(), alive

    def _start(self, pulse_w: int, pulse_r: int) -> Child:
        environ = {**self._environ, PULSE_FD: str(pulse_w)}
        if not can_fork():
            return subprocess.Popen(self._command, env=environ, pass_fds=(pulse_w,))
        # Everything that it will import is here, and nothing has been begun.
        from penstock_worker.main import main

        ours = {pulse_r, self._wake_r, self._wake_w} | ({self._deaths} if self._deaths is not None else set())
        return Forked(main, argv=self._argv, environ=environ, without=ours)

    def _tell(self, status: int, lived_s: float, wait_s: float) -> None:
        if self._deaths is not None:
            line = json.dumps({"status": status, "lived_s": round(lived_s, 1), "wait_s": wait_s})
            with suppress(OSError):  # who would have been told is gone, and so are we soon
                os.write(self._deaths, f"{line}\n".encode())

    def _kill(self, words: str) -> None:
        assert self._child is not None
        self._child.kill()
        log.error(words, action="supervisor.kill", pid=self._child.pid, kills=self._kills + 1)
        self._kill_again_at = monotonic_s() + min(AGAIN_FIRST_S * 2.0 ** min(self._kills, 10), AGAIN_LONGEST_S)
        self._kills += 1

    def _patience_s(self) -> float:
        """How long the child may go on without a sign."""
        if self._kills:
            return max(0.0, self._kill_again_at - monotonic_s())
        return self._silence_s if self._stop_by is None else max(0.0, self._stop_by - monotonic_s())

    def _sleep(self, seconds: float) -> bool:
        """Wait; ``True`` when a signal asked to stop."""
        select.select([self._wake_r], [], [], seconds)
        return self._stopping

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        # A child that is still loading a model, or stuck in native code, does not hear the signal below.
        self._stop_by = self._stop_by or monotonic_s() + self._stop_s
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
