"""What a run has taken, with the runs within it: device seconds by model, and where its time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from penstock import arguments
from penstock.store.engine import Database
from penstock.store.records import STATES
from penstock.store.runs.standing import critical_path, read

# Waits and sleeps call no model, nor do graphs in steps; a step that answered with more steps ran before that. What a
# fork has taken over is of no generation of its own.
_BY_MODEL = """
    WITH RECURSIVE within (id) AS (
        SELECT id FROM penstock_job WHERE id = :run
        UNION ALL
        SELECT penstock_job.id FROM within JOIN penstock_job ON run_id = within.id WHERE graph IS NOT NULL
    )
    SELECT model, count(*), coalesce(sum(device_s), 0), coalesce(sum(started_at - accepted_at), 0),
        coalesce(sum(CASE WHEN graph IS NULL THEN settled_at - started_at END), 0)
    FROM within JOIN penstock_job ON run_id = within.id
    WHERE model <> '' AND (graph IS NULL OR attempt > 0) AND generation >= 0 GROUP BY model"""

_RUN = "SELECT state, error, accepted_at, settled_at FROM penstock_job WHERE id = :run"


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run has taken so far, over all its tries. All times are seconds.

    ``device_s`` is what its tenant was charged: each step's share of its batches, those of attempts that failed among
    them, but for attempts whose worker died. What a fork has taken over is its source's, and in none of these.
    ``queue_s`` and ``run_s`` are sums over the steps, which run at the same time where they can: how long they waited
    until their last attempts began, and how long these took. ``total_s`` is the clock's time from the run's beginning
    to its end; ``None`` while it goes on. ``critical_path`` are the steps that decided when that was, by name.
    """

    device_s: float
    by_model: Mapping[str, float]
    queue_s: float
    run_s: float
    total_s: float | None
    critical_path: list[str]
    #: Jobs that its steps were.
    steps: int
    #: Steps of its graph, a map counts as one, that were not done because a fork has taken them over.
    taken_over: int


def cost(db: Database, id: str) -> RunCost:
    """See ``Store.run_cost``."""
    arguments.job_id(id)
    with db.read() as session:
        standing = read(session, id)
        row = session.one(_RUN, {"run": id})
        models = sorted(session.all(_BY_MODEL, {"run": id}))
    state, error, accepted_at, settled_at = row or ("accepted", None, 0.0, None)
    path = critical_path(STATES[state], None if error is None else msgspec.json.decode(error), standing)
    return RunCost(
        device_s=float(sum(device_s for _, _, device_s, _, _ in models)),
        by_model={model: float(device_s) for model, _, device_s, _, _ in models},
        queue_s=float(sum(queue_s for *_, queue_s, _ in models)),
        run_s=float(sum(run_s for *_, run_s in models)),
        total_s=None if settled_at is None else max(0.0, settled_at - accepted_at),
        critical_path=path,
        steps=sum(count for _, count, *_ in models),
        taken_over=sum(row.taken_over for row in standing.steps.values())
        + sum(one.taken_over for one in standing.maps.values()),
    )
