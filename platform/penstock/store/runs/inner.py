"""Steps that are runs of a graph of their own: a row each, as a run's; their own steps are batched with anybody's.

The transaction that lets them begin stores them. What can start in them begins in the ones behind it (``first``), where
the run around them is not held; the dispatcher does it when whoever began them dies in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.errors import InvalidOutput
from penstock.job import new_id
from penstock.pipelines.graph import Graph, Step, input_of
from penstock.store.columns import STEP
from penstock.store.runs import plans
from penstock.store.runs.bounds import text_of
from penstock.store.runs.run import OpenRun
from penstock.store.runs.values import Outputs, written
from penstock.store.session import Session
from penstock.store.sql import insert_sql

#: Runs whose first steps begin in one transaction.
PIECE = 100

_INSERT = insert_sql("penstock_job", [*STEP, "started_at", "deadline_at", "graph", "state", "bounds", "start_by"])
# Its graph is this one's, but for the versions that a retry may have moved it to.
_EARLIER = """
    SELECT path, id FROM penstock_job WHERE run_id = :run AND path {in paths} AND graph IS NOT NULL
        AND {hidden state IN ('failed', 'cancelled', 'expired')} ORDER BY generation"""
# What has succeeded in an earlier generation of a run, and how far its maps are, is that of the new one now.
_TAKE_STEPS = """
    UPDATE penstock_job SET run_id = {0 text} FROM {each rows}
    WHERE run_id = {1 text} AND ({hidden state = 'succeeded'}
        OR graph IS NOT NULL AND {hidden state IN ('failed', 'cancelled', 'expired')})"""
_TAKE_MAPS = """
    UPDATE penstock_map SET run_id = {0 text}, begun = CASE WHEN pending > 0 AND NOT EXISTS (
            SELECT 1 FROM penstock_map_room AS room WHERE room.run_id = {1 text} AND room.path = penstock_map.path
        ) THEN 0 ELSE begun END
    FROM {each rows} WHERE run_id = {1 text}"""
_TAKE_ROOMS = """
    UPDATE penstock_map_room SET run_id = {0 text}, begun = 0, in_flight = 0 FROM {each rows} WHERE run_id = {1 text}"""
_TAKE_CHUNKS = "UPDATE penstock_map_chunk SET run_id = {0 text} FROM {each rows} WHERE run_id = {1 text}"
_TAKE_SIGNALS = "UPDATE penstock_signal SET run_id = {0 text} FROM {each rows} WHERE run_id = {1 text}"


@dataclass(frozen=True, slots=True)
class Beginning:
    """Runs that a step, or elements of a map, are: their paths, and their inputs, JSON texts."""

    run: OpenRun
    graph: Graph
    elements: Sequence[tuple[str, str]]
    #: When they should have ended, for the run around to be in time: see ``slack``.
    start_by: float | None = None


def inputs_of(run: OpenRun, step: Step, outputs: Outputs, items: Sequence[Any], max_bytes: int) -> str:
    """What such a run is given, JSON text; raises ``NoValue`` or ``InvalidOutput``."""
    text = written(input_of(step, inputs=run.inputs, outputs=outputs, items=items))
    if len(text) > max_bytes:
        raise InvalidOutput(
            f"a run of step {step.name!r} is given {len(text):,} bytes of JSON; the limit is {max_bytes:,}:"
            " PENSTOCK_JOB__MAX_OUTPUT_BYTES"
        )
    return text


def store(session: Session, beginnings: Iterable[Beginning], *, now: float) -> None:
    """Store these runs; ``session.inner`` are those whose steps are to begin."""
    rows = []
    beginnings = list(beginnings)
    # By the graphs themselves: steps of other pipelines may have the same name.
    graphs = {id(each.graph): each.graph for each in beginnings}
    texts = {key: graph.to_json().decode() for key, graph in graphs.items()}
    plans.store(session, texts.values())
    digests = {key: plans.digest_of(text) for key, text in texts.items()}
    for each in beginnings:
        run, digest = each.run, digests[id(each.graph)]
        ids = {path: new_id() for path, _ in each.elements}
        # Its own bound, or that of the run around it; what is spent is that one's.
        most = run.max_parallel if each.graph.max_parallel is None else each.graph.max_parallel
        of_run = (run.lane, now, now, run.tenant, run.priority, run.timeout_s, run.trace, run.id)
        of_all = (now, run.deadline_at, digest, "running", text_of(most, run.budget_s), each.start_by)
        rows += [
            (ids[path], each.graph.name, "", given, *of_run, path, run.generation, *of_all)
            for path, given in each.elements
        ]
        session.inner += ids.values()
        if run.generation:
            _take_over(session, run, ids)
    session.insert(_INSERT, rows)


def _take_over(session: Session, run: OpenRun, ids: dict[str, str]) -> None:
    """What has succeeded is not done again."""
    values = {"run": run.id, "paths": session.ids(ids)}
    pairs = session.rows([(ids[path], id) for path, id in dict(session.all(_EARLIER, values)).items()])
    for statement in (_TAKE_STEPS, _TAKE_MAPS, _TAKE_ROOMS, _TAKE_CHUNKS, _TAKE_SIGNALS):
        session.run(statement, {"rows": pairs})
