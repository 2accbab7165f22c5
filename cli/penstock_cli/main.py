"""``penstock``: the command line.

Standard output carries data and standard error messages; every command takes ``--json``. Exit status: 0 ok, 1 the job
failed, 2 usage, 3 a server is not reachable, 4 timeout, 75 too busy now, 130 interrupted, 70 a fault of penstock.

A command's module is imported when the command is used, so that ``penstock --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from penstock import __version__
from penstock_cli.commands import CommonGroup
from penstock_cli.context import App

#: name -> (module, one line for ``--help``), by section, in the order of ``penstock --help``.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Start here": {
        "up": ("penstock_cli.up.command", "Run everything on this machine."),
        "demo": ("penstock_cli.demo", "Watch real text go through the queue into a real model."),
        "doctor": ("penstock_cli.doctor", "Check settings, servers, workers and this machine."),
    },
    "Jobs": {
        "submit": ("penstock_cli.submit", "Submit a job and print its id."),
        "run": ("penstock_cli.run", "Submit a job, wait, and print its output."),
        "batch": ("penstock_cli.batch", "Run a file of jobs."),
        "job": ("penstock_cli.job", "Look at jobs, wait for them, cancel, retry."),
        "pipeline": ("penstock_cli.pipeline", "Graphs of models: show them, run them."),
        "queue": ("penstock_cli.queue", "What waits, and for which model."),
        "model": ("penstock_cli.model", "The models that are served."),
        "tenant": ("penstock_cli.tenant", "Who shares the devices: weights, caps, what each has used."),
        "webhook": ("penstock_cli.webhook", "Result callbacks: deliveries, replay, a test receiver."),
    },
    "Services": {
        "worker": ("penstock_cli.worker", "Serve models."),
        "dispatcher": ("penstock_cli.dispatcher", "Relay jobs, rescue and retry them, deliver webhooks."),
        "autoscaler": ("penstock_cli.autoscaler", "How many workers each pool has: decide, show, explain."),
        "dashboard": ("penstock_cli.dashboard", "Flower, configured for this deployment."),
        "rollout": ("penstock_cli.rollout", "Workers become another revision, without a gap."),
    },
    "Administration": {
        "plan": ("penstock_cli.plan", "How many workers: for what traffic, and at what cost."),
        "bench": ("penstock_cli.bench", "Offer load to a live system and measure it."),
        "db": ("penstock_cli.db", "The database schema."),
        "config": ("penstock_cli.config", "The effective settings."),
        "completion": ("penstock_cli.completion", "Shell completion for bash, zsh and fish."),
    },
}


@click.group(
    cls=CommonGroup,
    sections=COMMANDS,
    epilog="Start with `penstock demo`, or `penstock up my_models`.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="penstock", message="%(prog)s %(version)s")
def cli() -> None:
    """Asynchronous inference on a message queue: lanes, batches and results that are never lost."""


def main() -> NoReturn:
    """For scripts that were installed before ``penstock_cli.entry`` was there."""
    from penstock_cli.entry import main as enter

    enter()


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    from penstock_cli import errors, textio

    textio.set_up()
    words = [textio.argument(word) for word in (sys.argv[1:] if argv is None else argv)]
    app = App()
    try:
        status = cli.main(words, prog_name="penstock", standalone_mode=False, obj=app)
        app.out.flush()
        return status if isinstance(status, int) else 0
    except BaseException as error:
        # A command line that cannot be parsed may end before its --json is reached.
        if isinstance(error, click.UsageError) and "--json" in words[: words.index("--") if "--" in words else None]:
            app.out.json = True
        return errors.report(error, app)
    finally:
        app.close()
