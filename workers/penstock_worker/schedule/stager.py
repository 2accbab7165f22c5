"""Claims the next batch in SQL while the device runs this one, so that it goes from one to the other without a pause.

The claim is a transaction, and takes as long as other writers let it: a device that waited for it would be idle for a
tenth of the time with batches of ten milliseconds. It is made as late as can be (``worker.lead_s`` before the running
batch ends), since what is claimed cannot be overtaken or taken elsewhere. See ``docs/decisions/0057``.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from penstock.clock import monotonic_s
from penstock.service import ThreadService
from penstock_worker.item import Batch, Run
from penstock_worker.schedule.batcher import Batcher

log = structlog.get_logger(__name__)


class Stager(ThreadService):
    """A thread between batcher and device, until the batcher is closed. ``stage`` claims and prepares; it may raise
    ``given_up`` while stopping."""

    def __init__(
        self,
        batcher: Batcher,
        stage: Callable[[Batch], Run],
        *,
        given_up: type[Exception],
        on_defect: Callable[[], None],
    ) -> None:
        super().__init__("stager")
        self._batcher = batcher
        self._stage = stage
        self._given_up = given_up
        self._on_defect = on_defect

    def start(self) -> None:
        """From here on batches are claimed ahead."""
        self._batcher.staging = True
        super().start()

    def run(self) -> None:
        """Batch after batch."""
        while (batch := self.waiting(self._batcher.ahead)) is not None:
            staged: Batch | None = None
            try:
                batch.claimed = self._stage(batch)
                batch.claimed_mono = monotonic_s()
                staged = batch
            except self._given_up:
                log.info("batch given up while the database is away", action="claim.stopped", size=len(batch.items))
            except BaseException:
                log.exception("claim failed", action="claim.error", model=batch.model.name)
                self._on_defect()
            finally:
                self._batcher.staged(staged)
