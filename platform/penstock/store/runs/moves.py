"""One run after the other: what begins in it, or how it ends; the one place that asks ``frontier``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from penstock.errors import InvalidOutput, NoValue, PenstockError
from penstock.job import JobState
from penstock.pipelines.expression import evaluate, named
from penstock.pipelines.frontier import Outline, frontier
from penstock.pipelines.graph import items_of
from penstock.store.runs import following, maps, waits
from penstock.store.runs.ends import Ends, error_of
from penstock.store.runs.plans import plan_of
from penstock.store.runs.release import NO_ELEMENT, Release
from penstock.store.runs.run import OpenRun
from penstock.store.runs.values import NEW, Outputs, Standing, load, standing, written
from penstock.store.session import Session

log = logging.getLogger(__name__)

#: What a run's own graph and values can raise.
_OF_THE_RUN = (PenstockError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

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

    def succeed(self) -> None:
        """End those runs of which nothing is left to do."""
        load((outputs, named(plan.graph.output, "$out")) for _, plan, outputs in self._good)
        for run, plan, outputs in self._good:
            with self.guarded(run):
                output = written(evaluate(plan.graph.output, inputs=run.inputs, outputs=outputs))
                if len(output) > self._session.max_output_bytes:
                    raise InvalidOutput(
                        f"the run's output has {len(output):,} bytes of JSON; the limit is"
                        f" {self._session.max_output_bytes:,}: PENSTOCK_JOB__MAX_OUTPUT_BYTES"
                    )
                self.ends.add(run, JobState.SUCCEEDED, output=output)

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
        except NoValue as error:
            self.ends.add(run, JobState.FAILED, error=error.as_dict())
        except _OF_THE_RUN as error:
            if not isinstance(error, InvalidOutput):
                log.exception("run %s cannot go on", run.id)
            fault = (
                error if isinstance(error, PenstockError) else InvalidOutput(f"the run cannot go on: {error!r:.500}")
            )
            self.ends.add(run, JobState.FAILED, error=fault.as_dict())

    def straight(self, run: OpenRun, plan: Outline, now_is: Standing, ended: Collection[str]) -> bool:
        """In a graph where every step is needed; whether that was all: a step that ends as it begins is not."""
        names = plan.following(ended)
        fresh = [
            name
            for name in names
            if name not in now_is.begun and all(parent in now_is.ended for parent in plan.parents[name])
        ]
        fresh += self._early(plan, names, now_is, fresh)
        outputs = Outputs(self._session, run.id, plan)
        if self._begin(run, plan, fresh, outputs):
            self.released.store()
            return False
        if not fresh and not plan.last.isdisjoint(ended) and plan.last <= now_is.ended:
            self._good.append((run, plan, outputs))
        return True

    def whole(self, run: OpenRun, plan: Outline) -> None:
        """In any graph, whatever has happened."""
        now_is = NEW if run.new else standing(self._session, run.id, run.generation, plan)
        while True:
            outputs = Outputs(self._session, run.id, plan, now_is.ended)
            possible = frontier(plan, inputs=run.inputs, outputs=outputs, failed=now_is.failed)
            if possible.failed is not None:
                self.ends.add(run, JobState.FAILED, error=_error(self._session, run, possible.failed))
                return
            if possible.done:
                self._good.append((run, plan, outputs))
                return
            fresh = [name for name in possible.ready if name not in now_is.begun]
            fresh += self._early(plan, plan.elementwise.source, now_is, fresh)
            if not self._begin(run, plan, fresh, outputs):
                if plan.picks or now_is.failed:  # else what has begun is needed
                    lost = sorted(now_is.open - plan.wanted(now_is.ended))
                    self._session.losers += [(run.id, name) for name in lost]
                return
            self.released.store()
            now_is = standing(self._session, run.id, run.generation, plan)

    def _early(self, plan: Outline, names: Collection[str], now_is: Standing, fresh: Sequence[str]) -> list[str]:
        """Maps among these that begin before what they follow has ended."""
        if not plan.elementwise.source:
            return []
        begun = {*now_is.begun, *fresh}
        return plan.elementwise.early(names, plan.parents, begun=begun, ended=now_is.ended)

    def _begin(self, run: OpenRun, plan: Outline, names: Sequence[str], outputs: Outputs) -> bool:
        """Begin these steps; whether one of them has ended by that: a map of nothing, a wait for what has come."""
        ended = False
        for name in names:
            step = plan.steps[name]
            if step.kind == "run" and not step.maps:
                self.released.add_items(run, step, outputs, [(name, None)])
            elif step.kind not in ("call", "run", "task"):
                ended |= waits.begin(self._session, run, step, outputs, now=self._now)
            elif name in plan.elementwise.source:
                ended |= following.begin(self._session, run, plan, step, self.released, now=self._now)
            elif step.maps:
                items = items_of(step, inputs=run.inputs, outputs=outputs)
                ended |= maps.begin(self._session, run, plan, step, items, outputs, self.released, now=self._now)
            else:
                self.released.add(run, step, [(name, NO_ELEMENT)])
        return ended


def _error(session: Session, run: OpenRun, name: str) -> Mapping[str, Any]:
    """The error of a step that has failed, with its path."""
    values = {"run": run.id, "path": name, "low": f"{name}[", "high": f"{name}\\", "generation": run.generation}
    row = session.one(_ERROR, values)
    if row is None:
        return {"code": "failed", "message": f"step {name!r} failed", "retryable": False, "step": name}
    id, path, error = row
    return error_of(path, id, {} if error is None else msgspec.json.decode(error))
