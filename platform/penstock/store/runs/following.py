"""Maps that follow another one element by element: ``b[i]`` begins in the transaction that ends ``a[i]``.

``begun`` of such a map is a cursor, too. Before it, ``b[i]`` begins with the end of ``a[i]``; behind it, what can begin
is begun in pieces, as of any map. Whoever reads the cursor or moves it holds the run. So either who ends ``a[i]`` sees
that the cursor has passed it, or who moves the cursor sees that ``a[i]`` has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from penstock.pipelines.frontier import Outline
from penstock.pipelines.graph import Step
from penstock.store.runs import maps
from penstock.store.runs.paths import element, place
from penstock.store.runs.release import NO_ELEMENT, Release
from penstock.store.runs.run import OpenRun
from penstock.store.runs.values import Outputs, element_outputs, value_of
from penstock.store.session import Session

_SOURCE = "SELECT size, pending FROM penstock_map WHERE run_id = :run AND path = :path"
# A chunk that has all of its elements before it.
_TOUCHED = """
    SELECT chunk FROM penstock_map_chunk WHERE run_id = :run AND path = :path
        AND pending < CASE WHEN (chunk + 1) * :most > :size THEN :size - chunk * :most ELSE :most END LIMIT 1"""
_LENGTHS = """
    SELECT path, length(output) FROM penstock_job
    WHERE run_id = :run AND path {in paths} AND {hidden state = 'succeeded'}"""
_CURSORS = """
    SELECT run_id, penstock_map.path, begun FROM {each rows}
    JOIN penstock_map ON run_id = {0 text} AND penstock_map.path = {1 text}"""


class Due(NamedTuple):
    """Elements of a map that begin with the ends of those that they follow."""

    step: str
    indices: list[int]


def begin(session: Session, run: OpenRun, plan: Outline, step: Step, released: Release, *, now: float) -> bool:
    """Store a map that follows one which has begun, and begin what can; whether it has ended, for it is of nothing."""
    source = plan.elementwise.source[step.name]
    [(size, pending)] = session.all(_SOURCE, {"run": run.id, "path": source})
    values = {"run": run.id, "path": source, "size": size, "most": maps.CHUNK}
    nothing_yet = bool(pending) and session.one(_TOUCHED, values) is None
    maps.store(session, run, plan, step, size, begun=size if nothing_yet else 0, now=now)
    if size and not nothing_yet:
        _begin_more(session, run, plan, step, 0, size, released, now=now)
    return not size


def go_on(session: Session, run: OpenRun, plan: Outline, rest: maps.Rest, held: maps.Held, *, now: float) -> None:
    """The next piece of such a map, which is held; ``session.maps`` says whether there is more."""
    size, begun, _ = held
    if begun < size:
        released = Release(session, now=now)
        _begin_more(session, run, plan, plan.steps[rest.path], begun, size, released, now=now)
        released.store()


def due(session: Session, plans: Mapping[str, Outline], ended: Mapping[str, Iterable[str]]) -> dict[str, list[Due]]:
    """What begins, by run, now that these elements have succeeded, paths by run. The runs are locked."""
    indices: dict[tuple[str, str], list[int]] = {}
    for run, paths in ended.items():
        for path in paths:
            name, index = place(path)
            for follower in plans[run].elementwise.followers.get(name, ()) if index is not None else ():
                indices.setdefault((run, follower), []).append(index or 0)
    if not indices:
        return {}
    found: dict[str, list[Due]] = {}
    for run, name, begun in session.all(_CURSORS, {"rows": session.rows(sorted(indices))}):
        if before := sorted(index for index in indices[run, name] if index < begun):
            found.setdefault(run, []).append(Due(name, before))
    return found


def release(session: Session, run: OpenRun, plan: Outline, elements: Iterable[Due], released: Release) -> None:
    """Begin these elements; raises ``NoValue`` and ``InvalidOutput``."""
    for name, indices in elements:
        step, source = plan.steps[name], plan.elementwise.source[name]
        if step.graph is not None:
            _release_runs(session, run, plan, step, indices, released)
            continue
        # What it is of is read at its claim, where it is not at hand.
        known = ((index, session.outputs.get((run.id, element(source, index)))) for index in indices)
        at_hand = {element(name, index): f"[{text}]" for index, text in known if text is not None}
        released.add(run, step, ((element(name, index), NO_ELEMENT) for index in indices), at_hand)


def _release_runs(
    session: Session,
    run: OpenRun,
    plan: Outline,
    step: Step,
    indices: Sequence[int],
    released: Release,
    *,
    most: int = sys.maxsize,
) -> int:
    """The same for elements that are runs, whose inputs are stored with each: as many as ``Release.add_items`` says."""
    source = plan.elementwise.source[step.name]
    texts = element_outputs(session, [(run.id, element(source, index)) for index in indices])
    given = [(element(step.name, index), value_of(texts[run.id, element(source, index)])) for index in indices]
    return released.add_items(run, step, Outputs(session, run.id, plan), given, most=most)


def _begin_more(
    session: Session, run: OpenRun, plan: Outline, step: Step, begun: int, size: int, released: Release, *, now: float
) -> None:
    piece = range(begun, min(size, begun + session.bulk_rows))
    there = maps.succeeded(session, run, plan.elementwise.source[step.name], piece)
    if run.generation:  # what an earlier one has left is not done again
        there -= maps.succeeded(session, run, step.name, piece)
    left, stop = sorted(there), piece.stop
    if step.graph is None:
        release(session, run, plan, [Due(step.name, left)], released)
    else:
        short = _short(session, run, plan.elementwise.source[step.name], left)
        added = _release_runs(session, run, plan, step, left[:short], released, most=maps.MOST_CHARACTERS)
        stop = stop if added == len(left) else left[added]
    maps.move(session, run, step, stop, now=now)
    if stop < size:
        session.maps.append(maps.Rest(run.id, step.name))


def _short(session: Session, run: OpenRun, source: str, indices: Sequence[int]) -> int:
    """How many of these elements are read together: the last one may go beyond what one transaction begins."""
    if not indices:
        return 0
    paths = session.ids([element(source, index) for index in indices])
    lengths = dict(session.all(_LENGTHS, {"run": run.id, "paths": paths}))
    total = 0
    for number, index in enumerate(indices):
        if total >= maps.MOST_CHARACTERS:
            return number
        total += lengths[element(source, index)]
    return len(indices)
