"""What one producer believes of one model's load, between two readings of it.

A reading gives the workers' words and the lengths of the queue's lists. Until the next one the picture is carried on:
what was submitted from here is added, what the workers get done is taken off, and the traffic of other producers is
expected to go on as it was between the last readings. Pure bookkeeping: ``now`` (Unix seconds) comes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from penstock.policy.admission import Admit, Ask, Load, Refuse, WorkerLoad, combine, decide

#: A picture older than this is no picture, seconds.
STALE_S = 2.0
#: Weight of the newest interval in the estimate of the other producers' traffic.
NEWEST = 0.5


class Picture:
    """Not thread-safe."""

    __slots__ = ("_added", "_done", "_inflow", "_load", "submitted")

    def __init__(self) -> None:
        self._load: Load | None = None
        #: Ahead of a new job beyond what the load says.
        self._added = 0.0
        self._done: dict[str, int] = {}
        self._inflow = 0.0
        #: Submitted from here since the last reading began.
        self.submitted = 0

    def decide(
        self, *, now: float, target_s: float, deadline_at: float | None, priority: int, rng: Random
    ) -> Admit | Refuse:
        """The decision on a new job; one that is admitted counts as submitted."""
        if self._load is not None and now - self._load.at > STALE_S:
            self._load = None
        ask = Ask(now=now, target_s=target_s, deadline_at=deadline_at, priority=priority, added=self._added)
        decision = decide(self._load, ask, rng)
        if isinstance(decision, Admit):
            self._added += 1
            self.submitted += 1
        return decision

    def saw(self, length: int, *, priority: int, now: float) -> None:
        """A list of this priority has this length now: at least so much is ahead of the next job."""
        if self._load is not None:
            self._added += max(0.0, length - self._load.ahead(priority, now, self._added))

    def take(self, said: Mapping[str, WorkerLoad], ready: Sequence[int], *, ours: int, now: float) -> None:
        """A reading came in. ``ours`` is ``submitted`` as it was when the reading began."""
        before = self._load
        load = combine(said.values(), ready, now=now)
        if load is not None and before is not None and now > before.at:
            # What workers claimed since they spoke is in no list: between the least and the most, the picture as it
            # was carried on knows best.
            carried = before.ahead(0, now, self._added) - self.submitted + ours - load.ready[0] - load.running
            load = replace(load, waiting=min(max(carried, load.waiting), load.room))
            started = sum(max(0, worker.done - self._done.get(name, worker.done)) for name, worker in said.items())
            grown = load.ready[0] + load.waiting - before.ready[0] - before.waiting
            others = max(0.0, (started + grown - ours) / (now - before.at))
            self._inflow += NEWEST * (others - self._inflow)
            load = replace(load, inflow=self._inflow)
        self._done = {name: worker.done for name, worker in said.items()}
        self._load = load
        # What was submitted while the answer was on its way may be in it or not; counting it twice passes quickly.
        self.submitted -= ours
        self._added = float(self.submitted)
