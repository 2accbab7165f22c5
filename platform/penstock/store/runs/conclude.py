"""The seam: whoever ends jobs does it in here, and what follows from their ends is part of the same transaction.

The order of locks is the same for all: jobs, chunks of maps, maps, runs. Nothing changes a step while it holds a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from penstock.job import JobState
from penstock.store import called
from penstock.store.engine import Database, Survives
from penstock.store.events import write_events
from penstock.store.records import Settled
from penstock.store.runs import following, maps, retries
from penstock.store.runs.advance import advance
from penstock.store.runs.closing import close, drop
from penstock.store.runs.ends import Ends, error_of
from penstock.store.runs.first import first
from penstock.store.runs.inner import PIECE
from penstock.store.runs.moves import Moves
from penstock.store.runs.paths import place
from penstock.store.runs.plans import plan_of
from penstock.store.runs.run import OpenRun, locked
from penstock.store.runs.todo import Todo, decided
from penstock.store.session import Session

#: Runs that are decided on together, where a transaction has left them.
TOGETHER = 100

Work = Callable[[Session], Iterable[Settled]]


def concluded(db: Database, survives: Survives, work: Work, *, now: float) -> tuple[list[Settled], list[Settled]]:
    """Do ``work``, which ends jobs and returns their rows, with all that follows, in one transaction.

    The answer has those rows, and those of runs that ended with them and of their open steps. What is too much for one
    transaction (elements of long maps, many decisions, the open steps of runs that have ended) is done in more of them,
    behind it; the dispatcher does it when this process dies in between. Where somebody takes what is left
    (``db.on_left``), the rows of what ends with that are told to them.
    """
    rows, also, left = _transact(db, survives, work, now=now)
    also += _closed(db, [*rows, *also], now=now)
    behind = Behind(db, left)
    if behind and db.on_left is not None:
        db.on_left(behind)
        return rows, also
    while behind:
        also += behind.step(now=now)
    return rows, also


class Behind:
    """What a transaction has left to others behind it, and what those leave. True while there is something."""

    def __init__(self, db: Database, left: Session) -> None:
        self._db = db
        self._waiting: list[maps.Rest | Todo] = [*left.maps, *left.todo]
        #: Runs within runs whose first steps are to begin.
        self._inner = list(left.inner)

    def __bool__(self) -> bool:
        return bool(self._waiting or self._inner)

    def forget(self) -> None:
        """Keep no lists in memory: each ``step`` reads its own again."""
        self._waiting = [rest._replace(items=None) if isinstance(rest, maps.Rest) else rest for rest in self._waiting]

    def step(self, *, now: float) -> list[Settled]:
        """One transaction of it; the rows of what has ended with it. When it fails, that part is the dispatcher's."""
        if self._inner:
            work = partial(first, self._inner[:PIECE], now=now)
            del self._inner[:PIECE]
        else:
            rest = self._waiting.pop()
            if isinstance(rest, maps.Rest):
                work = partial(_go_on, rest, now=now)
            elif rest.step:
                return drop(self._db, rest, now=now)
            else:
                work = partial(_decide, [rest, *self._more()], now=now)
        rows, also, left = _transact(self._db, Survives.CRASH, work, now=now)
        self._waiting += [*left.maps, *left.todo]
        self._inner += left.inner
        return [*rows, *also, *_closed(self._db, [*rows, *also], now=now)]

    def _more(self) -> list[Todo]:
        """Other runs that are to be decided on: steps that begin together run together."""
        runs = [each for each in self._waiting if isinstance(each, Todo) and not each.step][: TOGETHER - 1]
        chosen = set(runs)
        self._waiting = [each for each in self._waiting if not (isinstance(each, Todo) and each in chosen)]
        return runs


def finish(db: Database, todo: Sequence[Todo], *, now: float) -> list[Settled]:
    """Do what somebody has left; as ``concluded``."""
    ended = [row for each in todo if each.step for row in drop(db, each, now=now)]
    runs = [each for each in todo if not each.step]
    for start in range(0, len(runs), TOGETHER):
        work = partial(_decide, runs[start : start + TOGETHER], now=now)
        rows, also = concluded(db, Survives.CRASH, work, now=now)
        ended += [*rows, *also]
    return ended


def finish_map(db: Database, run: str, path: str, *, now: float) -> list[Settled]:
    """Go on with a map that somebody has left; as ``concluded``."""
    rows, also = concluded(db, Survives.CRASH, partial(_go_on, maps.Rest(run, path), now=now), now=now)
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
) -> tuple[list[Settled], list[Settled], Session]:
    """The session tells what is left to do."""

    def call() -> tuple[list[Settled], list[Settled], Session]:
        with db.write(survives) as session:
            rows = list(work(session))
            ended = follow(session, rows, now=now)
            # What is tried again has not failed for anybody.
            rows = [row._replace(state=JobState.ACCEPTED) if row.id in session.put_back else row for row in rows]
            return rows, ended, session

    rows, ended, session = db.again(call)
    called.tell(db, [*rows, *ended])
    return rows, ended, session


def _closed(db: Database, rows: Sequence[Settled], *, now: float) -> list[Settled]:
    """Close those of these that are runs and have ended; the rows of their steps that ended with that."""
    return [closed for row in rows if row.closing for closed in close(db, row.id, now=now)]


def _go_on(rest: maps.Rest, session: Session, *, now: float) -> list[Settled]:
    """The next piece of a map, as long as its run goes on."""
    held = maps.hold(session, rest)
    moves = Moves(session, now, Ends(session, now=now))
    for run in locked(session, [rest.run]):
        with moves.guarded(run):
            if held is not None:
                plan = plan_of(session, run.graph)
                go_on = following.go_on if rest.path in plan.elementwise.source else maps.go_on
                go_on(session, run, plan, rest, held, now=now)
    return moves.ends.store()


def _decide(todo: Sequence[Todo], session: Session, *, now: float) -> list[Settled]:
    """What comes next in runs, where a transaction had no time for it. What this one has no time for is left again."""
    runs = locked(session, sorted(each.run for each in todo))
    decided(session, todo)
    return advance(session, runs, now=now)


def _follow(session: Session, steps: Sequence[Settled], *, now: float) -> list[Settled]:
    good = [step for step in steps if step.state is JobState.SUCCEEDED]
    # A cancelled one is the loser of a race, or its run has ended.
    bad = [step for step in steps if step.state in (JobState.FAILED, JobState.EXPIRED)]
    back = retries.put_back(session, bad, now=now)
    session.put_back |= back
    bad = [step for step in bad if step.id not in back]
    whole, followed, watched = maps.count(session, good)
    maps.fail(session, bad)
    # The element of a map that is not its last one lets nothing begin: its run is not even looked at. But for one of a
    # map that another one follows, and where there are bounds.
    just: dict[str, set[str]] = {run: set() for run in watched}
    elements: dict[str, list[str]] = {}
    for run_id, path in [*((step.run_id or "", step.path or "") for step in good), *whole]:
        name, index = place(path)
        if index is None:
            just.setdefault(run_id, set()).add(path)
        elif (run_id, name) in followed:
            just.setdefault(run_id, set())
            elements.setdefault(run_id, []).append(path)
    failing = {step.run_id or "" for step in bad}
    stopped = {step.run_id or "" for step in steps if step.state is JobState.CANCELLED}
    ends = Ends(session, now=now)
    going: list[OpenRun] = []
    for run in locked(session, sorted(just.keys() | failing | stopped)):
        mine = (step for step in bad if step.run_id == run.id and step.generation == run.generation)
        over = next((step for step in mine if step.state is JobState.EXPIRED), None)
        if over is not None:  # its time is over, and that is the run's
            ends.add(run, over.state, error=_error(over))
        elif run.id in just or run.id in failing or run.bounded:
            going.append(run)
    ended = {run: names for run, names in just.items() if run not in failing}
    settled = [step for step in steps if step.id not in back]
    return advance(session, going, now=now, ended=ended, elements=elements, ends=ends, settled=settled)


def _error(step: Settled) -> dict[str, Any]:
    return error_of(step.path, step.id, {} if step.error is None else msgspec.json.decode(step.error))
