"""Who serves what now, from the workers' leases in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from penstock.clock import now
from penstock.errors import ConfigError
from penstock.job import Job
from penstock.lane import full_name, split_name
from penstock.pipelines.nested import models_of
from penstock.pipelines.task import is_task
from penstock.policy.pools import place, want_announced
from penstock.registry import Registry, unknown_model
from penstock.store.elastic import Slot
from penstock.views.fleet import Fleet, registered
from penstock_cli.context import App
from penstock_cli.leaders import decided_now

#: How to have somebody serve it: what nobody has announced yet may be either.
HOW = "`penstock up` or `penstock worker` starts one, of functions `penstock worker --pool cpu`"


def fleet(app: App) -> Fleet:
    """The workers, as SQL has them."""
    return registered(app.store, now=now())


def live_workers(app: App, name: str) -> list[str]:
    """Names of the live workers that serve a model, or the version of it that ``name`` asks for."""
    return [worker.name for worker in fleet(app).serving(name)]


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
    """Tell somebody who is about to wait that nobody works on it: a warning, unless an autoscaler sees to it."""
    if live_workers(app, model):
        return
    missing, text = coming(app, model)
    if missing:
        app.out.warn(f"{text}; waiting for one ({HOW})")
    else:
        app.out.say(text)


def coming(app: App, model: str) -> tuple[bool, str]:
    """Of a model that nobody serves now: whether a person has to see to it, and how it stands."""
    name, version = split_name(model)
    info = app.store.models().get(name)
    if info is None or version not in (None, info.get("version")):
        return unserved(model, None, (), None)
    pool = place(want_announced(name, info), app.settings.served_pools()).pool
    leaders = app.store.elastic.leaderships()
    told = decided_now(leaders, lease_s=app.settings.autoscaler.lease_s, now=now()).get(pool)
    return unserved(model, pool, app.store.elastic.slots(), told, most=app.settings.pool(pool).max)


def unserved(
    model: str,
    pool: str | None,
    slots: Iterable[Slot],
    told: Mapping[str, Any] | None,
    *,
    most: int | None = None,
) -> tuple[bool, str]:
    """The same of what was found: PURE. ``told`` is what an autoscaler says now of the pool (``None``: none does), and
    ``most`` how many workers it may have.
    """
    if pool is None or told is None:
        return True, f"no worker serves {model!r} now"
    if stuck := told.get("stuck"):
        return True, f"no worker serves {model!r} now, and those of pool {pool} do not come up: {stuck}"
    if most == 0:
        return True, f"no worker serves {model!r} now, and its pool {pool} may have none (max = 0)"
    wanted = [slot for slot in slots if slot.pool == pool and slot.state == "wanted"]
    if any(slot.ready_at is None for slot in wanted):
        return False, f"a worker for {model!r} is being started (pool {pool})"
    if wanted:
        return True, (
            f"no worker serves {model!r} now, those of pool {pool} do not either:"
            f" `penstock rollout status {pool}` says what they were started as"
        )
    return False, f"no worker serves {model!r} now; the autoscaler starts one of pool {pool} for its jobs"
