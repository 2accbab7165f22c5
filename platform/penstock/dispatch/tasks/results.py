"""What the result backend says of plain tasks, within bounds of time, whatever it is and however it fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

import structlog

from penstock.clock import monotonic_s
from penstock.dispatch.tasks.backends import Backend, backend_of
from penstock.dispatch.tasks.endings import end_of, is_result
from penstock.dispatch.tasks.readers import Reader, reader_of
from penstock.errors import ConfigError, PenstockError, Unreachable, safe_text
from penstock.settings import Settings
from penstock.store.runs.tasks import Ended
from penstock.urltext import HIDDEN

log = structlog.get_logger(__name__)

#: How long the dispatcher asks at a time, and how long it waits for an answer beyond that, seconds.
ROUND_S, ANSWER_S = 1.0, 2.0
_HANGS = "it does not answer"
#: What an error is that says that something is missing here, and not there.
_MISSING = frozenset({"ImportError", "ImproperlyConfigured", "NoSuchModuleError"})
#: Longest reason that is quoted, characters.
_LONGEST = 300


class Answer(NamedTuple):
    """How tasks ended, as far as it is known; of those that were asked for, the first ``asked`` were come to."""

    ends: dict[str, Ended]
    asked: int


class Results:
    """Thread-safe. Connects on first use. Says once that the backend is away, and once that it is back."""

    def __init__(self, settings: Settings, *, round_s: float = ROUND_S, answer_s: float = ANSWER_S) -> None:
        self._backend = backend_of(settings)
        self._max_bytes = settings.job.max_output_bytes
        self._round_s, self._answer_s = round_s, answer_s
        self._reader = reader_of(self._backend)
        self._mutex = threading.Lock()
        self._asking: _Asking | None = None
        self._away = self._unreadable = self._told = False

    def ends(self, tasks: Sequence[tuple[str, int]]) -> Answer:
        """How these (ids and attempts) have ended. Returns within ``round_s`` and ``answer_s``, with those that there
        was time for. Raises ``Unreachable`` while the backend is away; one that nobody can ask knows nothing of any."""
        if not tasks:
            return Answer({}, 0)
        if self._backend.nobodys:
            if not self._told:
                self._told = True
                _warn("results of tasks cannot be asked for", "tasks.nobodys_results", nobodys(self._backend))
            return Answer({}, len(tasks))
        with self._mutex:
            try:
                texts, asked = self._ask([id for id, _ in tasks])
            except Unreachable as error:
                if not self._away:
                    self._away = True
                    _warn("results of tasks cannot be read", "tasks.no_results", error)
                raise
            if self._away:
                self._away = False
                log.info("results of tasks are read again", action="tasks.results", backend=self._backend.where)
        ends = {}
        for id, attempt in tasks[:asked]:
            if (text := texts.get(id)) is None:
                continue
            if (end := end_of(id, attempt, text, self._max_bytes)) is not None:
                ends[id] = end
            elif not is_result(text):
                self._say_unreadable()
        return Answer(ends, asked)

    def check(self) -> str:
        """Where the backend is, if it can be read; else raises ``Unreachable``, or ``ConfigError`` for one that nobody
        can ask."""
        if self._backend.nobodys:
            raise nobodys(self._backend)
        with self._mutex:
            self._ask(["penstock-doctor"])
        return self._backend.where

    def close(self) -> None:
        """Close the connections."""
        if self._asking is None:  # else it is left with what it hangs at
            self._reader.close()

    def _ask(self, ids: Sequence[str]) -> tuple[dict[str, bytes], int]:
        if self._asking is not None and self._asking.is_alive():
            raise unreachable(self._backend, TimeoutError(_HANGS))
        self._asking = None
        asking = _Asking(self._reader, ids, until=monotonic_s() + self._round_s)
        if self._reader.bounded:
            asking.run()
        else:
            asking.start()
            asking.join(self._round_s + self._answer_s)
            if asking.is_alive():
                self._asking = asking
                raise unreachable(self._backend, TimeoutError(_HANGS))
        if asking.error is not None:
            raise unreachable(self._backend, asking.error) from asking.error
        return asking.texts, asking.asked

    def _say_unreadable(self) -> None:
        """Once: it is a matter of the program's settings."""
        if not self._unreadable:
            self._unreadable = True
            log.warning(
                "a result of a task is no JSON, and is not read",
                action="tasks.unreadable_result",
                backend=self._backend.where,
                fix='set result_serializer="json" in the tasks\' app, and leave result_compression out',
            )


class _Asking(threading.Thread):
    """Asks for results until the time is over: in a thread of its own where the backend's library may hang."""

    def __init__(self, reader: Reader, ids: Sequence[str], *, until: float) -> None:
        super().__init__(name="penstock-results", daemon=True)
        self._reader, self._ids, self._until = reader, ids, until
        self.texts: dict[str, bytes] = {}
        self.asked = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for piece in self._reader.texts(self._ids):
                self.asked += len(piece)
                self.texts.update((id, text) for id, text in piece if text is not None)
                if monotonic_s() > self._until:
                    return
        except Exception as error:  # whatever the library raises: it is told by whoever asks
            self.error = error


def _warn(words: str, action: str, error: PenstockError) -> None:
    log.warning(words, action=action, error=error.message, fix=error.fix)


def nobodys(backend: Backend) -> ConfigError:
    """PURE: what to say of a backend that nobody can ask."""
    return ConfigError(
        f"the result backend of plain tasks, {backend.scheme}://, {backend.nobodys}: of tasks that call nothing"
        " (revoked, expired, killed) nobody hears, and they are lost by time",
        fix="give their app another result_backend (redis://, db+postgresql://, file:// …), and"
        " PENSTOCK_CELERY__TASK_RESULT_URL its URL",
    )


def unreachable(backend: Backend, error: Exception) -> Unreachable:
    """PURE: the error to raise for whatever a library raises, without a secret of the URL."""
    missing = bool(_MISSING & {kind.__name__ for kind in type(error).__mro__})
    lines = str(error).splitlines() or [type(error).__name__]
    reason = " ".join(lines if missing else lines[:1])  # statements and their values follow, or good advice
    user, at, _ = backend.url.partition("://")[2].rpartition("@")
    for secret in filter(None, (backend.url, user.partition(":")[2] if at else "")):
        reason = reason.replace(secret, HIDDEN).replace(unquote(secret), HIDDEN)
    if missing:
        fix = f"install what this backend needs beside the dispatcher, or correct {backend.variable}"
    else:
        fix = (
            f"start it, or correct {backend.variable}: it is the result_backend of the app whose workers run the tasks"
        )
    return Unreachable(
        f"the result backend of plain tasks, {backend.where}, cannot be read: {safe_text(reason)[:_LONGEST]}", fix=fix
    )
