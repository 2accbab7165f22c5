"""How a program would send a plain Celery task, asked when a canvas is submitted: the dispatcher has no such app."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from penstock.arguments import shown
from penstock.errors import ConfigError, InvalidInput, safe_text
from penstock.pipelines.canvas.signature import Signature
from penstock.pipelines.canvas.taskoptions import Route
from penstock.settings import Settings
from penstock.transport.keys import returns
from penstock.transport.url import BrokerURL, parse

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


def route_by(settings: Settings) -> Route:
    """What ``translate`` asks. Where no app is known, a task goes to its own queue, or to ``celery.default_queue``."""

    def route(signature: Signature, options: Mapping[str, Any]) -> Mapping[str, Any]:
        app = _app_of(signature.app)
        if app is None:
            queue = options.get("queue", settings.celery.default_queue)
            return {"queue": getattr(queue, "name", queue)}
        _check(app, signature.task, settings)
        from penstock.routes import message_options  # whoever has an app has Celery

        sig = {"task": signature.task, "args": signature.args, "kwargs": signature.kwargs, "options": dict(options)}
        try:
            return message_options(sig, app)
        except Exception as error:  # a router of the user's, or a queue that is not configured
            raise InvalidInput(
                f"{signature.task}: its app finds no route for it ({safe_text(error)})",
                fix="name a queue of the app's: task.s(…).set(queue=…)",
            ) from None

    return route


def _app_of(app: Any) -> Any:
    """The app of a signature, else the program's own; ``None`` where there is none."""
    state = sys.modules.get("celery._state")
    if app is None and state is not None:  # not `current_app`, which would make one up
        app = state._tls.current_app or state.default_app
    return None if app is None or app.main == "default" else app


def _check(app: Any, task: str, settings: Settings) -> None:
    """Raise ``InvalidInput`` for a task of an app with which a run cannot speak."""
    conf = app.conf
    url = conf.broker_write_url or conf.broker_url
    url = url[0] if isinstance(url, list | tuple) and url else url
    if url and not same_broker(str(url), settings.broker):
        raise InvalidInput(
            f"{task} is a task of the app {app.main!r}, whose broker is {_place(str(url))}; runs send to"
            f" {_place(settings.broker)}",
            fix="give both the same broker (PENSTOCK_BROKER_URL), or call the other one's task from a task of this one",
        )
    if (conf.broker_transport_options or {}).get("global_keyprefix"):
        raise InvalidInput(
            f"{task} is a task of the app {app.main!r}, which has a global_keyprefix: its queues have other names",
            fix="leave global_keyprefix out of broker_transport_options",
        )
    if conf.task_serializer != "json" or "json" not in _names(conf.accept_content):
        raise InvalidInput(
            f"{task} is a task of the app {app.main!r}, which has task_serializer={shown(conf.task_serializer)} and"
            f" accept_content={shown(list(conf.accept_content or ()))}: runs are JSON",
            fix='set task_serializer="json", and let accept_content have "json"',
        )
    queue = returns(settings.namespace)
    if not conf.task_create_missing_queues and queue not in app.amqp.queues:
        raise InvalidInput(
            f"{task} is a task of the app {app.main!r}, whose workers send to no queue that it does not name",
            fix=f"add Queue({queue!r}) to its task_queues: there the run hears of its tasks",
        )


def _names(content: Any) -> set[str]:
    return {str(each).removeprefix("application/") for each in content or ()}


@lru_cache(maxsize=64)
def same_broker(one: str, other: str) -> bool:
    """Whether two URLs name one Redis database, as far as they show it."""
    try:
        return _key(parse(one)) == _key(parse(other))
    except ConfigError:
        return False


def _key(url: BrokerURL) -> tuple[object, ...]:
    hosts = tuple("localhost" if host in _HERE else host.lower() for host, _ in url.hosts)
    return url.scheme, hosts, tuple(port for _, port in url.hosts), url.path, url.db, url.master_name


def _place(url: str) -> str:
    """A URL without its secrets."""
    try:
        return str(parse(url))
    except ConfigError:
        return f"{url.partition('://')[0]}://…"
