"""Celery's event dispatcher, which keeps what it cannot send instead of waiting for the broker.

Celery's heartbeat is sent until it arrives, on the hub thread: with a broker that is away or refuses, nothing else
would happen there, not even the end of the worker.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from celery.events.dispatcher import EventDispatcher

#: Events kept for the time when the broker is back; of more, the oldest are forgotten.
MOST_KEPT = 10_000


class PatientDispatcher(EventDispatcher):
    """Set as ``app.events.dispatcher_cls``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outbound_buffer: deque[Any] = deque(maxlen=MOST_KEPT)

    def _publish(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        super()._publish(event, producer, routing_key, **(options | {"retry": False}))  # type: ignore[misc]
