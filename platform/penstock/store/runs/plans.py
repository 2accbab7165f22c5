"""Graphs by their digests: stored once, read and outlined once per process."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from typing import Any

from penstock.errors import JobNotFound, PenstockError, Unreachable
from penstock.pipelines.frontier import Outline
from penstock.pipelines.graph import decoded
from penstock.pipelines.nested import all_steps
from penstock.store.engine import Database
from penstock.store.runs.bounds import Bounds, bounds_of
from penstock.store.session import Session
from penstock.store.sql import Dialect, insert_sql

#: Graphs that a process keeps, and those within one that it outlines ahead.
MOST_KEPT, MOST_WITHIN = 256, 32

_INSERT = insert_sql("penstock_graph", ["digest", "graph"], "ON CONFLICT DO NOTHING")
_HOLD = "SELECT digest FROM penstock_graph WHERE digest {in digests} {shared}"
_GRAPH = "SELECT graph FROM penstock_graph WHERE digest = :digest"

_RUN = "SELECT graph, bounds FROM penstock_job WHERE id = :id AND graph IS NOT NULL"
_WHOSE = "SELECT run_id, path FROM penstock_job WHERE id = :id"

_kept: dict[str, Outline] = {}


def digest_of(text: str) -> str:
    """What a graph is stored by: ``Graph.digest`` of its text."""
    return sha256(text.encode()).hexdigest()


def store(session: Session, texts: Iterable[str]) -> None:
    """Keep the graphs of these JSON texts; those that are there already are left alone, and nobody prunes them now."""
    rows = sorted((digest_of(text), text) for text in set(texts))
    wanted = {digest for digest, _ in rows}
    while rows:
        session.insert(_INSERT, rows)
        if session.dialect is Dialect.SQLITE:
            return
        there = {row[0] for row in session.all(_HOLD, {"digests": session.ids(sorted(wanted))})}
        rows = [row for row in rows if row[0] not in there]


def plan_of(session: Session, digest: str) -> Outline:
    """The graph that a run goes on with."""
    plan = _kept.get(digest)
    if plan is None:
        row = session.one(_GRAPH, {"digest": digest})
        if row is None:
            raise PenstockError(f"the graph {digest} of a run is not in the database", fix="restore it from a backup")
        plan = _keep(digest, row[0])
    return plan


def readable(session: Session, digest: str) -> Outline | None:
    """The same, for who looks at the runs of many: ``None`` for one that cannot be read, of a newer release for
    instance. It ends its own run, when that is decided on, and holds up nobody else's."""
    try:
        return plan_of(session, digest)
    except Unreachable:
        raise
    except PenstockError:
        return None


def know(texts: Iterable[str | None]) -> None:
    """Outline these graphs, and those within them, before a transaction asks for them: that takes a while, in which
    others can write."""
    for text in set(texts):
        if text is not None and (digest := digest_of(text)) not in _kept:
            with suppress(PenstockError):  # of which the run is told
                plan = _keep(digest, text)
                within = (step.graph for step in all_steps(plan.graph) if step.graph is not None)
                for graph in islice(within, MOST_WITHIN):
                    inner = graph.to_json().decode()
                    _keep(digest_of(inner), inner)


def _keep(digest: str, text: str) -> Outline:
    plan = Outline(decoded(text))
    if len(_kept) >= MOST_KEPT:
        _kept.clear()
    _kept[digest] = plan
    return plan


def graph_of(db: Database, run: str) -> Outline:
    """See ``Store.graph_of``."""
    with db.read() as session:
        return plan_of(session, _row(session, run)[0])


def run_bounds(db: Database, run: str) -> Bounds:
    """See ``Store.bounds_of``."""
    with db.read() as session:
        return bounds_of(_row(session, run)[1])


def _row(session: Session, run: str) -> tuple[Any, ...]:
    row = session.one(_RUN, {"id": run})
    if row is None:
        raise no_run(session, run)
    return row


def no_run(session: Session, id: str) -> JobNotFound:
    """What to raise for an id that is no run's: it may be a step's, whose run is meant, or a plain job's."""
    row = session.one(_WHOSE, {"id": id})
    if row is None:
        return JobNotFound(f"there is no run {id!r}", fix="`penstock job list` shows the runs that are kept")
    run, path = row
    if run is None:
        return JobNotFound(f"job {id} is a plain job, and no run", fix="`penstock job list` shows runs among the jobs")
    return JobNotFound(f"job {id} is step {path!r} of run {run}, and no run itself", fix=f"use the run's id: {run}")
