"""Admission at the imagined producer: ``policy.picture`` and ``policy.admission``, read as the client does. PURE.

One producer, as in ``penstock bench load``: the picture of a model is read with the first request that finds it a tenth
of a second old, without a delay.
"""

from __future__ import annotations

from random import Random

from penstock.lane import Lane
from penstock.loadgen.arrivals import Arrival
from penstock.loadgen.simulator.broker import Queue
from penstock.loadgen.simulator.world import World
from penstock.policy.admission import Refuse, WorkerLoad
from penstock.policy.fairness import DEFAULT
from penstock.policy.picture import Picture

#: Age of a picture that is read again, seconds (``dispatch.admission``).
REFRESH_S = 0.1


class Gate:
    """One model's."""

    def __init__(self, world: World, queue: Queue, rng: Random) -> None:
        self._target_s = world.targets_s[Lane.INTERACTIVE]
        self._queue = queue
        self._rng = rng
        self._picture = Picture()
        self._read_at = float("-inf")
        #: What workers said last, by worker.
        self.said: dict[str, WorkerLoad] = {}

    def refuses(self, arrival: Arrival) -> bool:
        """Whether this request is turned away. One that is not counts as submitted: put it into the queue."""
        if arrival.lane is not Lane.INTERACTIVE:
            return False
        now = arrival.at_s
        if now - self._read_at >= REFRESH_S:
            self._picture.take(dict(self.said), (len(self._queue), 0, 0, 0), ours=self._picture.submitted, now=now)
            self._read_at = now
        decision = self._picture.decide(
            now=now,
            target_s=self._target_s,
            deadline_at=None if arrival.deadline_s is None else now + arrival.deadline_s,
            priority=0,
            rng=self._rng,
        )
        return isinstance(decision, Refuse)

    def published(self, arrival: Arrival) -> None:
        """The request stands in the queue: a publication answers with the length of the list that it went to."""
        if arrival.lane is Lane.INTERACTIVE and arrival.tenant == DEFAULT:
            self._picture.saw(len(self._queue), priority=0, now=arrival.at_s)
