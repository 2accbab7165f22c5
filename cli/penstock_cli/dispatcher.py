"""``penstock dispatcher``: relay, reconciler and webhook deliveries."""

from __future__ import annotations

from penstock_cli import preflight
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.services import Signals


@verb()
@pass_app
def command(app: App) -> None:
    """Run the dispatcher: publish what waits, retry, rescue, expire, prune, deliver webhooks.

    One is enough; several share the work. It must reach the database to start, and outlives both servers' restarts.
    """
    from penstock.dispatch.daemon import Dispatcher
    from penstock.telemetry.logs import configure_logs

    preflight.check(app, broker=False)
    configure_logs(app.settings.log_level)
    dispatcher = Dispatcher(app.settings)
    with Signals() as signals:
        dispatcher.start()
        signals.wait()
        dispatcher.stop()
