"""``penstock up``: everything on this machine."""

from __future__ import annotations

from typing import Any

import click

from penstock.errors import ConfigError
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.errors import INTERRUPTED
from penstock_cli.services import Signals, Stop
from penstock_cli.up import patience
from penstock_cli.up.stack import Stack
from penstock_cli.up.state import AlreadyRunning, State, running

#: Most models, functions and pipelines that are told by name.
MOST_NAMES = 12


@verb()
@click.argument("modules", nargs=-1, metavar="[MODULE…]")
@click.option(
    "--workers", type=click.IntRange(0, 64), help="Workers per pool; default: as many as there is work and room for."
)
@click.option("--dashboard/--no-dashboard", default=True, help="Run Flower as well (the default).")
@click.option("--port", type=click.IntRange(1, 65535), help="The dashboard's port (default 5555, or a free one).")
@click.option("--migrate", is_flag=True, help="Bring the schema of a database of yours up to date, too.")
@pass_app
def command(
    app: App, modules: tuple[str, ...], workers: int | None, dashboard: bool, port: int | None, migrate: bool
) -> int | None:
    """Run everything on this machine: broker, database, dispatcher, workers, dashboard.

    MODULE is a Python module, module:Class or file.py that defines models; PENSTOCK_MODELS adds more. Ctrl-C stops all
    of it, in order: workers finish what they run. With --broker-url or --database-url those servers are used and are
    not started.

    Each pool begins with its least workers, one unless set, and has more while there is work for them: `penstock
    autoscaler status` shows it.
    """
    settings = app.with_models(modules)
    app.log_to_stderr()
    try:
        with Signals() as signals:
            stack = Stack(
                settings,
                workers=workers,
                dashboard=dashboard,
                port=port,
                migrate=migrate,
                say=app.out.say,
                check=signals.check,
            )
            return _run(app, stack, signals)
    except AlreadyRunning as found:
        _point_to(app, found, settings.models)
        return None


def _run(app: App, stack: Stack, signals: Signals) -> int | None:
    try:
        if running(stack.settings.home) is None:
            app.out.say(f"starting in {stack.settings.home} …")
        stack.start()
        stack.wait_ready()
        _print(app, stack.state)
        signals.wait()
    except Stop:
        app.out.say("interrupted")
    finally:
        if signals.arrived:
            app.out.say("\nstopping: workers finish what they run (Ctrl-C again: at once) …")
        patience.stop(stack, signals)
    app.out.say("stopped")
    return None if stack.state.ready else INTERRUPTED


def _point_to(app: App, found: AlreadyRunning, wanted: list[str]) -> None:
    state = found.state
    if state is None or not state.ready:
        app.out.say(f"{found.message}; it is still starting")
        return
    missing = [module for module in wanted if module not in state.modules]
    if missing:
        raise ConfigError(
            f"`penstock up` runs already (process {state.pid}), without {', '.join(missing)}",
            fix=f"stop it with Ctrl-C and start it with all of them, or add a worker: penstock worker {missing[0]}",
        )
    app.out.say(f"`penstock up` runs already (process {state.pid}):")
    _print(app, state)


def _print(app: App, state: State) -> None:
    if app.out.json:
        app.out.data(state.as_dict())
        app.out.flush()
        return
    names = [child.name for child in state.children]
    rows: list[tuple[str, Any]] = [
        ("broker", state.broker),
        ("database", state.database),
        ("models", _some(state.models)),
        ("functions", _some(state.functions)),
        ("pipelines", _some(state.pipelines)),
        ("running", ", ".join(names)),
        ("logs", state.logs),
        ("dashboard", state.dashboard),
    ]
    app.out.pairs(rows)
    app.out.flush()
    if state.example:
        app.out.say(f"\nready. Try, in another terminal:\n\n    {state.example}\n")
    else:
        app.out.say("\nready, but no model is served: stop with Ctrl-C, then `penstock up my_models`\n")


def _some(names: list[str]) -> str:
    """The first of them; `penstock model list` and `pipeline list` show all."""
    more = len(names) - MOST_NAMES
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:MOST_NAMES])} and {more:,} more"
