"""A worker's verbs: take jobs, and say how they ended. All are guarded, so that what comes late changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from penstock.job import TERMINAL, JobState, Outcome
from penstock.store.engine import Database, Survives
from penstock.store.records import (
    CLAIMED_COLUMNS,
    PLAIN_COLUMNS,
    SETTLED_COLUMNS,
    STATES,
    ClaimResult,
    LeftOver,
    Settled,
    claimed_of,
    plain_of,
    settled_of,
)
from penstock.store.runs import plans
from penstock.store.runs.athand import MOST_READ
from penstock.store.runs.conclude import concluded
from penstock.store.runs.expand import expand
from penstock.store.runs.resolve import Given, resolve
from penstock.store.session import Session
from penstock.store.sql import Dialect

_id = attrgetter("id")
_encode = msgspec.json.encode
_decode = msgspec.json.decode

# An accepted job may be claimed before the publisher has marked it as queued, but not before its time: a message can be
# a leftover of an earlier attempt, while SQL holds the job back for a retry. Somebody's lease on publishing it says
# that its time has come, by the clock of whoever took the lease.
_RIPE = """NOT cancel_requested AND (deadline_at IS NULL OR deadline_at > :now)
    AND {hidden state IN ('queued', 'accepted')}
    AND ({hidden state = 'queued'} OR available_at <= :now OR publish_lease_until > 0)"""
# A message can be in the wrong queue: one of a dispatcher that knows nothing of versions, say.
_SERVED = "(asked_version IS NULL OR asked_version = coalesce(:version, asked_version))"
# A suspect is claimed by itself or not at all: so it runs alone, and if its worker dies, it was alone.
_CLAIMABLE = f"{_RIPE} AND {_SERVED} AND (suspicions = 0 OR :alone)"

# Marks are made late: a job that is claimed before its own has been at the broker for about as long as it could run.
_CLAIM = f"""
    UPDATE penstock_job SET state = 'running', attempt = attempt + 1, worker = :worker, claimed_at = :claimed_at,
        queued_at = coalesce(queued_at, available_at), version = coalesce(:version, version)
    WHERE penstock_job.id {{in ids}} AND {_CLAIMABLE}
    RETURNING {CLAIMED_COLUMNS}"""  # noqa: S608 - constants only
# The same with a time for each job.
_CLAIM_TIMED = f"""
    UPDATE penstock_job
    SET state = 'running', attempt = attempt + 1, worker = :worker, claimed_at = {{1 float}},
        queued_at = coalesce(queued_at, available_at), version = coalesce(:version, version)
    FROM {{each rows}} WHERE penstock_job.id = {{0 text}} AND {_CLAIMABLE}
    RETURNING {CLAIMED_COLUMNS}"""  # noqa: S608 - constants only

# What an earlier call has claimed whose answer never came. It counts as a new attempt, which shuts out the one that
# nobody knows of. The claim times tell it from what another call has claimed; on their way through JSON they may have
# lost their last bit.
_RECLAIM = f"""
    UPDATE penstock_job SET attempt = attempt + 1
    WHERE penstock_job.id {{in ids}} AND {{hidden state = 'running'}} AND worker = :worker
        AND claimed_at BETWEEN :first - 0.000001 AND :last + 0.000001
    RETURNING {CLAIMED_COLUMNS}"""  # noqa: S608 - constants only

_INPUTS = "SELECT id, input, run_id, path FROM penstock_job WHERE id {in ids}"
_LEFT_OVER = f"""
    SELECT id, state, attempt, worker, output, error, canvas, canvas_done, suspicions > 0 AND {_RIPE} AND {_SERVED}
    FROM penstock_job WHERE id {{in ids}}"""  # noqa: S608 - constants only
_EXPIRE = f"""
    UPDATE penstock_job SET state = 'expired', settled_at = :now
    WHERE penstock_job.id {{in ids}} AND {{hidden state IN ('queued', 'accepted')}} AND deadline_at <= :now
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only


# What ends a job whatever its attempt came to.
_OVER = "cancel_requested OR deadline_at <= :now"


def _settle_sql(changes: str, columns: str, *, plain: bool) -> str:
    # What most outcomes of a batch have in common is a parameter, the rest is in the array: reading a field out of
    # JSON costs more than binding a parameter.
    return f"""
    UPDATE penstock_job SET
        state = CASE WHEN cancel_requested THEN 'cancelled' WHEN deadline_at <= :now THEN 'expired'
            ELSE :state END,
        output = CASE WHEN {_OVER} THEN NULL ELSE {{1 text}} END, {changes}, publish_lease_until = 0,
        started_at = :started_at, batch_wait_s = {{2 float}}, load_s = :load_s, compute_s = :compute_s,
        transfer_s = :transfer_s, batch_size = :batch_size, batch_reason = :batch_reason{"" if plain else _BOOKED}
    FROM {{each rows}}
    WHERE penstock_job.id = {{0 text}} AND {{hidden state = 'running'}} AND attempt = :attempt AND worker = :worker
        {"AND webhook IS NULL AND run_id IS NULL" if plain else ""}
    RETURNING {columns}"""  # noqa: S608 - constants only


# What earlier attempts have cost stays.
_BOOKED = ",\n        device_s = coalesce(coalesce(device_s, 0) + {5 float}, device_s)"


# Most jobs succeed: they have neither an error nor another time to run, and nothing is counted against them.
_SUCCEEDS = "error = NULL, settled_at = :now"
_ENDS = f"""error = {{3 text}},
        settled_at = CASE WHEN :ends OR {_OVER} THEN :now END,
        available_at = coalesce({{4 float}}, available_at),
        queued_at = CASE WHEN :again THEN NULL ELSE queued_at END,
        worker = CASE WHEN :ends OR {_OVER} THEN worker END,
        failures = failures + :failures, ooms = ooms + :ooms, suspicions = suspicions + :suspicions"""
#: By whether the jobs have nothing that follows, and whether they have succeeded.
_SETTLE = {
    (plain, good): _settle_sql(
        _SUCCEEDS if good else _ENDS, PLAIN_COLUMNS if plain and good else SETTLED_COLUMNS, plain=plain
    )
    for plain in (True, False)
    for good in (True, False)
}

# Outcomes of several kinds are several statements of one transaction: in the order of the ids everybody changes steps.
_HOLD = "SELECT id FROM penstock_job WHERE id {in ids} ORDER BY id {locked}"

# Settled by this very attempt before: the commit had arrived and its answer had not.
_REPEATED = f"""
    SELECT {SETTLED_COLUMNS} FROM {{each rows}} JOIN penstock_job ON penstock_job.id = {{0 text}}
    WHERE attempt = {{1 int}} AND worker = :worker AND settled_at IS NOT NULL"""  # noqa: S608 - constants only

_RELEASE = f"""
    UPDATE penstock_job SET
        state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END, worker = NULL,
        settled_at = CASE WHEN cancel_requested THEN :now END
    FROM {{each rows}}
    WHERE penstock_job.id = {{0 text}} AND {{hidden state = 'running'}} AND attempt = {{1 int}} AND worker = :worker
    RETURNING {SETTLED_COLUMNS}"""  # noqa: S608 - constants only

_HELD = """
    SELECT id FROM penstock_job WHERE id {in ids} AND state = 'running' AND worker = :worker AND NOT cancel_requested"""
_CANVAS_DONE = "UPDATE penstock_job SET canvas_done = true WHERE id {in ids}"


def claim(
    db: Database,
    ids: Sequence[str],
    *,
    worker: str,
    version: str | None,
    now: float,
    claimed_at: Mapping[str, float] | float | None,
    need_input: Sequence[str],
    repeated: bool,
    alone: bool,
) -> ClaimResult:
    """See ``Store.claim``."""
    if not ids:
        return ClaimResult({})
    # In the same order everywhere, so that transactions meet rather than deadlock.
    ids = sorted(ids)
    at = now if claimed_at is None else claimed_at
    times = [at.get(id, now) for id in ids] if isinstance(at, Mapping) else [at]
    common = {"worker": worker, "version": version, "now": now, "alone": alone and len(ids) == 1}

    def call() -> ClaimResult:
        with db.step(Survives.CRASH) as session:
            rows = []
            if repeated:
                values = {"ids": session.ids(ids), "worker": worker, "first": min(times), "last": max(times)}
                rows = session.all(_RECLAIM, values)
            if isinstance(at, Mapping):
                timed = session.rows(list(zip(ids, times, strict=True)))
                rows += session.all(_CLAIM_TIMED, common | {"rows": timed})
            else:
                rows += session.all(_CLAIM, common | {"ids": session.ids(ids), "claimed_at": at})
            return ClaimResult({row[0]: claimed_of(row) for row in rows})

    result = db.again(call)
    # Behind the claim: while they are read, nobody waits for what it holds.
    for id, given in _given(db, [id for id in need_input if id in result.claimed]).items():
        result.claimed[id] = result.claimed[id]._replace(input=given.input, fault=given.fault)
    if len(result.claimed) < len(ids):
        _explain(db, result, [id for id in ids if id not in result.claimed], version, now)
    return result


def end_expired(db: Database, ids: Sequence[str], *, now: float) -> ClaimResult:
    """See ``Store.end_expired``."""
    result = ClaimResult({})
    if ids:
        _explain(db, result, sorted(ids), None, now)
    return result


def settle(db: Database, outcomes: Sequence[Outcome], *, worker: str, now: float) -> list[Settled]:
    """See ``Store.settle``."""
    if not outcomes:
        return []
    outcomes = sorted(outcomes, key=_id)
    settled: list[Settled] = []
    # Jobs of which nothing follows first: there one statement is the whole transaction.
    if plain := [outcome for outcome in outcomes if not outcome.step]:

        def call() -> list[Settled]:
            with db.step(Survives.CRASH) as session:
                return _settle(session, plain, worker, now, plain=True)

        settled = db.again(call)
    rest = _others(outcomes, settled) if len(settled) < len(outcomes) else []
    if not rest:
        return settled
    expanding = [outcome for outcome in rest if outcome.graph is not None]
    ending = [outcome for outcome in rest if outcome.graph is None]
    more: list[Settled] = []
    followed: list[Settled] = []

    def end(session: Session) -> list[Settled]:
        rows = _settle(session, ending, worker, now, plain=False)
        session.outputs |= _short_outputs(rows, ending)
        return rows

    plans.know(outcome.graph for outcome in expanding)

    def begin(session: Session) -> list[Settled]:
        return expand(session, expanding, worker=worker, now=now)

    # Not in one transaction: those that go on as runs lock runs, and those that end lock maps, which come first.
    for some, work in ((ending, end), (expanding, begin)):
        if some:
            rows, after = concluded(db, Survives.CRASH, work, now=now)
            more += rows
            followed += after
    settled += more
    rest = _others(rest, more)
    if rest:
        with db.read() as session:
            pairs = session.rows([(o.id, o.attempt) for o in rest])
            settled += [settled_of(row) for row in session.all(_REPEATED, {"rows": pairs, "worker": worker})]
    return settled + followed


def release(db: Database, pairs: Sequence[tuple[str, int]], *, worker: str, now: float) -> int:
    """See ``Store.release``."""
    if not pairs:
        return 0

    def work(session: Session) -> list[Settled]:
        rows = session.all(_RELEASE, {"rows": session.rows(sorted(pairs)), "worker": worker, "now": now})
        return [settled_of(row) for row in rows]

    return len(concluded(db, Survives.CRASH, work, now=now)[0])


def held(db: Database, ids: Sequence[str], *, worker: str) -> set[str]:
    """See ``Store.held``."""
    if not ids:
        return set()
    with db.read() as session:
        return {row[0] for row in session.all(_HELD, {"ids": session.ids(ids), "worker": worker})}


def mark_canvas_done(db: Database, ids: Sequence[str]) -> None:
    """See ``Store.mark_canvas_done``."""
    if ids:
        with db.step(Survives.NOTHING) as session:
            session.run(_CANVAS_DONE, {"ids": session.ids(sorted(ids))})


def inputs(db: Database, ids: Sequence[str]) -> dict[str, str]:
    """See ``Store.inputs``."""
    return {id: given.input for id, given in _given(db, ids).items() if given.input is not None}


def _given(db: Database, ids: Sequence[str]) -> dict[str, Given]:
    if not ids:
        return {}
    with db.read() as session:
        rows = session.all(_INPUTS, {"ids": session.ids(ids)})
        given = {id: Given(text) for id, text, run_id, _ in rows if run_id is None}
        if len(given) < len(rows):
            given |= resolve(session, [row for row in rows if row[2] is not None])
    return given


def _explain(db: Database, result: ClaimResult, ids: Sequence[str], version: str | None, now: float) -> None:
    """Say of each job that was not claimed why, and end those whose deadline has passed."""

    def work(session: Session) -> list[Settled]:
        expired = [settled_of(row) for row in session.all(_EXPIRE, {"ids": session.ids(ids), "now": now})]
        gone = {row.id for row in expired}
        left = session.ids([id for id in ids if id not in gone])
        rows = session.all(_LEFT_OVER, {"ids": left, "version": version, "now": now})
        result.others = {row[0]: _left_over(row) for row in rows}
        return expired

    expired, followed = concluded(db, Survives.CRASH, work, now=now)
    found = {row.id for row in expired}
    result.expired = [*expired, *followed]
    result.missing = [id for id in ids if id not in found and id not in result.others]


def _settle(session: Session, outcomes: Sequence[Outcome], worker: str, now: float, *, plain: bool) -> list[Settled]:
    settled: list[Settled] = []
    groups = _groups(outcomes, now, plain=plain)
    if not plain and len(groups) > 1 and session.dialect is not Dialect.SQLITE:
        session.all(_HOLD, {"ids": session.ids([outcome.id for outcome in outcomes])})
    for common, rows in groups:
        state = common[0]
        values = dict(zip(_COMMON, common, strict=True)) | {
            "state": state.value,
            "rows": session.rows(rows),
            "worker": worker,
            "now": now,
            "ends": state in TERMINAL,
            "again": state is JobState.ACCEPTED,
        }
        good = state is JobState.SUCCEEDED
        found = session.all(_SETTLE[plain, good], values)
        if plain and good:
            attempt = values["attempt"]
            settled += [plain_of(row, attempt) for row in found]
        else:
            settled += map(settled_of, found)
    return settled


_COMMON = (
    "state",
    "attempt",
    "failures",
    "ooms",
    "suspicions",
    "started_at",
    "load_s",
    "compute_s",
    "transfer_s",
    "batch_size",
    "batch_reason",
)
_common = attrgetter(*_COMMON)


def _groups(
    outcomes: Sequence[Outcome], now: float, *, plain: bool
) -> list[tuple[tuple[Any, ...], list[tuple[Any, ...]]]]:
    """Outcomes by what they have in common: mostly one group."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    common: tuple[Any, ...] | None = None
    for o in outcomes:
        # Compared with the one before first, since neighbours are mostly alike and a look-up has to hash all of it.
        if (mine := _common(o)) != common:
            common, rows = mine, groups.setdefault(mine, [])
        if plain and o.state is JobState.SUCCEEDED:
            rows.append((o.id, o.output, o.batch_wait_s))
        else:
            error = None if o.error is None else _encode(o.error).decode()
            at = (o.available_at or now) if o.state is JobState.ACCEPTED else None
            output = o.output if o.state is JobState.SUCCEEDED else None
            rows.append((o.id, output, o.batch_wait_s, error, at, o.device_s))
    return list(groups.items())


def _short_outputs(rows: Sequence[Settled], outcomes: Sequence[Outcome]) -> dict[tuple[str, str], str]:
    """What follows need not read what has just been written."""
    texts = {o.id: o.output for o in outcomes if o.output is not None and len(o.output) <= MOST_READ}
    return {
        (row.run_id, row.path or ""): texts[row.id]
        for row in rows
        if row.run_id is not None and row.state is JobState.SUCCEEDED and row.id in texts
    }


def _others(outcomes: Sequence[Outcome], settled: Sequence[Settled]) -> list[Outcome]:
    done = {row.id for row in settled}
    return [outcome for outcome in outcomes if outcome.id not in done]


def _left_over(row: tuple[Any, ...]) -> LeftOver:
    id, state, attempt, worker, output, error, canvas, canvas_done, suspect = row
    decoded = None if error is None else _decode(error)
    return LeftOver(id, STATES[state], attempt, worker, output, decoded, canvas, bool(canvas_done), bool(suspect))
