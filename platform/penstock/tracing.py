"""Who writes down the calls of models now, instead of their being made: see ``pipelines.trace``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class Tracer(Protocol):
    """Makes steps of calls; the answer stands for what they will give."""

    def call(self, item: Any, *, model: str | None = None, function: str | None = None) -> Any: ...
    def each(self, values: Any, *, model: str | None = None, function: str | None = None) -> Any: ...


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
