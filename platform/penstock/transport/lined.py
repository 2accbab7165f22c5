"""Which tenant's line a Celery message belongs to, and whether it stands there: PURE.

Programs send by kombu's own transport, which knows one list per queue: the default tenant's. The first worker that
claims such a message puts it into the list of its tenant, with a mark, and from there it is claimed in its turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.job import DEFAULT_TENANT
from penstock.options import MAX_TEXT

#: The property that says in whose list a message was put.
LINE = "penstock_line"


def said_in(headers: Any, properties: Any) -> dict[str, Any]:
    """What a message carries of its job, in its header or its property ``penstock``; the property wins."""
    found: dict[str, Any] = {}
    for place in (headers, properties):
        said = place.get("penstock") if isinstance(place, Mapping) else None
        found |= said if isinstance(said, dict) else {}
    return found


def tenant_of(message: Mapping[str, Any]) -> str:
    """Whose message it is; the default tenant's where that cannot be read."""
    tenant = said_in(message.get("headers"), message.get("properties")).get("tenant")
    if not isinstance(tenant, str) or not 0 < len(tenant) <= MAX_TEXT or not tenant.isprintable():
        return DEFAULT_TENANT
    return tenant


def stray(message: Mapping[str, Any]) -> bool:
    """Whether it stands in another line than its tenant's: of a message that was read."""
    tenant = tenant_of(message)
    return tenant not in (DEFAULT_TENANT, message["properties"].get(LINE))
