"""``penstock dispatcher``: relay, reconciler and webhook deliveries."""

from __future__ import annotations

from penstock.processes.lean import without_rich
from penstock_cli import waiting
from penstock_cli.commands import command as verb
from penstock_cli.commands import pass_app
from penstock_cli.context import App
from penstock_cli.params import metrics_port_option, with_metrics_port
from penstock_cli.services import Signals


@verb()
@metrics_port_option
@pass_app
def command(app: App, metrics_port: int | None) -> None:
    """Run the dispatcher: publish what waits, retry, rescue, expire, prune, deliver webhooks.

    One is enough; several share the work. It waits for the database at its start, and outlives both servers' restarts.
    While the broker is away it goes on with what needs none.
    """
    from penstock.telemetry.logs import configure_logs

    with without_rich():
        from penstock.dispatch.daemon import Dispatcher

    configure_logs(app.settings.log_level)
    if not waiting.for_servers(app, broker=False):
        return
    waiting.refused_for_good(app)
    dispatcher = Dispatcher(with_metrics_port(app.settings, metrics_port))
    with Signals() as signals:
        try:
            dispatcher.start()
            signals.wait()
        finally:
            dispatcher.stop()
