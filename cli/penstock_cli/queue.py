"""``penstock queue``: what waits, at the broker and in SQL."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click
import redis

from penstock.job import JobState
from penstock.lane import LANES, queue_name
from penstock.transport import inspect
from penstock.transport.url import connect, unavailable
from penstock_cli import preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.jobview import counted
from penstock_cli.params import complete_model
from penstock_cli.serving import check_known, places


@group()
def queue() -> None:
    """What waits, and for which model."""


@queue.command("stats")
@click.option("--model", shell_complete=complete_model, metavar="NAME", help="Only this model.")
@pass_app
def stats(app: App, model: str | None) -> None:
    """Open jobs per model and lane: in SQL by state, at the broker ready or claimed, and the workers that serve them.

    LOADED are those workers that hold the model in memory now.

    ACCEPTED are waiting for their time or for the broker; READY and CLAIMED are messages. QUEUED in SQL and READY +
    CLAIMED at the broker are alike but for a moment. If not, the dispatcher mends it.
    """
    preflight.check(app)
    if model is not None:
        check_known(app, model)
    rows = [row for row in _rows(app) if model is None or row["model"] == model]
    if not app.out.rows(rows, id="model", drop=("loaded", "claimed", "ready", "workers", "accepted")):
        app.out.say("no open jobs, no workers")


def _rows(app: App) -> list[dict[str, Any]]:
    counts = _counts(app)
    where = places(app)
    names = {model for model, _, _ in counts} | set(where)
    queues = [(model, str(lane)) for model in sorted(names) for lane in LANES]
    namespace = app.settings.namespace
    client = connect(app.settings.broker)
    try:
        depths = inspect.depths(client, namespace, [queue_name(namespace, *place) for place in queues])
    except redis.RedisError as error:
        raise unavailable(app.settings.broker, error) from error
    finally:
        client.close()
    rows = []
    for model, lane in queues:
        depth = depths[queue_name(namespace, model, lane)]
        states = {str(state): counts.get((model, lane, state), 0) for state in _OPEN}
        rows.append(
            {
                "model": model,
                "lane": lane,
                **states,
                "ready": depth.ready,
                "claimed": depth.claimed,
                "workers": len(where.get(model, ())),
                "loaded": sum(place.state == "loaded" for place in where.get(model, ())),
            }
        )
    return rows


def _counts(app: App) -> dict[tuple[str, str, JobState], int]:
    """Open jobs by model, lane and state."""
    return {(count.model, count.lane, count.state): count.count for count in app.store.counts()}


_OPEN = (JobState.ACCEPTED, JobState.QUEUED, JobState.RUNNING)


@queue.command("purge")
@click.argument("model", shell_complete=complete_model)
@click.option("--lane", type=click.Choice([str(lane) for lane in LANES]), help="Only this lane; default: both.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_app
def purge(app: App, model: str, lane: str | None, yes: bool) -> None:
    """Cancel every job of a model that waits. Running ones are left alone.

    Messages alone cannot be purged: SQL is the truth, and the dispatcher would publish them again.
    """
    preflight.check(app)
    check_known(app, model)
    lanes = [lane] if lane else [str(lane) for lane in LANES]
    counts = _counts(app)
    waiting = sum(counts.get((model, where, state), 0) for where in lanes for state in _WAITING)
    if not waiting:
        app.out.say(f"no job of {model!r} waits")
    elif not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{counted(waiting, 'job')} of {model!r} would be cancelled: confirm with --yes.")
        click.confirm(f"Cancel {counted(waiting, 'waiting job')} of {model!r}?", abort=True, err=True)
    cancelled = _cancel(app, model, lanes)
    messages = _purge_messages(app, model, lanes)
    if app.out.json:
        app.out.data({"model": model, "cancelled": cancelled, "messages": messages})
    else:
        app.out.line(str(cancelled))
        app.out.say(f"{counted(cancelled, 'job')} cancelled; {counted(messages, 'message')} removed")


_WAITING = (JobState.ACCEPTED, JobState.QUEUED)


def _cancel(app: App, model: str, lanes: Iterable[str]) -> int:
    return sum(
        len(app.client.cancel_where(status=state, model=model, lane=lane).changed)
        for lane in lanes
        for state in _WAITING
    )


def _purge_messages(app: App, model: str, lanes: Iterable[str]) -> int:
    namespace = app.settings.namespace
    client = connect(app.settings.broker)
    try:
        return sum(inspect.purge(client, namespace, queue_name(namespace, model, lane)) for lane in lanes)
    except redis.RedisError as error:
        raise unavailable(app.settings.broker, error) from error
    finally:
        client.close()
