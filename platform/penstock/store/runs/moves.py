"""One run after the other: what begins in it, or how it ends; the one place that asks ``frontier``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import msgspec

from penstock.errors import ExecutionError, InvalidOutput, PenstockError, TooMuchWork
from penstock.job import JobState
from penstock.pipelines.effort import NAMES, Effort
from penstock.pipelines.expression import evaluate, named
from penstock.pipelines.frontier import Outline, frontier
from penstock.pipelines.graph import Step, items_of
from penstock.store.runs import following, maps, waits
from penstock.store.runs.budget import Overdraft
from penstock.store.runs.ends import Ends, error_of
from penstock.store.runs.paths import elements_of
from penstock.store.runs.plans import plan_of
from penstock.store.runs.release import NO_ELEMENT, Release
from penstock.store.runs.run import OpenRun, locked
from penstock.store.runs.slots import TAKES, Slots, bounded
from penstock.store.runs.stepstates import StepStates, step_states
from penstock.store.runs.todo import BEGINNING, DECIDING, Todo, leave, undecided
from penstock.store.runs.values import DECODED, Outputs, limited, load, most_read, written
from penstock.store.session import Session

log = logging.getLogger(__name__)

#: What a run's own graph and values can raise.
_OF_THE_RUN = (PenstockError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: Operations that it takes to begin a step, and one that waits without a worker: rows of the job table and its indexes.
STEP, WAIT = 30, 80


def cost(session: Session, step: Step) -> int:
    """Operations that it takes to begin this step, of a map its first elements."""
    if step.kind not in TAKES:
        return WAIT
    return STEP * session.bulk_rows if step.maps else STEP


_ERROR = """
    SELECT id, path, error FROM penstock_job
    WHERE run_id = :run AND (path = :path OR (path >= :low AND path < :high)) AND generation = :generation
        AND {hidden state = 'failed'} ORDER BY path LIMIT 1"""


class _Begun(NamedTuple):
    """Steps that have begun, and those of them that have ended by that: a map of nothing, a wait for what has come.
    ``left``: there are more that could begin, and there was no time for them."""

    names: list[str]
    at_once: set[str]
    left: bool


class Moves:
    """Decides on runs, whose rows are locked. What it decides is collected in ``released`` and ``ends``; the caller
    stores both, once for all runs.
    """

    def __init__(self, session: Session, now: float, ends: Ends) -> None:
        self._session = session
        self._now = now
        self.ends = ends
        self.released = Release(session, now=now)
        self._good: list[tuple[OpenRun, Outline, Outputs]] = []
        self._over: dict[str, Overdraft] = {}

    @property
    def full(self) -> bool:
        """Whether this transaction has decided on as much as one may."""
        return self._session.spent + self._session.begun >= DECIDING

    def leave(self, run: OpenRun) -> None:
        """Go on with this run in another transaction."""
        leave(self._session, [Todo(run.id)], now=self._now)

    def succeed(self) -> None:
        """End those runs whose output is known, with it."""
        with suppress(TooMuchWork):  # of one of them, which meets it again when it is its turn
            load((outputs, plan.named) for _, plan, outputs in self._good)
        for number, (run, plan, outputs) in enumerate(self._good):
            if number and self.full:
                self.leave(run)
                continue
            with self.guarded(run), self._effort() as effort:
                outputs.load(plan.named)
                output = written(evaluate(plan.graph.output, inputs=run.inputs, outputs=outputs, effort=effort))
                self._session.spent += len(output) // DECODED
                limited(self._session, "the run's output", output)
                self.ends.add(run, JobState.SUCCEEDED, output=output)

    def stop(self) -> None:
        """End those runs that have more to do and are over their budgets; call it after ``succeed``."""
        runs = locked(self._session, [id for id in self._over if id not in self.ends])
        # One that is left to another transaction may be done: that one tells.
        left = undecided(self._session, [run.id for run in runs])
        for run in runs:
            if run.id not in left:
                self.ends.add(run, JobState.FAILED, error=self._over[run.id].error.as_dict())

    @contextmanager
    def _effort(self) -> Iterator[Effort]:
        effort = Effort()
        try:
            yield effort
        finally:
            self._session.spent += effort.spent

    def plan(self, run: OpenRun) -> Outline | None:
        """What it runs; ``None`` when that cannot be told, and it has ended by that."""
        with self.guarded(run):
            return plan_of(self._session, run.graph)
        return None

    @contextmanager
    def guarded(self, run: OpenRun) -> Iterator[None]:
        """Whatever is wrong with one run ends that one alone; what the database raises is everybody's."""
        try:
            yield
        except ExecutionError as error:
            self.ends.add(run, JobState.FAILED, error=error.as_dict())
        except _OF_THE_RUN as error:
            log.exception("run %s cannot go on", run.id)
            fault = (
                error if isinstance(error, PenstockError) else InvalidOutput(f"the run cannot go on: {error!r:.500}")
            )
            self.ends.add(run, JobState.FAILED, error=fault.as_dict())

    def straight(self, run: OpenRun, plan: Outline, now_is: StepStates, ended: Collection[str]) -> bool:
        """Begin what follows the steps that have just ``ended``, in a graph where every step is needed. False where one
        has ended as it began: then ``whole`` has to look at the run.
        """
        fresh = self._next(run, plan, plan.following(ended), now_is)
        outputs = Outputs(self._session, run.id, plan, most=most_read(self._session))
        begun = self._begin(run, plan, fresh, outputs)
        if begun.left:
            self.leave(run)
        elif begun.at_once:
            self.released.store()  # whoever looks at all of it finds what has begun in SQL
            return False
        elif not fresh and not plan.last.isdisjoint(ended) and plan.last <= now_is.ended:
            self._good.append((run, plan, outputs))
        return True

    def _next(self, run: OpenRun, plan: Outline, names: Collection[str], now_is: StepStates) -> list[str]:
        """Those of these that can start in a graph where every step is needed."""
        self._session.spent += sum(len(plan.parents[name]) // NAMES + 1 for name in names)
        fresh = [
            name
            for name in names
            if name not in now_is.begun and all(parent in now_is.ended for parent in plan.parents[name])
        ]
        return [*fresh, *self._early(run, plan, names, now_is, fresh)]

    def whole(self, run: OpenRun, plan: Outline, over: Overdraft | None = None) -> None:
        """Decide on a run of any graph, whatever has happened in it, as far as this transaction has time. Where it is
        ``over`` its budget, only what calls nothing begins any more.
        """
        now_is = StepStates.new() if run.new else step_states(self._session, run.id, run.generation, plan)
        outputs = Outputs(self._session, run.id, plan, now_is.ended, most=most_read(self._session))
        slots = Slots(self._session, run, plan, now_is) if bounded(run, plan) and over is None else None
        at_once: set[str] = set()
        known: dict[str, list[str]] = {}
        while True:
            going: list[str] = []
            if at_once and plan.straight and not now_is.failed:
                fresh = self._next(run, plan, plan.following(at_once), now_is)
                done = plan.last <= now_is.ended
            else:
                with self._effort() as effort:
                    possible = frontier(
                        plan, inputs=run.inputs, outputs=outputs, failed=now_is.failed, effort=effort, waits=known
                    )
                if possible.failed is not None:
                    self.ends.add(run, JobState.FAILED, error=_error(self._session, run, possible.failed))
                    return
                fresh, done = [name for name in possible.ready if name not in now_is.begun], possible.done
                fresh += self._early(run, plan, plan.elementwise.source, now_is, fresh)
                if slots is not None:
                    going = [name for name in possible.ready if name in now_is.begun]
                    slots.count(now_is.open - _lost(plan, now_is))
            if done:
                self._good.append((run, plan, outputs))
                return
            if over is not None:
                fresh = [name for name in fresh if self._free(run, plan.steps[name], outputs)]
                if not fresh:
                    self._over[over.run] = over
                    return
            begun = self._begin(run, plan, fresh, outputs, slots)
            at_once = begun.at_once
            left = begun.left or (slots is not None and self._begin_elements(slots, going))
            if left or (at_once and self.full):
                self.leave(run)
                return
            if not at_once:
                lost = sorted(_lost(plan, now_is))
                leave(self._session, [Todo(run.id, name) for name in lost], now=self._now)
                return
            now_is.begin(begun.names, at_once)
            outputs.end(at_once)

    def _early(
        self, run: OpenRun, plan: Outline, names: Collection[str], now_is: StepStates, fresh: Sequence[str]
    ) -> list[str]:
        """Maps among these that begin before what they follow has ended."""
        if not plan.elementwise.source or run.max_parallel is not None:
            return []
        begun = {*now_is.begun, *fresh}
        return plan.elementwise.early(names, plan.parents, begun=begun, ended=now_is.ended)

    def _begin(
        self, run: OpenRun, plan: Outline, names: Sequence[str], outputs: Outputs, slots: Slots | None = None
    ) -> _Begun:
        """Begin these steps as far as there are slots for them, and time."""
        found = _Begun([], set(), left=False)
        for name in names:
            if self._session.begun >= BEGINNING:
                return found._replace(left=True)
            step, ended = plan.steps[name], False
            if slots is not None and step.kind in TAKES and not slots.any:
                continue
            if step.kind == "run" and not step.maps:
                self.released.add_items(run, step, outputs, [(name, None)])
                self._session.begun += STEP
            elif step.kind not in TAKES:
                with self._effort() as effort:
                    ended = waits.begin(self._session, run, step, outputs, now=self._now, effort=effort)
                self._session.begun += WAIT
            elif name in plan.elementwise.source and run.max_parallel is None:
                ended = following.begin(self._session, run, plan, step, self.released, now=self._now)
                self._session.begun += STEP * self._session.bulk_rows
            elif step.maps:
                with self._effort() as effort:
                    items = items_of(step, inputs=run.inputs, outputs=outputs, effort=effort)
                if slots is not None and slots.holds(step):
                    ended = slots.map(step, items, now=self._now)
                    found = found._replace(left=self._begin_elements(slots, [name]))
                else:
                    ended = maps.begin(self._session, run, plan, step, items, outputs, self.released, now=self._now)
                    self._session.begun += STEP * min(len(items), self._session.bulk_rows)
            else:
                self.released.add(run, step, [(name, NO_ELEMENT)])
                self._session.begun += STEP
            if slots is not None and step.kind in TAKES and not step.maps:
                slots.take()
            found.names.append(name)
            if ended:
                found.at_once.add(name)
            if found.left:
                break
        return found

    def _free(self, run: OpenRun, step: Step, outputs: Outputs) -> bool:
        """Whether a step that may begin ends by that, and calls nothing: a pick, a map of nothing."""
        if not step.maps or not all(name in outputs for name in named(step.over, "$out")):
            return step.kind == "pick"
        with self._effort() as effort:
            return not items_of(step, inputs=run.inputs, outputs=outputs, effort=effort)

    def _begin_elements(self, slots: Slots, names: Iterable[str]) -> bool:
        """Begin elements of these maps as far as there are slots, a piece of each; whether more could begin than there
        was time for.
        """
        begun = 0
        for name in names:
            if not slots.room(name):
                continue
            if self._session.begun >= BEGINNING or (begun and self.full):
                return True
            begun += 1
            self._session.begun += STEP * max(1, slots.more(name, self.released))
            if slots.room(name):
                return True
        return False


def _lost(plan: Outline, now_is: StepStates) -> set[str]:
    """What is open and needed no longer."""
    return now_is.open - plan.wanted(now_is.ended) if plan.picks or now_is.failed else set()


def _error(session: Session, run: OpenRun, name: str) -> Mapping[str, Any]:
    """The error of a step that has failed, with its path."""
    values = {"run": run.id, "path": name, "generation": run.generation, **elements_of(name)}
    row = session.one(_ERROR, values)
    if row is None:
        return {"code": "failed", "message": f"step {name!r} failed", "retryable": False, "step": name}
    id, path, error = row
    return error_of(path, id, {} if error is None else msgspec.json.decode(error))
