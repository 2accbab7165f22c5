"""Which steps of a run have ended, begun and failed, and which are open: what a decision on it is about."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from penstock.job import OPEN
from penstock.pipelines.frontier import Outline
from penstock.store.records import STATES
from penstock.store.session import Session

#: Operations that it takes to find a row.
LOOK = 3

# By name, one look-up each: the elements of maps are passed over without being read.
_STEPS = """
    SELECT path, state, generation FROM penstock_job WHERE run_id = :run AND path {in names}"""
_MAPS = "SELECT path, pending, failed FROM penstock_map WHERE run_id = :run"
_STEPS_OF = """
    SELECT run_id, penstock_job.path, state, generation FROM {each rows}
    JOIN penstock_job ON run_id = {0 text} AND penstock_job.path = {1 text}"""
_MAPS_OF = "SELECT run_id, path, pending FROM penstock_map WHERE run_id {in runs}"


class StepStates(NamedTuple):
    """Steps: ``ended`` well, ``begun`` (ended or not), and ``failed`` or ``open`` in this generation."""

    ended: set[str]
    begun: set[str]
    failed: set[str]
    open: set[str]

    def begin(self, names: Iterable[str], ended: Iterable[str]) -> None:
        """These have begun, and some of them have ended by that."""
        self.begun.update(names)
        self.ended.update(ended)
        self.open.update(set(names).difference(ended))

    @classmethod
    def new(cls) -> StepStates:
        """Of a run in which nothing has begun."""
        return cls(set(), set(), set(), set())


#: A run, its generation and plan, the steps that are known to have ended, and those that are asked for.
Look = tuple[str, int, Outline, Collection[str], Sequence[str]]


def step_states(session: Session, run: str, generation: int, plan: Outline) -> StepStates:
    """Of all steps of a run; one that is in none of the sets has not begun."""
    session.spent += LOOK * len(plan.plain)
    rows = session.all(_STEPS, {"run": run, "names": session.ids(plan.plain)})
    ended = {path for path, state, _ in rows if state == "succeeded"}
    begun = ended | {path for path, _, since in rows if since == generation}
    failed = {path for path, state, since in rows if state == "failed" and since == generation}
    open = {path for path, state, since in rows if since == generation and STATES[state] in OPEN}
    if len(plan.plain) < len(plan.steps):
        counted = session.all(_MAPS, {"run": run})
        ended |= {path for path, pending, _ in counted if pending == 0}
        begun |= {path for path, _, _ in counted}
        failed |= {path for path, _, since in counted if since == generation}
        open |= {path for path, pending, _ in counted if pending}
    return StepStates(ended, begun, failed, open)


def some_step_states(session: Session, looks: Sequence[Look]) -> dict[str, StepStates]:
    """Of some steps of some runs, by run, with two statements for all; ``failed`` and ``open`` stay empty."""
    found = {run: StepStates(set(ended), set(ended), set(), set()) for run, _, _, ended, _ in looks}
    generations = {run: generation for run, generation, *_ in looks}
    pairs = [(run, name) for run, _, plan, _, names in looks for name in names if not plan.steps[name].maps]
    session.spent += LOOK * len(pairs)
    for run, path, state, since in session.all(_STEPS_OF, {"rows": session.rows(pairs)}) if pairs else ():
        if state == "succeeded":
            found[run].ended.add(path)
        if state == "succeeded" or since == generations[run]:
            found[run].begun.add(path)
    mapping = [run for run, _, plan, _, names in looks if any(plan.steps[name].maps for name in names)]
    for run, path, pending in session.all(_MAPS_OF, {"runs": session.ids(mapping)}) if mapping else ():
        found[run].begun.add(path)
        if pending == 0:
            found[run].ended.add(path)
    return found
