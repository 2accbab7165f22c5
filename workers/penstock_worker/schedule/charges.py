"""What jobs cost in device seconds: expected, for the claim that charges tenants by it, and true, for the settling.
Also the sum of it per queue.

A job pays its share of the batch that it ran in, by its part of the batch's cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock.lane import LANES, Lane, queue_name
from penstock_worker.item import Item, Run

#: Weight of the newest batch in the mean: about the last twenty count.
NEWEST = 0.1

#: What a job is expected to take before the first batch of its model has run, seconds.
UNKNOWN_S = 0.01


class Charges:
    """The mean device time of a job, per queue. Written by the device thread, read by the hub's."""

    def __init__(self, models: Iterable[str], namespace: str) -> None:
        self._queues = {(model, lane): queue_name(namespace, model, lane) for model in models for lane in LANES}
        self._expected = dict.fromkeys(self._queues.values(), UNKNOWN_S)
        self._known: set[str] = set()
        #: Device seconds that each queue has taken of this worker.
        self.spent: dict[str, float] = {}
        #: Jobs of each queue that have left it, however they ended.
        self.done: dict[str, int] = {}

    def expected(self) -> Mapping[str, float]:
        """Device seconds that one job of each queue is expected to take."""
        return self._expected

    def spread(self, run: Run, seconds: float) -> None:
        """Tell each item of a run what it has cost, and remember it."""
        cost = sum(item.cost for item in run.live)
        if cost <= 0:
            return
        shares: dict[Lane, list[float]] = {}
        for item in run.live:
            item.device_s = seconds * item.cost / cost
            shares.setdefault(item.lane, []).append(item.device_s)
        for lane, took in shares.items():
            queue = self._queues[run.batch.model.name, lane]
            self._add(queue, sum(took), len(took))
            self._learn(queue, sum(took) / len(took))

    @staticmethod
    def book(run: Run) -> None:
        """What the steps of runs have cost is stored with them: what their tenants are charged."""
        for item, outcome in zip(run.live, run.outcomes, strict=False):
            if item.step:
                outcome.device_s = item.device_s

    def took(self, items: Iterable[Item]) -> None:
        """Items that know already what they have cost: sequences of a step-wise model."""
        for item in items:
            queue = self._queues[item.model, item.lane]
            self._add(queue, item.device_s, 1)
            if item.device_s > 0:
                self._learn(queue, item.device_s)

    def _learn(self, queue: str, mean_s: float) -> None:
        old = self._expected[queue]
        self._expected[queue] = old + NEWEST * (mean_s - old) if queue in self._known else mean_s
        self._known.add(queue)

    def _add(self, queue: str, seconds: float, jobs: int) -> None:
        self.spent[queue] = self.spent.get(queue, 0.0) + seconds
        self.done[queue] = self.done.get(queue, 0) + jobs
