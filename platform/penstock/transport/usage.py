"""What queues have taken of the devices, as workers tell it with their heartbeats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis

from penstock.transport import keys
from penstock.transport.mend import mended, number


def device_s(client: redis.Redis, namespace: str, queues: Iterable[str]) -> dict[str, float]:
    """Device seconds per queue since the broker's data set began; a heartbeat behind."""
    names = list(queues)
    found: Any = mended(client, namespace, lambda: client.hmget(keys.device(namespace), names)) if names else []
    return {queue: number(seconds) for queue, seconds in zip(names, found, strict=True)}
