"""Flower's queue lengths with every tenant's messages.

Flower asks for the lengths of the lists that kombu would use. Tenants have lists of their own, so its reader for Redis
is replaced, for our dashboard and for a plain ``flower -A penstock_worker.app`` alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from penstock.transport import keys
from penstock.transport.scripts import DEPTHS
from penstock.transport.url import parse


def install(namespace: str) -> None:
    """Let Flower in this process count all messages of this namespace's queues. Idempotent."""
    from flower.utils import broker  # type: ignore[import-untyped]

    stock = getattr(broker.RedisBase.queues, "stock", broker.RedisBase.queues)

    async def queues(self: Any, names: Iterable[str]) -> list[dict[str, Any]]:
        every = list(names)
        ours = [name for name in every if name.startswith(f"{namespace}.")]
        counted: dict[str, int] = {}
        if ours:
            answer = await self.redis.eval(DEPTHS.text, len(ours), *ours, keys.tenants(namespace))
            counted = {name: sum(map(int, counts[1::2])) for name, counts in zip(ours, answer, strict=True)}
        # The stock reader closes the connection.
        others = {row["name"]: row for row in await stock(self, [name for name in every if name not in counted])}
        return [others.get(name) or {"name": name, "messages": counted[name]} for name in every]

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
