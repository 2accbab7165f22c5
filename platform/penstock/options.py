"""What a request can say besides model and input, in ``Client.enqueue`` and in ``Model.using`` alike."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict

#: Longest tenant name, idempotency key, tag name or tag value, characters.
MAX_TEXT = 255

#: Options that Celery has no word for, and the one of a signature that they are in.
CARRIED, CARRIER = ("tenant", "tags", "webhook"), "penstock"


class Options(TypedDict, total=False):
    """What a request can say besides model and input. All are optional.

    ``lane`` ``"interactive"`` or ``"background"``. ``tenant`` whose job it is. ``priority`` 0 to 9, larger goes first
    within its lane. ``deadline`` seconds from now, or an aware ``datetime``: a job that has not ended by then expires.
    ``timeout`` limit on one attempt, seconds. ``idempotency_key`` the same key and body (model, version asked for,
    input) give the same job, per tenant; its other options are those of the first call. ``webhook`` URL that is called
    when the job has ended. ``tags`` names and values to find it by. ``delay`` seconds before it may start.

    Only of runs: ``max_parallel`` most steps in flight at a time, ``budget`` device seconds that they may take.
    """

    lane: str
    tenant: str
    priority: int
    deadline: float | datetime | None
    timeout: float | None
    idempotency_key: str | None
    webhook: str | None
    tags: Mapping[str, str] | None
    delay: float | None
    max_parallel: int | None
    budget: float | None


class CallOptions(Options, total=False):
    """The same, and what only a step of a pipeline can say: see ``tracing.StepOptions``."""

    retry: int
    version: str
