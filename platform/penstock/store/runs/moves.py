"""One run after the other: what begins in it, or how it ends; the one place that asks ``frontier``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from penstock.errors import ExecutionError, InvalidOutput, PenstockError, TooMuchWork
from penstock.job import JobState
from penstock.pipelines.effort import NAMES, Effort
from penstock.pipelines.expression import evaluate
from penstock.pipelines.frontier import Outline, frontier
from penstock.pipelines.graph import items_of
from penstock.store.runs import following, maps, waits
from penstock.store.runs.ends import Ends, error_of
from penstock.store.runs.plans import plan_of
from penstock.store.runs.release import NO_ELEMENT, Release
from penstock.store.runs.run import OpenRun
from penstock.store.runs.todo import BEGINNING, DECIDING, Todo, leave
from penstock.store.runs.values import DECODED, Outputs, Standing, limited, load, most_read, standing, written
from penstock.store.session import Session

log = logging.getLogger(__name__)

#: What a run's own graph and values can raise.
_OF_THE_RUN = (PenstockError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: Operations that it takes to begin a step, and one that waits without a worker.
STEP, WAIT = 10, 40

_ERROR = """
    SELECT id, path, error FROM penstock_job
    WHERE run_id = :run AND (path = :path OR (path >= :low AND path < :high)) AND generation = :generation
        AND {hidden state = 'failed'} ORDER BY path LIMIT 1"""


class Moves:
    """What they come to is stored in the end: ``released`` and ``ends``."""

    def __init__(self, session: Session, now: float, ends: Ends) -> None:
        self._session = session
        self._now = now
        self.ends = ends
        self.released = Release(session, now=now)
        self._good: list[tuple[OpenRun, Outline, Outputs]] = []

    @property
    def full(self) -> bool:
        """Whether this transaction has decided on as much as one may."""
        return self._session.spent + self._session.begun >= DECIDING

    def leave(self, run: OpenRun) -> None:
        """Go on with this run in another transaction."""
        leave(self._session, [Todo(run.id)], now=self._now)

    def succeed(self) -> None:
        """End those runs of which nothing is left to do."""
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

    def straight(self, run: OpenRun, plan: Outline, now_is: Standing, ended: Collection[str]) -> bool:
        """In a graph where every step is needed; whether that was all: a step that ends as it begins is not."""
        fresh = self._next(plan, plan.following(ended), now_is)
        outputs = Outputs(self._session, run.id, plan, most=most_read(self._session))
        begun, at_once = self._begin(run, plan, fresh, outputs)
        if begun < len(fresh):
            self.leave(run)
        elif at_once:
            self.released.store()  # whoever looks at all of it finds what has begun in SQL
            return False
        elif not fresh and not plan.last.isdisjoint(ended) and plan.last <= now_is.ended:
            self._good.append((run, plan, outputs))
        return True

    def _next(self, plan: Outline, names: Collection[str], now_is: Standing) -> list[str]:
        """Those of these that can start in a graph where every step is needed."""
        self._session.spent += sum(len(plan.parents[name]) // NAMES + 1 for name in names)
        fresh = [
            name
            for name in names
            if name not in now_is.begun and all(parent in now_is.ended for parent in plan.parents[name])
        ]
        return [*fresh, *self._early(plan, names, now_is, fresh)]

    def whole(self, run: OpenRun, plan: Outline) -> None:
        """In any graph, whatever has happened; as far as this transaction has time for it."""
        now_is = Standing.new() if run.new else standing(self._session, run.id, run.generation, plan)
        outputs = Outputs(self._session, run.id, plan, now_is.ended, most=most_read(self._session))
        at_once: set[str] = set()
        known: dict[str, list[str]] = {}
        while True:
            if at_once and plan.straight and not now_is.failed:
                fresh = self._next(plan, plan.following(at_once), now_is)
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
                fresh += self._early(plan, plan.elementwise.source, now_is, fresh)
            if done:
                self._good.append((run, plan, outputs))
                return
            begun, at_once = self._begin(run, plan, fresh, outputs)
            if begun < len(fresh) or (at_once and self.full):
                self.leave(run)
                return
            if not at_once:
                if plan.picks or now_is.failed:  # else what has begun is needed
                    lost = sorted(now_is.open - plan.wanted(now_is.ended))
                    leave(self._session, [Todo(run.id, name) for name in lost], now=self._now)
                return
            now_is.begin(fresh, at_once)
            outputs.end(at_once)

    def _early(self, plan: Outline, names: Collection[str], now_is: Standing, fresh: Sequence[str]) -> list[str]:
        """Maps among these that begin before what they follow has ended."""
        if not plan.elementwise.source:
            return []
        begun = {*now_is.begun, *fresh}
        return plan.elementwise.early(names, plan.parents, begun=begun, ended=now_is.ended)

    def _begin(self, run: OpenRun, plan: Outline, names: Sequence[str], outputs: Outputs) -> tuple[int, set[str]]:
        """Begin these steps; how many of them there was time for, and those that have ended by that: a map of nothing,
        a wait for what has come.
        """
        at_once: set[str] = set()
        for number, name in enumerate(names):
            if self._session.begun >= BEGINNING:
                return number, at_once
            step, ended = plan.steps[name], False
            if step.kind == "run" and not step.maps:
                self.released.add_items(run, step, outputs, [(name, None)])
                self._session.begun += STEP
            elif step.kind not in ("call", "run", "task"):
                with self._effort() as effort:
                    ended = waits.begin(self._session, run, step, outputs, now=self._now, effort=effort)
                self._session.begun += WAIT
            elif name in plan.elementwise.source:
                ended = following.begin(self._session, run, plan, step, self.released, now=self._now)
                self._session.begun += STEP * self._session.bulk_rows
            elif step.maps:
                with self._effort() as effort:
                    items = items_of(step, inputs=run.inputs, outputs=outputs, effort=effort)
                ended = maps.begin(self._session, run, plan, step, items, outputs, self.released, now=self._now)
                self._session.begun += STEP * min(len(items), self._session.bulk_rows)
            else:
                self.released.add(run, step, [(name, NO_ELEMENT)])
                self._session.begun += STEP
            if ended:
                at_once.add(name)
        return len(names), at_once


def _error(session: Session, run: OpenRun, name: str) -> Mapping[str, Any]:
    """The error of a step that has failed, with its path."""
    values = {"run": run.id, "path": name, "low": f"{name}[", "high": f"{name}\\", "generation": run.generation}
    row = session.one(_ERROR, values)
    if row is None:
        return {"code": "failed", "message": f"step {name!r} failed", "retryable": False, "step": name}
    id, path, error = row
    return error_of(path, id, {} if error is None else msgspec.json.decode(error))
