"""What this worker says of its load, for the admission of interactive jobs by producers.

Learned on the device thread, batch by batch; written to Redis in the same breath as the news of a batch's start, at
most fifty times a second and model. Lost news are no harm: the next say it again. See ``policy.admission`` for what is
made of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from statistics import median

import msgspec

from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.admission import WorkerLoad
from penstock.policy.latency import LatencyModel
from penstock.policy.overload import Level
from penstock.transport import keys
from penstock_worker.item import Item, Run
from penstock_worker.wire import Command

_encode = msgspec.json.encode

#: Seconds between two writes of one model's load.
EVERY_S = 0.02
#: Batches over which predictability is judged.
JUDGED = 64
#: A model whose quickest batches took less than this share of the prediction is not predictable.
PREDICTABLE = 0.7
#: Weight of the newest batch in the size of a full one and in the shares of the device.
NEWEST = 0.1


class _Learned:
    """One model."""

    def __init__(self, limits: Batching, prefetch_batches: float) -> None:
        self.room = max(1, int(limits.max_size * prefetch_batches))
        # The whole turn of the device thread, claim and hand-over included: this is what the next job waits for.
        self.turn = LatencyModel()
        self.ratios: deque[float] = deque(maxlen=JUDGED)
        self.size = float(limits.max_size)
        self.level = Level()
        self.done = 0
        #: Share of the device's time that went into batches of this model with an interactive item.
        self.share = 0.0
        self.written_at = 0.0
        self.said_waiting = 0
        self.busy_until = 0.0

    @property
    def factor(self) -> float:
        """What one job's own batch takes at least, against the prediction; the margin where that is reliable."""
        if not self.ratios:
            return 1.0
        ordered = sorted(self.ratios)
        least = ordered[len(ordered) // 20]
        return self.turn.margin if least >= PREDICTABLE else least


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
        self._learned = {name: _Learned(batching, prefetch_batches) for name, batching in limits}
        self._namespace = namespace
        self._worker = worker
        self._target_s = target_s
        self._waiting = waiting

    def started(self, run: Run, now: float) -> list[Command]:
        """A batch begins at ``now`` (Unix seconds): note how long its jobs have waited; commands to write, if any."""
        model = run.batch.model.name
        learned = self._learned[model]
        interactive = [item for item in run.live if item.lane is Lane.INTERACTIVE]
        learned.done += len(interactive)
        learned.busy_until = now + learned.turn.predict(len(run.live)) if learned.turn.seen else now
        waits = [now - at for item in interactive if (at := created_at(item)) is not None]
        if waits:
            full_s = learned.turn.predict(learned.size) if learned.turn.seen else 0.0
            # Another host's clock may be ahead of ours.
            learned.level.saw(max(0.0, median(waits)), target_s=self._target_s, batch_s=full_s, now=now)
        said = self.say(model, now)
        # The last word before a quiet time must not be that many wait.
        if now - learned.written_at < EVERY_S and (said.waiting or not learned.said_waiting):
            return []
        learned.written_at, learned.said_waiting = now, said.waiting
        key = keys.load(self._namespace, model)
        return [("HSET", key, self._worker, _encode(said)), ("EXPIRE", key, keys.LOAD_TTL_S)]

    def ended(self, run: Run, turn_s: float) -> None:
        """The batch and all that goes with it took so long."""
        count = len(run.live)
        if not count:
            return
        model = run.batch.model.name
        learned = self._learned[model]
        if learned.turn.seen:
            learned.ratios.append(turn_s / max(learned.turn.predict(count), 1e-9))
        learned.turn.observe(count, turn_s)
        if run.batch.reason == "full":
            learned.size += NEWEST * (count - learned.size)
        interactive = any(item.lane is Lane.INTERACTIVE for item in run.live)
        for name, other in self._learned.items():
            other.share += NEWEST * ((name == model and interactive) - other.share)

    def say(self, model: str, now: float) -> WorkerLoad:
        """Everything about one model."""
        learned = self._learned[model]
        return WorkerLoad(
            at=now,
            busy_until=learned.busy_until,
            waiting=self._waiting(model, Lane.INTERACTIVE),
            room=learned.room,
            filled=self._waiting(model, Lane.BACKGROUND) > 0,
            alpha=learned.turn.alpha,
            beta=learned.turn.beta,
            factor=learned.factor,
            size=max(1.0, learned.size),
            free=max(0.0, 1.0 - sum(other.share for name, other in self._learned.items() if name != model)),
            level=learned.level.value,
            done=learned.done,
            seen=learned.turn.seen,
        )

    def farewell(self) -> list[Command]:
        """Commands that take back what this worker has said."""
        return [("HDEL", keys.load(self._namespace, name), self._worker) for name in self._learned]


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
