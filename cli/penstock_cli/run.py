"""``penstock run``: a job and its output."""

from __future__ import annotations

from typing import Any

import click

from penstock.errors import JobUnsuccessful, ResultTimeout
from penstock_cli import preflight
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.errors import FAILED
from penstock_cli.inputs import read_input
from penstock_cli.jobopts import as_keywords, job_options
from penstock_cli.jobview import job_dict
from penstock_cli.params import Duration, complete_name
from penstock_cli.reminder import Reminder
from penstock_cli.runstream import follow
from penstock_cli.services import unbroken
from penstock_cli.serving import models_behind, warn_if_unserved


@verb()
@click.argument("model", shell_complete=complete_name)
@click.argument("input")
@click.option("-r", "--raw", is_flag=True, help="INPUT is text as it stands; a text output is printed unquoted.")
@click.option("--timeout", type=Duration(), metavar="DURATION", help="Stop waiting after; the job goes on. Exit 4.")
@click.option("--stream", is_flag=True, help="Print partial output as it comes; Ctrl-C cancels the job.")
@job_options
@pass_app
def command(
    app: App, model: str, input: str, raw: bool, timeout: float | None, stream: bool, **options: Any
) -> int | None:
    """Submit a job, wait, and print its output.

    INPUT is JSON, text, @FILE or - for standard input. The output is printed as JSON. Ctrl-C stops the waiting, not
    the job. With --stream, text that a step-wise model gives is printed as it stands, other pieces as a JSON line each,
    and the output only if there were none; with --json all events, as `penstock job stream` does.

    \b
      penstock run embed '"hello world"'
      penstock run embed "hello world" --json | jq .metrics
    """
    if stream and timeout is not None:
        raise click.UsageError("--stream follows a job to its end: leave out --timeout, or say --attempt-timeout.")
    value = read_input(input, raw=raw)
    preflight.check(app)
    preflight.look(app, model)
    job = None
    try:
        with unbroken():  # else a job could run of which nobody was told
            job = app.client.enqueue(model, value, **as_keywords(options))
        behind = models_behind(app, job.job)
        for each in behind:
            warn_if_unserved(app, each)
        if stream:
            return follow(app, job, raw=raw)
        with Reminder(app, behind):
            output = job.result(timeout=timeout)
    except JobUnsuccessful:
        if job is None or not app.out.json:
            raise
        app.out.data(job_dict(job.refresh()))
        return FAILED
    except (KeyboardInterrupt, ResultTimeout):
        if job is not None and stream:
            job.cancel()
        elif job is not None:
            app.out.say(f"job {job.id} goes on; its result: penstock job wait {job.id}")
        raise
    if app.out.json:
        app.out.data(job_dict(job.refresh()))
    elif raw and isinstance(output, str):
        app.out.line(output)
    else:
        app.out.data(output)
    return None
