"""One child process that is kept running: started, restarted with a growing pause when it dies, stopped for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from penstock import private
from penstock.clock import monotonic_s
from penstock.processes.agreed import DEATHS_FD, HEALTHY_AFTER_S, restart_delay_s
from penstock.processes.deaths import Deaths
from penstock.processes.lastwords import how, tail
from penstock.processes.service import Service
from penstock.processes.starter import turn_over
from penstock.processes.watch import Guardian


class Child:
    """Runs one service. ``on_change`` is called from the child's own thread after each start and each exit."""

    def __init__(
        self,
        service: Service,
        *,
        log: Path,
        env: Mapping[str, str],
        guardian: Guardian,
        say: Callable[[str], None],
        on_change: Callable[[], None],
    ) -> None:
        self.service = service
        self.log = log
        #: The exit status with which it ended while restarts were not allowed.
        self.ended: int | None = None
        #: Set when the whole stack is ready: from then on a crash is answered with a restart.
        self.restart = False
        self._env = env
        self._guardian = guardian
        self._say = say
        self._on_change = on_change
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        #: Of the process that the service supervises.
        self._deaths = Deaths(service.name, log, since=0)
        self._thread = threading.Thread(target=self._run, name=f"penstock-up-{service.name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The running process, ``None`` between two."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start it; returns at once."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM; no restart follows."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def join(self, timeout_s: float) -> bool:
        """Wait until it is gone; kill it after the timeout. ``False`` if that was needed."""
        if not self._thread.is_alive():
            return True
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        # With all that it started: a supervisor that is killed could not stop its worker any more.
        process = self._process
        if process is not None and process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._thread.join(5.0)
        return False

    def tail(self, lines: int = 12, *, since: int | None = None) -> list[str]:
        """The last lines that it wrote since its last start, or since a place in its log, bytes."""
        return tail(self.log, lines, since=self._log_start if since is None else since)

    def _run(self) -> None:
        crashes = 0
        while not self._stopping.is_set():
            started = monotonic_s()
            status = self._once()
            if self._stopping.is_set():
                break
            if not self.restart:
                self.ended = status
                self._on_change()
                return
            crashes = 1 if monotonic_s() - started > HEALTHY_AFTER_S else crashes + 1
            delay_s = restart_delay_s(crashes)
            self._say(f"{self.service.name} {how(status)}; starting it again in {delay_s:g} s (log: {self.log})")
            self._on_change()
            self._stopping.wait(delay_s)

    def _once(self) -> int:
        turn_over(self.log)
        env = dict(self._env)
        told: int | None = None
        tells: tuple[int, ...] = ()
        if self.service.supervises:
            told, writer = os.pipe()
            tells = (writer,)
            env[DEATHS_FD] = str(writer)
        with private.file(self.log).open("ab") as file:
            self._log_start = file.tell()
            self._deaths = Deaths(self.service.name, self.log, since=self._log_start)
            process = subprocess.Popen(
                self.service.argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=tells,
                # Ctrl-C goes to the terminal's process group: the children are stopped by us, in order.
                start_new_session=True,
            )
        for fd in tells:
            os.close(fd)
        self._process = process
        self._guardian.add(process.pid, stage=self.service.stage, grace_s=self.service.stop_timeout_s)
        if self._stopping.is_set():  # asked to stop while it was being started
            self._signal(signal.SIGTERM)
        self._on_change()
        try:
            if told is not None:
                with os.fdopen(told, encoding="utf-8") as deaths:
                    for line in deaths:  # until the service ends, and its end of the pipe with it
                        for words in self._deaths.told(json.loads(line)):
                            self._say(words)
            return process.wait()
        finally:
            self._guardian.remove(process.pid)

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(number)
