"""What a Celery message carries of its job: whose it is, its tags, whom to call. PURE.

In its property ``penstock``, as ``penstock.signatures`` writes it, or in the header of that name, as any program can
that sends tasks: nothing in it is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.dispatch.request import terms
from penstock.errors import InvalidInput, WebhookRefused
from penstock.job import DEFAULT_TENANT
from penstock.lane import Lane
from penstock.options import CARRIED
from penstock.transport.lined import said_in

#: A W3C ``traceparent``.
_TRACE = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Carried:
    """What it carries, checked."""

    tenant: str = DEFAULT_TENANT
    tags: dict[str, str] | None = None
    webhook: str | None = None
    trace: str | None = None


def is_stored(headers: Mapping[str, Any]) -> bool:
    """Whether a message was made of a row: it is one of a plain job, whose header is of another version."""
    header = headers.get("penstock")
    return isinstance(header, Mapping) and bool(header.get("plain"))


def read(headers: Mapping[str, Any], properties: Mapping[str, Any], *, allow_private: bool) -> Carried:
    """The options that a message carries; raises ``InvalidInput``.

    A trace is that of the header ``traceparent``, where tools for tracing put it; one that is none is left out.
    """
    said = said_in(headers, properties)
    traces = [each for each in (said.get("trace"), headers.get("traceparent")) if isinstance(each, str)]
    given = {name: said[name] for name in CARRIED if said.get(name) is not None}
    try:
        checked = terms(now=0.0, default_lane=Lane.BACKGROUND, allow_private=allow_private, **given)
    except WebhookRefused as error:
        raise InvalidInput(error.message, fix=error.fix) from None
    return Carried(checked.tenant, checked.tags, checked.webhook, next(filter(_TRACE.fullmatch, traces), None))
