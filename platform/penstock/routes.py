"""Where Celery's follow-ups go: the routes of canvases that run through models.

In the producer, ``install`` connects a ``Freezer`` to Celery's ``before_task_publish``: what a model's worker will
publish later (the next step of a chain, a chord's body, callbacks, error callbacks) gets the route by which *this*
program's app would have sent it, unless it has one. Which follow-ups these are is ``policy.followups``. In the worker,
``WorkerRoutes`` is the router of its app: what comes without a route goes to ``celery.default_queue``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import structlog
from celery import Celery, current_app, signals
from kombu import Exchange

from penstock.errors import PenstockError, safe_text
from penstock.lane import PIPELINES, Lane, is_model_queue, queue_name
from penstock.policy.followups import Sig, with_routes

log = structlog.get_logger(__name__)

#: Options that are a route.
_ROUTE = ("queue", "exchange", "routing_key", "exchange_type")
#: Options of a task, or of its entry in ``task_routes``, that are frozen: the route, and which of its lists.
_KEPT = (*_ROUTE, "priority")

#: Options of a task that its messages have, besides.
_OF_TASKS = ("expires", "serializer", "time_limit", "soft_time_limit")


class Producer:
    """What this process knows of its apps and of models: the ``World`` of ``policy.followups``."""

    def __init__(self, namespace: Callable[[], str]) -> None:
        self._namespace = namespace

    def app_of(self, sig: Sig, outer: Any) -> Any:
        return getattr(sig, "_app", None) or outer

    def is_model(self, sig: Sig, app: Any) -> bool:
        name = sig.get("task")
        if not isinstance(name, str) or not name.startswith(f"{self._namespace()}."):
            return False
        route = {**self.route(sig, app), **(sig.get("options") or {})}
        return self.is_model_queue(_name_of(route.get("queue")))

    def is_model_queue(self, queue: Any) -> bool:
        """Whether workers of models consume it."""
        return is_model_queue(queue, self._namespace())

    def route(self, sig: Sig, app: Any) -> Mapping[str, Any]:
        options = sig.get("options") or {}
        if queue := options.get("queue"):
            return {} if isinstance(queue, str) else {"queue": queue.name}  # a message cannot hold a `kombu.Queue`
        try:
            found = _route(sig, app or current_app)
        except Exception as error:  # a router of the user's, or a queue that is not configured
            log.warning("no route found", action="routes.unknown", task=str(sig.get("task")), error=safe_text(error))
            return {}
        return {name: value for name, value in found.items() if not isinstance(options.get(name), str | int)}


def _route(sig: Sig, app: Any) -> dict[str, Any]:
    """The route by which ``app`` would send ``sig``, in words that a message can hold."""
    name, options, kwargs = sig["task"], sig.get("options") or {}, sig.get("kwargs") or {}
    task: Any = app._tasks.get(name)
    if name in ("celery.map", "celery.starmap", "celery.chunks"):
        name = kwargs["task"]["task"]  # Celery routes a map by what it maps
    given = dict(task._get_exec_options()) if hasattr(task, "_get_exec_options") else {}
    given = {key: given[key] for key in _KEPT if given.get(key) is not None}
    given |= {key: options[key] for key in _ROUTE if options.get(key) is not None}
    found = app.amqp.router.route(given, name, sig.get("args") or (), kwargs, task)
    queue, exchange, key = found.get("queue"), found.get("exchange"), found.get("routing_key")
    kind = found.get("exchange_type") or getattr(exchange, "type", None)
    if kind is None:
        kind = (_type_of(app, exchange) if exchange else None) or (queue.exchange.type if queue else "direct")
    route: dict[str, Any] = {}
    if found.get("priority") is not None:
        route["priority"] = found["priority"]
    # As Celery's own publisher decides it.
    if kind == "direct" and not (exchange and key) and queue is not None:
        return route | {"queue": queue.name}
    source = queue.exchange if queue is not None else None
    return route | {
        "exchange": _name_of(exchange) or (source.name if source is not None else ""),
        "routing_key": key or (queue.routing_key if queue is not None else None) or app.conf.task_default_routing_key,
        "exchange_type": kind,
    }


def message_options(sig: Sig, app: Any) -> dict[str, Any]:
    """The route by which ``app`` would send ``sig``, and what its task says of its messages. Raises what routers do."""
    task: Any = app._tasks.get(sig["task"])
    own = dict(task._get_exec_options()) if hasattr(task, "_get_exec_options") else {}
    found = {name: own[name] for name in _OF_TASKS if own.get(name) is not None}
    ignores = getattr(task, "ignore_result", None)
    return {**found, **({} if ignores is None else {"ignore_result": ignores}), **_route(sig, app)}


def _type_of(app: Any, exchange: Any) -> str | None:
    """The type of an exchange that some queue of the app is bound to."""
    bound = (queue.exchange for queue in app.amqp.queues.values() if queue.exchange is not None)
    return next((each.type for each in bound if each.name == _name_of(exchange)), None)


def _name_of(entity: Any) -> Any:
    """The name of a queue or exchange, or what it is when it is a name."""
    return entity if entity is None or isinstance(entity, str) else entity.name


class Freezer:
    """Celery's signal ``before_task_publish``."""

    def __init__(self, namespace: Callable[[], str], sender: Callable[[], Celery | None]) -> None:
        self._producer = Producer(namespace)
        self._sender = sender

    def __call__(
        self, sender: Any = None, body: Any = None, routing_key: Any = None, exchange: Any = None, **_: Any
    ) -> None:
        """Give the follow-ups in ``body`` their routes, in place of the message and of nothing else."""
        # Protocol 2 keeps them in the third part of the body, protocol 1 among the fields of its only one.
        embed = body[2] if isinstance(body, list | tuple) and len(body) == 3 else body
        if not isinstance(embed, dict) or not any(map(embed.get, ("callbacks", "errbacks", "chain", "chord"))):
            return
        try:
            by_model = not exchange and self._producer.is_model_queue(routing_key)
            embed |= with_routes(embed, by_model=by_model, world=self._producer, app=self._sender())
        except PenstockError as error:  # settings that cannot be read: models are not this program's matter
            log.debug("follow-ups keep their routes", action="routes.skip", error=error.message)


class WorkerRoutes:
    """The router of a worker's own app (``task_routes``): it publishes for producers that it does not know."""

    def __init__(self, namespace: str, models: Container[str] = (), pipelines: Container[str] = ()) -> None:
        self._namespace = namespace
        self._models = models
        self._pipelines = pipelines

    def __call__(self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], **_: Any) -> Any:
        if options.get("queue"):
            return None
        if exchange := _name_of(options.get("exchange")):
            # Redis does not keep what type an exchange has: who publishes must say so first.
            return {"declare": [Exchange(exchange, type=options.get("exchange_type") or "direct")]}
        model = name.removeprefix(f"{self._namespace}.")
        if model != name and model in self._models:
            return {"queue": queue_name(self._namespace, model, Lane.INTERACTIVE)}
        if model != name and model in self._pipelines:
            return {"queue": queue_name(self._namespace, PIPELINES, Lane.INTERACTIVE)}
        return None


def install(namespace: Callable[[], str], sender: Callable[[], Celery | None]) -> None:
    """Freeze routes in this process from now on. ``sender`` sends what has no app (``None``: the current one does)."""
    signals.before_task_publish.connect(Freezer(namespace, sender), weak=False, dispatch_uid=__name__)
