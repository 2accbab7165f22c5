"""All work at the broker in one look: ready, held, done. For the autoscaler, once a second.

Up to ``Bounds`` a look is one script, so that its figures belong to one instant: a job that moves from a queue to a
worker meanwhile is in one of the two. What is beyond them is asked for piece by piece, a moment later. However large
the fleet, and however many messages there are, Redis is kept for no longer than one such script takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis
from msgspec import Struct, json

from penstock.policy.held import Shares
from penstock.transport import keys
from penstock.transport.mend import number
from penstock.transport.refusals import malformed
from penstock.transport.scripts import WORK
from penstock.transport.wire import Wire

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one script looks at, at most; and, in ``piece``, how many keys one round trip of what is beyond asks for."""

    queues: int = 250
    #: Besides ``default``, over all queues.
    tenants: int = 250
    consumers: int = 1000
    #: Held messages that are read to see from which queues they are; of one consumer, ``each`` if others wait.
    messages: int = 1000
    each: int = 64
    piece: int = 1000


class Spent(Struct, frozen=True):
    """What was told of a queue since the data set began: by workers jobs done, and the device seconds they took; by
    producers jobs that they have refused."""

    jobs: int = 0
    device_s: float = 0.0
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One look. Messages that are held count until they are acknowledged: claimed, buffered or running."""

    #: Ready messages that may be claimed, per queue; of a tenant with a cap no more than it may have running.
    ready: Mapping[str, float]
    #: Held ones per queue. Their sum is exact; so is each where all could be read, else of what was read last.
    held: Mapping[str, float]
    spent: Mapping[str, Spent]
    #: Messages that each consumer holds.
    consumers: Mapping[str, int] = field(default_factory=dict)


class Watch:
    """``look`` again and again: it remembers from which queues the messages of each consumer are. Not thread-safe."""

    def __init__(self, client: redis.Redis, namespace: str, bounds: Bounds | None = None) -> None:
        self._client = client
        self._wire = Wire(client, namespace)
        self._namespace = namespace
        self._bounds = bounds or Bounds()
        self._shares = Shares()

    def look(self, queues: Iterable[str]) -> Work:
        """See the module. Raises what redis-py raises."""
        names = list(queues)
        # With no queue at all, too: there may be consumers.
        first, *others = _parts(names, self._bounds.queues) or [[]]
        found = [self._script(first, consumers=True), *(self._script(part) for part in others)]
        holding = found[0].holding | self._lengths(found[0].unread)
        self._shares.saw(holding, found[0].read)
        ready = {queue: counts for part in found for queue, counts in part.ready.items()}
        caps = {tenant: cap for part in found for tenant, cap in part.caps.items()}
        if beyond := [one for part in found for one in part.uncounted]:
            self._count(beyond, ready)
            caps |= self._caps({tenant for _, tenant in beyond} - caps.keys())
        held = self._shares.held()
        return Work(
            ready=within_caps(ready, {tenant: max(0, cap - running) for tenant, (cap, running) in caps.items()}),
            held={queue: held.get(queue, 0.0) for queue in names},
            spent={queue: spent for part in found for queue, spent in part.spent.items()},
            consumers=holding,
        )

    def _script(self, queues: Sequence[str], *, consumers: bool = False) -> _Part:
        bounds = self._bounds
        given: list[str | int] = [
            keys.tenants(self._namespace),
            keys.consumers(self._namespace) if consumers else "",
            keys.unacked_prefix(self._namespace),
            keys.done(self._namespace),
            keys.device(self._namespace),
            keys.refused(self._namespace),
            bounds.tenants,
            bounds.consumers,
            bounds.messages,
            bounds.each,
        ]
        first = self._shares.next(bounds.messages // bounds.each + 1) if consumers else []
        # Names of others may be anything; the text is JSON all the same.
        answer = json.decode(WORK(self._wire, queues, [*given, *first]).decode(errors="replace"))
        spent = zip(queues, answer["jobs"], answer["seconds"], answer["refused"], strict=True)
        return _Part(
            ready=dict(zip(queues, answer["ready"], strict=True)),
            spent={
                queue: Spent(int(number(done)), number(took), int(number(missed)))
                for queue, done, took, missed in spent
            },
            holding=answer["holding"],
            read=answer["read"],
            caps={tenant: (int(cap), running) for tenant, (cap, running) in answer["caps"].items()},
            uncounted=[(queues[i - 1], tenant) for i, tenant in answer["uncounted"]],
            unread=list(answer["unread"]),
        )

    # Beyond the bounds ----------------------------------------------------------------------------------------------

    def _lengths(self, consumers: Sequence[str]) -> dict[str, int]:
        """How many messages these hold, of those that hold any."""
        asked = [("HLEN", keys.unacked(self._namespace, consumer)) for consumer in consumers]
        return {consumer: n for consumer, n in zip(consumers, self._numbers(asked), strict=True) if n}

    def _count(self, tenants: Sequence[tuple[str, str]], ready: Mapping[str, dict[str, int]]) -> None:
        """Add what these ``(queue, tenant)`` have ready."""
        asked = [
            # The tenant as it is written in keys.
            ("LLEN", f"{keys.list_key(queue)}{keys.SEP}{step}{keys.SEP}{tenant}")
            for queue, tenant in tenants
            for step in keys.SERVED_STEPS
        ]
        lengths = _parts(self._numbers(asked), len(keys.SERVED_STEPS))
        for (queue, tenant), counts in zip(tenants, lengths, strict=True):
            ready[queue][tenant] = sum(counts)

    def _caps(self, tenants: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Cap and running jobs, of those of these tenants that have a cap."""
        names = list(tenants)
        asked = [("HGET", keys.caps(self._namespace), tenant) for tenant in names]
        capped = {tenant: cap for tenant, cap in zip(names, self._numbers(asked), strict=True) if cap >= 1}
        running = self._numbers([("SCARD", f"{keys.tenants(self._namespace)}held:{tenant}") for tenant in capped])
        return {tenant: (cap, n) for (tenant, cap), n in zip(capped.items(), running, strict=True)}

    def _numbers(self, asked: Sequence[tuple[str, ...]]) -> list[int]:
        """The answers to these commands; 0 where a key has another type."""
        found: list[int] = []
        for part in _parts(asked, self._bounds.piece):
            with self._client.pipeline(transaction=False) as pipeline:
                execute: Any = pipeline.execute_command
                for command in part:
                    execute(*command)
                answers = pipeline.execute(raise_on_error=False)
            for one in answers:
                if isinstance(one, Exception) and not malformed(one):
                    raise one
            found += [int(number(one)) for one in answers]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one script answers. ``caps`` are cap and running jobs."""

    ready: Mapping[str, dict[str, int]]
    spent: Mapping[str, Spent]
    holding: dict[str, int]
    read: Mapping[str, Mapping[str, int]]
    caps: Mapping[str, tuple[int, int]]
    uncounted: Sequence[tuple[str, str]]
    unread: Sequence[str]


def within_caps(ready: Mapping[str, Mapping[str, int]], room: Mapping[str, int]) -> dict[str, float]:
    """Ready messages per queue, of a tenant with a cap in all queues together no more than its ``room``: PURE.

    What is over a cap waits however many workers there are.
    """
    waiting: dict[str, int] = {}
    for counts in ready.values():
        for tenant, count in counts.items():
            waiting[tenant] = waiting.get(tenant, 0) + count
    share = {
        tenant: min(1.0, room[tenant] / count) if tenant in room and count else 1.0 for tenant, count in waiting.items()
    }
    return {queue: sum(count * share[tenant] for tenant, count in counts.items()) for queue, counts in ready.items()}


def _parts(values: Sequence[T], size: int) -> list[Sequence[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
