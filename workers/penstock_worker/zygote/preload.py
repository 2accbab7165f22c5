"""What the zygote brings into memory: the worker's modules, torch, the users' modules, and weights, mapped.

After each of them the census is taken, so that what stands in the way of a fork has a name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from penstock import usercode
from penstock.errors import ConfigError, PenstockError
from penstock.model import Model
from penstock.registry import Registry
from penstock_worker.zygote.census import fault, take
from penstock_worker.zygote.newborn import reseed
from penstock_worker.zygote.staleness import Files, of_modules

#: What a worker that is ready has imported. Some of it is for one kind of database or command; what is not installed is
#: passed over.
MODULES = (
    "celery.app.amqp",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.concurrency.solo",
    "celery.events.dispatcher",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer.consumer",
    "celery.worker.control",
    "celery.worker.strategy",
    "kombu.asynchronous.hub",
    "penstock.transport.redis",
    "penstock_worker.app",
    "penstock_worker.boot.bootsteps",
    "penstock_worker.main",
    "penstock_worker.supervisor",
    "penstock_cli.main",
    "penstock_cli.worker",
    "psycopg",
    "numpy",
    "torch",
)


class Unfit(PenstockError):
    """Nothing can be forked from this process: something that was imported stands in the way."""

    code = "unfit"


@dataclass(slots=True)
class Loaded:
    """What is in memory."""

    models: list[str] = field(default_factory=list)
    #: What it was read from.
    files: Files = field(default_factory=lambda: Files(()))


def load(sources: Sequence[str], *, own: Collection[int] = ()) -> Loaded:
    """Bring it in. ``own`` are sockets of ours. Raises ``Unfit``, or ``ConfigError`` for what cannot be imported."""
    for name in MODULES:
        with suppress(ModuleNotFoundError):
            _step(f"import {name}", partial(importlib.import_module, name), own)
    # One by one, so that the one at fault is known; then with what is installed.
    for source in sources:
        _step(f"the import of {source!r}", partial(Registry.load, [source]), own)
    registry = Registry.load(sources)
    _step("the import of the installed models", lambda: None, own)
    weights = []
    for cls in registry:
        _step(f"preload() of model {cls.name!r}", partial(_preload, cls), own)
        if (path := getattr(cls, "weights", None)) is not None:
            weights.append(path)
    # What it imports at its first call need not be imported in each child.
    _step("seeding the generators", reseed, own)
    packages = {"penstock", "penstock_worker", *(source.partition(":")[0].partition(".")[0] for source in sources)}
    return Loaded([cls.name for cls in registry], Files([*sorted(of_modules(packages)), *weights]))


def _preload(cls: type[Model]) -> None:
    try:
        cls.preload()
    except PenstockError:
        raise
    except BaseException as error:
        if not usercode.is_its_own(error):
            raise
        raise ConfigError(
            f"preload() of model {cls.name!r} failed: {usercode.told(error)}",
            fix=f"mend {cls.__module__}.{cls.__qualname__}",
        ) from error


def _step(what: str, do: Callable[[], object], own: Collection[int]) -> None:
    do()
    if (found := fault(take(own))) is not None:
        told, fix = found
        raise Unfit(f"{what} {told}", fix=fix)
