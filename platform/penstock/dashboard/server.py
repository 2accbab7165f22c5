"""Runs Flower in this process."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from penstock import clock
from penstock.app import make_celery
from penstock.dashboard.depths import install
from penstock.dashboard.gate import Gate
from penstock.dashboard.guard import check
from penstock.errors import ConfigError, PenstockError
from penstock.lane import LANES, queue_name
from penstock.settings import Settings
from penstock.store import Store
from penstock.views.fleet import registered

#: The task list's columns: what tells jobs apart, and which worker has them.
COLUMNS = "name,uuid,state,worker,args,result,received,runtime,started"


def run(settings: Settings, *, on_start: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or SIGINT. Calls ``on_start`` with the address when it listens.

    Only on a main thread, and once per process. Raises ``ConfigError`` when it may not or cannot listen.
    """
    check(settings)
    from tornado.ioloop import PeriodicCallback

    from penstock.dashboard.truth import EVERY_S

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
    looks = PeriodicCallback(flower.truth.look, EVERY_S * 1000)
    looks.start()
    on_start(f"http://{f'[{host}]' if ':' in host else host or '0.0.0.0'}:{bound}")
    flower.start()


def make_flower(settings: Settings) -> Any:
    """Flower's application, not listening yet. Sets Flower's global options."""
    from flower.app import Flower, rewrite_handler  # type: ignore[import-untyped]
    from flower.command import apply_env_options, extract_settings, setup_logging  # type: ignore[import-untyped]
    from flower.options import default_options as options  # type: ignore[import-untyped]
    from flower.urls import settings as tornado_settings  # type: ignore[import-untyped]

    from penstock.dashboard import results
    from penstock.dashboard.front import guarded
    from penstock.dashboard.handlers import Models, handlers
    from penstock.dashboard.pages import Pages
    from penstock.dashboard.truth import Truth

    store = Store.open(settings.database)
    install(settings.namespace, partial(_serving, store, settings.namespace))
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
    models = Models(store, settings.namespace)
    capp = make_celery(settings, models=models.known())
    results.install(capp, store)
    login = bool(options.basic_auth or options.auth)
    gate = Gate(settings.dashboard.host, settings.dashboard.allowed_hosts, login=login)
    application = guarded(Flower, gate, Path(tornado_settings["template_path"]))
    pages = Pages(tornado_settings["template_path"])
    flower = application(capp=capp, options=options, template_loader=pages, **tornado_settings)
    ours = handlers(models)
    if options.url_prefix:
        ours = [rewrite_handler(handler, options.url_prefix) for handler in ours]
    flower.add_handlers(".*", ours)
    flower.truth = Truth(flower, store, settings.namespace)
    return flower


def _serving(store: Store, namespace: str) -> dict[str, int]:
    """How many live workers serve each queue; nothing while the database is away."""
    try:
        places = registered(store, now=clock.now()).places
    except PenstockError:
        return {}  # the dashboard needs no database
    return {queue_name(namespace, model, lane): len(where) for model, where in places.items() for lane in LANES}
