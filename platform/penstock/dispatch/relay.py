"""The relay: publishes what is due and was not published.

SQL's ``accepted`` rows are the outbox. Most leave it by the producer's fast path within milliseconds; the relay takes
the others: those whose producer could not reach the broker or died in between, delayed jobs, retries after their
back-off, and whatever a rescue or the reconciler put back.

A fresh row is leased to its producer for ``publish_grace_s`` and not touched before. Rows are leased while they are
published too, so several relays share the work without doing it twice. A relay that dies
between publishing and recording leaves messages that are sent again when the lease is over; a second message of a job
is harmless, since a claim guards on the job's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from penstock import clock
from penstock.dispatch.tasks.sender import TaskSender, split
from penstock.dispatch.unsendable import fail
from penstock.errors import BrokerUnavailable, StoreUnavailable, safe_text
from penstock.settings import DispatcherSettings
from penstock.store import Store
from penstock.telemetry.reach import Reach
from penstock.telemetry.tally import Row
from penstock.transport.publisher import Publisher, Refused

log = structlog.get_logger(__name__)

#: How long leased rows stay with this relay, seconds: much longer than publishing takes, and short enough that the
#: jobs of a relay that died do not wait long.
LEASE_S = 5.0

#: Batches per turn, so that a turn ends and `stop` is heard; the next one follows at once.
BATCHES = 20


class Relay:
    """One turn at a time; the loop around it is the daemon's."""

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        settings: DispatcherSettings,
        *,
        confirm: Callable[[], None] = lambda: None,
        on_settled: Callable[[Sequence[Row]], None] | None = None,
        tasks: TaskSender | None = None,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._settings = settings
        #: Raises unless the broker's namespace is ours to publish in.
        self._confirm = confirm
        self._on_settled = on_settled
        self._tasks = tasks
        self._broker = Reach("broker", service="relay")
        self._database = Reach("database", service="relay")

    def turn(self) -> float:
        """Publish what is due. Returns how long to sleep until the next turn, seconds, 0 when there is more."""
        try:
            self._confirm()
            if not self._broker.up:
                # Asked before rows are leased: a lease would only make them wait when the broker is back.
                self._publisher.check()
            for _ in range(BATCHES):
                if not self._publish_batch():
                    return self._pause_s()
            return 0.0
        except BrokerUnavailable as error:
            self._broker.lost(error)
        except StoreUnavailable as error:
            self._database.lost(error)
        return self._settings.poll_s

    def _publish_batch(self) -> bool:
        """Lease, publish, record. Whether there may be more."""
        jobs = self._store.take_due(now=clock.now(), limit=self._settings.batch, lease_s=LEASE_S)
        self._database.found()
        if not jobs:
            self._broker.found()
            return False
        plain, tasks = split(jobs)
        refused = self._publisher.publish(plain).refused
        self._broker.found()
        left_out = {job.id for job, _ in refused}
        self._store.mark_queued([job.id for job in plain if job.id not in left_out], now=clock.now())
        if tasks and self._tasks is not None:
            self._tasks.send(tasks)
        if refused:
            self._fail(refused)
        return len(jobs) == self._settings.batch

    def _fail(self, refused: Sequence[Refused]) -> None:
        """End jobs of which no message can be made."""
        reasons = {job.id: f"no message can be made of this job: {safe_text(error)}" for job, error in refused}
        fail(self._store, self._publisher, reasons, on_settled=self._on_settled)

    def _pause_s(self) -> float:
        """Until the next job is due, at most ``poll_s``: what others put back is not announced."""
        next_at = self._store.next_due_at()
        if next_at is None:
            return self._settings.poll_s
        return min(max(next_at - clock.now(), 0.0), self._settings.poll_s)
