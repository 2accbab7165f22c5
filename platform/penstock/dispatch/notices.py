"""Tells clients and watchers what the dispatcher changed: after the commit, best effort.

Who misses a notice reads SQL a little later; so a broker that is away costs nothing here but time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from penstock.errors import BrokerUnavailable
from penstock.job import TERMINAL, JobState
from penstock.transport.publisher import Publisher

# Not structlog: clients tell, too, and their programs may not have set it up; it would print to their output.
log = logging.getLogger(__name__)


class Changed(Protocol):
    """What a notice needs of a row that the store changed; ``error`` is JSON text."""

    @property
    def id(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def state(self) -> JobState | str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def reply_to(self) -> str | None: ...
    @property
    def error(self) -> str | None: ...


def tell(publisher: Publisher, changed: Iterable[Changed], *, now: float) -> bool:
    """One event per model and state for all watchers; to each client the ends of its own jobs. One round trip;
    whether it was made.

    A ``state`` that is plain text is a status that no job is stored with: ``cancelling``.
    """
    replies: dict[str, list[dict[str, Any]]] = {}
    groups: dict[tuple[str, JobState | str], list[str]] = {}
    for row in changed:
        groups.setdefault((row.model, row.state), []).append(row.id)
        if row.reply_to and row.state in TERMINAL:
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
        log.debug("nobody was told: %s", error.message)
        return False
    return True
