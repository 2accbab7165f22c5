"""What workers are told by Celery's remote control, so that they need not find it out by themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import redis
import structlog

from penstock.autoscaler.split import COMMAND
from penstock.lane import Lane
from penstock.store.elastic import Slot
from penstock.transport import control
from penstock.transport.url import parse

log = structlog.get_logger(__name__)


class Orders:
    """A broker that is away hears nothing, and nothing is lost by that: slots are looked at, and lanes lapse."""

    def __init__(self, client: redis.Redis, broker: str) -> None:
        self._client = client
        self._db = parse(broker).db

    def look(self, slots: Iterable[Slot]) -> None:
        """Have the workers of these slots look at them now; else they do so in 2 s."""
        nodes = sorted(slot.worker.rsplit(":", 2)[0] for slot in slots if slot.worker is not None)
        if not nodes:
            return
        try:
            self._send(control.look(nodes, self._db))
        except (redis.RedisError, OSError) as error:
            log.debug("workers look at their slots later", action="autoscaler.look_later", error=str(error))

    def keep_to(self, lane: Lane | None, workers: Collection[str], for_s: float) -> None:
        """Have these workers serve this lane only (``None``: both) for so long."""
        arguments = {"lane": lane or "", "for_s": for_s}
        try:
            self._send(control.command(COMMAND, arguments, self._db, destination=list(workers)))
        except (redis.RedisError, OSError) as error:
            log.warning("workers could not be told their lane", action="autoscaler.split", error=str(error))

    def _send(self, told: Any) -> None:
        self._client.publish(*told)
