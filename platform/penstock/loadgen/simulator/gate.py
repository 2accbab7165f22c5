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
from penstock.policy.picture import Crowd, Picture
from penstock.policy.sharing import Shares

#: Age of a picture that is read again, seconds (``dispatch.admission``).
REFRESH_S = 0.1


class Gate:
    """One model's."""

    def __init__(self, world: World, queue: Queue, rng: Random) -> None:
        self._target_s = world.targets_s[Lane.INTERACTIVE]
        self._queue = queue
        self._rng = rng
        # As in ``dispatch.admission``: a picture for each tenant, of one reading.
        self._crowd = Crowd()
        self._pictures: dict[str, Picture] = {}
        self._read_at = float("-inf")
        #: What workers said last, by worker.
        self.said: dict[str, WorkerLoad] = {}

    def refuses(self, arrival: Arrival) -> bool:
        """Whether this request is turned away. One that is not counts as submitted: put it into the queue."""
        if arrival.lane is not Lane.INTERACTIVE:
            return False
        now = arrival.at_s
        picture = self._pictures.get(arrival.tenant)
        if picture is None:
            picture = self._pictures[arrival.tenant] = Picture(self._crowd)
            self._read_at = float("-inf")  # one that is new knows what is known
        if now - self._read_at >= REFRESH_S:
            self._read(now)
        decision = picture.decide(
            now=now,
            target_s=self._target_s,
            deadline_at=None if arrival.deadline_s is None else now + arrival.deadline_s,
            priority=0,
            rng=self._rng,
        )
        return isinstance(decision, Refuse)

    def published(self, arrival: Arrival) -> None:
        """The request stands in the queue: a publication answers with the length of the list that it went to."""
        picture = self._pictures.get(arrival.tenant)
        if arrival.lane is Lane.INTERACTIVE and picture is not None:
            picture.saw(self._queue.waiting(arrival.tenant), priority=0, now=arrival.at_s)

    def _read(self, now: float) -> None:
        self._read_at = now
        said, shares = dict(self.said), Shares(self._queue.standings())
        ours = {tenant: picture.submitted for tenant, picture in self._pictures.items()}
        self._crowd.take(said, shares.total, ours=sum(ours.values()), now=now)
        for tenant, picture in self._pictures.items():
            share = shares.of(tenant)
            picture.take(said, share.own.ready, ours=ours[tenant], now=now, share=share)
