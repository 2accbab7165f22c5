"""The worker's sides of store and broker, as the sequences see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from penstock import clock
from penstock.settings import ProgressSettings
from penstock.store import Store
from penstock_worker.item import Item, Run
from penstock_worker.report.announcer import Announcer


class StepWorker:
    """``insist`` repeats a call while the database is away."""

    def __init__(
        self,
        store: Store,
        announcer: Announcer,
        *,
        worker: str,
        settle: Callable[[Run], None],
        insist: Callable[[Callable[[], Any]], Any],
        wake: Callable[[], None],
        put_back: Callable[[Sequence[Item]], None],
        kept: ProgressSettings,
        took: Callable[[Run], object],
    ) -> None:
        self._store = store
        self._announcer = announcer
        self._worker = worker
        self._insist = insist
        self._kept = kept
        self._settle = settle
        #: Told of sequences that have had their last of the device.
        self._took = took
        self.put_back = put_back
        self.wake = wake

    def settle(self, run: Run) -> None:
        """See ``Settler.settle``. A sequence has had the device together with its mates: its share is charged."""
        for item, outcome in zip(run.live, run.outcomes, strict=False):
            item.device_s = run.compute_s / max(1, outcome.batch_size or 1)
        self._took(run)
        self._settle(run)

    def placed(self, items: Sequence[Item]) -> None:
        """Ask the store, for those that are steps."""
        if steps := [item for item in items if item.step]:
            found = self._insist(lambda: self._store.within([item.id for item in steps]))
            for item in steps:
                item.within = found.get(item.id)

    def restarted(self, run: Run) -> None:
        """Take the next attempt number of jobs that we hold, so that nobody mixes the outputs of two tries. It costs no
        retry, since only failures are counted against the budgets."""
        times = {item.id: item.claimed_at for item in run.live}
        result = self._insist(
            lambda: self._store.claim(
                list(times),
                worker=self._worker,
                version=run.batch.model.version,
                now=clock.now(),
                claimed_at=times,
                repeated=True,
            )
        )
        gone = [item for item in run.live if item.id not in result.claimed]
        run.live = [item for item in run.live if item.id in result.claimed]
        for item in run.live:
            item.attempt = result.claimed[item.id].attempt
        self._announcer.send([], self._announcer.acks(item for item in gone if item.request is None))
        if run.live:
            self._announcer.started(run)

    def progress(self, model: str, entries: Sequence[tuple[Item, int, str]]) -> None:
        """See ``Announcer.progress``."""
        self._announcer.progress(model, entries, self._kept)
