"""What this worker says of its load, for the admission of interactive jobs by producers.

``policy.workload`` learns it, on the device thread; here it is written to Redis in the same breath as the news of a
batch's start, at most fifty times a second and model. Lost news are no harm: the next say it again. See
``policy.admission`` for what is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace

import msgspec

from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.admission import WorkerLoad
from penstock.policy.workload import Stock, Workload
from penstock.transport import keys
from penstock_worker.item import Item, Run
from penstock_worker.report.wire import Command

_encode = msgspec.json.encode


class LoadReport:
    """``started`` and ``ended`` around every batch, on the device thread.

    ``waiting(model, lane)`` counts items, ``room(model)`` says how many may wait, ``lead_s()`` how long before the end
    of the running batch more are claimed, ``held(model)`` how many sequences of a step-wise model have begun.
    ``versions`` of the models are told, too.
    """

    def __init__(
        self,
        limits: Iterable[tuple[str, Batching]],
        *,
        namespace: str,
        worker: str,
        target_s: float,
        waiting: Callable[[str, Lane], int],
        room: Callable[[str], int],
        lead_s: Callable[[], float],
        stepwise: Container[str] = (),
        held: Callable[[str], int] = lambda _: 0,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self._workload = Workload(limits, target_s=target_s, stepwise=stepwise)
        self._held = held
        self._target_s = target_s
        self._versions = versions or {}
        self._namespace = namespace
        self._worker = worker
        self._waiting, self._room, self._lead_s = waiting, room, lead_s

    def started(self, run: Run, now: float) -> list[Command]:
        """A batch begins at ``now`` (Unix seconds): note how long its jobs have waited; commands to write, if any."""
        model = run.batch.model.name
        interactive = [item for item in run.live if item.lane is Lane.INTERACTIVE]
        waits_s = [now - item.available_at for item in interactive if item.available_at is not None]
        left = self._waiting(model, Lane.INTERACTIVE)
        held = self._held(model)
        self._workload.started(
            model, now, count=len(run.live), interactive=len(interactive), waits_s=waits_s, left=left, held=held
        )
        said = self._workload.news(model, now, self._stock(model, held + len(run.live)))
        if said is None:
            return []
        key = keys.load(self._namespace, model)
        said = replace(said, version=self._versions.get(model, ""), target_s=self._target_s)
        return [("HSET", key, self._worker, _encode(said)), ("EXPIRE", key, keys.LOAD_TTL_S)]

    def ended(self, run: Run, now: float, turn_s: float) -> None:
        """The batch and all that goes with it took so long, up to ``now`` (Unix seconds)."""
        if run.live:
            self._workload.ended(
                run.batch.model.name,
                now,
                turn_s,
                # Members that were cancelled or expired took their places, too.
                count=len(run.live),
                size=len(run.batch.items),
                full=run.batch.reason == "full",
                interactive=any(item.lane is Lane.INTERACTIVE for item in run.live),
            )

    def sequence_ended(self, item: Item, device_s: float) -> None:
        """A sequence is complete; see ``Workload``."""
        if item.lane is Lane.INTERACTIVE:
            self._workload.sequence_ended(item.model, device_s)

    def say(self, model: str, now: float) -> WorkerLoad:
        """Everything about one model."""
        said = self._workload.say(model, now, self._stock(model, self._held(model)))
        return replace(said, version=self._versions.get(model, ""), target_s=self._target_s)

    def farewell(self) -> list[Command]:
        """Commands that take back what this worker has said."""
        return [("HDEL", keys.load(self._namespace, name), self._worker) for name in self._workload.models]

    def _stock(self, model: str, held: int) -> Stock:
        return Stock(
            waiting=self._waiting(model, Lane.INTERACTIVE),
            filled=self._waiting(model, Lane.BACKGROUND) > 0,
            room=self._room(model),
            lead_s=self._lead_s(),
            held=held,
        )
