"""``penstock job get`` and ``watch`` of a run: its steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penstock.clock import monotonic_s, now
from penstock.errors import ResultTimeout, StoreUnavailable
from penstock.job import Job, JobState
from penstock.lane import split_name
from penstock.pipelines.nested import models_of
from penstock.pipelines.show.limits import of_run
from penstock.store.runs.cost import RunCost
from penstock.store.runs.standing import MOST_FAILED, RunStanding
from penstock_cli.context import App
from penstock_cli.errors import FAILED as FAILED_STATUS
from penstock_cli.jobids import in_tables
from penstock_cli.jobview import job_dict, job_pairs
from penstock_cli.reminder import Reminder
from penstock_cli.runhearing import Hearing
from penstock_cli.runlines import DROP, HEADER, cost_dict, cost_pairs, failure_row, failures, step_dict, step_row
from penstock_cli.runscreen import Screen
from penstock_cli.runtails import may_stream
from penstock_cli.runview import FAILED, StepView, critical_path, not_done, views, waits_for
from penstock_cli.serving import warn_if_unserved

if TYPE_CHECKING:
    from penstock import JobHandle

#: How often a run's steps are looked at, and how long a database that has gone away is borne with, seconds.
LOOK_EVERY_S, AWAY_S = 0.5, 30.0


def show(app: App, run: Job, *, failed: bool) -> None:
    """What ``penstock job get`` prints of a run."""
    standing = app.store.run_standing(run.id)
    _print(app, run, standing, failed=failed)
    for model in waits_for(standing, views(run, standing)):
        warn_if_unserved(app, model)
    if app.out.json:
        return
    if run.state in (JobState.FAILED, JobState.EXPIRED):
        app.out.say(f"go on from there: penstock job retry {run.run_id or run.id}")


def watch(app: App, handle: JobHandle, *, failed: bool) -> int | None:
    """Follow a run's steps to its end, then show it; the exit status."""
    run, standing = handle.job, app.store.run_standing(handle.id)
    hearing = Hearing(_speaker(app, run, standing))
    with Screen(app, hearing.tails) as screen, Reminder(app, ()) as reminder, hearing:
        shown = views(run, standing)
        reminder.wait_for(not_done(standing, shown))
        screen.show(run, shown, held=_held(standing))
        warned: set[str] = set()
        away_since: float | None = None
        while not run.state.is_terminal:
            try:
                _warn_once(app, waits_for(standing, shown), warned)
                with suppress(ResultTimeout):
                    handle.wait(LOOK_EVERY_S)
                run, standing = handle.refresh(), app.store.run_standing(run.id)
            except StoreUnavailable as error:
                away_since = _bear(app, error, away_since)
                continue
            away_since = None
            shown = views(run, standing)
            if screen.show(run, shown, held=_held(standing)):
                reminder.news()
                reminder.wait_for(not_done(standing, shown))
        hearing.last()
        screen.last(run)
    _print(app, run, standing, failed=failed, line=True)
    return None if run.state is JobState.SUCCEEDED else FAILED_STATUS


def _speaker(app: App, run: Job, standing: RunStanding) -> JobHandle | None:
    """A handle of the run where its steps may have partial output."""
    if run.state.is_terminal:
        return None
    models = {split_name(name)[0] for name in models_of(standing.graph.steps)}
    return app.client.get(run.id) if may_stream(models, app.store.models()) else None


def _held(standing: RunStanding) -> str:
    return of_run(standing.max_parallel, standing.budget_s)


def _warn_once(app: App, models: list[str], warned: set[str]) -> None:
    """Say of which of these models nobody was told yet that no worker serves it; ``warned`` are those that were asked
    after.
    """
    for model in models:
        if model not in warned:
            warn_if_unserved(app, model)
            warned.add(model)


def _bear(app: App, error: StoreUnavailable, since: float | None) -> float:
    """Wait a little for a database that has gone away, as every wait does; since when. Raises when it does not pass."""
    if since is None:
        since = monotonic_s()
        app.out.warn(f"{error.message}; trying again for {AWAY_S:.0f} s")
    if not error.retryable or monotonic_s() - since > AWAY_S:
        raise error
    time.sleep(LOOK_EVERY_S)
    return since


def table(app: App, run: Job, shown: Sequence[StepView]) -> None:
    """A run's steps, a line each."""
    at = None if run.state.is_terminal else now()
    app.out.table(HEADER, [step_row(view, at) for view in shown], drop=DROP, wide=("step",))
    if any(view.critical for view in shown):
        app.out.say("* decided when the run ended")


def run_dict(run: Job, standing: RunStanding, cost: RunCost, *, failed: bool) -> dict[str, Any]:
    """A run's JSON form: the job's, and its steps; with ``failed`` only those that failed."""
    shown = views(run, standing)
    steps = [view for view in shown if not failed or view.status in FAILED]
    return job_dict(run) | {
        "graph": run.graph,
        "generation": standing.generation,
        "steps": list(map(step_dict, steps)),
        "failed": failures(shown, standing.failed),
        "critical_path": critical_path(run, standing),
        "max_parallel": standing.max_parallel,
        "budget_s": standing.budget_s,
        "cost": cost_dict(cost),
    }


def _print(app: App, run: Job, standing: RunStanding, *, failed: bool, line: bool = False) -> None:
    cost = app.store.run_cost(run.id)
    if app.out.json:
        whole = run_dict(run, standing, cost, failed=failed)
        (app.out.jsonl if line else app.out.data)(whole)
        return
    shown = views(run, standing)
    if not failed:
        app.out.pairs([*job_pairs(run), *cost_pairs(standing, cost)])
        app.out.line()
        table(app, run, shown)
    found = failures(shown, standing.failed)
    if found:
        if not failed:
            app.out.line()
        ids = in_tables(app, [one["id"] for one in found])
        rows = [failure_row(one | {"id": ids[one["id"]]}) for one in found]
        app.out.table(("step", "job", "error"), rows, drop=("job",), wide=("error",))
        if len(standing.failed) == MOST_FAILED:
            app.out.say(f"the first {MOST_FAILED}; all: penstock job list --run {run.id} --status failed")
    elif failed:
        app.out.say("no step has failed")
