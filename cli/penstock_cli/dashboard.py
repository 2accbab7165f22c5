"""``penstock dashboard``: Flower."""

from __future__ import annotations

import os
import sys

import click

from penstock.errors import ConfigError, install
from penstock_cli import waiting
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App


@verb()
@click.option("--host", metavar="ADDRESS", help="Listen here (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT", help="Listen there (default 5555).")
@pass_app
def command(app: App, host: str | None, port: int | None) -> None:
    """Run Flower on this deployment's broker.

    On any address but loopback it asks for a login: set PENSTOCK_DASHBOARD__BASIC_AUTH=user:password.
    """
    from penstock.telemetry.logs import configure_logs
    from penstock_cli.up.ports import dashboard_installed

    if not dashboard_installed():
        raise ConfigError("the dashboard is not installed", fix=install("dashboard"))
    settings = app.settings
    changed = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update={"dashboard": settings.dashboard.model_copy(update=changed)})
    from penstock.dashboard import guard

    guard.check(settings)
    configure_logs(settings.log_level)
    if not waiting.for_servers(app, store=False):
        return
    from penstock.dashboard import server

    server.run(settings, on_start=lambda url: app.out.say(f"dashboard: {url}"))
    # Flower's helper threads may be waiting for a broker that is gone; nothing they do is worth waiting for.
    sys.stderr.flush()
    os._exit(0)
