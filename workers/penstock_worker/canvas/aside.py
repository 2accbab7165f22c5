"""Messages of which no job can be made."""

from __future__ import annotations

import json
from typing import Any

import structlog

from penstock.errors import safe_text
from penstock.transport.claims import Claimed

log = structlog.get_logger(__name__)


def set_aside(message: Any, error: Exception) -> None:
    """Keep a message of which no job can be made where it disturbs nobody."""
    log.error("message cannot become a job", action="strategy.set_aside", error=safe_text(error))
    kept = {"body": message.body, "headers": message.headers, "properties": message.properties}
    message.channel.set_aside(Claimed(message.delivery_tag, json.dumps(kept, default=safe_text).encode()), error)
