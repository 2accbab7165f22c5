"""Steps that are called for each element of a list: begun in pieces, and counted in chunks.

Ten thousand children that end at the same time must not wait for one row. So each counts down that of its chunk; the
last one of a chunk counts down the map's, and the last one of those is the map's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from penstock.pipelines.effort import Effort
from penstock.pipelines.frontier import Outline
from penstock.pipelines.graph import Step, items_of
from penstock.store.records import Settled
from penstock.store.runs.paths import element, place
from penstock.store.runs.release import Release
from penstock.store.runs.run import OpenRun
from penstock.store.runs.stepstates import step_states
from penstock.store.runs.values import Outputs, most_read
from penstock.store.session import Session
from penstock.store.sql import insert_sql

#: Characters of the inputs of runs that one transaction begins; the last one may go beyond it.
MOST_CHARACTERS = 2 * 2**20
#: Elements that the first transaction begins: a batch can run while the others are stored.
FIRST = 64
#: Elements that have a counter of their own.
CHUNK = 256

_INSERT = insert_sql(
    "penstock_map",
    ["run_id", "path", "size", "begun", "pending", "begun_at"],
)
_INSERT_CHUNK = insert_sql(
    "penstock_map_chunk",
    ["run_id", "path", "chunk", "pending", "followed", "watched"],
)
_COUNT_CHUNK = """
    UPDATE penstock_map_chunk SET pending = pending - {3 int} FROM {each rows}
    WHERE run_id = {0 text} AND penstock_map_chunk.path = {1 text} AND chunk = {2 int}
    RETURNING run_id, penstock_map_chunk.path, pending, followed, watched"""
_COUNT = """
    UPDATE penstock_map SET pending = pending - {2 int} FROM {each rows}
    WHERE run_id = {0 text} AND penstock_map.path = {1 text} RETURNING run_id, penstock_map.path, pending"""
_BEGUN = """
    UPDATE penstock_map SET begun = :begun, begun_at = :now WHERE run_id = :run AND path = :path"""
_MAP = "SELECT size, begun, failed FROM penstock_map WHERE run_id = :run AND path = :path {locked}"
_FAIL = """
    UPDATE penstock_map SET failed = {2 int} FROM {each rows}
    WHERE run_id = {0 text} AND penstock_map.path = {1 text}"""
_SUCCEEDED = """
    SELECT path FROM penstock_job WHERE run_id = :run AND path {in paths} AND {hidden state = 'succeeded'}"""


class Rest(NamedTuple):
    """A map of which a part has begun: whoever began that goes on with the rest, in another transaction."""

    run: str
    path: str
    #: All elements, where this process has them.
    items: Sequence[Any] | None = None


class Held(NamedTuple):
    """A map that is locked: how long it is, how much of it has begun, and in which generation it has failed."""

    size: int
    begun: int
    failed: int | None


class Counted(NamedTuple):
    """Maps, runs and paths: those that are ``whole`` now, and those that are ``followed`` by others. ``watched`` are
    runs with a bound, to which each element matters."""

    whole: set[tuple[str, str]]
    followed: set[tuple[str, str]]
    watched: set[str]


def begin(
    session: Session,
    run: OpenRun,
    plan: Outline,
    step: Step,
    items: Sequence[Any],
    outputs: Outputs,
    released: Release,
    *,
    now: float,
) -> bool:
    """Store a map and its first elements; whether it has ended, for there are none."""
    store(session, run, plan, step, len(items), begun=0, now=now)
    if items:
        _begin_more(session, run, step, items, 0, outputs, released, now=now)
    return not items


def store(session: Session, run: OpenRun, plan: Outline, step: Step, size: int, *, begun: int, now: float) -> None:
    """Store a map, none of whose elements has ended; ``begun`` are those that whoever goes on with it leaves out."""
    chunks = [min(CHUNK, size - at) for at in range(0, size, CHUNK)]
    followed = step.name in plan.elementwise.followers
    session.insert(_INSERT, [(run.id, step.name, size, begun, len(chunks), now)])
    flags = (followed, run.bounded or step.max_parallel is not None)
    session.insert(_INSERT_CHUNK, [(run.id, step.name, number, many, *flags) for number, many in enumerate(chunks)])


def hold(session: Session, rest: Rest) -> Held | None:
    """Lock a map, before its run."""
    row = session.one(_MAP, {"run": rest.run, "path": rest.path})
    return None if row is None else Held._make(row)


def go_on(session: Session, run: OpenRun, plan: Outline, rest: Rest, held: Held, *, now: float) -> None:
    """The next piece of a map that is held; ``session.maps`` says whether there is more. Raises ``NoValue``."""
    step = plan.steps[rest.path]
    size, begun, failed = held
    if begun >= size:
        return
    outputs = Outputs(session, run.id, plan, most=most_read(session))
    if not plan.straight:
        ended = step_states(session, run.id, run.generation, plan).ended
        if failed == run.generation or rest.path not in plan.wanted(ended):  # a retry begins it from its beginning
            move(session, run, step, size, now=now)
            return
        outputs = Outputs(session, run.id, plan, ended, most=most_read(session))
    items = rest.items
    if items is None:
        items = items_of(step, inputs=run.inputs, outputs=outputs, effort=Effort())
    released = Release(session, now=now)
    _begin_more(session, run, step, items, begun, outputs, released, now=now)
    released.store()


def _begin_more(
    session: Session,
    run: OpenRun,
    step: Step,
    items: Sequence[Any],
    begun: int,
    outputs: Outputs,
    released: Release,
    *,
    now: float,
) -> None:
    most = session.bulk_rows if begun else min(FIRST, session.bulk_rows)
    piece = range(begun, min(len(items), begun + most))
    # What an earlier generation has left is not done again.
    there = succeeded(session, run, step.name, piece) if run.generation else set()
    left = [index for index in piece if index not in there]
    added = released.add_items(
        run, step, outputs, [(element(step.name, index), items[index]) for index in left], most=MOST_CHARACTERS
    )
    stop = piece.stop if added == len(left) else left[added]
    move(session, run, step, stop, now=now)
    if stop < len(items):
        session.maps.append(Rest(run.id, step.name, items))


def move(session: Session, run: OpenRun, step: Step, begun: int, *, now: float) -> None:
    """Note that so many elements of a map have begun."""
    session.run(_BEGUN, {"begun": begun, "run": run.id, "path": step.name, "now": now})


def succeeded(session: Session, run: OpenRun, name: str, indices: Iterable[int]) -> set[int]:
    """Those of these elements that have succeeded, in whatever generation."""
    paths = {element(name, index): index for index in indices}
    return {paths[row[0]] for row in session.all(_SUCCEEDED, {"run": run.id, "paths": session.ids(paths)})}


def count(session: Session, steps: Iterable[Settled]) -> Counted:
    """Count elements that have succeeded."""
    chunks: dict[tuple[str, str, int], int] = {}
    for row in steps:
        name, index = place(row.path or "")
        if index is not None:
            key = (row.run_id or "", name, index // CHUNK)
            chunks[key] = chunks.get(key, 0) + 1
    ended: dict[tuple[str, str], int] = {}
    followed: set[tuple[str, str]] = set()
    watched: set[str] = set()
    for run, path, pending, follows, bounded in _down(session, _COUNT_CHUNK, chunks):
        if pending == 0:
            ended[run, path] = ended.get((run, path), 0) + 1
        if follows:
            followed.add((run, path))
        if bounded:
            watched.add(run)
    whole = {(run, path) for run, path, pending in _down(session, _COUNT, ended) if pending == 0}
    return Counted(whole, followed, watched)


def fail(session: Session, steps: Iterable[Settled]) -> None:
    """Note that elements have failed, each in its generation."""
    rows = {
        (step.run_id, name, step.generation)
        for step in steps
        for name, index in [place(step.path or "")]
        if index is not None
    }
    if rows:
        session.run(_FAIL, {"rows": session.rows(sorted(rows))})


def _down(session: Session, statement: str, counts: dict[Any, int]) -> list[tuple[Any, ...]]:
    """In the order of the keys, as everybody does it: transactions then meet rather than deadlock."""
    rows = [(*key, n) for key, n in sorted(counts.items())]
    return session.all(statement, {"rows": session.rows(rows)}) if rows else []
