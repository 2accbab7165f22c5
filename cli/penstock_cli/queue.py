"""``penstock queue``: what waits, at the broker and in SQL."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import redis

from penstock.clock import now
from penstock.job import JobState
from penstock.lane import AT, LANES, full_name, queue_name, split_name
from penstock.transport import inspect
from penstock.transport.url import connect, unavailable
from penstock.views.fleet import look
from penstock_cli import preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.jobview import counted
from penstock_cli.params import complete_model
from penstock_cli.serving import check_known
from penstock_cli.stranded import unserved


@group()
def queue() -> None:
    """What waits, and for which model."""


@queue.command("stats")
@click.option("--model", shell_complete=complete_model, metavar="NAME", help="Only this model, or this NAME@VERSION.")
@pass_app
def stats(app: App, model: str | None) -> None:
    """Open jobs, messages and workers per model and lane.

    In SQL jobs are told by state, at the broker messages as ready or claimed.

    Jobs that ask for a version have a queue of their own, MODEL@VERSION, which only its workers serve.

    LOADED are those workers that hold the model in memory now.

    ACCEPTED are waiting for their time or for the broker; READY and CLAIMED are messages. QUEUED in SQL and READY +
    CLAIMED at the broker are alike but for a moment. If not, the dispatcher mends it.

    Queues that hold messages and that no worker consumes are named, those of your own Celery app included.
    """
    preflight.check(app)
    if model is not None:
        check_known(app, model)
    rows = [row for row in _rows(app) if model in (None, row["model"], split_name(row["model"])[0])]
    stray = unserved(app) if model is None else {}
    drop = ("loaded", "claimed", "ready", "workers", "accepted")
    if not app.out.rows(rows, id="model", drop=drop) and not stray:
        app.out.say("no open jobs, no workers")
    if app.out.json:
        nobody = {"model": None, "lane": None, "workers": 0}
        app.out.rows([{**nobody, "queue": queue, "ready": count} for queue, count in stray.items()], id="queue")
        return
    for queue, count in stray.items():
        app.out.warn(f"no worker consumes the queue {queue}, which holds {count:,} message{'s' if count > 1 else ''}")


def _rows(app: App) -> list[dict[str, Any]]:
    counts = _counts(app)
    where = look(app.store, app.settings, now=now()).taking.places
    names = {split_name(name)[0] for name, _, _ in counts} | set(where)
    # By name, the queue of all versions first.
    names |= {name for name, _, _ in counts}
    queues = [(name, str(lane)) for name in sorted(names, key=lambda name: name.partition(AT)) for lane in LANES]
    depths = _depths(app, queues)
    rows = []
    for name, lane in queues:
        model, version = split_name(name)
        serving = [place for place in where.get(model, ()) if version in (None, place.version)]
        depth = depths[name, lane]
        rows.append(
            {
                "model": name,
                "lane": lane,
                **{str(state): counts.get((name, lane, state), 0) for state in _OPEN},
                "ready": depth.ready,
                "claimed": depth.claimed,
                "workers": len(serving),
                "loaded": sum(place.state == "loaded" for place in serving),
            }
        )
    return rows


def _depths(app: App, lines: Sequence[tuple[str, str]]) -> dict[tuple[str, str], inspect.Depth]:
    queues = {line: _queue(app, *line) for line in lines}
    client = connect(app.settings.broker)
    try:
        depths = inspect.depths(client, app.settings.namespace, queues.values())
    except redis.RedisError as error:
        raise unavailable(app.settings.broker, error) from error
    finally:
        client.close()
    return {line: depths[queue] for line, queue in queues.items()}


def _queue(app: App, name: str, lane: str) -> str:
    model, version = split_name(name)
    return queue_name(app.settings.namespace, model, lane, version)


def _counts(app: App) -> dict[tuple[str, str, JobState], int]:
    """Open jobs by model (or model and version that they ask for), lane and state."""
    return {
        (full_name(count.model, count.version), count.lane, count.state): count.count for count in app.store.counts()
    }


_OPEN = (JobState.ACCEPTED, JobState.QUEUED, JobState.RUNNING)


@queue.command("purge")
@click.argument("model", shell_complete=complete_model)
@click.option("--lane", type=click.Choice([str(lane) for lane in LANES]), help="Only this lane; default: both.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_app
def purge(app: App, model: str, lane: str | None, yes: bool) -> None:
    """Cancel every job of a model that waits.

    Of MODEL@VERSION, those that ask for it. Running ones are left alone.

    Messages alone cannot be purged: SQL is the truth, and the dispatcher would publish them again.
    """
    preflight.check(app)
    check_known(app, model)
    lanes = [lane] if lane else [str(lane) for lane in LANES]
    counts = _counts(app)
    names = [model, *sorted({name for name, _, _ in counts if split_name(name)[0] == model and name != model})]
    waiting = sum(counts.get((name, where, state), 0) for name in names for where in lanes for state in _WAITING)
    if not waiting:
        app.out.say(f"no job of {model!r} waits")
    elif not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{counted(waiting, 'job')} of {model!r} would be cancelled: confirm with --yes.")
        click.confirm(f"Cancel {counted(waiting, 'waiting job')} of {model!r}?", abort=True, err=True)
    cancelled = _cancel(app, model, lanes)
    messages = _purge_messages(app, names, lanes)
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


def _purge_messages(app: App, names: Sequence[str], lanes: Sequence[str]) -> int:
    namespace = app.settings.namespace
    client = connect(app.settings.broker)
    try:
        return sum(inspect.purge(client, namespace, _queue(app, name, lane)) for name in names for lane in lanes)
    except redis.RedisError as error:
        raise unavailable(app.settings.broker, error) from error
    finally:
        client.close()
