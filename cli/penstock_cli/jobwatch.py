"""``penstock job watch | wait | stream``: follow jobs to their end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from penstock.clock import isoformat, now
from penstock.errors import ResultTimeout
from penstock.job import JobState
from penstock_cli import preflight, runshow
from penstock_cli.commands import command, pass_app
from penstock_cli.context import App
from penstock_cli.errors import FAILED
from penstock_cli.jobids import only_of_runs, whole, whole_ids
from penstock_cli.jobview import job_dict, job_pairs, short
from penstock_cli.output import animated, dumps
from penstock_cli.params import Duration
from penstock_cli.reminder import Reminder
from penstock_cli.serving import models_behind

if TYPE_CHECKING:
    from penstock import JobHandle
    from penstock.client import JobEvent


@command("wait")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option("--timeout", type=Duration(), metavar="DURATION", help="Give up after; exit 4.")
@pass_app
def wait(app: App, ids: tuple[str, ...], timeout: float | None) -> int | None:
    """Wait until jobs have ended, and print their outputs as they do. Exit 1 if one did not succeed."""
    preflight.check(app, broker=False)
    handles = [app.client.get(id) for id in whole_ids(app, ids)]
    failed = False
    try:
        with Reminder(app, _models_behind(app, handles)) as reminder:
            for handle in app.client.as_completed(handles, timeout):
                reminder.news()
                failed |= handle.status != JobState.SUCCEEDED
                _ended(app, handle, alone=len(handles) == 1)
    except ResultTimeout as error:
        error.fix = error.fix or "wait longer, or look: penstock job get ID"
        raise
    return FAILED if failed else None


def _ended(app: App, handle: JobHandle, *, alone: bool) -> None:
    if app.out.json:
        app.out.jsonl(job_dict(handle.refresh()))
    elif handle.status == JobState.SUCCEEDED:
        app.out.line(dumps(handle.output) if alone else f"{handle.id}  {dumps(handle.output)}")
    else:
        error = handle.error or {}
        step = f" in step {error['step']!r}" if error.get("step") else ""  # of a run
        app.out.warn(f"job {handle.id}: {handle.status}{step}" + (f": {error['message']}" if error else ""))
    app.out.flush()


@command("stream")
@click.argument("id")
@click.option("--after", metavar="CURSOR", help="Go on behind the event with this cursor.")
@click.option("--step", metavar="STEP", help="Of a run, only this step's partial output, or this element's: embed[7].")
@pass_app
def stream(app: App, id: str, after: str | None, step: str | None) -> int | None:
    """Print a job's events as JSON lines.

    From its first, until it has ended, and partial output among them; of a run, that of its steps. Exit 1 if it did not
    succeed.
    """
    preflight.check(app, broker=False)
    state = None
    handle = app.client.get(whole(app, id))
    with Reminder(app, _models_behind(app, [handle])) as reminder:
        for event in handle.stream(after=after, step=step):
            reminder.news()
            state = event.state
            app.out.jsonl(event_dict(event))
    return FAILED if state is not None and state != JobState.SUCCEEDED else None


def event_dict(event: JobEvent) -> dict[str, Any]:
    """An event's JSON form."""
    return {
        "kind": event.kind,
        "state": str(event.state),
        "at": None if event.at is None else isoformat(event.at.timestamp()),
        "data": event.data,
        "cursor": event.cursor,
    }


def _models_behind(app: App, handles: Iterable[JobHandle]) -> set[str]:
    """``models_behind`` of all; runs of one graph are read once."""
    alike = {(job.graph, job.model, job.asked_version): job for job in (handle.job for handle in handles)}
    return {model for job in alike.values() for model in models_behind(app, job)}


@command("watch")
@click.argument("id")
@click.option("--failed", is_flag=True, help="Of a run, show at its end only the steps that failed, with their errors.")
@pass_app
def watch(app: App, id: str, failed: bool) -> int | None:
    """Follow a job until it has ended, then show it. Exit 1 if it did not succeed.

    Of a run, its steps are followed; with --json a line for each that has changed, and the run last.
    """
    preflight.check(app, broker=False)
    handle = app.client.get(whole(app, id))
    id = handle.id
    if handle.job.graph is not None:
        return runshow.watch(app, handle, failed=failed)
    only_of_runs(id, "--failed", given=failed)
    with _Spinner(app) as spinner, Reminder(app, _models_behind(app, [handle])) as reminder:
        for event in handle.stream():
            reminder.news()
            if event.kind == "state":
                spinner.show(id, str(event.state), None if event.at is None else event.at.timestamp(), event.data)
    job = handle.refresh()
    if app.out.json:
        app.out.data(job_dict(job))
    else:
        app.out.pairs(job_pairs(job))
    return None if job.state is JobState.SUCCEEDED else FAILED


class _Spinner:
    """One moving line on a terminal, one line per event elsewhere."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._status: Any = None

    def __enter__(self) -> _Spinner:
        if animated() and not self._app.out.quiet:
            from rich.console import Console

            self._status = Console(stderr=True).status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, id: str, state: str, at: float | None, data: dict[str, Any]) -> None:
        """The job came into this state."""
        if self._status is not None:
            self._status.update(f"{id}  {state}")
            return
        note = (data.get("error") or {}).get("message") or data.get("worker") or ""
        self._app.out.say(f"{isoformat(now() if at is None else at)}  {state}  {short(str(note), 200)}".rstrip())
