"""The autoscaler's gauges for Prometheus. What is not known has no sample: an absent series is no zero."""

from __future__ import annotations

import math
from collections.abc import Iterator

from penstock.autoscaler.front.board import STATES, Board
from penstock.telemetry.metrics import AUTOSCALER_LEADS, DECISION_AGE, DESIRED_WORKERS, LOAD_AGE, WORKERS
from penstock.telemetry.tally import Sample


def samples(board: Board) -> Iterator[Sample]:
    """Everything, now."""
    yield AUTOSCALER_LEADS, (), 1 if board.leads else 0
    for pool in board.pools or ():
        standing, answer = board.standing(pool), board.answer(pool)
        if standing is None:
            continue
        if math.isfinite(standing.at):
            yield DECISION_AGE, (pool,), board.age_s(standing.at)
        if standing.load_at is not None:
            yield LOAD_AGE, (pool,), board.age_s(standing.load_at)
        if answer.workers is None:
            continue
        yield DESIRED_WORKERS, (pool,), answer.workers
        if standing.fleet is not None:
            for state in STATES:
                yield WORKERS, (pool, state), getattr(standing.fleet, state)
