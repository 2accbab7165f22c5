"""Starts workers by fork, from a process that has their imports and mapped weights: the zygote
(``penstock_worker.zygote``).

A worker that is forked is what the same command line gives, in a tenth of the time. Whatever stands in the way (another
system than Linux, a zygote that is not ready yet, has died or cannot be forked from) is said once, and the worker is
started cold.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from penstock import private
from penstock.clock import monotonic_s
from penstock.errors import ConfigError
from penstock.processes.agreed import CONTROL_FD, HEALTHY_AFTER_S, restart_delay_s
from penstock.processes.starter import Cold, Starter, turn_over

log = structlog.get_logger(__name__)

#: The module that is the zygote.
ZYGOTE = "penstock_worker.zygote"
#: Longest message on its socket, bytes, and most descriptors that one carries.
MESSAGE_BYTES, MOST_DESCRIPTORS = 2**17, 16
#: A fork that takes longer is given up, and the zygote with it, seconds.
FORK_S = 5.0
#: How variables begin that an interpreter or its libraries read when they begin, and not again.
EARLY = ("PYTHON", "LD_", "MALLOC_", "GLIBC_")
#: Statuses that nobody has asked for are forgotten beyond so many.
MOST_STATUSES = 10_000


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """``python -m MODULE ARGV``, as the zygote is told. The environment is told by what differs from the zygote's own.

    Its descriptors go with it: the log, then those that the new process is to have, by the numbers that they have here.
    """

    id: int
    module: str
    argv: list[str]
    folder: str
    set: dict[str, str]
    unset: list[str]
    descriptors: list[int]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Whatever the zygote says."""

    #: Of an order: the process, or why there is none.
    id: int | None = None
    pid: int | None = None
    #: A file that is not any more what was imported.
    stale: str | None = None
    unfit: str | None = None
    #: At its start: that it can be forked from, or why not.
    ready: bool = False
    models: list[str] = []
    refused: str | None = None
    fix: str = ""
    #: A process that it had forked has ended.
    ended: int | None = None
    status: int | None = None


class Warm:
    """A ``Starter``. ``sources`` are the modules of the models, ``env`` the environment that most workers have."""

    def __init__(
        self,
        sources: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cold: Starter | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._sources = list(sources)
        self._env = dict(env)
        self._log = log
        self._cold = cold or Cold()
        self._say = say or (lambda line: structlog.get_logger(__name__).warning(line, action="warm.cold"))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False
        #: That there will be none, since nothing would change by trying again.
        self._given_up = sys.platform != "linux"
        self._told: set[str] = set()
        self._orders = 0
        self._deaths, self._started_at, self._again_at = 0, 0.0, 0.0
        self._answers: list[Reply] = []
        self._statuses: dict[int, int] = {}

    def prepare(self) -> None:
        """Start the zygote, unless it runs; returns at once. Called at each start, too."""
        with self._lock:
            self._prepare()

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: Path, *, pass_fds: Sequence[int] = ()) -> int:
        """See ``Starter``: by fork if that is possible now, else cold."""
        with self._lock:
            self._prepare()
            module = _module_of(argv)
            if module is not None and not _differs_early(self._env, env) and self._is_ready():
                pid = self._fork(module, argv[3:], env, log, pass_fds)
                if pid is not None:
                    return pid
                self._prepare()
        return self._cold.start(argv, env, log, pass_fds=pass_fds)

    def status(self, pid: int) -> int | None:
        """The exit status of one that was forked, once it has ended: it is nobody's child here. Told once."""
        with self._lock:
            self._hear(0.0)
            return self._statuses.pop(pid, None)

    @property
    def pid(self) -> int | None:
        """The zygote's process, if it runs."""
        return self._process.pid if self._process is not None else None

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Whether workers are forked now; waits for it, unless it has ended or refused."""
        until = monotonic_s() + timeout_s
        with self._lock:
            self._prepare()
            while not self._is_ready() and self._comes() and (left_s := until - monotonic_s()) > 0:
                self._hear(left_s)
            return self._is_ready()

    def close(self) -> None:
        """End the zygote; what it has forked goes on. Can be called again."""
        with self._lock:
            self._given_up = True
            self._drop()

    # The zygote ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self._given_up:
            if sys.platform != "linux":
                self._tell_once("workers are started cold: only Linux forks them from a process that has their imports")
            return
        if self._process is not None and self._process.poll() is not None:
            self._hear(0.0)  # its last words
            self._died()
        if self._process is None and not self._given_up and monotonic_s() >= self._again_at:
            try:
                self._launch()
            except (OSError, ConfigError) as error:  # no numbers, no descriptors, no place for its log
                self._deaths += 1
                self._again_at = monotonic_s() + restart_delay_s(self._deaths)
                self._tell_once(f"workers are started cold: what they are forked from could not be started: {error}")

    def _launch(self) -> None:
        turn_over(self._log)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with private.file(self._log).open("ab") as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", ZYGOTE, *self._sources],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**self._env, CONTROL_FD: str(its.fileno())},
                    pass_fds=(its.fileno(),),
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        self._control, self._ready, self._started_at = ours, False, monotonic_s()

    def _died(self) -> None:
        status = self._process.returncode if self._process is not None else None
        lived_s = monotonic_s() - self._started_at
        self._drop()
        if self._given_up:
            return
        self._deaths = 1 if lived_s > HEALTHY_AFTER_S else self._deaths + 1
        wait_s = restart_delay_s(self._deaths)
        self._again_at = monotonic_s() + wait_s
        self._say(
            f"the process that workers are forked from has ended with status {status}; it is started again in "
            f"{wait_s:g} s, and workers are started cold until then (log: {self._log})"
        )

    def _drop(self) -> None:
        control, self._control, self._ready = self._control, None, False
        if control is not None:
            control.close()
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(FORK_S)  # it ends when its socket closes
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _is_ready(self) -> bool:
        self._hear(0.0)
        return self._ready

    def _comes(self) -> bool:
        """Whether what was started may still be ready."""
        return not self._given_up and self._process is not None and self._process.poll() is None

    def _hear(self, timeout_s: float) -> None:
        """Take in what it has said; waits so long for the first of it."""
        if self._control is None:
            return
        try:
            while True:
                self._control.settimeout(timeout_s)
                data = self._control.recv(MESSAGE_BYTES)
                if not data:
                    self._ready = False
                    return
                self._take(msgspec.json.decode(data, type=Reply))
                timeout_s = 0.0
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            self._ready = False

    def _take(self, answer: Reply) -> None:
        if answer.ended is not None and answer.status is not None:
            self._statuses[answer.ended] = answer.status
            while len(self._statuses) > MOST_STATUSES:
                del self._statuses[next(iter(self._statuses))]
        elif answer.id is not None:
            self._answers.append(answer)
        elif answer.refused is not None:
            self._given_up = True
            fix = f" (fix: {answer.fix})" if answer.fix else ""
            self._tell_once(f"workers are started cold: {answer.refused}{fix}")
        elif answer.ready:
            self._ready = True
            log.info("workers are forked from now on", action="warm.ready", models=answer.models, pid=self.pid)

    # A fork -------------------------------------------------------------------------------------------------------

    def _fork(
        self, module: str, argv: Sequence[str], env: Mapping[str, str], log_file: Path, pass_fds: Sequence[int]
    ) -> int | None:
        assert self._control is not None
        self._orders += 1
        order = Order(
            id=self._orders,
            module=module,
            argv=list(argv),
            folder=str(Path.cwd()),
            set={name: value for name, value in env.items() if self._env.get(name) != value},
            unset=[name for name in self._env if name not in env],
            descriptors=list(pass_fds),
        )
        turn_over(log_file)
        with private.file(log_file).open("ab") as file:
            try:
                self._control.settimeout(FORK_S)
                socket.send_fds(self._control, [msgspec.json.encode(order)], [file.fileno(), *pass_fds])
            except OSError:  # it has died, and nothing was forked
                self._died()
                return None
        answer = self._answer(order.id)
        if answer is None:
            # It was ended before it could be said, and who was not told of does not begin.
            self._tell_once("a fork took too long")
            self._died()
            return None
        if answer.pid is not None:
            return answer.pid
        if answer.stale is not None:
            log.info("code has changed: workers are forked again soon", action="warm.stale", file=answer.stale)
            self._drop()
        elif answer.unfit is not None:
            self._given_up = True
            self._tell_once(f"workers are started cold: {answer.unfit}")
            self._drop()
        return None

    def _answer(self, id: int) -> Reply | None:
        until = monotonic_s() + FORK_S
        while True:
            found = next((answer for answer in self._answers if answer.id == id), None)
            self._answers = [answer for answer in self._answers if answer.id != id]
            left_s = until - monotonic_s()
            if found is not None or self._control is None:
                return found
            if left_s <= 0 or not self._ready:
                if self._process is None or self._process.poll() is not None:
                    return None
                with suppress(OSError):
                    self._process.kill()
                self._process.wait()
                until = monotonic_s()
            self._hear(max(0.0, left_s))

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._say(line)


def _module_of(argv: Sequence[str]) -> str | None:
    """The module of ``python -m MODULE …``, if that is what it is. PURE."""
    if len(argv) >= 3 and argv[0] == sys.executable and argv[1] == "-m":
        return argv[2]
    return None


def _differs_early(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two environments differ in what only a new process would heed. PURE."""
    names = [name for name in {*one, *other} if name.startswith(EARLY)]
    return any(one.get(name) != other.get(name) for name in names)
