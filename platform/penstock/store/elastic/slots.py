"""Slots: the workers that are wanted, as rows that backends realise.

Three write to a row. The leader says what it is to be (``change``); whoever realises it says which start of a process
is meant (``place``) and that it is gone (``gone``); the worker says that it has it (``take``, ``ready``, ``leave``).

The fence: a backend writes a new word into the row before it starts a process, and gives the word to that process. Only
who has it may take the slot. So of two that were started for one slot, the one of a leader that was stopped between
the two among them, the one that the row names wins, whichever comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.job import new_id
from penstock.store.elastic import leader
from penstock.store.engine import Database, Survives
from penstock.store.session import Session
from penstock.store.sql import insert_sql

_decode = msgspec.json.decode

#: What a slot may be.
STATES = ("wanted", "parked", "draining")

_COLUMNS = "id, pool, state, epoch, made_at, changed_at, worker, ready_at, fence, place, spec, reason"
# By the key: to sort whole rows is most of what SQLite takes for a thousand.
_ALL = f"SELECT {_COLUMNS} FROM penstock_slot ORDER BY id"  # noqa: S608 - constants only
_OF_POOL = f"SELECT {_COLUMNS} FROM penstock_slot WHERE pool = :pool ORDER BY id"  # noqa: S608 - constants only
_ONE = f"SELECT {_COLUMNS} FROM penstock_slot WHERE id = :id"  # noqa: S608 - constants only
_STATES = "SELECT id, state FROM penstock_slot WHERE id {in ids}"
_ADD = insert_sql(
    "penstock_slot",
    ["id", "pool", "state", "epoch", "made_at", "changed_at", "spec", "reason"],
    "ON CONFLICT DO NOTHING",  # the same call, repeated
)
# Draining is for good: the worker may have acted on it.
_SET = """
    UPDATE penstock_slot SET state = {1 text}, epoch = :epoch, changed_at = :now, reason = :reason
    FROM {each rows} WHERE penstock_slot.id = {0 text} AND state <> 'draining' AND state <> {1 text}"""
_NOTE = "UPDATE penstock_slot SET place = :place WHERE id = :id"
# Whoever had it before was started with another word: what it says from now on is not heard.
_START = """
    UPDATE penstock_slot SET place = :place, fence = :fence,
        worker = CASE WHEN fence = :fence THEN worker END, ready_at = CASE WHEN fence = :fence THEN ready_at END
    WHERE id = :id AND state <> 'draining'"""
# As it was seen: another start since, or a worker that has come since, is not what was found to be gone.
_DROP = """
    DELETE FROM penstock_slot WHERE state = 'draining' AND id IN (
        SELECT s.id FROM {each rows} JOIN penstock_slot AS s ON s.id = {0 text} AND coalesce(s.fence, '') = {2 text})
    RETURNING id"""
_FREE = """
    UPDATE penstock_slot SET worker = NULL, ready_at = NULL, fence = NULL, place = NULL
    FROM {each rows} WHERE penstock_slot.id = {0 text} AND state <> 'draining' AND coalesce(fence, '') = {2 text}
        AND coalesce(worker, {1 text}) = {1 text} RETURNING id"""
# With the same word it is the next life of the same process: its supervisor has seen the one before end.
_TAKE = f"""
    UPDATE penstock_slot SET worker = :worker, fence = coalesce(fence, :fence),
        ready_at = CASE WHEN worker = :worker THEN ready_at END
    WHERE id = :id AND state <> 'draining' AND (fence IS NULL OR fence = :fence)
        AND (worker IS NULL OR worker = :worker OR fence = :fence)
    RETURNING {_COLUMNS}"""  # noqa: S608 - constants only
_READY = "UPDATE penstock_slot SET ready_at = coalesce(ready_at, :now) WHERE id = :id AND worker = :worker"
# A word that no backend has given goes with the worker that has brought it.
_LEFT = "worker = NULL, ready_at = NULL, fence = CASE WHEN place IS NULL THEN NULL ELSE fence END"
_LEAVE = f"UPDATE penstock_slot SET {_LEFT} WHERE id = :id AND worker = :worker"  # noqa: S608 - constants only
_LOSE = f"UPDATE penstock_slot SET {_LEFT} WHERE worker {{in dead}}"  # noqa: S608 - constants only


class NewSlot(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is to be."""

    pool: str
    state: str = "wanted"
    id: str = msgspec.field(default_factory=new_id)
    #: What it is to be beyond what the settings say of its pool: lanes, a revision, …
    spec: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Slot(msgspec.Struct, frozen=True):
    """A worker that is wanted, parked or to drain, and what there is of it."""

    id: str
    pool: str
    state: str
    #: Of the leader that has changed it last.
    epoch: int
    made_at: float
    #: Since when it is in its state.
    changed_at: float
    #: The instance that has it; ``None``: nobody yet, or not any more.
    worker: str | None = None
    ready_at: float | None = None
    #: Which start of a process may have it.
    fence: str | None = None
    #: The backend's own words about what realises it.
    place: Mapping[str, Any] | None = None
    spec: Mapping[str, Any] = msgspec.field(default_factory=dict)
    #: Why it is in its state, for a person.
    reason: str = ""


def slots(db: Database, pool: str | None) -> list[Slot]:
    """See ``Elastic.slots``."""
    with db.read() as session:
        rows = session.all(_ALL) if pool is None else session.all(_OF_POOL, {"pool": pool})
    return [_read(row) for row in rows]


def slot(db: Database, id: str) -> Slot | None:
    """See ``Elastic.slot``."""
    with db.read() as session:
        row = session.one(_ONE, {"id": id})
    return None if row is None else _read(row)


def states(db: Database, ids: Sequence[str]) -> dict[str, str]:
    """See ``Elastic.states``."""
    with db.read() as session:
        return dict(session.all(_STATES, {"ids": session.ids(ids)}))


def change(
    db: Database,
    term: leader.Term,
    *,
    add: Sequence[NewSlot],
    set: Mapping[str, str],
    reason: str,
    now: float,
) -> None:
    """See ``Elastic.change``."""
    wrong = {state for state in (*set.values(), *(each.state for each in add)) if state not in STATES}
    if wrong:
        raise ValueError(f"no state of a slot: {sorted(wrong)}; there are {STATES}")
    new = [
        (each.id, each.pool, each.state, term.epoch, now, now, _text(each.spec) if each.spec else None, reason)
        for each in add
    ]

    def call() -> None:
        with db.write(Survives.CRASH) as session:
            leader.insist(session, term)
            session.insert(_ADD, new)
            if set:
                values = {"rows": session.rows(sorted(set.items())), "epoch": term.epoch, "now": now, "reason": reason}
                session.run(_SET, values)

    db.again(call)


def place(db: Database, id: str, place: Mapping[str, Any], *, term: leader.Term, fence: str | None) -> bool:
    """See ``Elastic.place``."""
    values = {"id": id, "place": _text(place), "fence": fence}

    def call() -> bool:
        with db.write(Survives.CRASH) as session:
            if not leader.is_current(session, term):
                return False
            return session.run(_NOTE if fence is None else _START, values) == 1

    return db.again(call)


def gone(db: Database, slots: Iterable[Slot], *, term: leader.Term) -> list[str]:
    """See ``Elastic.gone``."""
    seen = sorted((each.id, each.worker or "", each.fence or "") for each in slots)
    if not seen:
        return []

    def call() -> list[str]:
        with db.write(Survives.CRASH) as session:
            leader.insist(session, term)
            values = {"rows": session.rows(seen)}
            return [row[0] for statement in (_DROP, _FREE) for row in session.all(statement, values)]

    return db.again(call)


def take(db: Database, id: str, worker: str, fence: str | None) -> Slot | None:
    """See ``Elastic.take``."""
    with db.step(Survives.CRASH) as session:
        row = session.one(_TAKE, {"id": id, "worker": worker, "fence": fence})
    return None if row is None else _read(row)


def ready(db: Database, id: str, worker: str, *, now: float) -> bool:
    """See ``Elastic.ready``."""
    with db.step(Survives.NOTHING) as session:
        return session.run(_READY, {"id": id, "worker": worker, "now": now}) == 1


def leave(db: Database, id: str, worker: str) -> bool:
    """See ``Elastic.leave``."""
    with db.step(Survives.NOTHING) as session:
        return session.run(_LEAVE, {"id": id, "worker": worker}) == 1


def lose(session: Session, dead: Sequence[str]) -> None:
    """The slots of these instances are nobody's. They are ended as workers in the same transaction."""
    session.run(_LOSE, {"dead": session.ids(dead)})


def _text(value: Mapping[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _read(row: tuple[Any, ...]) -> Slot:
    id, pool, state, epoch, made_at, changed_at, worker, ready_at, fence, place, spec, reason = row
    return Slot(
        id=id,
        pool=pool,
        state=state,
        epoch=epoch,
        made_at=made_at,
        changed_at=changed_at,
        worker=worker,
        ready_at=ready_at,
        fence=fence,
        place=None if place is None else _decode(place),
        spec={} if spec is None else _decode(spec),
        reason=reason,
    )
