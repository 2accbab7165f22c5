"""Looking at the broker without changing it (``purge`` excepted): depths, held jobs, and whether data was lost.

For the reconciler, ``penstock queue stats`` and the autoscaler. What is read is a moment's picture: messages move
while it is taken, so a job may be missing from ``held_ids`` although the broker has it. Acting on that twice is
harmless.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis

from penstock.job import DEFAULT_TENANT
from penstock.transport import keys
from penstock.transport.mend import mended
from penstock.transport.message import id_of
from penstock.transport.scripts import CENSUS, DEPTHS, PURGE
from penstock.transport.wire import Wire

#: Messages read per command, so that none keeps Redis busy for long.
PAGE = 500


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages of a queue are ready, and how many are claimed by consumers and not acknowledged."""

    ready: int = 0
    claimed: int = 0

    @property
    def total(self) -> int:
        """Everything that is yet to be done; what an autoscaler should look at."""
        return self.ready + self.claimed


@dataclass(frozen=True, slots=True)
class DataMark:
    """Says which server process answers and which data set it has. Compare with an older one."""

    run_id: str
    epoch: str


def depths(client: redis.Redis, namespace: str, queues: Iterable[str]) -> dict[str, Depth]:
    """Ready and claimed messages per queue, of all tenants."""
    names = list(queues)
    shares = tenants(client, namespace, names)
    return {
        queue: Depth(sum(d.ready for d in shares[queue].values()), sum(d.claimed for d in shares[queue].values()))
        for queue in names
    }


def tenants(client: redis.Redis, namespace: str, queues: Iterable[str]) -> dict[str, dict[str, Depth]]:
    """The same per tenant; those without a message are left out. The ready ones are counted at one instant."""
    names = list(queues)
    ready = ready_messages(client, namespace, names)
    claimed: dict[str, dict[str, int]] = {queue: {} for queue in names}
    for key, count in claimed_lists(client, namespace):
        queue, tenant = keys.queue_of(key), keys.tenant_of(key)
        if queue in claimed:
            claimed[queue][tenant] = claimed[queue].get(tenant, 0) + count
    return {
        queue: {
            tenant: Depth(ready[queue].get(tenant, 0), claimed[queue].get(tenant, 0))
            for tenant in ready[queue] | claimed[queue]
        }
        for queue in names
    }


def ready(client: redis.Redis, namespace: str, queues: Iterable[str]) -> dict[str, int]:
    """Ready messages per queue, of all tenants, counted at one instant."""
    return {queue: sum(counts.values()) for queue, counts in ready_messages(client, namespace, queues).items()}


def ready_messages(client: redis.Redis, namespace: str, queues: Iterable[str]) -> dict[str, dict[str, int]]:
    """Ready messages per queue and tenant, counted at one instant; those without a message are left out."""
    names = list(queues)
    answer = DEPTHS(Wire(client, namespace), names, [keys.tenants(namespace)]) if names else []
    return {
        queue: {
            keys.tenant_of_id(id.decode(errors="replace")): int(n)
            for id, n in zip(counts[::2], counts[1::2], strict=True)
        }
        for queue, counts in zip(names, answer, strict=True)
    }


def claimed_lists(client: redis.Redis, namespace: str) -> Iterator[tuple[str, int]]:
    """How many claimed messages came from each list, per consumer."""
    for consumer in _consumers(client, namespace):
        counts = CENSUS(Wire(client, namespace), [keys.unacked(namespace, consumer)], [])
        for key, count in zip(counts[::2], counts[1::2], strict=True):
            yield key.decode(errors="replace"), int(count)


def held(client: redis.Redis, namespace: str) -> dict[str, int]:
    """How many messages each consumer has claimed and not acknowledged."""
    names = _consumers(client, namespace)

    def ask() -> list[int]:
        pipeline: Any = client.pipeline(transaction=False)
        for name in names:
            pipeline.hlen(keys.unacked(namespace, name))
        return list(pipeline.execute())

    return dict(zip(names, mended(client, namespace, ask), strict=True))


def queues(client: redis.Redis, namespace: str) -> list[str]:
    """The queues of this namespace that hold a ready message, by a scan over all keys."""
    found = {
        keys.queue_of(key.decode(errors="replace")) for key in client.scan_iter(f"{namespace}.*", PAGE, _type="list")
    }
    return sorted(found)


def held_ids(client: redis.Redis, namespace: str, queues: Iterable[str]) -> set[str]:
    """The ids of all jobs that the broker holds, ready or claimed."""
    ids: set[str] = set()
    for queue in queues:
        for tenant in [DEFAULT_TENANT, *busy(client, namespace, queue)]:
            for key in keys.list_keys(queue, tenant):
                ids.update(mended(client, namespace, partial(_ids_of, client, key)))
    ids |= mended(client, namespace, lambda: set(_ids(_message(held) for held in _held(client, namespace))))
    return ids


def busy(client: redis.Redis, namespace: str, queue: str) -> list[str]:
    """The tenants, apart from ``default``, that may have messages in a queue."""
    ids: Any = mended(client, namespace, lambda: client.zrange(keys.busy(namespace, queue), 0, -1))
    return [tenant for id in ids if (tenant := keys.tenant_of_id(id.decode(errors="replace"))) != DEFAULT_TENANT]


def _message(held: bytes) -> bytes:
    """The message in a consumer's hash: what follows the list key, before which there may be a charge."""
    return held.split(b"\0", 3)[-1] if held.startswith(b"\0") else held.partition(b"\0")[2]


def _ids(messages: Iterable[bytes]) -> Iterator[str]:
    return (id for id in map(id_of, messages) if id is not None)


def _ids_of(client: redis.Redis, key: str) -> set[str]:
    return set(_ids(_list(client, key)))


def _list(client: redis.Redis, key: str) -> Iterator[bytes]:
    # From the tail, counted from there: what consumers take from the head meanwhile shifts nothing, and what is
    # pushed at the tail only shows some messages twice. Counted from the head, each claim would hide as many.
    seen = 0
    while True:
        page: Any = client.lrange(key, seen, seen + PAGE - 1)
        yield from page
        if len(page) < PAGE:
            return
        seen += PAGE


def _held(client: redis.Redis, namespace: str) -> Iterator[bytes]:
    """Every claimed message of every consumer, as it stands in the consumer's hash."""
    for consumer in _consumers(client, namespace):
        for _, held in client.hscan_iter(keys.unacked(namespace, consumer), count=PAGE):
            yield held


def _consumers(client: redis.Redis, namespace: str) -> list[str]:
    names: Any = mended(client, namespace, lambda: client.zrange(keys.consumers(namespace), 0, -1))
    return [name.decode(errors="replace") for name in names]


def buried_ids(client: redis.Redis, namespace: str) -> Counter[str]:
    """How often a message of each job stands among those that could not be read, as far as the id could."""
    dead: Any = mended(client, namespace, lambda: client.lrange(keys.dead(namespace), 0, -1))
    return Counter(_ids(dead))


def newest_buried(client: redis.Redis, namespace: str) -> bytes | None:
    """The message that was last set aside as unreadable."""
    found: Any = mended(client, namespace, lambda: client.lindex(keys.dead(namespace), 0))
    return bytes(found) if found is not None else None


def mark(client: redis.Redis, namespace: str) -> DataMark:
    """The mark of the server and its data. A new ``epoch`` means that the data was lost since the last look."""
    key = keys.epoch(namespace)

    def ask() -> Any:
        pipeline: Any = client.pipeline(transaction=False)
        pipeline.set(key, uuid.uuid4().hex, nx=True)
        pipeline.get(key)
        pipeline.info("server")
        return pipeline.execute()

    _, epoch, server = mended(client, namespace, ask)
    return DataMark(run_id=server["run_id"], epoch=epoch.decode(errors="backslashreplace"))


def purge(client: redis.Redis, namespace: str, queue: str) -> int:
    """Remove a queue's ready messages; claimed ones stay. How many. SQL still has the jobs."""
    return int(PURGE(Wire(client, namespace), [queue, keys.bell(namespace, queue)], [keys.tenants(namespace)]))
