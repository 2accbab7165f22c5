"""Sends plain Celery tasks whose steps can begin: the message to their own queue, then the note of it to SQL.

The order makes a task at most once at the broker, and at least once as long as somebody is there to try: a message
leaves a mark with it, in one script, so that whoever died before the note is followed by one who sends nothing twice.
The mark outlives the note by an hour: somebody slow may have looked before it. While nobody can write the note, it is
kept for a month. A broker that loses its data in between has lost mark and message together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import redis

from penstock import clock
from penstock.errors import InvalidInput, NoValue, PenstockError
from penstock.job import Job, JobState, NewJob
from penstock.pipelines.task import is_task
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.store.runs.tasks import Ended, Unsent
from penstock.transport import keys
from penstock.transport.control import revoke
from penstock.transport.publisher import Publisher
from penstock.transport.scripts import SEND
from penstock.transport.taskmessage import TaskCall, encode, queue_key
from penstock.transport.url import parse, unavailable
from penstock.transport.wire import Arg, Wire

log = logging.getLogger(__name__)

#: How long it is known that a message was sent, without the note in SQL and beyond it, seconds.
UNNOTED_S, NOTED_S = 30 * 86400, 3600
#: Messages of one call of the script: they may be long, and the server does nothing else meanwhile.
PIECE = 100


class TaskSender:
    """Thread-safe. ``tell`` hears of what ended as it was to be sent, and of what that ended."""

    def __init__(
        self, store: Store, publisher: Publisher, settings: Settings, *, tell: Callable[[Sequence[Settled]], Any]
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._settings = settings
        self._tell = tell
        self._wire = Wire(publisher.client, settings.namespace)
        self._db = parse(settings.broker).db

    def send(self, jobs: Iterable[NewJob | Job]) -> None:
        """Send those of these that are still to be sent. Raises ``BrokerUnavailable`` or ``StoreUnavailable``."""
        calls: dict[str, TaskCall] = {}
        marks: dict[str, str] = {}
        faults: list[Ended] = []
        timeouts: dict[str, float] = {}
        for one in self._store.unsent_tasks([job.id for job in jobs]):
            try:
                calls[one.id] = _call(one)
            except PenstockError as error:
                faults.append(Ended(one.id, one.attempt, JobState.FAILED, error=error.as_dict()))
                continue
            marks[one.id] = f"{keys.task(self._settings.namespace, one.id)}:{one.sending}"
            timeouts[one.id] = one.timeout_s or self._settings.celery.task_timeout_s
        if calls:
            self._push([(marks[id], call) for id, call in calls.items()])
            now = clock.now()
            noted = self._store.tasks_sent([(id, now + timeouts[id]) for id in calls], now=now)
            self._shorten([marks[id] for id in calls])
            # Others have ended between the two, been cancelled, or been noted by another sender, who was slow.
            others = self._store.statuses([id for id in calls if id not in noted])
            self.revoke([id for id, status in others.items() if status == JobState.CANCELLED])
        if faults:
            self._tell(self._store.end_tasks(faults, now=clock.now()))

    def revoke(self, ids: Sequence[str]) -> None:
        """Have workers pass over these, best effort: who runs one goes on, and its return is late. Never raises."""
        if not ids:
            return
        try:
            self._publisher.client.publish(*revoke(ids, self._db))
        except (redis.RedisError, OSError) as error:
            log.debug("cancelled tasks were not revoked: %s", error)

    def _shorten(self, marks: Sequence[str]) -> None:
        """SQL knows of these, best effort: those of whom it does not get through are kept for longer."""
        pipeline: Any = self._publisher.client.pipeline(transaction=False)
        for mark in marks:
            pipeline.expire(mark, NOTED_S)
        try:
            pipeline.execute()
        except (redis.RedisError, OSError) as error:
            log.debug("marks of tasks were not shortened: %s", error)

    def _push(self, marked: Sequence[tuple[str, TaskCall]]) -> None:
        for start in range(0, len(marked), PIECE):
            names: list[Arg] = [keys.task_queues(self._settings.namespace)]
            args: list[Arg] = [UNNOTED_S]
            for mark, call in marked[start : start + PIECE]:
                names += [mark, queue_key(call.task)]
                args.append(encode(call, self._settings.namespace))
            try:
                SEND(self._wire, names, args)
            except (redis.RedisError, OSError) as error:
                raise unavailable(self._settings.broker, error) from error


def split(jobs: Sequence[NewJob | Job]) -> tuple[Sequence[NewJob | Job], Sequence[NewJob | Job]]:
    """Jobs of models, and calls of plain tasks."""
    tasks = [job for job in jobs if job.run_id is not None and is_task(job.model)]
    return (jobs, tasks) if not tasks else ([job for job in jobs if not is_task(job.model)], tasks)


class _Given(msgspec.Struct):
    args: msgspec.Raw
    kwargs: msgspec.Raw


_decode = msgspec.json.Decoder(_Given).decode


def _call(one: Unsent) -> TaskCall:
    """What is sent; raises ``NoValue`` or ``InvalidInput``."""
    if one.given.input is None:
        raise NoValue(one.given.fault or "what the task is given is not there")
    try:
        given = _decode(one.given.input)
    except msgspec.MsgspecError:
        given = _Given(msgspec.Raw(b""), msgspec.Raw(b""))
    args, kwargs = bytes(given.args), bytes(given.kwargs)
    if not args.startswith(b"[") or not kwargs.startswith(b"{"):
        raise InvalidInput("a plain task is given no list of arguments and no object of named ones")
    return TaskCall(one.id, one.run, one.attempt, one.task, args, kwargs, one.expires_at)
