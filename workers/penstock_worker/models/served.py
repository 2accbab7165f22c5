"""Which of the models that its modules define a worker serves. PURE."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from penstock.functions import POOL
from penstock.model import Model


class Choice(NamedTuple):
    """``functions`` are those that it leaves to the workers of their pool."""

    models: dict[str, type[Model]]
    functions: list[str]


def choose(
    models: Iterable[type[Model]], *, pool: str | None, only: Collection[str], device: Callable[[], str]
) -> Choice:
    """The models of ``pool``, of all pools where none is named, and of ``only``, unless that is empty.

    Without a pool, an accelerator is not kept waiting by functions: they are left to workers that say ``--pool cpu``.
    Its ``device`` is asked for only where there are any.
    """
    chosen = {
        cls.name: cls
        for cls in models
        if (pool is None or cls.resources.pool == pool) and (not only or cls.name in only)
    }
    functions = [name for name, cls in chosen.items() if _is_function(cls)] if pool is None else []
    if not functions or device().partition(":")[0] == "cpu":
        return Choice(chosen, [])
    return Choice({name: cls for name, cls in chosen.items() if name not in functions}, functions)


def how_to_serve_functions(modules: Iterable[str]) -> str:
    """What to type for those that are left out."""
    return f"`{' '.join(['penstock worker --pool', POOL, *modules])}`"


def _is_function(cls: type[Model]) -> bool:
    """Of the pool of functions: who names another one for a function wants it there."""
    return hasattr(cls, "of_function") and cls.resources.pool == POOL
