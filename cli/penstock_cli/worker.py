"""``penstock worker``: serve models."""

from __future__ import annotations

import os

import click
import structlog

from penstock import inventory
from penstock.errors import ConfigError, StoreUnavailable, install
from penstock.lane import LANES, Lane
from penstock.policy.placing import environ, unseated
from penstock.telemetry.logs import configure_logs
from penstock_cli import waiting
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.params import metrics_port_option, with_metrics_port

log = structlog.get_logger(__name__)


@verb()
@click.argument("modules", nargs=-1, metavar="[MODULE…]")
@click.option("--pool", metavar="NAME", help="Serve only this pool: default, cpu (functions), yours.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Serve only this model (repeatable).")
@click.option("--name", metavar="NAME", help="The worker's name; needed for two of a pool on a machine.")
@click.option(
    "--device", metavar="DEVICE", help="cpu, cuda:0, …; default: the first CUDA device, else cpu; cpu for pool cpu."
)
@click.option("--slot", metavar="ID", help="Serve in this slot of the autoscaler's; end with 0 where there is none.")
@click.option(
    "--lane",
    type=click.Choice([str(lane) for lane in LANES]),
    help="Do jobs of this lane only, as long as other workers do those of the other.",
)
@metrics_port_option
@click.option("--no-supervisor", is_flag=True, help="Do not restart the worker when it dies: something else does.")
@pass_app
def command(
    app: App,
    modules: tuple[str, ...],
    pool: str | None,
    models: tuple[str, ...],
    name: str | None,
    device: str | None,
    slot: str | None,
    lane: str | None,
    metrics_port: int | None,
    no_supervisor: bool,
) -> int:
    """Serve the models of MODULEs (or of PENSTOCK_MODELS) on one device, and on a CPU their functions, too.

    A small supervisor starts the worker again when it dies, as it does when a model never returns. SIGTERM or Ctrl-C
    drains: what runs is finished, what was only claimed goes back to the broker.
    """
    settings = app.with_models(modules)
    settings = settings.of_pool(pool)
    said = {name: value for name, value in (("device", device), ("lane", lane and Lane(lane))) if value}
    settings = settings.model_copy(update={"worker": settings.worker.model_copy(update=said)})
    settings = with_metrics_port(settings, metrics_port)
    threads = None if pool is None else settings.pool(pool).threads
    seat = unseated(pool or "", threads=threads, cores=inventory.cores(), shown=inventory.shown_cores())
    if seat is not None:  # before anything is imported that starts threads
        os.environ.update(environ(seat, os.environ))
    _check_worker_installed()
    from penstock_worker.zygote.newborn import forked as is_forked

    configure_logs(settings.log_level)
    # What is forked opens nothing before its worker is; that one waits for its servers itself.
    if not is_forked() and not (waiting.for_servers(app, broker=False) and _is_wanted(app, slot)):
        return 0
    if not is_forked() and not waiting.for_servers(app, store=False):
        return 0
    if no_supervisor:
        from penstock_worker import main

        return main.run(settings, pool=pool, name=name, only=models, slot=slot)
    from penstock_worker import supervisor

    named = (("--pool", pool), ("--name", name), ("--slot", slot))
    argv = [part for option, value in named if value for part in (option, value)]
    argv += [part for value in models for part in ("--model", value)]
    return supervisor.run(settings, argv)


def _is_wanted(app: App, slot: str | None) -> bool:
    """Whether there is such a slot, before the broker is waited for: one that is wanted no longer needs none."""
    if slot is None:
        return True
    try:
        found = app.store.elastic.slot(slot)
    except StoreUnavailable:  # gone again since it answered: the worker itself waits
        return True
    if found is not None and found.state != "draining":
        return True
    from penstock_worker.slot import why_not

    log.info(
        "there is no slot for this worker: it is not wanted, and ends",
        action="worker.no_slot",
        slot=slot,
        why=why_not(found),
    )
    return False


def _check_worker_installed() -> None:
    try:
        import penstock_worker  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"the worker cannot be imported: {error}", fix=install("worker")) from error
