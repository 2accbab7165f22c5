"""A new run of an old one's graph, which takes over what is not to be done again.

Its steps are copied a piece in each transaction, as maps are begun; the last one lets the run begin. Until then it is
``accepted``. Whoever forks goes on at once; when that process dies, the dispatcher does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from penstock.job import new_id
from penstock.pipelines.frontier import Outline
from penstock.store.runs.maps import MOST_CHARACTERS
from penstock.store.runs.paths import element
from penstock.store.session import Session
from penstock.store.sql import insert_sql

# What a step was, and what came of it; its id and its run are new.
_COPIED = (
    "state",
    "attempt",
    "worker",
    "model",
    "version",
    "asked_version",
    "lane",
    "tenant",
    "priority",
    "accepted_at",
    "available_at",
    "queued_at",
    "claimed_at",
    "started_at",
    "settled_at",
    "batch_wait_s",
    "load_s",
    "compute_s",
    "transfer_s",
    "batch_size",
    "batch_reason",
    "input",
    "output",
    "path",
)
_DONE = """
    SELECT path FROM penstock_job WHERE run_id = :run AND path {in names} AND {hidden state = 'succeeded'}"""
_MAPS = "SELECT path, size FROM penstock_map WHERE run_id = :run AND pending = 0 ORDER BY path"
_LENGTHS = """
    SELECT path, length(input) + length(output) FROM penstock_job
    WHERE run_id = :run AND path {in paths} AND {hidden state = 'succeeded'}"""
_STEPS = f"""
    SELECT {", ".join(_COPIED)} FROM penstock_job
    WHERE run_id = :run AND path {{in paths}} AND {{hidden state = 'succeeded'}}"""  # noqa: S608 - constants only
_INSERT = insert_sql("penstock_job", ["id", "run_id", "generation", *_COPIED])
_INSERT_MAP = insert_sql(
    "penstock_map",
    ["run_id", "path", "size", "begun", "pending", "begun_at"],
)
_LEAVE = insert_sql(
    "penstock_fork",
    ["run_id", "source", "taken", "copied", "since"],
    "ON CONFLICT (run_id) DO UPDATE SET copied = excluded.copied, since = excluded.since",
)
_LEFT = "SELECT source, taken, copied FROM penstock_fork WHERE run_id = :run"
_DELETE = "DELETE FROM penstock_fork WHERE run_id = :run"
_ABANDONED = "SELECT run_id FROM penstock_fork WHERE since <= :before ORDER BY since LIMIT :limit"

#: The generation of what was taken over: it is of none of the run's own.
TAKEN_OVER = -1
#: Steps by name, maps with their sizes.
Taken = Sequence[tuple[str, int | None]]


class Fork(NamedTuple):
    """How far a new run has taken over what it is to have of ``source``."""

    run: str
    source: str
    taken: Taken
    copied: int = 0


def taken(session: Session, source: str, plan: Outline, again: Collection[str]) -> Taken:
    """What of ``source`` has succeeded, but for the steps that are to be done ``again``."""
    names = [name for name in plan.plain if name not in again]
    done = {row[0] for row in session.all(_DONE, {"run": source, "names": session.ids(names)})}
    maps = [(path, size) for path, size in session.all(_MAPS, {"run": source}) if path not in again]
    kept = done.union(path for path, _ in maps)
    if plan.straight:  # what has ended between the two looks is not taken over without what it came of
        for name in plan.order:
            if not kept.issuperset(plan.parents[name]):
                kept.discard(name)
    found: list[tuple[str, int | None]] = [*((name, None) for name in names), *maps]
    return [each for each in found if each[0] in kept]


def left(session: Session, run: str) -> Fork | None:
    """What is still to be taken over by a run, which is held; ``None``: nothing."""
    row = session.one(_LEFT, {"run": run})
    return (
        None
        if row is None
        else Fork(run, row[0], msgspec.json.decode(row[1], type=list[tuple[str, int | None]]), row[2])
    )


def abandoned(session: Session, *, before: float, limit: int) -> list[str]:
    """Runs with which nobody has gone on since then."""
    return [row[0] for row in session.all(_ABANDONED, {"before": before, "limit": limit})]


def take_over(session: Session, fork: Fork, *, now: float) -> Fork | None:
    """Copy the next piece. ``None``: that was the last one. Raises ``LookupError`` when the source is gone."""
    paths = _short(session, fork.source, paths_of(fork.taken, fork.copied, session.bulk_rows))
    rows = session.all(_STEPS, {"run": fork.source, "paths": session.ids(paths)})
    if len(rows) < len(paths):
        raise LookupError(fork.source)
    session.insert(_INSERT, [(new_id(), fork.run, TAKEN_OVER, *row) for row in rows])
    copied = fork.copied + len(paths)
    if copied < sum(1 if size is None else size for _, size in fork.taken):
        session.insert(_LEAVE, [(fork.run, fork.source, msgspec.json.encode(fork.taken).decode(), copied, now)])
        return fork._replace(copied=copied)
    maps = [(fork.run, name, size, size, 0, now) for name, size in fork.taken if size is not None]
    session.insert(_INSERT_MAP, maps)
    forget(session, fork.run)
    return None


def forget(session: Session, run: str) -> None:
    """Nothing is to be taken over any more."""
    session.run(_DELETE, {"run": run})


def paths_of(taken: Taken, start: int, most: int) -> list[str]:
    """So many of their paths, from the one at ``start`` on."""
    found: list[str] = []
    for name, size in taken:
        many = 1 if size is None else size
        if start < many:
            piece = range(start, min(many, start + most - len(found)))
            found += [name] if size is None else [element(name, index) for index in piece]
        start = max(0, start - many)
        if len(found) == most:
            break
    return found


def _short(session: Session, source: str, paths: list[str]) -> list[str]:
    """As many of these as one transaction copies: the last one may go beyond that."""
    lengths = dict(session.all(_LENGTHS, {"run": source, "paths": session.ids(paths)})) if paths else {}
    total = 0
    for number, path in enumerate(paths):
        if total >= MOST_CHARACTERS:
            return paths[:number]
        total += lengths.get(path) or 0
    return paths
