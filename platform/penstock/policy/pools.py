"""Which pool serves a model: a pure decision, of what the model says and what the settings say.

Everybody who asks must get the same answer on any machine (a worker, `penstock up`, the autoscaler, a person who
looks), so no inventory goes in. In order:

1. the pool whose ``models`` name it;
2. the pool that its ``Resources`` name, if that is another than ``default``: of functions, ``cpu``;
3. of the pools that say how much ``device_memory`` their workers have for models, the smallest that holds it: light
   models go where little is, heavy ones where it fits;
4. ``default``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from penstock.model import Model, Resources

#: Where models are that say nothing.
DEFAULT = Resources().pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a model says of itself."""

    name: str
    #: Of its ``Resources``.
    pool: str = DEFAULT
    #: Bytes of device memory; ``None``: it does not say.
    memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What the settings say of a pool, as far as it matters here."""

    name: str
    models: frozenset[str] = frozenset()
    #: Bytes of device memory that each worker has for models; ``None``: they do not say.
    room: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is served. With a ``fault`` it is not, and that says why and what to do."""

    pool: str
    fault: str = ""


def want_of(cls: type[Model]) -> Want:
    """What a class says."""
    return Want(name=cls.name, pool=cls.resources.pool, memory=cls.resources.memory_bytes)


def want_announced(name: str, info: Mapping[str, Any]) -> Want:
    """What a worker has announced of a model. Workers of older releases announce the pool of its ``Resources``."""
    return Want(name=name, pool=info.get("own_pool") or info.get("pool") or DEFAULT, memory=info.get("memory"))


def place(want: Want, pools: Mapping[str, Pool]) -> Place:
    """Where one model is served."""
    for pool in pools.values():
        if want.name in pool.models:
            return _in(pool, want)
    if want.pool == DEFAULT and want.memory is not None and (roomy := _by_room(pools)):
        # The default pool, too, where it says what it holds: else it takes what says nothing.
        fitting = [pool for pool in roomy if _room(pool) >= want.memory]
        return Place(fitting[0].name) if fitting else _in(roomy[-1], want)
    return _in(pools.get(want.pool) or Pool(name=want.pool), want)


def places(wants: Iterable[Want], pools: Mapping[str, Pool]) -> dict[str, Place]:
    """Where each is served, by model."""
    return {want.name: place(want, pools) for want in wants}


def unknown(pools: Mapping[str, Pool], known: Collection[str]) -> list[tuple[str, str, str | None]]:
    """Names in the settings that are no model's: the pool, the name, and the nearest that there is."""
    found = []
    for pool in pools.values():
        for name in sorted(pool.models - set(known)):
            near = get_close_matches(name[:150], known, n=1)
            found.append((pool.name, name, near[0] if near else None))
    return found


def _by_room(pools: Mapping[str, Pool]) -> list[Pool]:
    """Those that say how much they hold, the smallest first."""
    return sorted((pool for pool in pools.values() if pool.room is not None), key=lambda pool: (_room(pool), pool.name))


def _room(pool: Pool) -> int:
    return pool.room or 0


def _in(pool: Pool, want: Want) -> Place:
    if want.memory is None or pool.room is None or want.memory <= pool.room:
        return Place(pool.name)
    return Place(
        pool.name,
        f"it needs {_size(want.memory)} of device memory, and workers of pool {pool.name} have {_size(pool.room)} for"
        f" models: raise pools.{pool.name}.device_memory, or name it in another pool's models",
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"
