"""Lanes: the service classes of jobs.

``interactive`` has a latency target and goes first; ``background`` is throughput and is never dropped. Each
(model, lane) has its own queue at the broker, so that neither hides behind the other.
"""

from __future__ import annotations

from enum import StrEnum


class Lane(StrEnum):
    """A service class."""

    INTERACTIVE = "interactive"
    BACKGROUND = "background"


#: In the order in which a worker serves them.
LANES: tuple[Lane, ...] = (Lane.INTERACTIVE, Lane.BACKGROUND)

#: Highest and lowest ``priority`` of a job within its lane; larger goes first, as in AMQP.
MAX_PRIORITY = 9
MIN_PRIORITY = 0


def queue_name(namespace: str, model: str, lane: str) -> str:
    """The broker queue of a model's lane: ``penstock.embed.interactive``."""
    return f"{namespace}.{model}.{lane}"


def task_name(namespace: str, model: str) -> str:
    """The Celery task name of a model: ``penstock.embed``."""
    return f"{namespace}.{model}"
