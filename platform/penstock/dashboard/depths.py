"""Flower's queue lengths with every tenant's messages.

Flower asks for the lengths of the lists that kombu would use. Tenants have lists of their own, so its reader for Redis
is replaced, for our dashboard and for a plain ``flower -A penstock_worker.app`` alike. What is claimed and not
acknowledged, and who consumes, kombu's transport cannot tell; ours can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penstock.transport import keys
from penstock.transport.scripts import CENSUS, DEPTHS
from penstock.transport.url import parse


def install(namespace: str, consumers: Callable[[], Mapping[str, int]] = dict) -> None:
    """Let Flower in this process count all messages of this namespace's queues. Idempotent.

    ``consumers`` says how many workers serve each of them, as far as that is known.
    """
    from flower.utils import broker  # type: ignore[import-untyped]

    stock = getattr(broker.RedisBase.queues, "stock", broker.RedisBase.queues)

    async def queues(self: Any, names: Iterable[str]) -> list[dict[str, Any]]:
        every = list(names)
        ours = [name for name in every if name.startswith(f"{namespace}.")]
        counted: dict[str, dict[str, Any]] = {}
        if ours:
            answer = await self.redis.eval(DEPTHS.text, len(ours), *ours, keys.tenants(namespace))
            claimed = await claimed_of(self.redis)
            serving = await asyncio.to_thread(consumers)
            for name, counts in zip(ours, answer, strict=True):
                ready = sum(map(int, counts[1::2]))
                counted[name] = {
                    "name": name,
                    # What Flower calls the length of a Redis queue, and autoscalers read.
                    "messages": ready,
                    "messages_ready": ready,
                    "messages_unacknowledged": claimed.get(name, 0),
                } | ({"consumers": serving.get(name, 0)} if serving else {})
        # The stock reader closes the connection.
        others = {row["name"]: row for row in await stock(self, [name for name in every if name not in counted])}
        return [others.get(name) or counted[name] for name in every]

    async def claimed_of(client: Any) -> dict[str, int]:
        claimed: dict[str, int] = {}
        for consumer in await client.zrange(keys.consumers(namespace), 0, -1):
            counts = await client.eval(CENSUS.text, 1, keys.unacked(namespace, consumer.decode()))
            for key, count in zip(counts[::2], counts[1::2], strict=True):
                queue = keys.queue_of(key.decode())
                claimed[queue] = claimed.get(queue, 0) + int(count)
        return claimed

    queues.stock = stock  # type: ignore[attr-defined]
    broker.RedisBase.queues = queues
    if not hasattr(broker.RedisSocket, "at_decoded_path"):
        broker.RedisSocket = _socket(broker.RedisSocket)


def _socket(stock: Any) -> Any:
    """Flower takes a socket's path as it stands in the URL, where some characters are written ``%XX``."""

    class RedisSocket(stock):  # type: ignore[misc]
        at_decoded_path = True

        def __init__(self, broker_url: str, *args: Any, **kwargs: Any) -> None:
            super().__init__(broker_url, *args, **kwargs)
            self.redis.connection_pool.connection_kwargs["path"] = parse(broker_url).path

    return RedisSocket
