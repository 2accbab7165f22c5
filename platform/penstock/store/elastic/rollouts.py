"""What the workers of a pool are to be, as people have said it: one row for each pool.

The row says what is wanted, and the slots say what there is. So a rollout has no state of its own that could be lost:
whoever leads takes the next step from what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.errors import InvalidInput
from penstock.store.engine import Database, Survives
from penstock.store.session import Session

_COLUMNS = "pool, revision, spec, previous, previous_spec, share, surge, paused, begun_at, changed_at"
_ALL = f"SELECT {_COLUMNS} FROM penstock_rollout ORDER BY pool"  # noqa: S608 - constants only
_ONE = f"SELECT {_COLUMNS} FROM penstock_rollout WHERE pool = :pool"  # noqa: S608 - constants only
# What only a share of the workers was to be never became what the pool is.
_ROLL = f"""
    INSERT INTO penstock_rollout ({_COLUMNS})
    VALUES (:pool, :revision, :spec, '', '{{}}', :share, :surge, :paused, :now, :now)
    ON CONFLICT (pool) DO UPDATE SET
        previous = CASE WHEN penstock_rollout.share >= 1 THEN penstock_rollout.revision
            ELSE penstock_rollout.previous END,
        previous_spec = CASE WHEN penstock_rollout.share >= 1 THEN penstock_rollout.spec
            ELSE penstock_rollout.previous_spec END,
        revision = excluded.revision, spec = excluded.spec, share = excluded.share, surge = excluded.surge,
        paused = excluded.paused, begun_at = excluded.begun_at, changed_at = excluded.changed_at
    WHERE penstock_rollout.revision <> excluded.revision"""  # noqa: S608 - constants only
_STEER = """
    UPDATE penstock_rollout SET share = coalesce(:share, share), surge = coalesce(:surge, surge),
        paused = coalesce(:paused, paused), changed_at = :now WHERE pool = :pool"""
_UNDO = """
    UPDATE penstock_rollout SET revision = previous, spec = previous_spec, previous = revision, previous_spec = spec,
        share = 1, paused = :paused, begun_at = :now, changed_at = :now WHERE pool = :pool AND revision = :revision"""


class RolloutOf(msgspec.Struct, frozen=True):
    """What the workers of a pool are to be. Without a name, a revision is what the settings say."""

    pool: str
    revision: str
    spec: Mapping[str, Any]
    previous: str
    previous_spec: Mapping[str, Any]
    share: float
    surge: int
    paused: bool
    begun_at: float
    changed_at: float

    def spec_of(self, revision: str) -> Mapping[str, Any]:
        """What a slot of this revision is given."""
        return self.spec if revision == self.revision else self.previous_spec


def all(db: Database) -> dict[str, RolloutOf]:
    """See ``Elastic.rollouts``."""
    with db.read() as session:
        found = map(_read, session.all(_ALL))
        return {rollout.pool: rollout for rollout in found}


def roll(
    db: Database, pool: str, revision: str, spec: Mapping[str, Any], *, share: float, surge: int, now: float
) -> RolloutOf:
    """See ``Elastic.roll``."""
    text = msgspec.json.encode({**spec, "revision": revision}).decode()
    values = {"pool": pool, "revision": revision, "spec": text, "share": share, "surge": surge, "paused": False}

    def call() -> RolloutOf:
        with db.write(Survives.POWER) as session:
            if session.run(_ROLL, values | {"now": now}) == 0:
                session.run(_STEER, values | {"now": now})
            found = _one(session, pool)
            assert found is not None
            if found.spec != {**spec, "revision": revision}:
                raise InvalidInput(
                    f"revision {revision!r} of pool {pool!r} is something else already",
                    fix="give the new one another name",
                )
            return found

    return db.again(call)


def steer(
    db: Database, pool: str, *, share: float | None, surge: int | None, paused: bool | None, now: float
) -> RolloutOf | None:
    """See ``Elastic.steer``."""
    values = {"pool": pool, "share": share, "surge": surge, "paused": paused, "now": now}

    def call() -> RolloutOf | None:
        with db.write(Survives.POWER) as session:
            session.run(_STEER, values)
            return _one(session, pool)

    return db.again(call)


def undo(db: Database, pool: str, revision: str, *, now: float) -> RolloutOf | None:
    """See ``Elastic.undo``."""

    def call() -> RolloutOf | None:
        with db.write(Survives.POWER) as session:
            session.run(_UNDO, {"pool": pool, "revision": revision, "paused": False, "now": now})
            return _one(session, pool)

    return db.again(call)


def _one(session: Session, pool: str) -> RolloutOf | None:
    row = session.one(_ONE, {"pool": pool})
    return None if row is None else _read(row)


def _read(row: tuple[Any, ...]) -> RolloutOf:
    pool, revision, spec, previous, previous_spec, share, surge, paused, begun_at, changed_at = row
    decode = msgspec.json.decode
    return RolloutOf(
        pool, revision, decode(spec), previous, decode(previous_spec), share, surge, bool(paused), begun_at, changed_at
    )
