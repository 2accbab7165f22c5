"""Services wait for their servers before they begin, and stop at once when they are told to meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from penstock import private
from penstock.errors import Unreachable
from penstock.waiting import passes, until_reachable
from penstock_cli.context import App
from penstock_cli.services import Signals, Stop

log = structlog.get_logger(__name__)


def for_servers(app: App, *, broker: bool = True, store: bool = True, first: Callable[[], None] = lambda: None) -> bool:
    """Return when the servers answer; ``False`` when a signal came first. Logs a line per try.

    ``first`` is what the database has to be told before anything begins: it may go away again at any moment.

    Raises what waiting does not mend: ``SchemaOutdated``, ``StoreRefused``, a broker that refuses the password.
    """
    from penstock_cli.servers import check_broker

    wanted: list[tuple[str, Callable[[], None]]] = []
    if store:
        wanted += [("database", app.store.check), ("database", first)]
    if broker:
        wanted.append(("broker", lambda: check_broker(app.settings)))
    private.tighten(app.settings.home)
    with Signals() as signals:

        def pause(seconds: float) -> None:
            if signals.wait(seconds):
                raise Stop

        try:
            for server, check in wanted:
                _wait(server, check, pause)
                signals.check()
        except Stop:
            log.info("stopped while waiting", action="service.stop")
            return False
    return True


def refused_for_good(app: App) -> None:
    """For who need not wait for the broker: raise its refusal if waiting would not mend it."""
    from penstock_cli.servers import check_broker

    try:
        check_broker(app.settings)
    except Unreachable as error:
        if not passes(error):
            raise


def _wait(server: str, check: Callable[[], None], pause: Callable[[float], None]) -> None:
    tries = 0

    def tell(error: Unreachable, again_s: float) -> None:
        nonlocal tries
        tries += 1
        log.warning(
            f"waiting for the {server}",
            action="service.wait",
            tries=tries,
            again_s=again_s,
            error=error.message,
            fix=error.fix,
        )

    until_reachable(check, tell=tell, pause=pause)
    if tries:
        log.info(f"the {server} answers", action="service.found", tries=tries)
