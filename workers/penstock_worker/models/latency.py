"""Keeps what was learned of batch times in SQL, so that the next worker of this kind starts informed."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from penstock import clock
from penstock.errors import StoreUnavailable
from penstock.policy.latency import LatencyBook
from penstock.store import Store
from penstock.store.records import Latency

log = structlog.get_logger(__name__)

#: Most kinds of batches that are stored of one model: keys may be many, and the often seen ones matter.
MOST_KEYS = 32
#: Characters of a key beyond which it is not stored.
LONGEST_KEY = 256


class LatencyMemory:
    """The lines of one worker's models on its kind of device. Workers of one kind overwrite each other."""

    def __init__(self, store: Store, book: LatencyBook, versions: Mapping[str, str], device: str) -> None:
        self._store = store
        self._book = book
        self._versions = versions
        self._device = device
        self._kept: dict[tuple[str, str], int] = {}

    def recall(self) -> None:
        """Fill the book with what is stored for these versions on this kind of device."""
        for line in self._store.latencies():
            if line.device == self._device and self._versions.get(line.model) == line.version:
                self._book.restore(line.model, [(line.key, line.state)])

    def keep(self) -> None:
        """Store the lines that have changed. With the database away, the next beat tries again."""
        changed: list[Latency] = []
        seen: dict[tuple[str, str], int] = {}
        count = dict.fromkeys(self._versions, 0)
        for (model, key), line in sorted(self._book.items(), key=lambda pair: -pair[1].seen):
            if len(key) > LONGEST_KEY or "\0" in key:
                continue  # no database takes every text as a key; such a kind is learned anew by each worker
            count[model] += 1
            if count[model] > MOST_KEYS or not line.seen or self._kept.get((model, key)) == line.seen:
                continue
            seen[model, key] = line.seen
            changed.append(Latency(model, self._versions[model], self._device, key, line.state() | line.report()))
        if not changed:
            return
        try:
            self._store.keep_latencies(changed, now=clock.now())
        except StoreUnavailable as error:
            log.debug("batch times were not stored", action="latency.wait", error=error.message)
            return
        self._kept |= seen
