"""Reads what workers of other programs say of plain tasks that have ended: ``link`` and ``link_error``.

A return is read, settled, and only then removed: a dispatcher that dies in between leaves it to be read again, which
changes nothing, since what has ended stays as it is. Several dispatchers may read the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
import structlog

from penstock import clock
from penstock.dispatch.tasks.endings import gave
from penstock.dispatch.tasks.results import Results
from penstock.errors import StoreUnavailable, TaskFailed, Unreachable
from penstock.job import JobState
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.store.runs.tasks import Ended
from penstock.telemetry.reach import Reach
from penstock.transport import keys
from penstock.transport.taskmessage import Return, decode, return_keys
from penstock.transport.url import connect, unavailable

log = structlog.get_logger(__name__)

#: Returns that are settled together.
BATCH = 500
#: Longest wait for one, seconds, and for an answer of the broker beyond that.
WAIT_S, ANSWER_S = 0.5, 2.0
#: Messages that could not be read are kept for inspection: so many.
KEPT = 100


class Returns:
    """One turn at a time; the loop around it is the daemon's. ``tell`` hears of all that has ended."""

    def __init__(
        self, store: Store, settings: Settings, results: Results, *, tell: Callable[[Sequence[Settled]], Any]
    ) -> None:
        self._store = store
        self._settings = settings
        self._results = results
        self._tell = tell
        self._client = connect(settings.broker, timeout_s=WAIT_S + ANSWER_S)
        self._lists = return_keys(settings.namespace)
        self._broker = Reach("broker", service="returns")
        self._database = Reach("database", service="returns")

    def turn(self) -> float:
        """Settle what has come back, else wait a little for something. Returns how long to sleep, seconds."""
        try:
            found = self._read()
            self._broker.found()
            if not found:
                # Taken and put back where it was: the wait ends with the first, which stays until it is settled.
                queue = keys.returns(self._settings.namespace)
                wait: Any = self._client.blmove  # the published types know whole seconds alone
                wait(queue, queue, WAIT_S, "RIGHT", "RIGHT")
                return 0.0
            self._settle([message for _, message in found])
            self._database.found()
            self._remove(found)
            return 0.0
        except (redis.RedisError, OSError) as error:
            self._broker.lost(unavailable(self._settings.broker, error))
        except StoreUnavailable as error:
            self._database.lost(error)
        return self._settings.dispatcher.poll_s

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _read(self) -> list[tuple[str, bytes]]:
        """Lists and messages, the oldest of each list."""
        pipeline: Any = self._client.pipeline(transaction=False)
        for name in self._lists:
            pipeline.lrange(name, -BATCH, -1)
        pages = pipeline.execute()
        return [(name, raw) for name, page in zip(self._lists, pages, strict=True) for raw in reversed(page)]

    def _remove(self, found: Iterable[tuple[str, bytes]]) -> None:
        pipeline: Any = self._client.pipeline(transaction=False)
        for name, raw in found:
            pipeline.lrem(name, -1, raw)
        pipeline.execute()

    def _settle(self, messages: Sequence[bytes]) -> None:
        returns, unreadable = [], []
        for raw in messages:
            found = decode(raw, self._settings.namespace)
            if found is None:
                unreadable.append(raw)
            else:
                returns.append(found)
        if unreadable:
            self._set_aside(unreadable)
        if returns:
            errors = self._errors([each.job for each in returns if each.raised])
            limit = self._settings.job.max_output_bytes
            ends = [_ended(each, errors, limit) for each in returns]
            self._tell(self._store.end_tasks(ends, now=clock.now()))

    def _errors(self, ids: Sequence[str]) -> dict[str, Ended]:
        """How failed ones ended, where the result backend says it: their callback does not."""
        if not ids:
            return {}
        try:
            return self._results.ends([(id, 1) for id in ids]).ends
        except Unreachable:  # it was said
            return {}

    def _set_aside(self, messages: Sequence[bytes]) -> None:
        name = keys.dead(self._settings.namespace)
        pipeline: Any = self._client.pipeline(transaction=False)
        pipeline.lpush(name, *messages)
        pipeline.ltrim(name, 0, KEPT - 1)
        pipeline.execute()
        log.error("returns of tasks that cannot be read", action="tasks.unreadable", messages=len(messages))


def _ended(found: Return, errors: dict[str, Ended], max_bytes: int) -> Ended:
    if found.raised:
        told = errors.get(found.job)
        if told is not None and told.error is not None:
            return told._replace(attempt=found.attempt)
        error = TaskFailed("the task raised; its worker's log says what, and no result backend that is read here")
        return Ended(found.job, found.attempt, JobState.FAILED, error=error.as_dict())
    return gave(found.job, found.attempt, found.output, max_bytes)
