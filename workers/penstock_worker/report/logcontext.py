"""What a model logs while it is called says which model it was, and in which batch.

Lines of structlog and of the standard library alike, written by the thread that calls the model. ``batch`` is a number
that this process gives to each batch (of a step-wise model, to each group). Where one job is alone, it is named, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from structlog.contextvars import bound_contextvars

from penstock.errors import PenstockError, safe_text
from penstock.model import Model
from penstock_worker.item import Item


def calling(model: Model, batch: int, items: Sequence[Item]) -> AbstractContextManager[None]:
    """For the length of a call."""
    alone = {"job": items[0].id} if len(items) == 1 else {}
    return bound_contextvars(model=model.name, batch=batch, size=len(items), **alone)


def heed(models: Iterable[type[Model]], level: str) -> None:
    """Let the models' own loggers speak at the level of ours: of other libraries only warnings are shown."""
    for module in {cls.__module__ for cls in models}:
        logger = logging.getLogger(module)
        if logger.level == logging.NOTSET:
            logger.setLevel(level.upper())


def raised(error: BaseException) -> dict[str, Any]:
    """What a log line says of an exception: an input that the model refuses is no defect, and needs no traceback."""
    if isinstance(error, PenstockError):
        return {"error": safe_text(error)}
    return {"exc_info": error}
