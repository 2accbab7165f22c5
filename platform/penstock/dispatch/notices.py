"""Tells clients and watchers what the dispatcher changed: after the commit, best effort.

Who misses a notice reads SQL a little later; so a broker that is away costs nothing here but time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
import structlog

from penstock.errors import BrokerUnavailable
from penstock.job import JobState
from penstock.transport.publisher import Publisher

log = structlog.get_logger(__name__)


class Changed(Protocol):
    """What a notice needs of a row that the store changed; ``error`` is JSON text."""

    @property
    def id(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def state(self) -> JobState: ...
    @property
    def attempt(self) -> int: ...
    @property
    def reply_to(self) -> str | None: ...
    @property
    def error(self) -> str | None: ...


def tell(publisher: Publisher, changed: Iterable[Changed], *, now: float) -> None:
    """One event per model and state for all watchers; to each client the ends of its own jobs."""
    replies: dict[str, list[dict[str, Any]]] = {}
    groups: dict[tuple[str, JobState], list[str]] = {}
    for row in changed:
        groups.setdefault((row.model, row.state), []).append(row.id)
        if row.reply_to and row.state.is_terminal:
            record: dict[str, Any] = {"id": row.id, "state": row.state, "attempt": row.attempt}
            if row.error is not None:
                record["error"] = msgspec.Raw(row.error.encode())
            replies.setdefault(row.reply_to, []).append(record)
    events = [
        {"state": state, "ids": ids, "model": model, "at": now, "worker": None}
        for (model, state), ids in groups.items()
    ]
    try:
        publisher.notify(replies, events)
    except BrokerUnavailable as error:
        log.debug("nobody was told", action="notices_dropped", error=error.message)
