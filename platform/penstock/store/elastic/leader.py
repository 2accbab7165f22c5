"""One leader of a name at a time, as a row with an epoch.

There is no time in the row: a candidate waits until the beat has not changed for a lease on its own monotonic clock
(``policy.leadership``). The epoch is what makes that safe: a leader that was stopped for longer and goes on still
believes that it leads, and everything that it writes asks first whether its epoch is the current one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.errors import Deposed
from penstock.store.engine import Database, Survives
from penstock.store.session import Session

#: The leadership of the autoscaler.
AUTOSCALER = "autoscaler"

_FIND = "SELECT holder, epoch, beat, state FROM penstock_leader WHERE name = :name"
_ALL = "SELECT name, holder, epoch, beat, state FROM penstock_leader ORDER BY name"
_FIRST = """
    INSERT INTO penstock_leader (name, holder, epoch, beat) VALUES (:name, :holder, 1, 0)
    ON CONFLICT DO NOTHING"""
# Who has beaten since the candidate's look lives, and who has taken over since has another epoch.
_NEXT = """
    UPDATE penstock_leader SET holder = :holder, epoch = epoch + 1, beat = beat + 1
    WHERE name = :name AND epoch = :epoch AND beat = :beat"""
_BEAT = """
    UPDATE penstock_leader SET beat = beat + 1, state = coalesce(:state, state)
    WHERE name = :name AND holder = :holder AND epoch = :epoch"""
_RESIGN = """
    UPDATE penstock_leader SET holder = '', beat = beat + 1, state = coalesce(:state, state)
    WHERE name = :name AND holder = :holder AND epoch = :epoch"""
# Shared: a beat or a successor waits for the end of the transaction, and so do we for theirs. SQLite's writer is alone.
_CURRENT = "SELECT epoch FROM penstock_leader WHERE name = :name AND holder <> '' {shared}"


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads, as the row says it."""

    #: Empty: the last one has resigned.
    holder: str
    epoch: int
    #: Counts up while the holder lives.
    beat: int
    #: What the holder has left to its successor.
    state: Mapping[str, Any] = field(default_factory=dict)


def find(db: Database, name: str) -> Leadership | None:
    """See ``Elastic.leadership``."""
    with db.read() as session:
        row = session.one(_FIND, {"name": name})
    return None if row is None else _read(row)


def every(db: Database) -> dict[str, Leadership]:
    """See ``Elastic.leaderships``."""
    with db.read() as session:
        return {name: _read(tuple(row)) for name, *row in session.all(_ALL)}


def lead(db: Database, name: str, holder: str, seen: Leadership | None) -> int | None:
    """See ``Elastic.lead``."""
    values: dict[str, Any] = {"name": name, "holder": holder}
    if seen is not None:
        values |= {"epoch": seen.epoch, "beat": seen.beat}
    with db.write(Survives.CRASH) as session:
        if session.run(_FIRST if seen is None else _NEXT, values) == 0:
            # It may be this very call, repeated after an answer that got lost.
            row = session.one(_FIND, values)
            if row is None or row[0] != holder or row[1] != (seen.epoch if seen is not None else 0) + 1:
                return None
    return 1 if seen is None else seen.epoch + 1


def beat(db: Database, name: str, holder: str, epoch: int, state: Mapping[str, Any] | None) -> bool:
    """See ``Elastic.beat``."""
    return _as_holder(db, _BEAT, name, holder, epoch, state)


def resign(db: Database, name: str, holder: str, epoch: int, state: Mapping[str, Any] | None) -> bool:
    """See ``Elastic.resign``."""
    return _as_holder(db, _RESIGN, name, holder, epoch, state)


def is_current(session: Session, name: str, epoch: int) -> bool:
    """Whether this epoch leads, until the end of this transaction."""
    row = session.one(_CURRENT, {"name": name})
    return row is not None and row[0] == epoch


def insist(session: Session, name: str, epoch: int) -> None:
    """Raise ``Deposed`` unless this epoch leads, until the end of this transaction."""
    if not is_current(session, name, epoch):
        raise Deposed(f"epoch {epoch} of {name!r} leads no longer: nothing was changed")


def _as_holder(
    db: Database, statement: str, name: str, holder: str, epoch: int, state: Mapping[str, Any] | None
) -> bool:
    text = None if state is None else msgspec.json.encode(state).decode()
    with db.step(Survives.NOTHING) as session:
        return session.run(statement, {"name": name, "holder": holder, "epoch": epoch, "state": text}) == 1


def _read(row: tuple[Any, ...]) -> Leadership:
    holder, epoch, beats, state = row
    return Leadership(holder, epoch, beats, msgspec.json.decode(state) if state is not None else {})
