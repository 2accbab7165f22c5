"""Records that messages are at the broker: ``accepted -> queued``, later and in bulk.

The mark only spares the dispatcher work: without it, it would publish the jobs again, which is harmless. So nobody
waits for it, and by the time it is made most jobs of a fast queue have been claimed and need none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from penstock import clock
from penstock.dispatch.background import Background
from penstock.errors import StoreUnavailable
from penstock.store import Store

log = logging.getLogger(__name__)

#: Marks are collected for so long, seconds: well below ``dispatcher.publish_grace_s``.
COLLECT_S = 0.1
#: With the database away, the next attempt follows after so long, seconds.
RETRY_S = 1.0
#: Ids per statement: bounds how long the database's write lock is held.
CHUNK = 1000
#: Most ids kept while the database is away; the dispatcher republishes the others.
MOST = 100_000


class Marks:
    """Collects ids; thread-safe."""

    def __init__(self, store: Store, background: Background) -> None:
        self._store = store
        self._background = background
        self._mutex = threading.Lock()
        self._flushing = threading.Lock()
        self._ids: list[str] = []
        self._published_at = 0.0

    def add(self, ids: Iterable[str]) -> None:
        """These were published just now."""
        with self._mutex:
            self._ids.extend(ids)
            self._published_at = clock.now()
        self._background.later(COLLECT_S, self.flush)

    def flush(self) -> None:
        """Record what was collected; with the database away it is kept and tried again."""
        with self._flushing:
            with self._mutex:
                ids, self._ids = self._ids, []
                at = self._published_at
            done = 0
            try:
                while done < len(ids):
                    self._store.mark_queued(ids[done : done + CHUNK], now=at)
                    done += CHUNK
            except StoreUnavailable as error:
                log.debug("marks wait for the database: %s", error.message)
                with self._mutex:
                    self._ids = (ids[done:] + self._ids)[-MOST:]
                self._background.later(RETRY_S, self.flush)
