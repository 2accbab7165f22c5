"""A run's steps as the command line sees them: one of each, however wide a map is. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.job import Job
from penstock.pipelines.graph import Step
from penstock.pipelines.nested import models_of
from penstock.pipelines.show.draw import called
from penstock.pipelines.show.levels import levels
from penstock.pipelines.show.limits import Limits, limits
from penstock.store.runs.standing import MapCounts, RunStanding, StepRow
from penstock.store.runs.standing import critical_path as decided

#: Of a step that is no job: while its run goes on, and when that has ended.
PENDING, SKIPPED = "pending", "skipped"
#: What steps that no worker runs are while they go on: those that wait for a signal, and those that sleep.
IDLE = {"wait": "waiting", "sleep": "sleeping"}
#: How a step can end without an output by itself, the one that says most first.
FAILED = ("failed", "expired")
#: What a map is whose elements have several statuses: the first of these that one of them has.
_OPEN = ("running", "cancelling", "queued", "accepted")
_NEW = ("queued", "accepted")
_ORDER = (*FAILED, "running", "cancelling", "cancelled", "queued", "accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A step of a run. ``size`` and ``counts`` are a map's; times are Unix seconds, a map's those of its first and last
    elements. What waits or sleeps is never started, and is over at ``until`` at the latest, if that is said."""

    name: str
    calls: str
    status: str
    size: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    id: str | None = None
    attempts: int = 0
    began_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    until: float | None = None
    compute_s: float | None = None
    summed_wait_s: float | None = None
    summed_run_s: float | None = None
    device_s: float | None = None
    batch: float | None = None
    worker: str | None = None
    error: Mapping[str, Any] | None = None
    critical: bool = False
    #: Whether a fork has it from its source, whose times these are then.
    taken_over: bool = False
    #: What is set on the step to hold it back.
    limits: Limits = field(default_factory=dict)

    def wait_s(self, now: float | None = None) -> float | None:
        """From when it could run to when it ran; so far, of one that has not ended, at ``now``."""
        ended = self.started_at if self.started_at is not None else self.ended_at
        return _between(self.began_at, ended if ended is not None else now)

    def run_s(self, now: float | None = None) -> float | None:
        """From when it ran to its end."""
        return _between(self.started_at, self.ended_at if self.ended_at is not None else now)


def views(run: Job, standing: RunStanding) -> list[StepView]:
    """Every step of the graph, parents first; once the run has ended, with those marked that decided when."""
    absent = SKIPPED if run.state.is_terminal else PENDING
    marked = set(critical_path(run, standing))
    found = []
    for step in (step for level in levels(standing.graph) for step in level):
        if step.name in standing.maps:
            found.append(_map(step, standing.maps[step.name], marked))
        elif step.name in standing.steps:
            found.append(_plain(step, standing.steps[step.name], marked))
        else:
            found.append(StepView(name=step.name, calls=called(step), status=absent, limits=limits(step)))
    return found


def waits_for(standing: RunStanding, shown: Sequence[StepView]) -> list[str]:
    """The models, perhaps with a version, whose workers could begin something now: steps, and elements of maps."""
    runs = {step.name for step in standing.graph.steps if step.graph is not None}
    return _models(
        standing,
        (
            view
            for view in shown
            # What the steps within a run wait for is not known here: perhaps for any of its models.
            if any((view.counts or {view.status: 1}).get(s) for s in (_OPEN if view.name in runs else _NEW))
        ),
    )


def not_done(standing: RunStanding, shown: Sequence[StepView]) -> list[str]:
    """The models of steps that have not ended, also of those that may never begin."""
    return _models(standing, (view for view in shown if view.status in (PENDING, *_OPEN)))


def _models(standing: RunStanding, shown: Iterable[StepView]) -> list[str]:
    names = {view.name for view in shown}
    return sorted(models_of(step for step in standing.graph.steps if step.name in names))


def critical_path(run: Job, standing: RunStanding) -> list[str]:
    """The steps that decided when the run ended; none while it goes on, and where somebody or a deadline ended it."""
    return decided(run.state, run.error, standing)


def _plain(step: Step, row: StepRow, marked: set[str]) -> StepView:
    idle = IDLE.get(step.kind)
    goes_on = row.status == "running"
    return StepView(
        name=step.name,
        calls=called(step),
        status=idle if idle is not None and goes_on else row.status,
        id=row.id,
        attempts=row.attempt,
        began_at=row.accepted_at,
        started_at=row.started_at if idle is None else None,
        until=row.available_at if idle is not None and goes_on else None,
        ended_at=row.settled_at,
        compute_s=row.compute_s,
        device_s=row.device_s,
        batch=row.batch_size,
        worker=row.worker,
        error=row.error,
        critical=step.name in marked,
        taken_over=row.taken_over,
        limits=limits(step),
    )


def _map(step: Step, of: MapCounts, marked: set[str]) -> StepView:
    return StepView(
        name=step.name,
        calls=called(step),
        status=_status(of),
        size=of.size,
        counts=of.counts,
        began_at=of.accepted_at,
        started_at=of.started_at,
        ended_at=None if _is_open(of) else of.settled_at,
        summed_wait_s=of.waited_s,
        summed_run_s=of.ran_s,
        device_s=of.device_s,
        batch=of.mean_batch,
        critical=step.name in marked,
        taken_over=of.taken_over,
        limits=limits(step),
    )


def _is_open(of: MapCounts) -> bool:
    begun = sum(of.counts.values())
    return begun < of.size or any(of.counts.get(status) for status in _OPEN)


def _status(of: MapCounts) -> str:
    done = of.counts.get("succeeded", 0)
    if done == of.size:
        return "succeeded"
    first = next((status for status in _ORDER if of.counts.get(status)), "queued")
    return "running" if done and first in ("queued", "accepted") else first


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
