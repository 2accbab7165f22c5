"""When a step should begin, for its run to be in time: the deadline less what it and all behind it need."""

from __future__ import annotations

from penstock.pipelines.graph import Step
from penstock.store.runs.plans import plan_of
from penstock.store.runs.run import OpenRun
from penstock.store.session import Session

_LINES = "SELECT model, version, state FROM penstock_latency WHERE key = '' ORDER BY updated_at DESC, device"


def start_by(session: Session, run: OpenRun, step: Step) -> float | None:
    """Unix seconds; ``None`` where the run has no deadline, or nothing is known of what it needs. Of a step that is a
    run, it is by when that should have ended: its own steps count back from there.
    """
    # Of a step that has answered with steps, it is when that should have begun: it took next to none of the time.
    end_at = run.deadline_at if run.start_by is None else run.start_by
    if end_at is None:
        return None
    learned = session.learned
    if learned.is_old:
        learned.learn((row[0], row[1], row[2]) for row in session.all(_LINES))
    needed = learned.remaining(run.graph, plan_of(session, run.graph))[step.name]
    needed_s = needed.all_s if step.graph is None else needed.behind_s
    return end_at - needed_s if needed_s or run.start_by is not None else None
