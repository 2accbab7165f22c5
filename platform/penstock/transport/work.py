"""All work at the broker in one look: ready, held, done. For the autoscaler, once a second.

The look is one script, so that its figures belong to one instant: a job that moves from a queue to a worker meanwhile
is in one of the two. What it costs grows with queues and consumers, never with messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import redis

from penstock.transport import keys
from penstock.transport.mend import number
from penstock.transport.scripts import WORK
from penstock.transport.wire import Wire

#: Most held messages that are looked at, over all consumers: of more, a sample says from which queues they are.
SAMPLE = 4000


@dataclass(frozen=True, slots=True)
class Spent:
    """What workers have told of a queue since the data set began: jobs done, and the device seconds they took."""

    jobs: int = 0
    device_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One look. Messages that are held count until they are acknowledged: claimed, buffered or running."""

    #: Ready messages that may be claimed, per queue; of a tenant with a cap no more than it may have running.
    ready: Mapping[str, float]
    #: Held ones per queue.
    held: Mapping[str, float]
    spent: Mapping[str, Spent]
    #: Messages that each consumer holds.
    consumers: Mapping[str, int] = field(default_factory=dict)


def look(client: redis.Redis, namespace: str, queues: Iterable[str]) -> Work:
    """See the module. Raises what redis-py raises."""
    names = list(queues)
    ready, spent, held, caps = WORK(
        Wire(client, namespace),
        names,
        [
            keys.tenants(namespace),
            keys.consumers(namespace),
            keys.unacked_prefix(namespace),
            keys.done(namespace),
            keys.device(namespace),
            SAMPLE,
        ],
    )
    per_tenant = {
        queue: {id.decode(errors="replace"): int(n) for id, n in zip(counts[::2], counts[1::2], strict=True)}
        for queue, counts in zip(names, ready, strict=True)
    }
    room = {
        tenant.decode(errors="replace"): max(0, int(cap) - int(running))
        for tenant, cap, running in zip(caps[::3], caps[1::3], caps[2::3], strict=True)
    }
    return Work(
        ready=within_caps(per_tenant, room),
        held=_held(names, held),
        spent={
            queue: Spent(int(number(jobs)), number(seconds))
            for queue, jobs, seconds in zip(names, spent[::2], spent[1::2], strict=True)
        },
        consumers={one[0].decode(errors="replace"): int(one[1]) for one in held},
    )


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


def _held(queues: Iterable[str], consumers: Iterable[list[bytes | int]]) -> dict[str, float]:
    """Per queue, a consumer's messages in the proportions of those of them that were looked at."""
    found = dict.fromkeys(queues, 0.0)
    for _, messages, _seen, *counts in consumers:
        pairs = [(bytes(queue), int(n)) for queue, n in zip(counts[::2], counts[1::2], strict=True)]
        seen = sum(count for _, count in pairs)
        for queue, count in pairs:
            name = queue.decode(errors="replace")
            if name in found:
                found[name] += int(messages) * count / seen
    return found
