"""Whether this worker consumes. A parked one keeps its models, its connections and its lease, and claims nothing.

What it had claimed and not begun goes back to the head of its queues at once; what runs is finished. A worker that was
started for a slot is parked and woken by the slot alone (``slot``); one without is by remote control (``boot.remote``).
"""

from __future__ import annotations

import threading
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


class Parkable(Protocol):
    """What changes when a worker is parked; its methods may be called from any thread."""

    def park(self, parked: bool) -> None: ...


class Parking:
    """``set`` it. ``first`` is told at once, in order: who consumes, then who keeps what was claimed; ``then`` may wait
    for servers."""

    def __init__(self, first: Parkable, *then: Parkable) -> None:
        self._parts = (first, *then)
        self._lock = threading.Lock()
        self.parked = False

    def set(self, parked: bool) -> None:
        """Park, or wake. Idempotent; from any thread but the hub's, since it may wait for the database."""
        with self._lock:
            if parked is self.parked:
                return
            self.parked = parked
            for part in self._parts:
                try:
                    part.park(parked)
                except Exception:
                    # Each of them is put right by itself later; the others must not miss it.
                    log.exception("could not be told", action="worker.parking", parked=parked)
        log.info("parked" if parked else "woken", action="worker.parked" if parked else "worker.woken")
