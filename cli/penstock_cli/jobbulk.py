"""``penstock job cancel`` and ``penstock job retry``: a few jobs by their ids, or thousands by a filter."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import click

from penstock.dispatch.bulk import CANCELLABLE, RETRYABLE, Bulk
from penstock.errors import IllegalTransition, JobNotFound
from penstock.job import JobState
from penstock.lane import LANES
from penstock_cli import preflight
from penstock_cli.commands import command, pass_app
from penstock_cli.context import App
from penstock_cli.jobids import whole_ids
from penstock_cli.jobview import counted
from penstock_cli.params import Duration, complete_name
from penstock_cli.progress import Progress


def _options(states: Iterable[JobState]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    options = (
        click.argument("ids", nargs=-1, metavar="[ID…]"),
        click.option("--status", type=click.Choice([str(state) for state in states]), help="All in this state."),
        click.option("--model", shell_complete=complete_name, metavar="NAME", help="All of this model."),
        click.option("--tenant", metavar="NAME", help="All of this tenant."),
        click.option("--lane", type=click.Choice([str(lane) for lane in LANES]), help="All in this lane."),
        click.option("-t", "--tag", metavar="NAME[=VALUE]", help="All with this tag."),
        click.option("--older-than", type=Duration(), metavar="DURATION", help="All accepted so long ago."),
        click.option("-y", "--yes", is_flag=True, help="With a filter: do not ask."),
    )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@command("cancel")
@_options(CANCELLABLE)
@pass_app
def cancel(app: App, ids: tuple[str, ...], yes: bool, **filters: Any) -> None:
    """Cancel jobs. One that waits never runs; the result of a running one is dropped; an ended one stays.

    By id, or all that fit every filter given. Cut off in the middle, the same command does the rest.

    \b
      penstock job cancel 0193d5c2-1a2b
      penstock job cancel --tag run=7 --model embed --yes
    """
    _run(app, "cancel", ids, yes, filters)


@command("retry")
@_options(RETRYABLE)
@pass_app
def retry(app: App, ids: tuple[str, ...], yes: bool, **filters: Any) -> None:
    """Run failed, cancelled or expired jobs again, under their ids. An open job is left alone.

    By id, or all that fit every filter given.

    \b
      penstock job retry --status failed --model embed --older-than 1h
    """
    _run(app, "retry", ids, yes, filters)


def _run(app: App, verb: str, ids: tuple[str, ...], yes: bool, filters: dict[str, Any]) -> None:
    given = {name: value for name, value in filters.items() if value is not None}
    if bool(ids) == bool(given):
        raise click.UsageError(
            "Give ids or filters, not both." if ids else f"Name jobs to {verb}: ids, - for standard input, or a filter."
        )
    preflight.check(app, broker=False)
    if ids:
        _named(app, verb, ids)
    else:
        _fitting(app, verb, given, yes)


def _named(app: App, verb: str, ids: tuple[str, ...]) -> None:
    unknown: list[str] = []
    succeeded: list[str] = []
    unmoved: list[str] = []

    def told(part: Bulk) -> None:
        steps = _steps(app, part.left) if verb == "retry" else ()
        for id, status in (part.changed | part.left).items():
            left = id in part.left  # else it may have run, and succeeded, by now
            if left and (id in steps or status in (CANCELLABLE if verb == "cancel" else RETRYABLE)):
                unmoved.append(id)
            elif left and verb == "retry" and status == JobState.SUCCEEDED:
                succeeded.append(id)
            elif app.out.json:
                app.out.jsonl({"id": id, "status": status})
            else:
                app.out.line(f"{id}  {status}")
        app.out.flush()
        unknown.extend(part.unknown)

    many = app.client.cancel_many if verb == "cancel" else app.client.retry_many
    many(whole_ids(app, ids), on_chunk=told)
    if succeeded:
        raise IllegalTransition(
            f"{_some('job', succeeded)} succeeded: it cannot run again", fix="submit it as a new job"
        )
    if unknown:
        raise JobNotFound(
            f"there is no {_some('job', unknown)}: it never existed, or its retention is over",
            fix="`penstock job list` shows the jobs that are kept",
        )
    for id in unmoved:  # a step, or a run whose steps have not stopped: alone, each is told why
        handle = app.client.get(id)
        status = handle.cancel() if verb == "cancel" else handle.retry().status
        told(Bulk({id: status}))


def _steps(app: App, ids: Iterable[str]) -> set[str]:
    """Those of these jobs that are steps of runs."""
    return {job.id for job in app.store.get_many(list(ids)).values() if job.run_id is not None} if ids else set()


def _some(what: str, ids: list[str]) -> str:
    more = f" (and {len(ids) - 1:,} more)" if len(ids) > 1 else ""
    return f"{what} {ids[0]!r}{more}"


def _fitting(app: App, verb: str, filters: dict[str, Any], yes: bool) -> None:
    if not yes:
        meant = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in filters.items())
        question = f"{verb.capitalize()} every job with {meant}?"
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} Confirm with --yes.")
        click.confirm(question, abort=True, err=True)
    where = app.client.cancel_where if verb == "cancel" else app.client.retry_where
    with Progress(app.out, None) as progress:
        done = where(on_chunk=lambda part: progress.advance(len(part.changed)), **filters)
    counts = Counter(done.changed.values())
    if app.out.json:
        app.out.data(dict(counts))
        return
    app.out.line(str(len(done.changed)))
    running = f", {counts['cancelling']:,} of them when their batch ends" if counts["cancelling"] else ""
    word = "cancelled" if verb == "cancel" else "to run again"
    app.out.say(f"{counted(len(done.changed), 'job')} {word}{running}")
