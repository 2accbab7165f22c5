"""One leader of a pool at a time: rows with an epoch, of which no two that have a holder have a pool in common.

There is no time in the row: a candidate waits until the beat has not changed for a lease on its own monotonic clock
(``policy.leadership``). The epoch is what makes that safe: a leader that was stopped for longer and goes on still
believes that it leads, and everything that it writes asks first whether its term is the current one. Who takes over
takes the rows of its rivals (``policy.leadership``) from their holders in the same transaction, and its epoch is higher
than theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.errors import Deposed
from penstock.policy.leadership import rivals
from penstock.store.engine import Database, Survives
from penstock.store.session import Session
from penstock.store.sql import Dialect

_FIND = "SELECT holder, epoch, beat, state FROM penstock_leader WHERE name = :name"
_ALL = "SELECT name, holder, epoch, beat, state FROM penstock_leader ORDER BY name"
# One takeover at a time, since a rival may not have a row yet; beats wait for it, reads and guarded writes do not.
# SQLite's writer is alone.
_ALONE = "LOCK TABLE penstock_leader IN SHARE ROW EXCLUSIVE MODE"
_LEAD = """
    INSERT INTO penstock_leader (name, holder, epoch, beat) VALUES (:name, :holder, :epoch, 0)
    ON CONFLICT (name) DO UPDATE
    SET holder = excluded.holder, epoch = excluded.epoch, beat = penstock_leader.beat + 1"""
# It is told while nobody has the row, and is no sign of life of a leader.
_WAIT = """
    INSERT INTO penstock_leader (name, holder, epoch, beat, state) VALUES (:name, '', 0, 0, :state)
    ON CONFLICT (name) DO UPDATE SET state = excluded.state
    WHERE penstock_leader.holder = '' AND penstock_leader.epoch = :epoch AND penstock_leader.beat = :beat"""
_DEPOSE = "UPDATE penstock_leader SET holder = '', beat = beat + 1 WHERE name {in names} AND holder <> ''"
_BEAT = """
    UPDATE penstock_leader SET beat = beat + 1, state = coalesce(:state, state)
    WHERE name = :name AND holder = :holder AND epoch = :epoch"""
_RESIGN = """
    UPDATE penstock_leader SET holder = '', beat = beat + 1, state = coalesce(:state, state)
    WHERE name = :name AND holder = :holder AND epoch = :epoch"""
# Shared: a beat or a successor waits for the end of the transaction, and so do we for theirs. SQLite's writer is alone.
# The holder as well: from a backup, the numbers of epochs come again.
_CURRENT = """
    SELECT 1 FROM penstock_leader WHERE name = :name AND holder = :holder AND epoch = :epoch {shared}"""


class Term(msgspec.Struct, frozen=True):
    """What a leader acts under: that ``holder`` leads under ``name`` in ``epoch``."""

    name: str
    #: A process, in one of its lives.
    holder: str
    epoch: int


class Leadership(msgspec.Struct, frozen=True):
    """Who leads, as the row says it."""

    #: Empty: the last one has resigned, or a rival leads.
    holder: str
    epoch: int
    #: Counts up while the holder lives.
    beat: int
    #: What the holder has left to its successor.
    state: Mapping[str, Any] = msgspec.field(default_factory=dict)


def find(db: Database, name: str) -> Leadership | None:
    """See ``Elastic.leadership``."""
    with db.read() as session:
        row = session.one(_FIND, {"name": name})
    return None if row is None else _read(row)


def every(db: Database) -> dict[str, Leadership]:
    """See ``Elastic.leaderships``."""
    with db.read() as session:
        return {name: _read(tuple(row)) for name, *row in session.all(_ALL)}


def lead(db: Database, name: str, holder: str, seen: Mapping[str, Leadership]) -> Term | None:
    """See ``Elastic.lead``."""
    with db.write(Survives.CRASH) as session:
        if session.dialect is not Dialect.SQLITE:
            session.run(_ALONE)
        found = {each: _read(tuple(row)) for each, *row in session.all(_ALL)}
        own = found.get(name)
        if own is not None and own.holder == holder and _mark(own) != _mark(seen.get(name)):
            return Term(name, holder, own.epoch)  # this very call, repeated after an answer that got lost
        concerned = rivals(name, found)
        # Who has beaten since the candidate's look lives, and who has taken over since is another one.
        if any(_mark(found[each]) != _mark(seen.get(each)) for each in concerned):
            return None
        term = Term(name, holder, 1 + max((found[each].epoch for each in concerned), default=0))
        session.run(_DEPOSE, {"names": session.ids(each for each in concerned if each != name)})
        session.run(_LEAD, _values(term))
    return term


def wait(db: Database, name: str, seen: Leadership | None, state: Mapping[str, Any]) -> bool:
    """See ``Elastic.wait``."""
    values = {"name": name, "epoch": seen.epoch if seen else 0, "beat": seen.beat if seen else 0, "state": _text(state)}
    with db.step(Survives.NOTHING) as session:
        return session.run(_WAIT, values) == 1


def beat(db: Database, term: Term, state: Mapping[str, Any] | None) -> bool:
    """See ``Elastic.beat``."""
    return _as_holder(db, _BEAT, term, state)


def resign(db: Database, term: Term, state: Mapping[str, Any] | None) -> bool:
    """See ``Elastic.resign``."""
    return _as_holder(db, _RESIGN, term, state)


def is_current(session: Session, term: Term) -> bool:
    """Whether this term lasts, until the end of this transaction."""
    return session.one(_CURRENT, _values(term)) is not None


def insist(session: Session, term: Term) -> None:
    """Raise ``Deposed`` unless this term lasts, until the end of this transaction."""
    if not is_current(session, term):
        raise Deposed(f"epoch {term.epoch} of {term.name!r} is over: nothing was changed")


def _as_holder(db: Database, statement: str, term: Term, state: Mapping[str, Any] | None) -> bool:
    with db.step(Survives.NOTHING) as session:
        return session.run(statement, _values(term) | {"state": None if state is None else _text(state)}) == 1


def _values(term: Term) -> dict[str, Any]:
    return {"name": term.name, "holder": term.holder, "epoch": term.epoch}


def _text(state: Mapping[str, Any]) -> str:
    return msgspec.json.encode(state).decode()


def _mark(leadership: Leadership | None) -> tuple[str, int, int] | None:
    return None if leadership is None else (leadership.holder, leadership.epoch, leadership.beat)


def _read(row: tuple[Any, ...]) -> Leadership:
    holder, epoch, beats, state = row
    return Leadership(holder, epoch, beats, msgspec.json.decode(state) if state is not None else {})
