"""``penstock job``: look at jobs and steer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import click

from penstock.clock import isoformat, now
from penstock.job import JobState
from penstock.lane import LANES
from penstock_cli import jobbulk, jobsteer, jobwatch, preflight, runshow
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.jobids import in_tables, only_of_runs, whole
from penstock_cli.jobview import (
    AGES_HEADER,
    ROW_DROP,
    ROW_HEADER,
    STEP_AGES_HEADER,
    STEP_HEADER,
    job_dict,
    job_pairs,
    job_row,
    step_row,
)
from penstock_cli.params import Duration, complete_name
from penstock_cli.serving import check_known, models_behind, warn_if_unserved

#: Jobs removed per transaction, so that nobody waits long for the write lock.
PRUNE_CHUNK = 1000


@group()
def job() -> None:
    """Look at jobs, wait for them, cancel, retry.

    Where an ID is taken, - reads ids from standard input, one a line:
    penstock job list --status failed -q | penstock job retry -
    """


job.add_command(jobbulk.cancel)
job.add_command(jobbulk.retry)
job.add_command(jobsteer.signal)
job.add_command(jobsteer.fork)
job.add_command(jobwatch.watch)
job.add_command(jobwatch.wait)
job.add_command(jobwatch.stream)


@job.command("get")
@click.argument("id")
@click.option("--failed", is_flag=True, help="Of a run, only the steps that failed, with their errors.")
@pass_app
def get(app: App, id: str, failed: bool) -> None:
    """Show one job: its state, output or error, and where its time went.

    Of a run also its steps: how long each waited and ran, how far a map is, and which ones decided when it ended.
    """
    preflight.check(app, broker=False)
    found = app.client.get(whole(app, id)).job
    if found.graph is not None:
        runshow.show(app, found, failed=failed)
        return
    only_of_runs(found.id, "--failed", given=failed)
    if app.out.json:
        app.out.data(job_dict(found))
        return
    app.out.pairs(job_pairs(found))
    if found.state in (JobState.ACCEPTED, JobState.QUEUED):
        for model in models_behind(app, found):
            warn_if_unserved(app, model)
    if found.state in (JobState.FAILED, JobState.EXPIRED):
        app.out.say(f"run it again: penstock job retry {found.run_id or found.id}")


@job.command("list")
@click.option("--status", type=click.Choice([str(state) for state in JobState]), help="Only this state.")
@click.option("--model", shell_complete=complete_name, metavar="NAME", help="Only this model.")
@click.option("--tenant", metavar="NAME", help="Only this tenant.")
@click.option("--lane", type=click.Choice([str(lane) for lane in LANES]), help="Only this lane.")
@click.option("-t", "--tag", metavar="NAME[=VALUE]", help="Only with this tag.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@click.option("--before", metavar="ID", help="Older than this job: the next page.")
@click.option("--run", metavar="RUN", help="The steps of this run, in place of jobs.")
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
    run: str | None,
) -> None:
    """List jobs, newest first. Steps of runs are left out: --run lists those of one."""
    preflight.check(app, broker=False)
    if before is not None:
        before = whole(app, before)
        _check_id(before)
    if run is not None:
        run = _run_id(app, run)
    if model is not None:
        check_known(app, model)
    wanted: tuple[str, str] | str | None = tag
    if tag is not None and "=" in tag:
        name, _, value = tag.partition("=")
        wanted = (name, value)
    found = app.store.list(
        status=status, model=model, tenant=tenant, lane=lane, tag=wanted, limit=limit, before=before, run=run
    )
    jobs = {job.id: job for job in found}
    rows = map(job_dict, jobs.values())
    width = app.out.width
    header, at = (ROW_HEADER, None) if width is None else (AGES_HEADER, now())
    line = job_row
    if run is not None:
        header, line = (STEP_HEADER if width is None else STEP_AGES_HEADER), step_row
    ids = in_tables(app, jobs)

    def cells(row: Mapping[str, Any]) -> list[Any]:
        return line(jobs[row["id"]], id=ids[row["id"]], now=at)

    if not app.out.rows(rows, id="id", header=header, cells=cells, drop=ROW_DROP):
        app.out.say("no jobs" if run is None else "no steps")
    elif len(jobs) == limit and not app.out.json:
        app.out.say(f"older ones: --before {list(jobs)[-1]}")


@job.command("prune")
@click.option("--older-than", type=Duration(), metavar="DURATION", help="Default: the setting retention.jobs_s.")
@pass_app
def prune(app: App, older_than: float | None) -> None:
    """Remove jobs that ended long ago.

    With them go their tags, idempotency keys and deliveries.

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


def _run_id(app: App, word: str) -> str:
    id = whole(app, word)
    if app.store.get(id).graph is None:
        only_of_runs(id, "--run")
    return id


def _check_id(id: str) -> None:
    try:
        UUID(id)
    except ValueError:
        raise click.UsageError(f"{id!r} is no job's id. `penstock job list` shows them.") from None
