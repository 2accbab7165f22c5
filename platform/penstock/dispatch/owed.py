"""What Celery is owed of runs that its programs have called: their messages once more, now that they have ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from penstock.errors import BrokerUnavailable
from penstock.job import Job
from penstock.transport.publisher import Publisher

# Not structlog: clients end runs, too, and their programs may not have set it up; it would print to their output.
log = logging.getLogger(__name__)


def sender(publisher: Publisher) -> Callable[[Sequence[Job]], None]:
    """For ``Store.finish_by``. What it cannot send, the dispatcher sends later, as it does for members of canvases."""

    def send(jobs: Sequence[Job]) -> None:
        try:
            publisher.publish(jobs)
        except BrokerUnavailable as error:
            log.debug("Celery is told later: %s", error.message)

    return send
