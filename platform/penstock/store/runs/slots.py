"""Bounds on how much of a run is in flight: of its steps, and of a map's elements. What is ready waits in the graph.

A map that has a bound has a row that says how far it has begun (``penstock_map_room``), which only who holds the run
changes: each end of an element lets the next one begin, in the same transaction. In flight is whatever has begun and
not ended, a step that went on as a run among it, whose own steps have a bound of their own; waits, sleeps and picks
take no worker, and no slot. Nor does what nothing needs any more: it is being cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from penstock.pipelines.effort import Effort
from penstock.pipelines.frontier import Outline
from penstock.pipelines.graph import Step, items_of
from penstock.store.records import Settled
from penstock.store.runs import maps
from penstock.store.runs.listcache import ListCache
from penstock.store.runs.paths import element, place
from penstock.store.runs.release import Release
from penstock.store.runs.run import OpenRun
from penstock.store.runs.stepstates import StepStates
from penstock.store.runs.values import Outputs, most_read, value_of
from penstock.store.session import Session
from penstock.store.sql import insert_sql

_INSERT = insert_sql(
    "penstock_map_room",
    ["run_id", "path", "size", "begun", "in_flight"],
)
_ROOMS = "SELECT path, size, begun, in_flight FROM penstock_map_room WHERE run_id = :run"
_BEGUN = """
    UPDATE penstock_map_room SET begun = :begun, in_flight = :in_flight WHERE run_id = :run AND path = :path"""
_FREE = """
    UPDATE penstock_map_room SET in_flight = in_flight - {2 int} FROM {each rows}
    WHERE run_id = {0 text} AND penstock_map_room.path = {1 text}"""
_REWIND = "UPDATE penstock_map_room SET begun = 0, in_flight = 0 WHERE run_id = :run"

_lists = ListCache()
#: What is in flight: what begins by itself or ends by itself is not.
TAKES = ("call", "run", "task")


@dataclass(slots=True)
class _Room:
    size: int
    begun: int
    in_flight: int


def bounded(run: OpenRun, plan: Outline) -> bool:
    """Whether anything in this run has to wait for a slot."""
    return run.max_parallel is not None or plan.bounded


def free(session: Session, ended: Iterable[Settled]) -> None:
    """Elements of maps, in runs that are held and bounded, have ended."""
    counts: dict[tuple[str, str], int] = {}
    for row in ended:
        name, index = place(row.path or "")
        if index is not None:
            counts[row.run_id or "", name] = counts.get((row.run_id or "", name), 0) + 1
    if counts:
        session.run(_FREE, {"rows": session.rows([(*key, count) for key, count in sorted(counts.items())])})


def rewind(session: Session, run: str) -> None:
    """A run without open steps begins anew; what has succeeded is passed over."""
    session.run(_REWIND, {"run": run})


class Slots:
    """The slots of one run, whose row is locked: ``count`` what is in flight before anything begins. ``now_is`` is the
    caller's, who keeps it up to date.
    """

    def __init__(self, session: Session, run: OpenRun, plan: Outline, now_is: StepStates) -> None:
        self._session = session
        self._run = run
        self._plan = plan
        self._now_is = now_is
        rows = session.all(_ROOMS, {"run": run.id}) if now_is.begun else []
        self._rooms = {path: _Room(*row) for path, *row in rows}
        self._left = inf

    def count(self, open: Iterable[str]) -> None:
        """Look at what is in flight: of the steps that have begun and not ended, those that are needed."""
        if self._run.max_parallel is not None:
            calls = [name for name in open if self._plan.steps[name].kind in TAKES]
            used = sum(self._rooms[name].in_flight if name in self._rooms else 1 for name in calls)
            self._left = max(0, self._run.max_parallel - used)

    @property
    def any(self) -> bool:
        """Whether a step that is ready may begin."""
        return self._left > 0

    def take(self) -> None:
        """A step has begun that is no map."""
        self._left -= 1

    def holds(self, step: Step) -> bool:
        """Whether elements of this map have to wait for slots."""
        return step.max_parallel is not None or self._run.max_parallel is not None

    def map(self, step: Step, items: Sequence[Any], *, now: float) -> bool:
        """Store such a map, none of whose elements has begun; whether it has ended, for there are none."""
        run = self._run
        maps.store(self._session, run, self._plan, step, len(items), begun=len(items), now=now)
        if not items:
            return True
        self._session.insert(_INSERT, [(run.id, step.name, len(items), 0, 0)])
        self._rooms[step.name] = _Room(len(items), 0, 0)
        _lists.keep((run.id, step.name, run.generation), items)
        return False

    def room(self, name: str) -> int:
        """How many more elements of this step may begin; 0 for what is no map with a bound."""
        room = self._rooms.get(name)
        if room is None or room.begun >= room.size:
            return 0
        widest = self._plan.steps[name].max_parallel
        free = inf if widest is None else widest - room.in_flight
        return int(max(0, min(room.size - room.begun, free, self._left)))

    def more(self, name: str, released: Release) -> int:
        """Begin a piece of them; how many these are. Raises ``NoValue``, ``TooMuchWork`` and ``InvalidOutput``."""
        room, step, run = self._rooms[name], self._plan.steps[name], self._run
        items = _lists.of((run.id, name, run.generation), lambda: self._items(step))
        piece = range(room.begun, min(room.size, room.begun + self._session.bulk_rows))
        # What an earlier generation has left is not done again.
        there = maps.succeeded(self._session, run, name, piece) if run.generation else set()
        left = [index for index in piece if index not in there]
        chosen = left[: self.room(name)]
        if step.graph is None:
            released.add(run, step, ((element(name, index), items[index]) for index in chosen))
            added = len(chosen)
        else:
            outputs = self._outputs()
            given = [(element(name, index), value_of(items[index])[0]) for index in chosen]
            added = released.add_items(run, step, outputs, given, most=maps.MOST_CHARACTERS)
        room.begun = piece.stop if added == len(left) else left[added]
        room.in_flight += added
        self._left -= added
        values = {"run": run.id, "path": name, "begun": room.begun, "in_flight": room.in_flight}
        self._session.run(_BEGUN, values)
        return added

    def _items(self, step: Step) -> Sequence[Any]:
        effort = Effort()
        try:
            return items_of(step, inputs=self._run.inputs, outputs=self._outputs(), effort=effort)
        finally:
            self._session.spent += effort.spent

    def _outputs(self) -> Outputs:
        """For each map anew: how much is read for it must not depend on what this process remembers of others."""
        return Outputs(self._session, self._run.id, self._plan, self._now_is.ended, most=most_read(self._session))
