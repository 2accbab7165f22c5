"""Finds jobs that SQL believes to be at the broker and the broker does not have.

First cheaply, by counting (``Deficit``); when that is suspicious, or the broker is known to have lost data, id by id
(``republish_lost``). A broker's picture is taken while messages move, so both can take a job for lost that is not:
its message is then sent twice, which is harmless.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import redis

from penstock import clock
from penstock.job import JobState
from penstock.lane import queue_name
from penstock.store import Store
from penstock.transport import inspect

#: Ids per statement.
CHUNK = 1000

_Line = tuple[str, str, str | None]


def queued_counts(store: Store) -> dict[_Line, int]:
    """How many jobs are ``queued`` per model, lane and version asked for: per queue."""
    return {(row.model, row.lane, row.version): row.count for row in store.counts() if row.state is JobState.QUEUED}


class Deficit:
    """Compares the number of queued jobs with the number of messages, per queue."""

    def __init__(self, store: Store, client: redis.Redis, namespace: str) -> None:
        self._store = store
        self._client = client
        self._namespace = namespace

    def look(self) -> int:
        """How many messages are missing at least, over all queues.

        SQL is counted before and after the broker and the smaller number is taken: while a queue only fills or only
        drains, jobs that move in between then cannot be taken for lost. Running jobs' messages and duplicates
        count on the broker's side, so a loss can hide behind them for as long as they last.
        """
        before = queued_counts(self._store)
        if not before:
            return 0
        names = {line: queue_name(self._namespace, *line) for line in before}
        depths = inspect.depths(self._client, self._namespace, names.values())
        after = queued_counts(self._store)
        return sum(max(0, min(count, after.get(line, 0)) - depths[names[line]].total) for line, count in before.items())


def republish_lost(store: Store, client: redis.Redis, namespace: str, *, stopping: threading.Event) -> int:
    """Put jobs whose message is missing back to ``accepted``, for the relay to publish. Returns how many.

    SQL is read first and the broker afterwards, so a job that is published meanwhile is not judged, and one that is
    claimed or settled meanwhile is not ``queued`` any more when its turn comes. Ends early when ``stopping`` is set.
    """
    found = list(_queued_ids(store, stopping))
    missing = set(found)
    if not missing:
        return 0
    queues = [queue_name(namespace, *line) for line in queued_counts(store)]
    missing -= inspect.held_ids(client, namespace, queues)
    lost = [id for id in found if id in missing]  # by age
    done = 0
    for start in range(0, len(lost), CHUNK):
        if stopping.is_set():
            break
        done += store.requeue(lost[start : start + CHUNK], now=clock.now())
    return done


def _queued_ids(store: Store, stopping: threading.Event) -> Iterator[str]:
    after = None
    while not stopping.is_set():
        page = store.queued(after=after, limit=CHUNK)
        yield from (moment.id for moment in page)
        if len(page) < CHUNK:
            return
        after = page[-1]
