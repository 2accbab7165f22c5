"""``penstock job signal`` and ``fork``: what only runs of pipelines have."""

from __future__ import annotations

import click

from penstock_cli import preflight
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.inputs import read_input
from penstock_cli.jobids import whole
from penstock_cli.output import dumps
from penstock_cli.services import unbroken


@verb("signal")
@click.argument("run")
@click.argument("name")
@click.argument("value", default="null")
@click.option("-r", "--raw", is_flag=True, help="VALUE is text as it stands, even if it looks like JSON.")
@click.option("--id", metavar="ID", help="The same ID twice is one signal: say it where you may repeat this.")
@pass_app
def signal(app: App, run: str, name: str, value: str, raw: bool, id: str | None) -> None:
    """Tell a run what one of its steps waits for, or will wait for.

    VALUE is JSON, text, @FILE or - for standard input; without it, null.

    \b
      penstock job signal 0192f0c1 decision '"yes"'
    """
    given = read_input(value, raw=raw)
    preflight.check(app, broker=False)
    run = whole(app, run)
    app.client.signal(run, name, given, id=id)
    if app.out.json:
        app.out.data({"id": run, "signal": name})
    sent = "" if given is None else f" with {dumps(given):.200}"
    app.out.say(f"run {run} was sent the signal {name!r}{sent}")


@verb("fork")
@click.argument("run")
@click.option("--from", "from_step", metavar="STEP", help="Do this step again, and what comes after it.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="Another input: JSON, text, @FILE or -.")
@pass_app
def fork(app: App, run: str, from_step: str | None, inputs: tuple[str, ...]) -> None:
    """Run a run's graph again without what has succeeded.

    Prints the new run's id. What has succeeded is taken over; what comes from --from on, or from another --input, is
    done again.

    \b
      penstock job fork 0192f0c1 --from judge
      penstock job fork 0192f0c1 --input question=why?
    """
    changed = {}
    for given in inputs:
        name, equals, value = given.partition("=")
        if not equals:
            raise click.UsageError(f"--input {given!r} is no NAME=VALUE.")
        changed[name] = read_input(value)
    preflight.check(app, broker=False)
    source = app.client.get(whole(app, run))
    with unbroken():  # else a run could be stored whose id was not printed
        job = source.fork(from_step=from_step, inputs=changed)
        if app.out.json:
            app.out.data({"id": job.id, "from": source.id})
        else:
            app.out.line(job.id)
        app.out.flush()
    app.out.say(f"its result: penstock job wait {job.id}")
