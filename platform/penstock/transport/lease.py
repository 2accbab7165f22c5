"""A consumer's lease: kept by a thread, and given up when the connection was lost.

The thread is needed because a task that runs in the event loop's thread (Celery's solo pool) would otherwise end the
lease of its own worker.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Protocol

import redis

from penstock.transport.claims import Claims, LeaseLost, restore_expired, surrender

log = logging.getLogger(__name__)


class Holder(Protocol):
    """Who claims: a channel."""

    def lease_lost(self, consumer: str) -> None:
        """Called by the keeper's thread."""


class LeaseKeeper(threading.Thread):
    """Renews one consumer's lease, and puts back what other, dead consumers held.

    Holds its channel weakly: a channel that was dropped without being closed gives up its messages.
    """

    def __init__(self, holder: Holder, claims: Claims) -> None:
        super().__init__(name="penstock-lease", daemon=True)
        self._holder = weakref.ref(holder)
        self._claims = claims
        self._stopped = threading.Event()

    def run(self) -> None:
        """Three times per lease, so that one late or failed try does not end it."""
        while not self._stopped.wait(self._claims.lease_s / 3):
            try:
                if self._holder() is None:
                    self._claims.leave()
                    return
                self._claims.refresh()
                restore_expired(self._claims.client, self._claims.namespace)
            except LeaseLost as lost:
                self._tell(str(lost))
            except (redis.RedisError, OSError) as error:  # the loop notices too, and reconnects
                log.debug("the lease could not be renewed: %s", error)

    def _tell(self, consumer: str) -> None:
        if (holder := self._holder()) is not None:
            holder.lease_lost(consumer)

    def stop(self) -> None:
        """End the thread; waits for a call that it may be in."""
        self._stopped.set()
        if self.is_alive():
            self.join()


class Abandoned:
    """Consumers of this process that could not say goodbye, per broker and namespace. Thread-safe.

    Their messages need not wait for the end of the lease: the next channel that reaches the broker gives them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._consumers: dict[tuple[str, str], set[str]] = {}

    def add(self, broker: str, namespace: str, consumer: str) -> None:
        """Note a consumer."""
        with self._lock:
            self._consumers.setdefault((broker, namespace), set()).add(consumer)

    def surrender(self, broker: str, namespace: str, client: redis.Redis) -> None:
        """Give back what the consumers of this broker held. Those that could not be reached stay noted."""
        while (consumer := self._pop(broker, namespace)) is not None:
            try:
                surrender(client, namespace, consumer)
            except BaseException:
                self.add(broker, namespace, consumer)
                raise

    def _pop(self, broker: str, namespace: str) -> str | None:
        if not self._consumers:  # the usual case, asked before every claim
            return None
        with self._lock:
            waiting = self._consumers.get((broker, namespace))
            if waiting is None:
                return None
            consumer = waiting.pop()
            if not waiting:
                del self._consumers[broker, namespace]
            return consumer


#: This process's.
abandoned = Abandoned()
