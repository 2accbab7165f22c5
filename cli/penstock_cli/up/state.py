"""How a second ``penstock up`` finds the first: a lock that dies with its process, and a file that says what runs."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from penstock import private
from penstock.errors import PenstockError


@dataclass(slots=True, kw_only=True)
class ChildState:
    """One running child, named so that a number used again by another process is not mistaken for it."""

    name: str
    pid: int
    born_at: float
    log: str
    stage: int

    def process(self) -> psutil.Process | None:
        """The process, if it is still the same one and runs."""
        return _same(self.pid, self.born_at)


@dataclass(slots=True, kw_only=True)
class State:
    """What ``run/up.json`` says. It holds no secret: URLs stand without passwords."""

    pid: int
    born_at: float
    ready: bool = False
    home: str = ""
    broker: str = ""
    database: str = ""
    dashboard: str | None = None
    logs: str = ""
    modules: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    pipelines: list[str] = field(default_factory=list)
    example: str | None = None
    children: list[ChildState] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


class AlreadyRunning(PenstockError):
    """Another ``penstock up`` holds this home; ``state`` says what it runs, unless it is just starting."""

    code = "already_running"

    def __init__(self, home: Path, state: State | None) -> None:
        self.state = state
        who = f" (process {state.pid})" if state else ""
        super().__init__(f"`penstock up` runs already in {home}{who}", fix="use it, or stop it with Ctrl-C there")


class Lease:
    """Holds a home for this process, and writes the state file."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path = home / "run" / "up.json"
        self._lock: int | None = None

    def acquire(self) -> State | None:
        """Take the lock; the state that a killed predecessor left, if any. Raises ``AlreadyRunning``."""
        private.folder(self._path.parent)
        private.tighten(self.home)
        lock = os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise AlreadyRunning(self.home, self.read()) from None
        self._lock = lock
        return self.read()

    def release(self) -> None:
        """Remove the file and unlock. Can be called again."""
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def write(self, state: State) -> None:
        """Publish the state, whole or not at all."""
        draft = self._path.with_suffix(".new")
        private.file(draft).write_text(json.dumps(state.as_dict(), indent=2) + "\n", encoding="utf-8")
        draft.replace(self._path)

    def read(self) -> State | None:
        """The last state written, ``None`` when there is none that can be read."""
        with suppress(OSError, ValueError, TypeError):
            raw = json.loads(self._path.read_text(encoding="utf-8"))
            children = [ChildState(**child) for child in raw.pop("children", [])]
            return State(**raw, children=children)
        return None


def running(home: Path) -> State | None:
    """The state of the ``penstock up`` that runs in ``home`` now, ``None`` when none does."""
    state = Lease(home).read()
    return state if state is not None and _same(state.pid, state.born_at) else None


def born_at(pid: int) -> float:
    """When a process started, Unix seconds; 0 when it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def _same(pid: int, born: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        # The start time is derived from the boot time, which moves a little when the clock is set.
        if abs(process.create_time() - born) < 2.0 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.Error:
        pass
    return None
