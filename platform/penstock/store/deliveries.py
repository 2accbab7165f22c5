"""Webhook deliveries: taken under a lease, fairly between hosts, and recorded."""

from __future__ import annotations

from collections.abc import Sequence

from penstock import arguments
from penstock.errors import InvalidInput, JobNotFound
from penstock.store.engine import Database, Survives
from penstock.store.records import DELIVERY_COLUMNS, Delivery, delivery_of

#: What `record_delivery` takes as the outcome, and the state that it gives.
_STATE_AFTER = {"delivered": "delivered", "retry": "pending", "dead": "dead", "gone": "gone"}

# The rank keeps one busy receiver from filling the whole take. It is over what is due, which is few except after a long
# outage of the deliverer. Postgres refuses to lock rows of a window function, so they are locked one level further out.
_TAKE = f"""
    UPDATE penstock_delivery SET lease_until = :until WHERE id IN (
        SELECT id FROM penstock_delivery WHERE state = 'pending' AND lease_until <= :now AND id IN (
            SELECT id FROM (
                SELECT id, next_at, row_number() OVER (PARTITION BY host ORDER BY next_at) AS place
                FROM penstock_delivery
                WHERE state = 'pending' AND next_at <= :now AND lease_until <= :now AND NOT (host {{in exclude}})
            ) AS due WHERE place <= :per_host ORDER BY next_at LIMIT :limit
        ) {{skip locked}}
    ) RETURNING {DELIVERY_COLUMNS}"""  # noqa: S608 - constants only

# As ``relay._REDATE``, for those that were not tried yet: a later try waits on purpose.
_REDATE = """
    UPDATE penstock_delivery SET next_at = :now, lease_until = 0 WHERE id IN (
        SELECT id FROM penstock_delivery {by ix_penstock_delivery_created}
        WHERE created_at > :ahead AND state = 'pending' AND attempts = 0 AND next_at > :ahead
        LIMIT :limit {skip locked}
    )"""

# Only under the lease that was given: by now another may have taken it.
_RELEASE = """
    UPDATE penstock_delivery SET lease_until = 0 FROM {each rows}
    WHERE penstock_delivery.id = {0 text} AND state = 'pending' AND abs(lease_until - {1 float}) < 0.000001"""

_RECORD = """
    UPDATE penstock_delivery SET
        state = :state, attempts = attempts + 1, attempted_at = :now, next_at = coalesce(:next_at, next_at),
        lease_until = 0, status_code = :status_code, error = :error
    WHERE id = :id AND state = 'pending' RETURNING url"""
_STOP_URL = """
    UPDATE penstock_delivery SET state = 'gone', error = 'the receiver answered 410 to another event'
    WHERE url = :url AND state = 'pending'"""

_ONE = f"SELECT {DELIVERY_COLUMNS} FROM penstock_delivery WHERE id = :id"  # noqa: S608 - constants only
_REPLAY = """
    UPDATE penstock_delivery SET state = 'pending', attempts = 0, next_at = :now, lease_until = 0
    WHERE id = :id AND state <> 'pending' RETURNING url"""
# The address is wanted again: what was held back stays where a replay can find it.
_REOPEN_URL = "UPDATE penstock_delivery SET state = 'dead' WHERE url = :url AND state = 'gone'"


def take(
    db: Database, *, now: float, limit: int, lease_s: float, per_host: int | None, exclude_hosts: Sequence[str]
) -> list[Delivery]:
    """See ``Store.take_deliveries``."""
    with db.step(Survives.NOTHING) as session:
        values = {
            "now": now,
            "until": now + lease_s,
            "limit": limit,
            "per_host": per_host or limit,
            "exclude": session.ids(exclude_hosts),
        }
        rows = session.all(_TAKE, values)
    return sorted(map(delivery_of, rows), key=lambda delivery: (delivery.next_at, delivery.id))


def redate(db: Database, *, now: float, ahead_s: float, limit: int) -> int:
    """See ``Store.redate``."""
    with db.step(Survives.NOTHING) as session:
        return session.run(_REDATE, {"now": now, "ahead": now + ahead_s, "limit": limit})


def release(db: Database, pairs: Sequence[tuple[str, float]]) -> int:
    """See ``Store.release_deliveries``."""
    if not pairs:
        return 0
    with db.step(Survives.NOTHING) as session:
        return session.run(_RELEASE, {"rows": session.rows(sorted(pairs))})


def record(
    db: Database,
    id: str,
    *,
    now: float,
    outcome: str,
    next_at: float | None,
    status_code: int | None,
    error: str | None,
) -> bool:
    """See ``Store.record_delivery``."""
    values = {
        "id": id,
        "now": now,
        "state": _STATE_AFTER[outcome],
        "next_at": next_at,
        "status_code": status_code,
        "error": None if error is None else error.replace("\0", "")[:500],
    }
    with db.write(Survives.CRASH) as session:
        row = session.one(_RECORD, values)
        if row is not None and outcome == "gone":
            session.run(_STOP_URL, {"url": row[0]})
    return row is not None


def list_deliveries(db: Database, *, state: str | None, job_id: str | None, limit: int) -> list[Delivery]:
    """See ``Store.list_deliveries``."""
    arguments.limit(limit)
    if job_id is not None:
        arguments.job_id(job_id, "job_id")
    if state is not None and state not in _STATE_AFTER.values():
        raise InvalidInput(
            f"no delivery is ever {state!r}", fix=f"use one of {', '.join(sorted({*_STATE_AFTER.values()}))}"
        )
    where = "true"
    if state is not None:
        where += " AND state = :state"
    if job_id is not None:
        where += " AND job_id = :job_id"
    text = (
        f"SELECT {DELIVERY_COLUMNS} FROM penstock_delivery WHERE {where} ORDER BY created_at DESC, id DESC LIMIT :limit"  # noqa: S608
    )
    with db.read() as session:
        rows = session.all(text, {"state": state, "job_id": job_id, "limit": limit})
    return [delivery_of(row) for row in rows]


def get(db: Database, id: str) -> Delivery:
    """See ``Store.get_delivery``."""
    arguments.text("id", id)
    with db.read() as session:
        row = session.one(_ONE, {"id": id})
    if row is None:
        raise _not_found(id)
    return delivery_of(row)


def replay(db: Database, id: str, *, now: float) -> Delivery:
    """See ``Store.replay_delivery``."""
    with db.write(Survives.POWER) as session:
        row = session.one(_REPLAY, {"id": id, "now": now})
        if row is not None:
            session.run(_REOPEN_URL, {"url": row[0]})
        found = session.one(_ONE, {"id": id})
    if found is None:
        raise _not_found(id)
    return delivery_of(found)


def _not_found(id: str) -> JobNotFound:
    return JobNotFound(f"there is no webhook delivery {id!r}", fix="`penstock webhook list` shows them")
