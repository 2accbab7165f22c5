"""Runs Flower in this process."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from penstock.app import make_celery
from penstock.dashboard.depths import install
from penstock.dashboard.gate import Gate
from penstock.dashboard.guard import check
from penstock.errors import ConfigError, PenstockError
from penstock.settings import Settings
from penstock.store import Store

#: The task list's columns: what tells jobs apart, and which worker has them.
COLUMNS = "name,uuid,state,worker,args,result,received,runtime,started"


def run(settings: Settings, *, on_start: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or SIGINT. Calls ``on_start`` with the address when it listens.

    Only on a main thread, and once per process. Raises ``ConfigError`` when it may not or cannot listen.
    """
    check(settings)
    flower = make_flower(settings)
    host, port = settings.dashboard.host, settings.dashboard.port
    try:
        bound = flower.start_http_server()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"the dashboard cannot listen on {host}:{port}: {error.strerror}",
            fix="choose another port: `penstock dashboard --port 5556`" if taken else "choose another --host or --port",
        ) from error

    def stop(number: int, frame: FrameType | None) -> None:
        flower.io_loop.add_callback_from_signal(flower.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    on_start(f"http://{f'[{host}]' if ':' in host else host or '0.0.0.0'}:{bound}")
    flower.start()


def make_flower(settings: Settings) -> Any:
    """Flower's application, not listening yet. Sets Flower's global options."""
    from flower.app import Flower  # type: ignore[import-untyped]
    from flower.command import apply_env_options, extract_settings, setup_logging  # type: ignore[import-untyped]
    from flower.options import default_options as options  # type: ignore[import-untyped]
    from flower.urls import settings as tornado_settings  # type: ignore[import-untyped]

    from penstock.dashboard.front import guarded

    install(settings.namespace)
    apply_env_options()  # FLOWER_* first, so that ours win where both speak
    options.port = settings.dashboard.port
    options.address = settings.dashboard.host
    options.persistent = False
    options.tasks_columns = COLUMNS
    if settings.dashboard.basic_auth is not None:
        options.basic_auth = [settings.dashboard.basic_auth.get_secret_value()]
    extract_settings()
    setup_logging()
    # The queues of every model that was ever announced: the broker page shows them without a worker, too.
    capp = make_celery(settings, models=_announced(settings))
    login = bool(options.basic_auth or options.auth)
    gate = Gate(settings.dashboard.host, settings.dashboard.allowed_hosts, login=login)
    application = guarded(Flower, gate, Path(tornado_settings["template_path"]))
    return application(capp=capp, options=options, **tornado_settings)


def _announced(settings: Settings) -> Iterable[str]:
    store = Store.open(settings.database)
    try:
        return sorted(store.models())
    except PenstockError:
        return []  # the dashboard needs no database
    finally:
        store.close()
