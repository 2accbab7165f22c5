"""What the autoscaler has seen, a row per pool and minute, and what it has decided: for explanations and plans."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field
from msgspec.structs import astuple

from penstock.job import new_id
from penstock.store.engine import Database, Survives
from penstock.store.sql import insert_sql

#: The length of what one row is about, seconds.
MINUTE_S = 60.0


class Minute(Struct, frozen=True, kw_only=True):
    """A pool in one minute. What ends in ``_s`` is added up over the seconds that were seen: divided by ``seconds`` it
    is the mean. Device seconds are those of one worker."""

    pool: str
    #: When the minute began, Unix seconds.
    at: float
    #: Of the leader that has seen it: a minute in which leaders changed has a row of each.
    epoch: int
    #: How long there were signals.
    seconds: float = 0.0
    #: New work, device seconds; and the most of it that came in one second.
    demand_s: float = 0.0
    demand_most: float = 0.0
    #: Work that was there, device seconds, times the seconds that it was there; and the most of it at one look.
    backlog_s: float = 0.0
    backlog_most: float = 0.0
    #: Workers that were to be, and what there was: worker seconds. The busy are among the ready.
    wanted_s: float = 0.0
    ready_s: float = 0.0
    busy_s: float = 0.0
    starting_s: float = 0.0
    parked_s: float = 0.0
    draining_s: float = 0.0
    #: Seconds from a decision to a ready worker, as known then: cold, and of a parked one.
    ready_in_s: float | None = None
    wake_in_s: float | None = None


class Change(Struct, frozen=True, kw_only=True):
    """A decision that has changed what a pool is to have."""

    pool: str
    at: float
    epoch: int
    #: Workers that were to be before it, and are to be after it, and parked ones beside them.
    before: int
    after: int
    parked: int = 0
    #: A stable word, and a sentence for a person.
    code: str
    reason: str
    id: str = field(default_factory=new_id)


_MINUTE = Minute.__struct_fields__
_CHANGE = Change.__struct_fields__
_KEY = ("pool", "at", "epoch")
_RECORD = insert_sql(
    "penstock_scaling",
    _MINUTE,
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _MINUTE if name not in _KEY),
)
#: Of the parts of a minute the greatest is told; everything else is added up.
_GREATEST = ("epoch", "demand_most", "backlog_most", "ready_in_s", "wake_in_s")
_MERGED = ", ".join(
    name if name in ("pool", "at") else f"{'max' if name in _GREATEST else 'sum'}({name})" for name in _MINUTE
)
_HISTORY = f"""
    SELECT {_MERGED} FROM penstock_scaling WHERE pool = :pool AND at >= :since AND at < :until
    GROUP BY pool, at ORDER BY at"""  # noqa: S608 - constants only
_CHANGED = insert_sql("penstock_scaling_change", _CHANGE, "ON CONFLICT DO NOTHING")
_CHANGES = f"""
    SELECT {", ".join(_CHANGE)} FROM penstock_scaling_change
    WHERE pool = :pool ORDER BY pool DESC, id DESC LIMIT :limit"""  # noqa: S608 - constants only
_ALL_CHANGES = f"""
    SELECT {", ".join(_CHANGE)} FROM penstock_scaling_change ORDER BY id DESC LIMIT :limit"""  # noqa: S608
_PRUNE = """
    DELETE FROM penstock_scaling WHERE (pool, at, epoch) IN (
        SELECT pool, at, epoch FROM penstock_scaling WHERE at < :before ORDER BY at LIMIT :limit)"""
_PRUNE_CHANGES = """
    DELETE FROM penstock_scaling_change WHERE id IN (
        SELECT id FROM penstock_scaling_change WHERE at < :before ORDER BY at LIMIT :limit)"""


def record(db: Database, minutes: Sequence[Minute]) -> None:
    """See ``Elastic.record``."""
    rows = sorted((astuple(each) for each in minutes), key=lambda row: row[:3])

    def call() -> None:
        with db.write(Survives.NOTHING) as session:
            session.insert(_RECORD, rows)

    db.again(call)


def history(db: Database, pool: str, *, since: float, until: float) -> list[Minute]:
    """See ``Elastic.history``."""
    with db.read() as session:
        rows = session.all(_HISTORY, {"pool": pool, "since": since, "until": until})
    return [Minute(**dict(zip(_MINUTE, row, strict=True))) for row in rows]


def changed(db: Database, changes: Sequence[Change]) -> None:
    """See ``Elastic.changed``."""
    with db.step(Survives.NOTHING) as session:
        session.insert(_CHANGED, [astuple(each) for each in changes])


def changes(db: Database, pool: str | None, *, limit: int) -> list[Change]:
    """See ``Elastic.changes``."""
    with db.read() as session:
        values = {"limit": limit} if pool is None else {"limit": limit, "pool": pool}
        rows = session.all(_ALL_CHANGES if pool is None else _CHANGES, values)
    return [Change(**dict(zip(_CHANGE, row, strict=True))) for row in rows]


def prune(db: Database, *, before: float, limit: int) -> int:
    """See ``Elastic.prune``."""
    with db.step(Survives.NOTHING) as session:
        return max(session.run(each, {"before": before, "limit": limit}) for each in (_PRUNE, _PRUNE_CHANGES))
