"""``penstock job``: look at jobs and steer them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from uuid import UUID

import click

from penstock.clock import isoformat, now
from penstock.job import JobState
from penstock.lane import LANES, full_name
from penstock_cli import jobwatch, preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.jobview import ROW_HEADER, job_dict, job_pairs, job_row
from penstock_cli.params import Duration, complete_model
from penstock_cli.serving import check_known, warn_if_unserved

#: Jobs removed per transaction, so that nobody waits long for the write lock.
PRUNE_CHUNK = 1000


@group()
def job() -> None:
    """Look at jobs, wait for them, cancel, retry.

    Where an ID is taken, - reads ids from standard input, one a line:
    penstock job list --status failed -q | penstock job retry -
    """


job.add_command(jobwatch.watch)
job.add_command(jobwatch.wait)
job.add_command(jobwatch.stream)


@job.command("get")
@click.argument("id")
@pass_app
def get(app: App, id: str) -> None:
    """Show one job: its state, output or error, and where its time went."""
    preflight.check(app, broker=False)
    found = app.client.get(id).job
    if app.out.json:
        app.out.data(job_dict(found))
        return
    app.out.pairs(job_pairs(found))
    if found.state in (JobState.ACCEPTED, JobState.QUEUED):
        warn_if_unserved(app, full_name(found.model, found.asked_version))
    if found.state in (JobState.FAILED, JobState.EXPIRED):
        app.out.say(f"run it again: penstock job retry {id}")


@job.command("list")
@click.option("--status", type=click.Choice([str(state) for state in JobState]), help="Only this state.")
@click.option("--model", shell_complete=complete_model, metavar="NAME", help="Only this model.")
@click.option("--tenant", metavar="NAME", help="Only this tenant.")
@click.option("--lane", type=click.Choice([str(lane) for lane in LANES]), help="Only this lane.")
@click.option("-t", "--tag", metavar="NAME[=VALUE]", help="Only with this tag.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@click.option("--before", metavar="ID", help="Older than this job: the next page.")
@pass_app
def list_(
    app: App,
    status: str | None,
    model: str | None,
    tenant: str | None,
    lane: str | None,
    tag: str | None,
    limit: int,
    before: str | None,
) -> None:
    """List jobs, newest first."""
    if before is not None:
        _check_id(before)
    preflight.check(app, broker=False)
    if model is not None:
        check_known(app, model)
    wanted: tuple[str, str] | str | None = tag
    if tag is not None and "=" in tag:
        name, _, value = tag.partition("=")
        wanted = (name, value)
    handles = app.client.list(
        status=status, model=model, tenant=tenant, lane=lane, tag=wanted, limit=limit, before=before
    )
    jobs = {handle.id: handle.job for handle in handles}
    rows = map(job_dict, jobs.values())
    if not app.out.rows(rows, id="id", header=ROW_HEADER, cells=lambda row: job_row(jobs[row["id"]])):
        app.out.say("no jobs")
    elif len(jobs) == limit and not app.out.json:
        app.out.say(f"older ones: --before {list(jobs)[-1]}")


@job.command("cancel")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@pass_app
def cancel(app: App, ids: tuple[str, ...]) -> None:
    """Cancel jobs. One that waits never runs; the result of a running one is dropped; an ended one stays."""
    preflight.check(app, broker=False)
    for id in each_id(ids):
        _told(app, id, app.client.get(id).cancel())


@job.command("retry")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@pass_app
def retry(app: App, ids: tuple[str, ...]) -> None:
    """Run failed, cancelled or expired jobs again, under their ids. An open job is left alone."""
    preflight.check(app, broker=False)
    for id in each_id(ids):
        _told(app, id, app.client.get(id).retry().status)


@job.command("prune")
@click.option("--older-than", type=Duration(), metavar="DURATION", help="Default: the setting retention.jobs_s.")
@pass_app
def prune(app: App, older_than: float | None) -> None:
    """Remove jobs that ended long ago, with their tags, idempotency keys and deliveries.

    The dispatcher does the same every retention.prune_every_s.
    """
    preflight.check(app, broker=False)
    before = now() - (app.settings.retention.jobs_s if older_than is None else older_than)
    removed = 0
    while count := app.store.prune(before=before, limit=PRUNE_CHUNK):
        removed += count
    if app.out.json:
        app.out.data({"removed": removed, "before": isoformat(before)})
    else:
        app.out.line(str(removed))
        app.out.say(f"jobs that ended before {isoformat(before)} were removed")


def _check_id(id: str) -> None:
    try:
        UUID(id)
    except ValueError:
        raise click.UsageError(f"{id!r} is no job's id. `penstock job list` shows them.") from None


def each_id(ids: tuple[str, ...]) -> Iterator[str]:
    """The ids given, with those of standard input in place of ``-``."""
    for id in ids:
        if id == "-":
            yield from (line.split()[0] for line in sys.stdin if line.strip())
        else:
            yield id


def _told(app: App, id: str, status: str) -> None:
    if app.out.json:
        app.out.jsonl({"id": id, "status": str(status)})
    else:
        app.out.line(f"{id}  {status}")
