"""Hears the bells of pools that have no worker, so that they are woken in milliseconds and not at the next look.

Every publication of a job tells the channel of its model, in the round trip that it makes anyway. This listens only to
the models of pools at zero: of all other traffic nothing is sent to it. It may miss a bell (while it subscribes, or
while the broker is away): the autoscaler's next look sees the jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import redis
import structlog

from penstock.service import STOP_S, ThreadService, turned
from penstock.transport import keys
from penstock.transport.url import connect

log = structlog.get_logger(__name__)

#: How long one read waits: so late it sees that other models are to be listened to, seconds.
SLICE_S = 0.05
#: Bells of a pool that ring together count as one, seconds.
TOGETHER_S = 0.2
#: Pause after the broker was away, seconds.
AWAY_S = 0.5


class Ear(ThreadService):
    """``start``, ``listen`` as often as the pools at zero change, ``stop``. ``rung`` is called on its thread."""

    def __init__(self, broker_url: str, namespace: str, rung: Callable[[str], None]) -> None:
        super().__init__("ear")
        self._client = connect(broker_url)
        self._namespace = namespace
        self._rung = rung
        self._wanted: Mapping[str, str] = {}
        self._rung_at: dict[str, float] = {}
        self._changed = threading.Event()
        self._heard = threading.Event()

    def stop(self, timeout_s: float | None = STOP_S) -> bool:
        """End the thread and its connection. Idempotent."""
        ended = super().stop(timeout_s)
        self._client.close()
        return ended

    def wake(self) -> None:
        """Look at ``stopping``."""
        self._changed.set()

    def listen(self, models: Mapping[str, str]) -> None:
        """Listen to these models, for these pools: ``{model: pool}``. Returns at once."""
        channels = {keys.wake(self._namespace, model): pool for model, pool in models.items()}
        if channels != self._wanted:
            self._heard.clear()
            self._wanted = channels
            self._changed.set()

    def heard(self, timeout_s: float) -> bool:
        """Wait until it listens to what it was told last; for tests and benchmarks."""
        return self._heard.wait(timeout_s)

    def run(self) -> None:
        """Listen while there is anything to listen to; meanwhile there is no connection."""
        while not self.stopping.is_set():
            self.waiting(self._changed.wait)
            self._changed.clear()
            while self._wanted and not self.stopping.is_set():
                try:
                    with self._client.pubsub(ignore_subscribe_messages=False) as pubsub:  # type: ignore[no-untyped-call]
                        self._hear(pubsub)
                except (redis.RedisError, OSError) as error:  # who looks at the broker says so
                    log.debug("bells cannot be heard", action="ear.away", error=str(error))
                    self.pause(AWAY_S)

    def _hear(self, pubsub: Any) -> None:
        """Until nothing is wanted, or the connection is lost."""
        here: frozenset[str] = frozenset()
        confirmed: set[str] = set()
        while (wanted := self._wanted) and not self.stopping.is_set():
            turned()
            if gone := here - wanted.keys():
                pubsub.unsubscribe(*gone)
            if new := wanted.keys() - here:
                pubsub.subscribe(*new)
            here = frozenset(wanted)
            if here <= confirmed and wanted is self._wanted:
                self._heard.set()
            message = pubsub.get_message(timeout=SLICE_S)
            if message is None:
                continue
            channel = message["channel"].decode(errors="replace")
            if message["type"] == "subscribe":
                confirmed.add(channel)
            elif message["type"] == "unsubscribe":
                confirmed.discard(channel)
            elif message["type"] == "message" and (pool := self._wanted.get(channel)) is not None:
                self._ring(pool)

    def _ring(self, pool: str) -> None:
        now = self.now_mono()
        if now - self._rung_at.get(pool, float("-inf")) >= TOGETHER_S:
            self._rung_at[pool] = now
            self._rung(pool)
