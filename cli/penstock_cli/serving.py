"""Who serves what now, from the workers' leases in SQL."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

import redis

from penstock.clock import now
from penstock.errors import ConfigError
from penstock.job import Job
from penstock.lane import full_name, split_name
from penstock.pipelines.nested import models_of
from penstock.pipelines.task import is_task
from penstock.policy.versions import Served
from penstock.registry import Registry, unknown_model
from penstock.store.records import WorkerInfo
from penstock.transport.residents import Word, words
from penstock.transport.url import connect
from penstock_cli.context import App

#: How to have somebody serve it: what nobody has announced yet may be either.
HOW = "`penstock up` or `penstock worker` starts one, of functions `penstock worker --pool cpu`"


def served(app: App) -> dict[str, list[Served]]:
    """What live workers announced, by model."""
    at = now()
    serving: dict[str, list[Served]] = defaultdict(list)
    for worker in app.store.workers():
        if worker.lease_until > at:
            for model, info in worker.info.get("models", {}).items():
                serving[model].append(Served(worker.name, info))
    return dict(serving)


def live_workers(app: App, name: str) -> list[str]:
    """Names of the live workers that serve a model, or the version of it that ``name`` asks for."""
    model, version = split_name(name)
    return [one.worker for one in served(app).get(model, ()) if version in (None, one.version)]


@dataclass(frozen=True, slots=True)
class Place:
    """One model on one live worker that serves it.

    ``state`` is ``loaded``, ``loading``, ``not loaded``, or ``unknown`` when the broker does not say. ``used`` and
    ``memory`` are bytes of the device that its models take and may take; ``None`` where the worker holds all it serves.
    """

    worker: str
    device: str | None
    state: str
    version: str = ""
    used: int | None = None
    memory: int | None = None


def places(app: App) -> dict[str, list[Place]]:
    """Where each model is, now: by model, one place per live worker that serves it.

    Asks the broker only if there are workers that do not hold all their models.
    """
    at = now()
    live = [worker for worker in app.store.workers() if worker.lease_until > at]
    said = _words(app) if any(worker.info.get("memory") for worker in live) else {}
    found: dict[str, list[Place]] = defaultdict(list)
    for worker in live:
        word = None if said is None else said.get(worker.instance)
        for model in worker.info.get("models", {}):
            found[model].append(_place(worker, model, word))
    return dict(found)


def _place(worker: WorkerInfo, model: str, word: Word | None) -> Place:
    device, memory = worker.info.get("device"), worker.info.get("memory")
    version = Served(worker.name, worker.info["models"][model]).version
    if memory is None:
        return Place(worker.name, device, "loaded", version)
    if word is None:
        return Place(worker.name, device, "unknown", version, None, memory)
    state = "loaded" if model in word.models else "loading" if word.loading == model else "not loaded"
    return Place(worker.name, device, state, version, word.used, memory)


def _words(app: App) -> dict[str, Word] | None:
    client = connect(app.settings.broker)
    try:
        return words(client, app.settings.namespace)
    except (redis.RedisError, OSError):
        return None  # these commands do not need it otherwise
    finally:
        client.close()


def check_known(app: App, model: str) -> None:
    """Raise ``UnknownModel`` for a name that nobody announced, that is not defined here, and that has no job.

    ``model`` may name a version; whether anybody serves it is not asked.
    """
    model, _ = split_name(model)
    models, pipelines = set(app.store.models()), set(app.store.pipelines())
    if model in models | pipelines:
        return
    with suppress(ConfigError):  # it may be importable elsewhere only
        registry = Registry.load(app.settings.models)
        models |= {cls.name for cls in registry}
        pipelines |= set(registry.pipelines)
    if model not in models | pipelines and not app.client.list(model=model, limit=1):
        raise unknown_model(model, models, pipelines)


def models_behind(app: App, job: Job) -> list[str]:
    """Whose workers a job waits for: its model's; of a run, those of its steps' models. A step that waits, or is a
    plain task of another program's, has none."""
    if job.graph is None:
        return [full_name(job.model, job.asked_version)] if job.model and not is_task(job.model) else []
    return sorted(models_of(app.store.run_standing(job.id).graph.steps))


def warn_if_unserved(app: App, model: str) -> None:
    """Tell somebody who is about to wait that nobody works on it."""
    if not live_workers(app, model):
        app.out.warn(f"no worker serves {model!r} now; waiting for one ({HOW})")
