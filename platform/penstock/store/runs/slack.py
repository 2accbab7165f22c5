"""When a step should begin, for its run to be in time: the deadline less what it and all behind it need."""

from __future__ import annotations

from penstock.pipelines.graph import Step
from penstock.store.runs.plans import plan_of
from penstock.store.runs.run import OpenRun
from penstock.store.session import Session

_LINES = "SELECT model, version, state FROM penstock_latency WHERE key = '' ORDER BY updated_at DESC, device"


def start_by(session: Session, run: OpenRun, step: Step) -> float | None:
    """Unix seconds; ``None`` where the run has no deadline, or nothing is known of what it needs."""
    # Of a run that is a step, it is when that should have begun: the function which answered with it took next to none.
    end_at = run.deadline_at if run.start_by is None else run.start_by
    if end_at is None:
        return None
    learned = session.learned
    if learned.is_old:
        learned.learn((row[0], row[1], row[2]) for row in session.all(_LINES))
    needed_s = learned.remaining(run.graph, plan_of(session, run.graph))[step.name]
    return end_at - needed_s if needed_s or run.start_by is not None else None
