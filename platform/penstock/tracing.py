"""Who writes down the calls of models now, instead of their being made: see ``pipelines.writing.trace``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypedDict, cast


class StepOptions(TypedDict, total=False):
    """What a step of a pipeline can say besides what it is given: ``embed.using(timeout=2, retry=3)(question)``.

    ``timeout`` limit on one attempt, seconds. ``retry`` how often it is tried again after it has failed for good.
    ``version`` the only one of the model that may run it. ``max_parallel`` of a map: most elements in flight at a time.
    """

    timeout: float | None
    retry: int
    version: str
    max_parallel: int


class Tracer(Protocol):
    """Makes steps of calls; the answer stands for what they will give. Told ``of`` what, a model or a function, it can
    tell what never fits."""

    def call(self, model: str, item: Any, options: StepOptions = ..., *, of: Any = ...) -> Any: ...
    def each(
        self,
        model: str,
        values: Any,
        item: Callable[[Any], Any] | None = ...,
        options: StepOptions = ...,
        *,
        of: Any = ...,
    ) -> Any: ...


_current: ContextVar[Tracer | None] = ContextVar("penstock_tracer", default=None)


def current() -> Tracer | None:
    """The tracer of this thread or task; ``None``: calls are calls."""
    return _current.get()


@contextmanager
def tracing(tracer: Tracer) -> Iterator[None]:
    """In the block, ``tracer`` is told."""
    token = _current.set(tracer)
    try:
        yield
    finally:
        _current.reset(token)


def step_options(options: Mapping[str, Any]) -> StepOptions:
    """The options of a step; raises ``TypeError`` for those that only a job of its own has."""
    for name in options:
        if name not in StepOptions.__annotations__:
            there = ", ".join(sorted(StepOptions.__annotations__))
            raise TypeError(f"a step of a pipeline has no {name!r}, only {there}: say it where the run is submitted")
    return cast("StepOptions", dict(options))
