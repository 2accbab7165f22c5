"""Which of the models that its modules define a worker serves. PURE."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from penstock.functions import POOL
from penstock.model import Model
from penstock.policy.pools import Place


class Choice(NamedTuple):
    """``functions`` are those that it leaves to the workers of their pool, ``misfits`` those that no worker of the pool
    can hold, with why."""

    models: dict[str, type[Model]]
    functions: list[str]
    misfits: dict[str, str]


def choose(
    models: Iterable[type[Model]],
    places: Mapping[str, Place],
    *,
    pool: str | None,
    only: Collection[str],
    device: Callable[[], str],
) -> Choice:
    """The models that ``places`` puts into ``pool``, of all pools where none is named, and of ``only``, unless that is
    empty.

    Without a pool, an accelerator is not kept waiting by functions: they are left to workers that say ``--pool cpu``.
    Its ``device`` is asked for only where there are any. Who names no pool may have the room that the pool's workers
    have not.
    """
    chosen = {
        cls.name: cls
        for cls in models
        if (pool is None or places[cls.name].pool == pool) and (not only or cls.name in only)
    }
    misfits = {name: fault for name in chosen if pool is not None and (fault := places[name].fault)}
    chosen = {name: cls for name, cls in chosen.items() if name not in misfits}
    functions = [n for n, cls in chosen.items() if _is_function(cls, places[n])] if pool is None else []
    if not functions or device().partition(":")[0] == "cpu":
        return Choice(chosen, [], misfits)
    return Choice({name: cls for name, cls in chosen.items() if name not in functions}, functions, misfits)


def how_to_serve_functions(modules: Iterable[str]) -> str:
    """What to type for those that are left out."""
    return f"`{' '.join(['penstock worker --pool', POOL, *modules])}`"


def _is_function(cls: type[Model], place: Place) -> bool:
    """Of the pool of functions: who names another one for a function wants it there."""
    return hasattr(cls, "of_function") and place.pool == POOL
