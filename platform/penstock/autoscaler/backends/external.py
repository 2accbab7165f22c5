"""For workers that somebody else starts and ends: KEDA, an HPA, a person. This only tells how many there should be.

It never writes to a target: no process is started, no API is called. The rows are wishes. Workers that are there, and
were started without a slot, are counted against them: each has a row as if it had taken it itself, so that everything
else (how long a worker takes to come, what did not come in time, what others are told) is the same as elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock import clock
from penstock.autoscaler.backends.base import UNBOUNDED, Realised
from penstock.policy.liveness import Seen, judge
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import Slot, Term
from penstock.store.records import WorkerInfo

#: Why nobody comes, for a person.
NOBODY_COMES = "wanted, and not there yet: whatever scales by this autoscaler (KEDA, an HPA) has not started it"


class External:
    """The backend ``external``."""

    name = "external"

    def __init__(self, settings: Settings, store: Store) -> None:
        self._start_s = settings.autoscaler.start_s
        self._store = store
        #: Slots that have had a worker: how long another one takes to come tells nothing of the time to start one.
        self._had: set[str] = set()
        self._leases: dict[str, Seen] = {}

    def realise(self, slots: Sequence[Slot], *, term: Term) -> Realised:
        """Count the workers that there are. Which of them ends when there are too many is decided where they run, so a
        row that drains is gone at once."""
        now = clock.now()
        draining = [slot for slot in slots if slot.state == "draining"]
        kept = [slot for slot in slots if slot.state != "draining"]
        workers = self._store.workers()
        # As dispatchers judge them: a worker's clock may be wrong by more than its lease is long.
        self._leases, silent = judge(self._leases, workers, now=clock.monotonic_s())
        dead = {instance for instance, _ in silent}
        live = {worker.instance: worker for worker in workers if worker.instance not in dead}
        left = [slot for slot in kept if slot.worker is not None and slot.worker not in live]
        taken = {slot.worker for slot in kept}
        free = [worker for instance, worker in live.items() if instance not in taken]
        open_ = [slot for slot in kept if slot.worker is None and slot.state == "wanted"]
        for slot, worker in matched(open_, free):
            self._give(slot, worker, term=term)
        self._had &= {slot.id for slot in kept}
        self._had |= {slot.id for slot in kept if slot.worker is not None}
        late = {slot.id: NOBODY_COMES for slot in open_ if now - slot.changed_at > self._start_s}
        return Realised(gone=[*draining, *left], stuck=late)

    def follow(self) -> None:
        """Nothing here has ended: workers are somebody else's processes."""

    def room(self, pool: str, slots: Sequence[Slot]) -> int:
        """See ``Backend.room``."""
        return UNBOUNDED

    def close(self) -> None:
        """Nothing is held."""

    def _give(self, slot: Slot, worker: WorkerInfo, *, term: Term) -> None:
        elastic = self._store.elastic
        found = slot.id in self._had or worker.started_at <= slot.made_at
        if not elastic.place(slot.id, {"worker": worker.name, "found": found}, term=term):
            return  # another leads
        if elastic.take(slot.id, worker.instance) is not None:
            elastic.ready(slot.id, worker.instance, now=max(slot.made_at, worker.started_at))


def matched(slots: Iterable[Slot], workers: Sequence[WorkerInfo]) -> list[tuple[Slot, WorkerInfo]]:
    """PURE. Open slots, and workers of their pools that have none: the oldest of each first."""
    left = sorted(workers, key=lambda worker: (worker.started_at, worker.instance))
    pairs = []
    for slot in sorted(slots, key=lambda slot: (slot.made_at, slot.id)):
        worker = next((each for each in left if each.pool == slot.pool), None)
        if worker is not None:
            left.remove(worker)
            pairs.append((slot, worker))
    return pairs
