"""How far a run is, by step: the row of a plain one, and of a map the counts of its elements, whatever its width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from penstock import arguments
from penstock.job import JobState
from penstock.pipelines.graph import Graph
from penstock.pipelines.show.critical import Times, critical
from penstock.store.engine import Database
from penstock.store.runs.bounds import bounds_of
from penstock.store.runs.fork import TAKEN_OVER
from penstock.store.runs.paths import elements_of
from penstock.store.runs.plans import no_run, plan_of
from penstock.store.session import Session

#: Elements of maps that failed, of which each is told.
MOST_FAILED = 100

_STATUS = "CASE WHEN state = 'running' AND cancel_requested THEN 'cancelling' ELSE state END"
# What succeeded counts since whichever try, anything else only of the last one.
_COUNTS = "({hidden state = 'succeeded'} OR generation = :generation)"

_RUN = """
    SELECT graph, coalesce(generation, 0), bounds FROM penstock_job
    WHERE id = :run AND graph IS NOT NULL"""
_COLUMNS = (
    f"path, id, {_STATUS}, attempt, accepted_at, started_at, settled_at, compute_s, batch_size, version, worker, error,"
    " device_s, available_at, generation"
)
_PLAIN = f"SELECT {_COLUMNS} FROM penstock_job WHERE run_id = :run AND path {{in names}} AND {_COUNTS}"  # noqa: S608
_MAPS = "SELECT path, size FROM penstock_map WHERE run_id = :run"
_ELEMENTS = f"""
    SELECT {{0 text}}, {_STATUS}, count(*), min(accepted_at), min(started_at), max(settled_at),
        sum(started_at - accepted_at), sum(settled_at - started_at), sum(device_s), sum(batch_size),
        count(batch_size), min(generation)
    FROM {{each rows}} JOIN penstock_job
        ON run_id = :run AND penstock_job.path >= {{1 text}} AND penstock_job.path < {{2 text}}
    WHERE {_COUNTS} GROUP BY 1, 2"""  # noqa: S608 - constants only
_FAILED = f"""
    SELECT {_COLUMNS} FROM penstock_job
    WHERE run_id = :run AND path >= :low AND path < :high AND {{hidden state IN ('failed', 'expired')}}
        AND generation = :generation
    ORDER BY path LIMIT :limit"""  # noqa: S608 - constants only


class StepRow(NamedTuple):
    """A step, or an element of a map, as its job stands. Times are Unix seconds. ``compute_s`` is how long its last
    batch took, ``device_s`` what its tenant was charged for all its attempts, seconds. A wait or a sleep is over at
    ``available_at`` at the latest. Of what a fork has ``taken_over``, times are those of its source."""

    path: str
    id: str
    status: str
    attempt: int
    accepted_at: float
    started_at: float | None
    settled_at: float | None
    compute_s: float | None
    batch_size: int | None
    version: str
    worker: str | None
    error: dict[str, Any] | None
    device_s: float | None = None
    available_at: float = 0.0
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class MapCounts:
    """A map: ``size`` elements, of which ``counts`` says how many have each status; the others are no jobs yet.

    ``accepted_at`` and ``started_at`` are the first element's, ``settled_at`` is the last one's so far. ``waited_s``,
    ``ran_s`` and ``device_s`` are sums over the elements, the last one of what their tenant was charged;
    ``mean_batch`` is the mean size of these batches. A fork takes a map over as a whole, or not.
    """

    size: int
    counts: Mapping[str, int]
    accepted_at: float | None = None
    started_at: float | None = None
    settled_at: float | None = None
    waited_s: float = 0.0
    ran_s: float = 0.0
    device_s: float = 0.0
    mean_batch: float | None = None
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class RunStanding:
    """A run's graph, and what has begun of it, by step; ``failed`` are the first ``MOST_FAILED`` elements of maps that
    failed or expired. ``max_parallel`` and ``budget_s`` (device seconds) are the run's bounds."""

    graph: Graph
    generation: int
    steps: Mapping[str, StepRow]
    maps: Mapping[str, MapCounts]
    failed: list[StepRow]
    max_parallel: int | None = None
    budget_s: float | None = None


def standing(db: Database, id: str) -> RunStanding:
    """See ``Store.run_standing``."""
    arguments.job_id(id)
    with db.read() as session:
        return read(session, id)


def read(session: Session, id: str) -> RunStanding:
    """The same within a transaction."""
    row = session.one(_RUN, {"run": id})
    if row is None:
        raise no_run(session, id)
    graph = plan_of(session, row[0]).graph
    values = {"run": id, "generation": row[1]}
    plain = [step.name for step in graph.steps if not step.maps]
    rows = session.all(_PLAIN, values | {"names": session.ids(plain)}) if plain else []
    maps = _maps(session, values) if len(plain) < len(graph.steps) else {}
    failed = [each for name in sorted(maps) for each in _failed(session, values, name, maps[name])]
    steps = {row[0]: _row(row) for row in rows}
    return RunStanding(graph, row[1], steps, maps, failed[:MOST_FAILED], *bounds_of(row[2]))


def critical_path(state: JobState, error: Mapping[str, Any] | None, standing: RunStanding) -> list[str]:
    """The steps that decided when a run ended; none while it goes on, and where somebody or a deadline ended it. What
    was taken over had ended before it began."""
    if state not in (JobState.SUCCEEDED, JobState.FAILED):
        return []
    times = {name: Times(row.accepted_at, row.settled_at) for name, row in standing.steps.items() if not row.taken_over}
    for name, one in standing.maps.items():
        if not one.taken_over:
            times[name] = Times(one.accepted_at, one.settled_at) if one.size else Times()
    path = (error or {}).get("step") if state is JobState.FAILED else None
    return critical(standing.graph, times, last=None if path is None else str(path).partition("[")[0])


def _maps(session: Session, values: dict[str, Any]) -> dict[str, MapCounts]:
    sizes = dict(session.all(_MAPS, values))
    rows = session.rows([(name, *elements_of(name).values()) for name in sizes])
    found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in sizes}
    for name, *row in session.all(_ELEMENTS, values | {"rows": rows}) if sizes else ():
        found[name].append(tuple(row))
    return {name: _counts(size, found[name]) for name, size in sizes.items()}


def _counts(size: int, rows: list[tuple[Any, ...]]) -> MapCounts:
    """A map's rows, one for each status, as one."""
    if not rows:
        return MapCounts(size, {})
    _, _, accepted, started, settled, waited, ran, computed, batches, batched, since = zip(*rows, strict=True)
    of = sum(batched)
    return MapCounts(
        size,
        {status: count for status, count, *_ in rows},
        accepted_at=min(accepted),
        started_at=min((at for at in started if at is not None), default=None),
        settled_at=max((at for at in settled if at is not None), default=None),
        waited_s=sum(each or 0.0 for each in waited),
        ran_s=sum(each or 0.0 for each in ran),
        device_s=sum(each or 0.0 for each in computed),
        mean_batch=float(sum(each or 0 for each in batches)) / of if of else None,
        taken_over=min(since) == TAKEN_OVER,
    )


def _failed(session: Session, values: dict[str, Any], name: str, of: MapCounts) -> list[StepRow]:
    if not (of.counts.get("failed") or of.counts.get("expired")):
        return []
    found = session.all(_FAILED, values | elements_of(name) | {"limit": MOST_FAILED})
    return [_row(row) for row in found]


def _row(row: tuple[Any, ...]) -> StepRow:
    *before, error, device_s, available_at, since = row
    told = None if error is None else msgspec.json.decode(error)
    return StepRow._make((*before, told, device_s, available_at, since == TAKEN_OVER))
