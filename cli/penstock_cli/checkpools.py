"""What ``penstock doctor`` says of pools: names in the settings that are no model's, models that no pool can hold or
that nobody serves, and workers that serve what the settings have moved since."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

from penstock import clock
from penstock.errors import ConfigError
from penstock.policy.pools import DEFAULT, Pool, Want, places, unknown, want_announced, want_of
from penstock.settings import Settings
from penstock.store.records import WorkerInfo
from penstock_cli.context import App


def check(app: App) -> Iterator[tuple[str, str]]:
    """Each a detail and its fix."""
    settings, at = app.settings, clock.now()
    own = own_models(settings)
    announced = {name: want_announced(name, info) for name, info in app.store.models().items()}
    live = [worker for worker in app.store.workers() if worker.lease_until > at]
    idle = {name for name, pool in settings.pools.items() if pool.min == 0}
    yield from judge(announced | own, settings.served_pools(), live, expected=own, may_be_empty=idle)


def judge(
    known: Mapping[str, Want],
    pools: Mapping[str, Pool],
    live: Collection[WorkerInfo],
    *,
    expected: Collection[str],
    may_be_empty: Collection[str] = (),
) -> Iterator[tuple[str, str]]:
    """The same of what was found. PURE.

    ``known`` are all models that anybody has told of, ``expected`` those that are to be served now. A pool in
    ``may_be_empty`` has no worker while there is nothing to do.
    """
    for pool, name, near in unknown(pools, known):
        yield (
            f"pools.{pool}.models names {name!r}, and no model is called so",
            f"did you mean {near!r}?" if near else f"take it out, or name the module that defines it: {_HOW}",
        )
    serving = {model: worker for worker in live for model in worker.info.get("models", {})}
    for name, found in places(known.values(), pools).items():
        if name in expected and found.fault:
            yield (
                f"model {name!r} is served by no pool: {found.fault.partition(': ')[0]}",
                found.fault.partition(": ")[2],
            )
        elif name in expected and name not in serving and found.pool not in may_be_empty:
            yield f"no worker serves model {name!r} now; it is of pool {found.pool}", _start(found.pool)
    if not pools:
        return
    for worker in live:
        for name, info in worker.info.get("models", {}).items():
            now, then = places([known.get(name) or want_announced(name, info)], pools)[name].pool, info.get("pool")
            if then != now:
                yield (
                    f"{worker.name} serves model {name!r} as one of pool {then}, and the settings put it into {now}",
                    "start the workers again with these settings, those of its new pool first",
                )


_HOW = "PENSTOCK_MODELS=my_models"


def _start(pool: str) -> str:
    return "`penstock up` or `penstock worker` starts one" if pool == DEFAULT else f"`penstock worker --pool {pool}`"


def own_models(settings: Settings) -> dict[str, Want]:
    """The models that are defined here. What cannot be imported is told elsewhere."""
    from penstock.registry import Registry

    with suppress(ConfigError):
        return {cls.name: want_of(cls) for cls in Registry.load(settings.models)}
    return {}
