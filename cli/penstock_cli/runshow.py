"""``penstock job get`` and ``watch`` of a run: its steps."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penstock.clock import isoformat, monotonic_s, now
from penstock.errors import ResultTimeout, StoreUnavailable
from penstock.job import Job, JobState
from penstock.store.runs.standing import MOST_FAILED, RunStanding
from penstock_cli.context import App
from penstock_cli.errors import FAILED as FAILED_STATUS
from penstock_cli.jobview import job_dict, job_pairs
from penstock_cli.layout import fit
from penstock_cli.output import animated
from penstock_cli.progress import LOG_EVERY_S
from penstock_cli.reminder import Reminder
from penstock_cli.runview import (
    DROP,
    FAILED,
    HEADER,
    StepView,
    changed,
    critical_path,
    done,
    failure_row,
    failures,
    step_dict,
    step_row,
    views,
    worth,
)
from penstock_cli.serving import models_behind, warn_if_unserved

if TYPE_CHECKING:
    from penstock import JobHandle

#: How often a run's steps are looked at, and how long a database that has gone away is borne with, seconds.
LOOK_EVERY_S, AWAY_S = 0.5, 30.0


def show(app: App, run: Job, *, failed: bool) -> None:
    """What ``penstock job get`` prints of a run."""
    standing = app.store.run_standing(run.id)
    _print(app, run, standing, failed=failed)
    if app.out.json:
        return
    waiting = {view.calls for view in views(run, standing) if view.status in ("accepted", "queued")}
    for model in sorted(waiting):
        warn_if_unserved(app, model)
    if run.state in (JobState.FAILED, JobState.EXPIRED):
        app.out.say(f"go on from there: penstock job retry {run.id}")


def watch(app: App, handle: JobHandle, *, failed: bool) -> int | None:
    """Follow a run's steps to its end, then show it; the exit status."""
    run, standing = handle.job, app.store.run_standing(handle.id)
    with _Screen(app) as screen, Reminder(app, models_behind(app, run)) as reminder:
        screen.show(run, views(run, standing))
        away_since: float | None = None
        while not run.state.is_terminal:
            try:
                with suppress(ResultTimeout):
                    handle.wait(LOOK_EVERY_S)
                run, standing = handle.refresh(), app.store.run_standing(run.id)
            except StoreUnavailable as error:
                away_since = _bear(app, error, away_since)
                continue
            away_since = None
            if screen.show(run, views(run, standing)):
                reminder.news()
    _print(app, run, standing, failed=failed, line=True)
    return None if run.state is JobState.SUCCEEDED else FAILED_STATUS


def _bear(app: App, error: StoreUnavailable, since: float | None) -> float:
    """Wait a little for a database that has gone away, as every wait does; since when. Raises when it does not pass."""
    if since is None:
        since = monotonic_s()
        app.out.warn(f"{error.message}; trying again for {AWAY_S:.0f} s")
    if not error.retryable or monotonic_s() - since > AWAY_S:
        raise error
    time.sleep(LOOK_EVERY_S)
    return since


def run_dict(run: Job, standing: RunStanding, *, failed: bool) -> dict[str, Any]:
    """A run's JSON form: the job's, and its steps; with ``failed`` only those that failed."""
    shown = views(run, standing)
    steps = [view for view in shown if not failed or view.status in FAILED]
    return job_dict(run) | {
        "graph": run.graph,
        "generation": standing.generation,
        "steps": list(map(step_dict, steps)),
        "failed": failures(shown, standing.failed),
        "critical_path": critical_path(run, standing),
    }


def _print(app: App, run: Job, standing: RunStanding, *, failed: bool, line: bool = False) -> None:
    if app.out.json:
        whole = run_dict(run, standing, failed=failed)
        (app.out.jsonl if line else app.out.data)(whole)
        return
    shown = views(run, standing)
    if not failed:
        app.out.pairs(job_pairs(run))
        app.out.line()
        at = None if run.state.is_terminal else now()
        app.out.table(HEADER, [step_row(view, at) for view in shown], drop=DROP, wide=("step",))
        if any(view.critical for view in shown):
            app.out.say("* decided when the run ended")
    found = failures(shown, standing.failed)
    if found:
        if not failed:
            app.out.line()
        app.out.table(("step", "job", "error"), map(failure_row, found), drop=("job",), wide=("error",))
        if len(standing.failed) == MOST_FAILED:
            app.out.say(f"the first {MOST_FAILED}; all: penstock job list --run {run.id} --status failed")
    elif failed:
        app.out.say("no step has failed")


class _Screen:
    """The table, drawn again on a terminal; elsewhere a line for each step that has changed, with ``--json`` too."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._live: Any = None
        self._before: list[StepView] = []
        self._counted_at = monotonic_s()

    def __enter__(self) -> _Screen:
        if animated() and not (self._app.out.quiet or self._app.out.json):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, run: Job, shown: list[StepView]) -> bool:
        """How it stands now; whether that is news."""
        due = monotonic_s() - self._counted_at >= LOG_EVERY_S
        if due:
            self._counted_at = monotonic_s()
        every = list(changed(self._before, shown, counts=True))
        if self._app.out.json:
            for view in every:
                self._app.out.jsonl({"run": run.id} | step_dict(view))
        elif self._live is not None:
            self._draw(run, shown)
        else:
            told = list(changed(self._before, shown, counts=due))
            for view in told:
                self._app.out.say(f"{isoformat(now())}  {view.name}  {view.status}  {done(view) or ''}".rstrip())
            # What was not told counts as not changed yet.
            names = {view.name for view in told}
            old = {view.name: view for view in self._before}
            shown = [view if view.name in names else old.get(view.name, view) for view in shown]
        self._before = shown
        return bool(every)

    def _draw(self, run: Job, shown: list[StepView]) -> None:
        from rich.text import Text

        size = self._live.console.size
        kept, more = worth(shown, max(1, size.height - 4))
        rows = [["-" if cell in (None, "") else str(cell) for cell in step_row(view, now())] for view in kept]
        header, cells = fit(HEADER, rows, size.width, drop=("*", *DROP))
        widths = [max(len(name), *(len(row[place]) for row in cells), 0) for place, name in enumerate(header)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        head = "  ".join(name.upper().ljust(width) for name, width in zip(header, widths, strict=True))
        text = "\n".join([f"{run.id}  {run.status}", head, *lines, *([more] if more else [])])
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
