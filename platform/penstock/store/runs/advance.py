"""What runs do next, now that something in them has ended.

However many runs a transaction moves on, it stores their new steps by one statement, and their ends by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from penstock.pipelines.frontier import Outline
from penstock.store.records import Settled
from penstock.store.runs import budget, following, slots
from penstock.store.runs.ends import Ends
from penstock.store.runs.moves import Moves
from penstock.store.runs.run import OpenRun
from penstock.store.runs.stepstates import Look, some_step_states
from penstock.store.session import Session

NOTHING: Mapping[str, Collection[str]] = {}


def advance(
    session: Session,
    runs: Sequence[OpenRun],
    *,
    now: float,
    ended: Mapping[str, Collection[str]] = NOTHING,
    elements: Mapping[str, Collection[str]] = NOTHING,
    ends: Ends | None = None,
    settled: Sequence[Settled] = (),
) -> list[Settled]:
    """Begin all that can begin; the rows of the runs that have ended with this.

    ``ended`` are the steps by run that have succeeded just now, where that is all that has happened to it: in a graph
    without choices only what waits for them is looked at. ``elements`` are those of maps that have succeeded and that
    others follow, paths by run. ``ends`` are those of other runs, ended in the same breath; ``settled`` are the steps
    that have ended, however they did, which runs with a bound count.
    """
    moves = Moves(session, now, ends or Ends(session, now=now))
    plans = {run.id: plan for run in runs if (plan := moves.plan(run)) is not None}
    runs = [run for run in runs if run.id in plans]
    bounded = {run.id for run in runs if slots.bounded(run, plans[run.id])}
    slots.free(session, (row for row in settled if row.run_id in bounded))
    over = budget.book(session, runs, settled)
    slow = bounded | over.keys()
    quick = {run.id: ended[run.id] for run in runs if run.id in ended and plans[run.id].straight and run.id not in slow}
    looks = some_step_states(session, [_look(run, plans[run.id], quick[run.id]) for run in runs if run.id in quick])
    # Before anything begins: what does, sees which elements have succeeded.
    due = following.due(session, plans, {run.id: elements[run.id] for run in runs if run.id in elements})
    for number, run in enumerate(runs):
        plan = plans[run.id]
        with moves.guarded(run):
            if number and moves.full:
                moves.leave(run)
            elif run.id not in quick or not moves.straight(run, plan, looks[run.id], quick[run.id]):
                moves.whole(run, plan, over.get(run.id))
            # Also where the rest is left: nobody else begins these.
            if run.id not in moves.ends and run.id not in over:
                following.release(session, run, plan, due.get(run.id, ()), moves.released)
    moves.succeed()
    moves.stop()
    moves.released.store()
    return moves.ends.store()


def _look(run: OpenRun, plan: Outline, ended: Collection[str]) -> Look:
    """The steps whose standing decides what follows these, as far as it is not known: these have ended, and what waits
    for them has not begun."""
    names: dict[str, None] = {}
    for child in plan.following(ended):
        # It may have, where it begins with what it follows; and in another try of the run.
        if run.generation or child in plan.elementwise.source:
            names[child] = None
        names |= dict.fromkeys(plan.parents[child])
    if not plan.last.isdisjoint(ended):
        names |= dict.fromkeys(plan.last)
    return run.id, run.generation, plan, ended, [name for name in names if name not in ended]
