"""Lanes: the service classes of jobs.

``interactive`` has a latency target and goes first; ``background`` is throughput and is never dropped. Each
(model, lane) has its own queue at the broker, so that neither hides behind the other. Jobs that ask for a version of
the model stand in a queue of that version, which only its workers consume.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote


class Lane(StrEnum):
    """A service class."""

    INTERACTIVE = "interactive"
    BACKGROUND = "background"


#: In the order in which a worker serves them.
LANES: tuple[Lane, ...] = (Lane.INTERACTIVE, Lane.BACKGROUND)

#: Highest and lowest ``priority`` of a job within its lane; larger goes first, as in AMQP.
MAX_PRIORITY = 9
MIN_PRIORITY = 0


#: Between a model's name, which never has it, and a version.
AT = "@"

#: In the place of a model's name, which never begins so: the queue of Celery's calls of pipelines, whatever pipelines.
#: Every worker consumes it.
PIPELINES = "_pipelines"


def queue_name(namespace: str, model: str, lane: str, version: str | None = None) -> str:
    """The broker queue of a model's lane: ``penstock.embed.interactive``, or ``penstock.embed@2.interactive``."""
    if version is None:
        return f"{namespace}.{model}.{lane}"
    return f"{namespace}.{model}{AT}{version_id(version)}.{lane}"


@lru_cache(maxsize=1024)
def version_id(version: str) -> str:
    """A version as the names of queues have it: written as in a URL's path."""
    return quote(version, safe="@:+", errors="surrogatepass")


def version_of(queue: str, namespace: str, model: str) -> str | None:
    """The version that a queue of this model belongs to; ``None`` for the queue of all its versions."""
    head = f"{namespace}.{model}{AT}"
    if not queue.startswith(head):
        return None
    return unquote(queue[len(head) :].rpartition(".")[0], errors="surrogatepass") or None


def is_model_queue(queue: Any, namespace: str) -> bool:
    """Whether this is the name of a queue that workers of models consume, and nobody else."""
    head, _, lane = queue.rpartition(".") if isinstance(queue, str) else ("", "", "")
    return lane in LANES and head.startswith(f"{namespace}.")


def split_name(name: str) -> tuple[str, str | None]:
    """``"embed@2"`` as the model's name and the version asked for, ``"embed"`` as the name and ``None``."""
    model, at, version = name.partition(AT)
    return (model, version) if at else (name, None)


def full_name(model: str, version: str | None) -> str:
    """The other way round."""
    return model if version is None else f"{model}{AT}{version}"


def task_name(namespace: str, model: str) -> str:
    """The Celery task name of a model: ``penstock.embed``."""
    return f"{namespace}.{model}"
