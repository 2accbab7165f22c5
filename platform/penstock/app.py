"""The Celery application, built from settings.

Used by the worker, by Flower, and by whoever composes models in Celery canvases. Producers of plain jobs never
import it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import cache
from typing import Any

from celery import Celery, _state
from kombu import Exchange, Queue

from penstock import routes
from penstock.lane import LANES, queue_name
from penstock.settings import Settings
from penstock.transport.url import for_kombu


def make_celery(
    settings: Settings,
    *,
    models: Iterable[str] = (),
    known: Container[str] = (),
    pipelines: Container[str] = (),
    worker: bool = False,
) -> Celery:
    """A Celery app that talks to this deployment; ``models`` are the ones whose queues it consumes.

    What it sends by the name of a ``known`` model goes to that one's queue, by that of one of the ``pipelines`` to
    theirs, and what has no route to the default queue.
    Only a ``worker`` becomes the process's current app: a producer may have its own.
    """
    broker, results = for_kombu(settings.broker), for_kombu(settings.results)
    app = Celery(settings.namespace, broker=broker.url, backend=results.url, set_as_current=worker)
    if broker.use_ssl:
        app.conf.broker_use_ssl = broker.use_ssl
    if results.use_ssl:
        app.conf.redis_backend_use_ssl = results.use_ssl
    app.conf.update(
        # JSON only: a pickled message could run code in the worker.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # A message is acknowledged when its outcome is committed, never before.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=True,
        task_send_sent_event=False,
        worker_send_task_events=True,
        # Flower and `celery inspect` look at one queue per (model, lane).
        task_queues=[queue for name in models for queue in queues_of(settings.namespace, name)],
        task_default_queue=settings.celery.default_queue,
        task_routes=[routes.WorkerRoutes(settings.namespace, known, pipelines)],
        task_create_missing_queues=True,
        event_queue_prefix=f"{settings.namespace}.celeryev",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_prefetch_multiplier=4,
        worker_enable_prefetch_count_reduction=False,
        broker_transport_options=transport_options(settings) | broker.transport_options,
        result_backend_transport_options=results.transport_options,
        result_expires=int(settings.retention.jobs_s),
        timezone="UTC",
        enable_utc=True,
    )
    return app


def transport_options(settings: Settings) -> dict[str, Any]:
    """Options of the Redis transport: the same in every process, so that nobody restores foreign messages early."""
    return {
        "namespace": settings.namespace,
        "lease_s": settings.lease.ttl_s,
        "visibility_timeout": max(3600, int(settings.lease.ttl_s * 2)),
        "unacked_key": f"{settings.namespace}:stock:unacked",
        "unacked_index_key": f"{settings.namespace}:stock:unacked_index",
        "unacked_mutex_key": f"{settings.namespace}:stock:unacked_mutex",
        "socket_keepalive": True,
        "health_check_interval": 25,
        "priority_steps": [0, 3, 6, 9],
        "queue_order_strategy": "sorted",
    }


def queues_of(namespace: str, model: str) -> list[Queue]:
    """The queues of one model, in the order in which they are served."""
    names = [queue_name(namespace, model, lane) for lane in LANES]
    return [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in names]


@cache
def _plain_app() -> Celery:
    return make_celery(plain_settings())


def sender() -> Celery | None:
    """Who sends signatures: the program's own Celery app (``None``), or ours where it has none."""
    # Asking `celery.current_app` would make one up, which knows neither broker nor results.
    state: Any = _state
    own = state._tls.current_app or state.default_app
    return None if own is not None and own.main != "default" else _plain_app()


@cache
def plain_settings() -> Settings:
    """The settings of a program that gives none: of its environment."""
    return Settings.load()


routes.install(lambda: plain_settings().namespace, sender)
