"""Celery's remote control, written by hand: what programs without Celery tell workers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

#: kombu's names: of the exchange of Celery's control, and of the channel that stands for one in this database.
_EXCHANGE = "celery.pidbox"

_json = msgspec.json.encode


def revoke(ids: Sequence[str], db: int) -> tuple[str, bytes]:
    """Channel and message that make workers which hear it pass over these tasks; PURE but for the message's own id.

    Whoever runs one already goes on, and whoever is away does not hear it.
    """
    return command("revoke", {"task_id": list(ids), "terminate": False, "signal": "SIGTERM"}, db)


def look(nodes: Sequence[str], db: int) -> tuple[str, bytes]:
    """The same of a message that makes these workers (``NAME@HOST``) look at their slots now, and not at their next
    look: woken, they consume a few milliseconds later. To be sent after the slots have changed."""
    return command("penstock_look", {}, db, destination=nodes)


def command(
    method: str, arguments: Mapping[str, Any], db: int, *, destination: Sequence[str] | None = None
) -> tuple[str, bytes]:
    """The same of any command, for the workers of these names; ``None``: for all. Nobody answers."""
    body = {
        "method": method,
        "arguments": dict(arguments),
        "destination": None if destination is None else list(destination),
        "pattern": None,
        "matcher": None,
    }
    message = {
        "body": _json(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 1, "expires": 0},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": _EXCHANGE, "routing_key": ""},
            "priority": 0,
            "body_encoding": "utf-8",
            "delivery_tag": uuid.uuid4().hex,
        },
    }
    return f"/{db}.{_EXCHANGE}", _json(message)
