"""Runs begin with the versions that are served then: they are written into the graph that is stored for them.

So whatever goes on with a run, retries it or looks at it needs to know nothing of pins, and plain jobs have none.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from penstock.job import NewJob, Outcome
from penstock.pipelines.graph import read
from penstock.pipelines.pins import Served, Versions, chosen, moved, open_models, pinned, pins_of, served
from penstock.pipelines.writing.expansion import MAX_DEPTH
from penstock.store.retention import prune_graphs
from penstock.store.runs import plans
from penstock.store.runs.run import OpenRun
from penstock.store.session import Session

_SERVED = "SELECT versions FROM penstock_worker WHERE lease_until > :now AND versions IS NOT NULL"
_UPDATE = "UPDATE penstock_job SET graph = {1 text} FROM {each rows} WHERE penstock_job.id = {0 text}"
# The graphs of the runs around a step, the nearest first.
_AROUND = """
    WITH RECURSIVE around (id, run, depth) AS (
        SELECT id, run_id, 1 FROM penstock_job WHERE id {in ids}
        UNION ALL
        SELECT around.id, penstock_job.run_id, depth + 1 FROM around JOIN penstock_job ON penstock_job.id = around.run
        WHERE penstock_job.run_id IS NOT NULL AND depth <= :most
    ) SELECT around.id, whole.id, whole.graph FROM around JOIN penstock_job AS whole ON whole.id = around.run
    WHERE whole.graph IS NOT NULL ORDER BY depth"""


def begun(session: Session, jobs: Sequence[NewJob], *, now: float) -> list[NewJob]:
    """These new runs with the graphs that they begin with; what is no run is as it was."""
    if not session.pins or not any(job.graph is not None and _open(job.graph) for job in jobs):
        return list(jobs)
    by = _served(session, now)
    return [
        job if job.graph is None else msgspec.structs.replace(job, graph=_pinned(job.graph, chosen(by, job.id)))
        for job in jobs
    ]


def due(session: Session, runs: Sequence[OpenRun], *, now: float) -> list[OpenRun]:
    """The same for runs that are stored, and begin now."""
    texts = _readable(session, runs) if session.pins else {}
    if not any(map(_open, texts.values())):
        return list(runs)
    by = _served(session, now)
    return _changed(session, runs, {id: _pinned(text, chosen(by, id)) for id, text in texts.items()})


def again(session: Session, runs: Sequence[OpenRun], *, now: float) -> list[OpenRun]:
    """Runs that somebody wants to go on: what nobody serves any more is moved to what is served now."""
    texts = _readable(session, runs) if session.pins else {}
    if not any(map(_pins, texts.values())):
        return list(runs)
    by = _served(session, now)
    return _changed(session, runs, {id: _moved(text, by, id) for id, text in texts.items()})


def forked(session: Session, job: NewJob, *, now: float) -> NewJob:
    """A new run of an old one's graph: with its pins, as far as somebody serves them."""
    if not session.pins or job.graph is None or not _pins(job.graph):
        return job
    text = _moved(job.graph, _served(session, now), job.id)
    if text != job.graph:
        plans.store(session, [text])
    return msgspec.structs.replace(job, graph=text)


def within(session: Session, outcomes: Sequence[Outcome], *, now: float) -> list[str]:
    """The graphs that these steps go on with: the versions of the runs around them first."""
    texts = [outcome.graph or "" for outcome in outcomes]
    if not session.pins or not any(map(_open, texts)):
        return texts
    by = _served(session, now)
    around: dict[str, list[tuple[str, str]]] = {outcome.id: [] for outcome in outcomes}
    for id, run, graph in session.all(_AROUND, {"ids": session.ids(around), "most": MAX_DEPTH}):
        around[id].append((run, graph))
    found = []
    for outcome, text in zip(outcomes, texts, strict=True):
        runs = around[outcome.id]
        versions = dict(chosen(by, runs[-1][0] if runs else outcome.id))
        for _, graph in reversed(runs):
            plan = plans.readable(session, graph)
            versions |= {} if plan is None else pins_of(plan.graph)
        found.append(_pinned(text, versions))
    return found


def _readable(session: Session, runs: Sequence[OpenRun]) -> dict[str, str]:
    """The graphs of these runs by their ids; one that cannot be read ends its own run, later, and nobody else's."""
    found = {run.id: plans.readable(session, run.graph) for run in runs}
    return {id: plan.graph.to_json().decode() for id, plan in found.items() if plan is not None}


def _served(session: Session, now: float) -> Served:
    return served(msgspec.json.decode(row[0]) for row in session.all(_SERVED, {"now": now}))


def _changed(session: Session, runs: Sequence[OpenRun], texts: Mapping[str, str]) -> list[OpenRun]:
    """The runs with these graphs, by their ids."""
    digests = {id: plans.digest_of(text) for id, text in texts.items()}
    left = {run.graph for run in runs if run.graph != digests.get(run.id, run.graph)}
    if left:
        plans.store(session, texts.values())
        session.run(_UPDATE, {"rows": session.rows(list(digests.items()))})
        prune_graphs(session, left)
    return [replace(run, graph=digests.get(run.id, run.graph)) for run in runs]


def _pinned(text: str, versions: Versions) -> str:
    mine = tuple((model, versions[model]) for model in _open(text) if model in versions)
    return _made(text, mine) if mine else text


def _moved(text: str, by: Served, run: str) -> str:
    graph = read(text)
    new = moved(graph, by, chosen(by, run))
    return text if new is graph else new.to_json().decode()


# Few graphs and versions make all runs: each is read and written once.
@functools.lru_cache(maxsize=plans.MOST_KEPT)
def _made(text: str, versions: tuple[tuple[str, str], ...]) -> str:
    return pinned(read(text), dict(versions)).to_json().decode()


@functools.lru_cache(maxsize=plans.MOST_KEPT)
def _open(text: str) -> tuple[str, ...]:
    return open_models(read(text))


@functools.lru_cache(maxsize=plans.MOST_KEPT)
def _pins(text: str) -> Versions:
    return pins_of(read(text))
