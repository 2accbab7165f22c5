"""``penstock submit``: a job, and its id."""

from __future__ import annotations

from typing import Any

import click

from penstock_cli import preflight
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.inputs import read_input
from penstock_cli.jobopts import as_keywords, job_options
from penstock_cli.params import complete_name
from penstock_cli.services import unbroken


@verb()
@click.argument("model", shell_complete=complete_name)
@click.argument("input")
@click.option("-r", "--raw", is_flag=True, help="INPUT is text as it stands, even if it looks like JSON.")
@job_options
@pass_app
def command(app: App, model: str, input: str, raw: bool, **options: Any) -> None:
    """Submit a job and print its id.

    INPUT is JSON, text, @FILE or - for standard input. The job is durable when the id is printed; without a broker it
    waits until there is one.

    \b
      penstock submit embed '"hello world"'
      penstock submit embed @question.json --lane background --tag run=7
      echo hello | penstock submit embed - --raw
    """
    value = read_input(input, raw=raw)
    preflight.check(app, broker=False)
    preflight.look(app, model)
    with preflight.told_here(), unbroken():  # else a job could be stored whose id was not printed
        job = app.client.enqueue(model, value, **as_keywords(options))
        if app.out.json:
            app.out.data({"id": job.id, "model": model, "status": str(job.status)})
        else:
            app.out.line(job.id)
        app.out.flush()
    if not preflight.broker_answers(app):
        app.out.warn("the broker does not answer; the job is safe in the database and runs when it is back")
    app.out.say(f"its result: penstock job wait {job.id}")
