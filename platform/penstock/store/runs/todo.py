"""What a transaction that decides on runs leaves to another one, for it has become long, or holds the wrong locks.

It is stored with the decision. Whoever decided goes on at once; when that process dies, the dispatcher does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from penstock.store.session import Session
from penstock.store.sql import insert_sql

#: Operations after which a transaction takes up no other run, and after which it begins no more steps: about 40 ms
#: each.
DECIDING, BEGINNING = 40_000, 20_000

_INSERT = insert_sql("penstock_todo", ["run_id", "path", "since"], "ON CONFLICT DO NOTHING")
_DONE = "DELETE FROM penstock_todo WHERE run_id = :run AND path = :path"
_DECIDED = "DELETE FROM penstock_todo WHERE run_id {in runs} AND path = ''"
_UNDECIDED = "SELECT run_id FROM penstock_todo WHERE run_id {in runs} AND path = ''"
_LEFT = "SELECT run_id, path FROM penstock_todo WHERE since <= :before ORDER BY since LIMIT :limit"


class Todo(NamedTuple):
    """A run whose next steps are to be decided on, or a step of it that nothing needs any more."""

    run: str
    step: str = ""


def leave(session: Session, left: Iterable[Todo], *, now: float) -> None:
    """Leave these; their runs are locked."""
    rows = [todo for todo in left if todo not in session.todo]
    session.insert(_INSERT, [(run, step, now) for run, step in rows])
    session.todo += rows


def decided(session: Session, todo: Iterable[Todo]) -> None:
    """Nobody has to decide on these runs any more: said before that is done, while they are locked."""
    session.run(_DECIDED, {"runs": session.ids([each.run for each in todo])})


def done(session: Session, todo: Todo) -> None:
    """The step is dropped."""
    session.run(_DONE, {"run": todo.run, "path": todo.step})


def undecided(session: Session, runs: Collection[str]) -> set[str]:
    """Those of these runs, which are locked, that somebody else goes on with."""
    return {row[0] for row in session.all(_UNDECIDED, {"runs": session.ids(runs)})} if runs else set()


def left(session: Session, *, before: float, limit: int) -> list[Todo]:
    """What was left at that time or earlier."""
    return [Todo(*row) for row in session.all(_LEFT, {"before": before, "limit": limit})]
