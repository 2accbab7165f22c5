"""The seam: whoever ends jobs does it in here, and what follows from their ends is part of the same transaction.

The order of locks is the same for all: jobs, chunks of maps, maps, runs. Nothing changes a step while it holds a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from penstock.errors import NoValue
from penstock.job import JobState
from penstock.store.engine import Database, Survives
from penstock.store.events import write_events
from penstock.store.records import Settled
from penstock.store.runs import maps, tries
from penstock.store.runs.advance import advance, end
from penstock.store.runs.closing import close
from penstock.store.runs.plans import plan_of
from penstock.store.runs.run import locked
from penstock.store.runs.values import place
from penstock.store.session import Session

Work = Callable[[Session], Iterable[Settled]]
_Left = list[tuple[str, str]]


def concluded(db: Database, survives: Survives, work: Work, *, now: float) -> tuple[list[Settled], list[Settled]]:
    """Do ``work``, which ends jobs and returns their rows, with all that follows, in one transaction.

    The answer has those rows, and those of runs that ended with them and of their open steps. What is too much for one
    transaction (elements of long maps, the open steps of runs that have ended) is done in more of them, behind it; the
    dispatcher does it when this process dies in between.
    """
    rows, ended, waiting = _transact(db, survives, work, now=now)
    also = list(ended)
    while waiting:
        piece = partial(_go_on, *waiting.pop(), now=now)
        done, ended, more = _transact(db, Survives.CRASH, piece, now=now)
        waiting += more
        also += [*done, *ended]
    for row in [*rows, *also]:
        if row.closing:
            also += close(db, row.id, now=now)
    return rows, also


def expand(db: Database, run: str, path: str, *, now: float) -> list[Settled]:
    """Go on with a map that somebody has left; as ``concluded``."""
    rows, also = concluded(db, Survives.CRASH, partial(_go_on, run, path, now=now), now=now)
    return [*rows, *also]


def follow(session: Session, rows: Sequence[Settled], *, now: float) -> list[Settled]:
    """The events of these ends, and what they let begin or end; the rows of the runs that have ended."""
    write_events(session, rows, now=now)
    ended: list[Settled] = []
    steps = [row for row in rows if row.run_id is not None and row.state.is_terminal]
    while steps:
        runs = _follow(session, steps, now=now)
        write_events(session, runs, now=now)
        ended += runs
        steps = [run for run in runs if run.run_id is not None]
    return ended


def _transact(
    db: Database, survives: Survives, work: Work, *, now: float
) -> tuple[list[Settled], list[Settled], _Left]:
    def call() -> tuple[list[Settled], list[Settled], _Left]:
        with db.write(survives) as session:
            rows = list(work(session))
            return rows, follow(session, rows, now=now), session.maps

    return db.again(call)


def _go_on(run_id: str, path: str, session: Session, *, now: float) -> list[Settled]:
    """The next piece of a map, as long as its run goes on."""
    for run in locked(session, [run_id]):
        try:
            maps.go_on(session, run, plan_of(session, run.graph), path, now=now)
        except NoValue as error:
            return end(session, run, JobState.FAILED, error=error.as_dict(), now=now)
    return []


def _follow(session: Session, steps: Sequence[Settled], *, now: float) -> list[Settled]:
    good = [step for step in steps if step.state is JobState.SUCCEEDED]
    bad = [step for step in steps if step.state is not JobState.SUCCEEDED]
    back = tries.again(session, bad, now=now)
    bad = [step for step in bad if step.id not in back]
    maps.fail(session, bad)
    whole = maps.count(session, good)
    # The element of a map that is not its last one lets nothing begin: its run is not even looked at.
    looked = {step.run_id or "" for step in good if place(step.path or "")[1] is None}
    looked |= {run for run, _ in whole} | {step.run_id or "" for step in bad}
    ended: list[Settled] = []
    for run in locked(session, sorted(looked)):
        mine = (step for step in bad if step.run_id == run.id and step.generation == run.generation)
        over = next((step for step in mine if step.state is not JobState.FAILED), None)
        if over is not None:  # its time is over, and that is the run's
            ended += end(session, run, over.state, error=_error(over), now=now)
        else:
            ended += advance(session, run, now=now)
    return ended


def _error(step: Settled) -> dict[str, Any]:
    error = {} if step.error is None else msgspec.json.decode(step.error)
    return error | {"step": step.path, "job": step.id}
