"""What one producer believes of one model's load for one tenant, between two readings of it.

A reading gives the workers' words and the lengths of the queue's lists. Until the next one the picture is carried on:
what was submitted from here is added, what the workers get done is taken off, and the traffic of other producers is
expected to go on as it was between the last readings. Pure bookkeeping: ``now`` (Unix seconds) comes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from penstock.policy.admission import Admit, Ask, Load, Refuse, WorkerLoad, combine, decide
from penstock.policy.sharing import Share

#: A picture older than this is no picture, seconds.
STALE_S = 2.0
#: Weight of the newest interval in the estimate of the other producers' traffic.
NEWEST = 0.5
#: A queue counts as shared for so long after another tenant's messages were seen in it, seconds: most that are claimed
#: just in time are in no reading.
LATELY_S = 2.0


class Crowd:
    """All tenants of one queue together, as one producer knows them: how much comes. Its pictures share it."""

    __slots__ = ("_at", "_done", "_total", "added", "inflow", "submitted")

    def __init__(self) -> None:
        self._at = float("-inf")
        self._done: dict[str, int] = {}
        self._total = 0.0
        #: Came from here since the last reading.
        self.added = 0.0
        #: Submitted from here since the last reading began.
        self.submitted = 0
        #: What other producers are expected to add, items per second.
        self.inflow = 0.0

    def take(self, said: Mapping[str, WorkerLoad], total: float, *, ours: int, now: float) -> None:
        """A reading came in, to be taken by the pictures next. ``total``: messages that are ready."""
        if 0 < now - self._at <= STALE_S:
            started = sum(max(0, worker.done - self._done.get(name, worker.done)) for name, worker in said.items())
            others = max(0.0, (started + total - self._total - ours) / (now - self._at))
            self.inflow += NEWEST * (others - self.inflow)
        self._at, self._total = now, total
        self._done = {name: worker.done for name, worker in said.items()}
        self.submitted -= ours
        self.added = float(self.submitted)


class Picture:
    """Not thread-safe."""

    __slots__ = ("_added", "_crowd", "_done", "_inflow", "_load", "_others_at", "submitted")

    def __init__(self, crowd: Crowd | None = None) -> None:
        self._load: Load | None = None
        self._crowd = crowd or Crowd()
        #: Ahead of a new job beyond what the load says.
        self._added = 0.0
        self._done: dict[str, int] = {}
        self._inflow = 0.0
        self._others_at = float("-inf")
        #: Submitted from here since the last reading began.
        self.submitted = 0

    def decide(
        self, *, now: float, target_s: float, deadline_at: float | None, priority: int, rng: Random
    ) -> Admit | Refuse:
        """The decision on a new job; one that is admitted counts as submitted."""
        if self._load is not None and now - self._load.at > STALE_S:
            self._load = None
        ask = self._ask(priority, now, target_s=target_s, deadline_at=deadline_at)
        decision = decide(self._load, ask, rng)
        if isinstance(decision, Admit):
            self._added += 1
            self.submitted += 1
            self._crowd.added += 1
            self._crowd.submitted += 1
        return decision

    def saw(self, length: int, *, priority: int, now: float) -> None:
        """A list of this tenant and priority has this length now: at least so much is ahead of the next job."""
        load = self._load
        if load is not None:
            ask = self._ask(priority, now)
            self._added += max(0.0, length - (load.own(ask) if load.shared else load.ahead(ask)))

    def take(
        self,
        said: Mapping[str, WorkerLoad],
        ready: Sequence[int],
        *,
        ours: int,
        now: float,
        share: Share | None = None,
    ) -> None:
        """A reading came in: ``ready`` are the tenant's own lists, ``share`` says who else is in the queue.

        ``ours`` is ``submitted`` as it was when the reading began.
        """
        before = self._load
        others = 0.0 if share is None else share.others
        if others:
            self._others_at = now
        load = combine(said.values(), ready, now=now, share=share, shared=now - self._others_at <= LATELY_S)
        if load is not None and before is not None and now > before.at:
            # What workers claimed since they spoke is in no list: between the least and the most, the picture as it
            # was carried on knows best.
            carried = before.ahead(self._ask(0, now)) - self.submitted + ours
            carried -= load.queued(Ask(now=now, target_s=0.0)) + load.running
            load = replace(load, waiting=min(max(carried, load.told), load.room))
            started: float = sum(max(0, word.done - self._done.get(name, word.done)) for name, word in said.items())
            grown: float = load.ready[0] - before.ready[0]
            if load.shared and share is not None:
                # What was begun is everybody's; those whose messages waited had their share of it.
                came = others + self._crowd.inflow * (now - before.at)
                started = share.served(started, came) if load.ready[0] and before.ready[0] else 0.0
            else:
                grown += load.waiting - before.waiting
            arrived = max(0.0, (started + grown - ours) / (now - before.at))
            if load.shared:
                arrived = min(arrived, self._crowd.inflow)
            self._inflow += NEWEST * (arrived - self._inflow)
            come = max(0.0, self._crowd.inflow - self._inflow) if load.shared else 0.0
            load = replace(load, inflow=self._inflow, come=come)
        self._done = {name: worker.done for name, worker in said.items()}
        self._load = load
        # What was submitted while the answer was on its way may be in it or not; counting it twice passes quickly.
        self.submitted -= ours
        self._added = float(self.submitted)

    def _ask(self, priority: int, now: float, *, target_s: float = 0.0, deadline_at: float | None = None) -> Ask:
        return Ask(
            now=now,
            target_s=target_s,
            deadline_at=deadline_at,
            priority=priority,
            added=self._added,
            others=max(0.0, self._crowd.added - self.submitted),
        )
