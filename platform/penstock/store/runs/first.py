"""The first steps of runs within a run, some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from penstock.store.records import Settled
from penstock.store.runs.advance import advance
from penstock.store.runs.maps import Rest
from penstock.store.runs.moves import cost
from penstock.store.runs.plans import plan_of
from penstock.store.runs.run import OpenRun, locked
from penstock.store.runs.stepstates import LOOK, Look, some_step_states
from penstock.store.runs.todo import BEGINNING, DECIDING
from penstock.store.session import Session

#: Operations that it takes to look whether steps have begun: the rest of a transaction's are for beginning them.
MOST_LOOKED = DECIDING // 2

_LEFT = "SELECT run_id, path FROM penstock_map WHERE run_id {in runs} AND begun < size"


def first(ids: Sequence[str], session: Session, *, now: float) -> list[Settled]:
    """Begin what can begin in these runs; the rows of those that have ended with that. Those for which there was no
    time are in ``session.inner`` again.
    """
    runs: list[OpenRun] = []
    looks: list[Look] = []
    looked = beginning = 0
    for run in locked(session, ids):
        if looked >= MOST_LOOKED or beginning >= BEGINNING:
            session.inner.append(run.id)
            continue
        plan = plan_of(session, run.graph)
        looked += LOOK * len(plan.steps)
        beginning += sum(cost(session, step) for step in plan.first)
        runs.append(run)
        looks.append((run.id, run.generation, plan, (), list(plan.steps)))
    # Somebody may have been here before; and what an earlier generation has begun has been taken over.
    begun = {run for run, states in some_step_states(session, looks).items() if states.begun}
    left = session.all(_LEFT, {"runs": session.ids(sorted(begun))}) if begun else []
    session.maps += [Rest(run, path) for run, path in left]
    return advance(session, [replace(run, new=run.id not in begun) for run in runs], now=now)
