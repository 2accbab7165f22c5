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
from penstock.processes.agreed import DEATHS_FD, HEALTHY_AFTER_S, MEANING, restart_delay_s
from penstock.processes.lastwords import last_words
from penstock.processes.service import Service
from penstock.processes.watch import Guardian

#: So many deaths in a row, none after a minute of life, are told as what they are.
LOOP_AFTER = 3
#: A log larger than this is set aside (one old file is kept) when its process starts, bytes.
LOG_BYTES = 16 * 2**20


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
        #: Deaths in a row of the process that the service supervises, and how long its log was at the last one.
        self._deaths = 0
        self._log_told = 0
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
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(self._log_start if since is None else since)
            text = file.read()[-64_000:].decode(errors="replace")
            return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
        return []

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
            self._say(f"{self.service.name} {_how(status)}; starting it again in {delay_s:g} s (log: {self.log})")
            self._on_change()
            self._stopping.wait(delay_s)

    def _once(self) -> int:
        self._turn_over()
        env = dict(self._env)
        told: int | None = None
        tells: tuple[int, ...] = ()
        if self.service.supervises:
            told, writer = os.pipe()
            tells = (writer,)
            env[DEATHS_FD] = str(writer)
        with private.file(self.log).open("ab") as file:
            self._log_start = self._log_told = file.tell()
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
                        self._died(json.loads(line))
            return process.wait()
        finally:
            self._guardian.remove(process.pid)

    def _died(self, death: Mapping[str, float]) -> None:
        """The process that the service supervises has died, and the service starts it again."""
        self._deaths = 1 if death["lived_s"] > HEALTHY_AFTER_S else self._deaths + 1
        again = f", the {_nth(self._deaths)} time in a row" if self._deaths >= LOOP_AFTER else ""
        self._say(
            f"the process of {self.service.name} {_how(int(death['status']))} after {death['lived_s']:g} s{again}; "
            f"starting it again in {death['wait_s']:g} s (log: {self.log})"
        )
        words = last_words(self.tail(since=self._log_told))
        with suppress(OSError):
            self._log_told = self.log.stat().st_size
        if words is not None:
            self._say(f"  its last error: {words}")

    def _turn_over(self) -> None:
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.old"))

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _nth(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _how(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}" + (f" ({MEANING[status]})" if status in MEANING else "")
