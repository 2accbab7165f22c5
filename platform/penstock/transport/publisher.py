"""Publisher: jobs and news out to Redis, in one round trip per call.

Called by the submit path, the relay and the worker; knows nothing of SQL. A call that fails has published all,
something or nothing: jobs are sent again by the relay (a second message of a job is harmless), news are not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import redis

from penstock import clock
from penstock.errors import safe_text
from penstock.job import DEFAULT_TENANT, Job, NewJob
from penstock.lane import queue_name, split_name
from penstock.policy.sharing import Line, Shares, Standing
from penstock.transport import keys
from penstock.transport.mend import number
from penstock.transport.message import encode, queue_of
from penstock.transport.scripts import STANDINGS
from penstock.transport.url import TIMEOUT_S, connect, parse, unavailable
from penstock.transport.wire import Arg, Wire, pack

log = logging.getLogger(__name__)

_json = msgspec.json.encode


class Refused(NamedTuple):
    """A job of which no message can be made, and why."""

    job: NewJob | Job
    error: Exception


class Published(NamedTuple):
    """The jobs that could not be sent, and the lengths of the lists that the others went to, by key."""

    refused: list[Refused]
    lengths: dict[str, int]


NOTHING_BESIDE: Mapping[str, Sequence[str]] = MappingProxyType({})

#: Most tenants of a queue that a producer looks at one by one; of more, the rest is taken to be like them.
MOST_TENANTS = 256


@dataclass(frozen=True, slots=True)
class LoadEntries:
    """JSON by worker, and who waits in the queue and in those beside it."""

    by_worker: Mapping[str, bytes]
    line: Line
    beside: Sequence[Line] = ()

    @property
    def shares(self) -> Shares:
        """Of the queue alone."""
        return Shares(self.line.standings, busy=self.line.busy)


class Publisher:
    """Thread-safe. Connects on first use; every wait is bounded by ``timeout_s``."""

    def __init__(self, url: str, namespace: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.namespace = namespace
        self._url = parse(url)
        self._redis = connect(self._url, timeout_s=timeout_s)
        self._wire = Wire(self._redis, namespace)

    @property
    def client(self) -> redis.Redis:
        """For other commands over the same connections."""
        return self._redis

    def publish(self, jobs: Sequence[NewJob | Job]) -> Published:
        """Put the jobs' messages on their queues, in order, ring the queues' bells and tell who wakes their models.

        Steps of runs that are late go to the heads of their lists, before all that waits there at their priority.
        Jobs of which no message can be made come back as ``refused``; the others do not wait for them. Raises
        ``BrokerUnavailable``; then any part of them may have been published.
        """
        refused: list[Refused] = []
        lists: dict[str, list[bytes]] = {}
        late: dict[str, list[tuple[float, bytes]]] = {}
        now = clock.now()
        queues: dict[str, None] = {}
        models: dict[str, None] = {}
        shared: dict[str, set[str]] = {}
        kind, queue, key = None, "", ""
        for job in jobs:
            mine = (job.model, job.lane, job.asked_version, job.priority, job.tenant)
            if mine != kind:  # neighbours are mostly alike
                kind = mine
                queue = queue_of(job, self.namespace)
                key = keys.list_key(queue, job.priority, job.tenant)
            try:
                message = encode(job, self.namespace)
            except Exception as error:
                log.error("no message can be made of job %s: %s", job.id, safe_text(error))
                refused.append(Refused(job, error))
                continue
            queues[queue] = None
            models[job.model] = None
            if job.start_by is not None and job.start_by <= now:
                late.setdefault(key, []).append((job.start_by, message))
            else:
                lists.setdefault(key, []).append(message)
            if job.tenant != DEFAULT_TENANT:
                shared.setdefault(queue, set()).add(job.tenant)
        commands = [pack("LPUSH", key, *messages) for key, messages in lists.items()]
        # What is pushed last is claimed first.
        commands += [
            pack("RPUSH", key, *(message for _, message in sorted(pairs, reverse=True))) for key, pairs in late.items()
        ]
        commands += [register(self.namespace, queue, tenants) for queue, tenants in shared.items()]
        commands += [ring(keys.bell(self.namespace, queue)) for queue in queues]
        commands += [wake(self.namespace, model) for model in models]
        if not commands:
            return Published(refused, {})
        pushed = [*lists, *late]
        replies = len(pushed) + len(shared) + RING_REPLIES * len(queues) + len(models)
        answers = self._send(commands, replies=replies)
        return Published(refused, dict(zip(pushed, answers, strict=False)))

    def loads(
        self,
        models: Mapping[str, Collection[str]],
        lane: str,
        *,
        beside: Mapping[str, Sequence[str]] = NOTHING_BESIDE,
    ) -> dict[str, LoadEntries]:
        """What the models' workers say of their load, and who waits in the lane; one round trip.

        ``models`` are names, or names with a version; they name the tenants that are asked for in any case. What stands
        ``beside`` them are other such names, whose queues are looked at, too. Raises ``BrokerUnavailable``.
        """
        queues: list[str] = []
        args: list[Arg] = [keys.tenants(self.namespace), MOST_TENANTS]
        for name, tenants in models.items():
            for each in (name, *beside.get(name, ())):
                model, version = split_name(each)
                queues.append(queue_name(self.namespace, model, lane, version))
                args += [len(tenants), *map(keys.tenant_id, tenants)]
        commands = [pack("HGETALL", keys.load(self.namespace, split_name(name)[0])) for name in models]
        # The text, not its digest: between commands there is no second try, and the server knows it by its digest.
        commands.append(pack("EVAL", STANDINGS.text, len(queues), *queues, *args))
        *words, standings = self._send(commands, replies=len(commands))
        found = {}
        lines = map(_line, standings)
        for name, said in zip(models, words, strict=True):
            pairs = said.items() if isinstance(said, dict) else zip(said[::2], said[1::2], strict=True)
            by_worker = {worker.decode(errors="replace"): entry for worker, entry in pairs}
            found[name] = LoadEntries(by_worker, next(lines), [next(lines) for _ in beside.get(name, ())])
        return found

    def refused(self, counts: Mapping[str, int]) -> None:
        """Tell of jobs that were not taken on, by queue: that work has come, too. Raises ``BrokerUnavailable``."""
        key = keys.refused(self.namespace)
        self._send([pack("HINCRBY", key, queue, count) for queue, count in counts.items()], replies=len(counts))

    def forget_load(self, model: str, workers: Sequence[str]) -> None:
        """Remove what dead workers have said. Raises ``BrokerUnavailable``."""
        self._send([pack("HDEL", keys.load(self.namespace, model), *workers)], replies=1)

    def notify(
        self, replies: Mapping[str, Sequence[Mapping[str, Any]]], events: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Push results to the clients' reply channels (client id -> records) and changes of state to all.

        Best effort: who does not listen at this moment misses it. Raises ``BrokerUnavailable``.
        """
        commands = [
            pack("PUBLISH", keys.reply(self.namespace, client), _json(records)) for client, records in replies.items()
        ]
        channel = keys.events(self.namespace)
        commands += [pack("PUBLISH", channel, _json(event)) for event in events]
        if commands:
            self._send(commands, replies=len(commands))

    def check(self) -> None:
        """Raise ``BrokerUnavailable`` unless the broker answers within the timeout."""
        try:
            self._wire([pack("PING")], retry=True)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error

    def close(self) -> None:
        """Close the connections. The publisher can be used again."""
        self._redis.close()

    def _send(self, commands: list[bytes], *, replies: int) -> list[Any]:
        try:
            return self._wire(commands, replies=replies, retry=True)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error


def _line(answer: Sequence[Any]) -> Line:
    """One queue of the script's answer."""
    standings = {}
    for name, nine, six, three, zero, weight, cap in zip(*(answer[start::7] for start in range(1, 8)), strict=True):
        standings[keys.tenant_of_id(name.decode(errors="replace"))] = Standing(
            (int(zero), int(three), int(six), int(nine)),
            _weight(weight),
            _cap(cap),
        )
    return Line(standings, int(answer[0]))


def _weight(text: bytes) -> float:
    """What claims take for the weight that stands there: see ``lua/tenants.lua``."""
    weight = number(text, 1.0)
    return weight if 1e-9 <= weight <= 1e9 else 1.0


def _cap(text: bytes) -> int | None:
    cap = int(number(text))
    return cap if cap >= 1 else None


def register(namespace: str, queue: str, tenants: Iterable[str]) -> bytes:
    """The packed command that makes tenants known to a queue's claims. It comes after their messages: a claim forgets
    a tenant whose lists it finds empty."""
    return pack("ZADD", keys.busy(namespace, queue), "NX", *(part for t in tenants for part in (-1, keys.tenant_id(t))))


def ring_commands(bell: str) -> tuple[tuple[Arg, ...], ...]:
    """The commands that ring a bell. A waiting consumer takes the element before the second one is run."""
    return (("LPUSH", bell, 1), ("LTRIM", bell, 0, 0), ("EXPIRE", bell, keys.BELL_TTL_S))


#: How many replies a ``ring`` brings.
RING_REPLIES = 3


@lru_cache(maxsize=1024)
def ring(bell: str) -> bytes:
    """``ring_commands``, packed."""
    return b"".join(pack(*command) for command in ring_commands(bell))


@lru_cache(maxsize=1024)
def wake(namespace: str, model: str) -> bytes:
    """The packed command that tells autoscalers of new jobs. They listen only while the model's pool has no worker:
    mostly nobody does, and then it costs the server a look into a table."""
    return pack("PUBLISH", keys.wake(namespace, model), b"")
