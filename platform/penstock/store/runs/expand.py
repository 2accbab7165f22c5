"""A step whose worker answered with a graph, not a value, becomes a run of that graph within its own run."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.errors import InvalidOutput
from penstock.job import JobState, Outcome
from penstock.pipelines.writing.expansion import MAX_DEPTH
from penstock.store.records import SETTLED_COLUMNS, Settled, settled_of
from penstock.store.runs import budget, pins, plans
from penstock.store.runs.advance import advance
from penstock.store.runs.ends import Ends
from penstock.store.runs.run import locked
from penstock.store.session import Session

_OVER = "cancel_requested OR deadline_at <= :now"
_EXPAND = f"""
    UPDATE penstock_job SET
        state = CASE WHEN cancel_requested THEN 'cancelled' WHEN deadline_at <= :now THEN 'expired' ELSE 'running' END,
        settled_at = CASE WHEN {_OVER} THEN :now END, worker = CASE WHEN {_OVER} THEN worker END,
        graph = CASE WHEN {_OVER} THEN NULL ELSE {{1 text}} END, input = {{2 text}}, publish_lease_until = 0,
        device_s = coalesce(coalesce(device_s, 0) + {{4 float}}, device_s),
        bounds = (SELECT bounds FROM penstock_job AS whole WHERE whole.id = penstock_job.run_id)
    FROM {{each rows}}
    WHERE penstock_job.id = {{0 text}} AND {{hidden state = 'running'}} AND attempt = {{3 int}} AND worker = :worker
        AND run_id IS NOT NULL
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only
# How many runs are around each.
_DEPTH = """
    WITH RECURSIVE around (id, run, depth) AS (
        SELECT id, run_id, 1 FROM penstock_job WHERE id {in ids}
        UNION ALL
        SELECT around.id, penstock_job.run_id, depth + 1 FROM around JOIN penstock_job ON penstock_job.id = around.run
        WHERE penstock_job.run_id IS NOT NULL AND depth <= :most
    ) SELECT id, max(depth) FROM around GROUP BY id"""


def expand(session: Session, outcomes: Sequence[Outcome], *, worker: str, now: float) -> list[Settled]:
    """Begin the graphs of these outcomes; the rows of what has ended with that."""
    graphs = pins.within(session, outcomes, now=now)
    plans.store(session, graphs)
    given = [
        (o.id, plans.digest_of(text), o.output, o.attempt, o.device_s) for o, text in zip(outcomes, graphs, strict=True)
    ]
    values = {"rows": session.rows(given), "worker": worker, "now": now}
    rows = [settled_of(row) for row in session.all(_EXPAND, values)]
    going = [row.id for row in rows if row.state is JobState.RUNNING]
    over = [row for row in rows if row.state is not JobState.RUNNING]
    if not going:
        return over
    depths = dict(session.all(_DEPTH, {"ids": session.ids(going), "most": MAX_DEPTH}))
    ends, runs = Ends(session, now=now), []
    for run in locked(session, going):
        if depths[run.id] > MAX_DEPTH:
            error = InvalidOutput(f"steps that answered with steps are {MAX_DEPTH} deep")
            ends.add(run, JobState.FAILED, error=error.as_dict())
        else:
            runs.append(run)
    budget.called(session, runs)
    return [*over, *advance(session, runs, now=now, ends=ends)]
