"""The Celery app of a worker process: ``celery -A penstock_worker.app worker`` and ``penstock worker`` run it.

Importing this module reads the settings and imports the users' models; it loads nothing onto a device.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import structlog
from celery import Celery

from penstock.app import make_celery
from penstock.dashboard import depths
from penstock.errors import ConfigError
from penstock.lane import PIPELINES
from penstock.policy.pools import DEFAULT, places, want_of
from penstock.registry import Registry
from penstock.settings import Settings
from penstock.transport.redis import install
from penstock_worker.boot import lanes, remote
from penstock_worker.boot.bootsteps import Feed, Serve
from penstock_worker.boot.eventer import PatientDispatcher
from penstock_worker.canvas.results import bulk_url
from penstock_worker.canvas.tasks import register, register_pipelines
from penstock_worker.execute.device import choose_device
from penstock_worker.models.served import choose, how_to_serve_functions
from penstock_worker.serving import Plan

log = structlog.get_logger(__name__)


def build(settings: Settings, *, pool: str | None = None, only: Sequence[str] = ()) -> Celery:
    """The worker's app. It serves the models of ``pool`` (all, when none is named), or those in ``only``; which
    functions it leaves to others is said in the log.

    Pipelines are of no pool: it announces all that its modules define.
    """
    install()
    remote.install()
    lanes.install()
    registry = Registry.load(settings.models)
    where = places(map(want_of, registry), settings.served_pools())
    models, functions, misfits = choose(
        registry, where, pool=pool, only=only, device=lambda: choose_device(settings.worker.device)
    )
    for cls in registry:
        if cls.name not in models:
            cls.forget()
    for name, fault in misfits.items():
        log.warning(f"model {name!r} is not served: {fault}", action="worker.misfit", model=name, pool=pool)
    if functions:
        log.warning(
            "functions are not served on this device",
            action="worker.functions",
            functions=functions,
            fix=f"serve them, too: {how_to_serve_functions(settings.models)}",
        )
    if not models:
        if functions:
            raise ConfigError(
                "there are only functions to serve, which are not run beside a device",
                fix=f"serve them with {how_to_serve_functions(settings.models)}",
            )
        raise ConfigError(
            f"no model to serve in pool {pool!r}" if pool else "no model to serve",
            fix=next(iter(misfits.values()), "")
            or "name the modules that define models"
            + (", besides those that define pipelines" if registry.pipelines else "")
            + ": `penstock worker my_models`, or PENSTOCK_MODELS=my_models",
        )
    # Celery's calls of pipelines are anybody's: what is known of these is in the database.
    app: Any = make_celery(
        settings,
        models=[*models, PIPELINES],
        known={cls.name for cls in registry},
        pipelines=registry.pipelines,
        worker=True,
    )
    app.conf.result_backend = bulk_url(app.conf.result_backend)
    # The device thread runs the models; Celery's pool only runs what else is registered. Forked children could not
    # use CUDA.
    app.conf.worker_pool = "solo"
    app.conf.worker_concurrency = 1
    # Loaded models outlive whatever the broker refuses.
    app.conf.worker_consumer = "penstock_worker.boot.consumer:PatientConsumer"
    app.conf.broker_channel_error_retry = True
    app.events.dispatcher_cls = PatientDispatcher
    app.steps["worker"].add(Serve)
    app.steps["consumer"].add(Feed)
    # Who names no pool is bounded by none.
    bound = None if pool is None else settings.pool(pool).memory_bytes
    app.penstock = Plan(settings, models, pool or DEFAULT, registry.pipelines, where, memory=bound)
    for cls in models.values():
        register(app, settings.namespace, cls)
    register_pipelines(app, settings.namespace)
    return cast(Celery, app)


def __getattr__(name: str) -> Celery:
    # Built on first use, so that importing this module for `build` reads no environment.
    if name in ("app", "celery"):
        settings = Settings.load()
        app = build(settings)
        if "flower" in sys.modules:  # `flower -A penstock_worker.app`
            depths.install(settings.namespace)
        globals()["app"] = globals()["celery"] = app
        return app
    raise AttributeError(name)
