"""Ends jobs of which no message can be made, or none that a worker could read, by the way of every job: claimed, then
settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

import structlog

from penstock import clock
from penstock.dispatch.notices import tell
from penstock.errors import InvalidInput
from penstock.job import JobState, Outcome
from penstock.store import Store
from penstock.telemetry.tally import Row
from penstock.transport.publisher import Publisher

log = structlog.get_logger(__name__)


def fail(
    store: Store,
    publisher: Publisher,
    reasons: Mapping[str, str],
    *,
    on_settled: Callable[[Sequence[Row]], None] | None,
) -> None:
    """Fail these jobs as ``invalid_input``, for the reasons given, and tell who waits for them."""
    worker = f"dispatcher:{uuid4().hex}"
    now = clock.now()
    claimed = store.claim(list(reasons), worker=worker, now=now).claimed
    outcomes = [
        Outcome(id=id, attempt=claim.attempt, state=JobState.FAILED, error=InvalidInput(reasons[id]).as_dict())
        for id, claim in claimed.items()
    ]
    settled = store.settle(outcomes, worker=worker, now=now)
    log.error("jobs failed, as no message can be made of them", action="relay.refused", jobs=len(settled))
    if on_settled is not None:
        on_settled(settled)
    tell(publisher, settled, now=now)
