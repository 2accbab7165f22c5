"""Celery's consumer, patient: whatever the broker refuses, the worker stays, its models loaded, and tries again.

Celery ends the worker for what Redis refuses, and says every try. This one waits a little longer each time, says each
cause once, and says when it has passed.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import consumer as celery_consumer
from celery.worker import state

from penstock.clock import monotonic_s
from penstock.service import turned
from penstock.transport.refusals import cause_of
from penstock_worker.canvas.tasks import Strategies

log = structlog.get_logger(__name__)

#: First and longest wait before the next try, seconds.
FIRST_S, LONGEST_S = 0.25, 2.0
#: After so long without an error the broker is believed to be back, seconds.
WELL_AFTER_S = 3.0


class Quiet(logging.Filter):
    """Keeps back what Celery says of each try, while it is on."""

    def __init__(self, logger: str) -> None:
        super().__init__()
        self._on = False
        logging.getLogger(logger).addFilter(self)

    def __enter__(self) -> None:
        self._on = True

    def __exit__(self, *exc: object) -> None:
        self._on = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything through that is not said by a try."""
        return not self._on


class PatientConsumer(celery_consumer.Consumer):
    """Set as ``worker_consumer``."""

    Strategies = Strategies

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._told: set[str] = set()
        self._tries = 0
        self._erred_at = 0.0
        self._quiet = Quiet("celery.worker.consumer.consumer")
        super().__init__(*args, **kwargs)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes."""
        conn = conn.ensure_connection(
            lambda error, interval_s: self._tell(error),
            self.app.conf.broker_connection_max_retries,
            interval_start=FIRST_S,
            interval_step=FIRST_S,
            interval_max=LONGEST_S,
            callback=_look,
        )
        self.first_connection_attempt = False
        self.broker_connection_retry_attempt = 0
        return conn

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait before the next try."""
        self._wait(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the connection, and wait before the next one."""
        with self._quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore", CPendingDeprecationWarning)  # of a setting that we have set
            super().on_connection_error_after_connected(exc)
        self._wait(exc)

    def on_ready(self) -> None:
        """The loop begins; when it goes on for a while, what was refused has passed."""
        super().on_ready()
        if self._told:
            self.timer.call_after(WELL_AFTER_S, self._well, (self._erred_at,))

    def _wait(self, error: BaseException) -> None:
        self._tell(error)
        now = monotonic_s()
        if now - self._erred_at > WELL_AFTER_S + LONGEST_S:
            self._tries = 0
        wait_s = min(FIRST_S * 2**self._tries, LONGEST_S)
        self._tries += 1
        while (left_s := now + wait_s - monotonic_s()) > 0:
            _look()
            time.sleep(min(left_s, 0.1))
        self._erred_at = monotonic_s()

    def _tell(self, error: BaseException) -> None:
        cause = cause_of(error)
        if cause not in self._told:
            self._told.add(cause)
            log.warning("broker is away", action="consumer.wait", cause=cause, error=str(error))

    def _well(self, erred_at: float) -> None:
        if self._told and erred_at == self._erred_at:
            self._told.clear()
            log.info("broker is back", action="consumer.well")


def _look() -> None:
    """Between two tries: the process lives, and may be told to stop."""
    turned()
    state.maybe_shutdown()
