"""What this worker says of its load, for the admission of interactive jobs by producers.

``policy.workload`` learns it, on the device thread; here it is written to Redis in the same breath as the news of a
batch's start, at most fifty times a second and model. Lost news are no harm: the next say it again. See
``policy.admission`` for what is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.admission import WorkerLoad
from penstock.policy.workload import Workload
from penstock.transport import keys
from penstock_worker.item import Item, Run
from penstock_worker.wire import Command

_encode = msgspec.json.encode


class LoadReport:
    """``started`` and ``ended`` around every batch, on the device thread. ``waiting(model, lane)`` counts items."""

    def __init__(
        self,
        limits: Iterable[tuple[str, Batching]],
        *,
        namespace: str,
        worker: str,
        target_s: float,
        prefetch_batches: float,
        waiting: Callable[[str, Lane], int],
    ) -> None:
        self._workload = Workload(limits, target_s=target_s, prefetch_batches=prefetch_batches)
        self._namespace = namespace
        self._worker = worker
        self._waiting = waiting

    def started(self, run: Run, now: float) -> list[Command]:
        """A batch begins at ``now`` (Unix seconds): note how long its jobs have waited; commands to write, if any."""
        model = run.batch.model.name
        interactive = [item for item in run.live if item.lane is Lane.INTERACTIVE]
        waits_s = [now - at for item in interactive if (at := created_at(item)) is not None]
        left = self._waiting(model, Lane.INTERACTIVE)
        self._workload.started(
            model, now, count=len(run.live), interactive=len(interactive), waits_s=waits_s, left=left
        )
        said = self._workload.news(model, now, waiting=self._count(model), filled=self._filled(model))
        if said is None:
            return []
        key = keys.load(self._namespace, model)
        return [("HSET", key, self._worker, _encode(said)), ("EXPIRE", key, keys.LOAD_TTL_S)]

    def ended(self, run: Run, turn_s: float) -> None:
        """The batch and all that goes with it took so long."""
        if run.live:
            self._workload.ended(
                run.batch.model.name,
                turn_s,
                count=len(run.live),
                full=run.batch.reason == "full",
                interactive=any(item.lane is Lane.INTERACTIVE for item in run.live),
            )

    def say(self, model: str, now: float) -> WorkerLoad:
        """Everything about one model."""
        return self._workload.say(model, now, waiting=self._count(model), filled=self._filled(model))

    def farewell(self) -> list[Command]:
        """Commands that take back what this worker has said."""
        return [("HDEL", keys.load(self._namespace, name), self._worker) for name in self._workload.models]

    def _count(self, model: str) -> int:
        return self._waiting(model, Lane.INTERACTIVE)

    def _filled(self, model: str) -> bool:
        return self._waiting(model, Lane.BACKGROUND) > 0


def created_at(item: Item) -> float | None:
    """When a job was accepted (Unix seconds), by its id; ``None`` if it has waited for something else than its turn.

    The ids of our jobs are UUIDv7. A retry has waited for its back-off.
    """
    if item.attempt > 1 or item.request is not None or len(item.id) != 36 or item.id[14] != "7":
        return None
    try:
        return int(item.id[:8] + item.id[9:13], 16) / 1000
    except ValueError:
        return None
