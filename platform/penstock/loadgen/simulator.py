"""What would happen: the policies of production on imagined devices, PURE and as quick as the machine allows.

A discrete-event simulation on a clock of its own. The worker's shell is copied in its rules, not in its code: a worker
claims from the common queues up to its quota, its policy decides over the very ``Snapshot`` that a real one gets, jobs
past their deadline fall out when their batch is claimed, and every batch teaches the worker's ``LatencyBook``.

Not in it: the cost of the queue itself (``World.overhead_s`` is a stand-in), retries, failures, and admission. The same
world, arrivals and state of ``rng`` (the noise of the devices) give the same result.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from penstock.errors import ConfigError
from penstock.lane import LANES, Lane
from penstock.loadgen import tally
from penstock.loadgen.arrivals import Arrival
from penstock.loadgen.tally import Fate, Sample
from penstock.model import Batching
from penstock.policy.batching import LATE, POLICIES, RANKS, BatchingPolicy, Demote, Line, Release, Snapshot
from penstock.policy.isolation import MinimumShare
from penstock.policy.latency import LatencyBook
from penstock.policy.prefetch import wanted

MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Takes ``alpha_s + beta_s * cost`` for a batch, with a relative standard deviation of ``noise``."""

    alpha_s: float
    beta_s: float
    noise: float = 0.0

    def seconds(self, cost: float, rng: Random) -> float:
        """How long one batch of this cost takes."""
        spread = max(0.1, rng.gauss(1.0, self.noise)) if self.noise else 1.0
        return (self.alpha_s + self.beta_s * cost) * spread

    def capacity(self, size: int) -> float:
        """Requests of cost 1 per second in batches of ``size``."""
        return size / (self.alpha_s + self.beta_s * size)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The imagined system. ``overhead_s`` is added to each request's latency: the way to the worker and back."""

    device: Device
    batching: Batching = field(default_factory=lambda: Batching(max_size=64))
    workers: int = 1
    policy: str = "adaptive"
    targets_s: Mapping[Lane, float] = field(default_factory=lambda: {Lane.INTERACTIVE: 0.1, Lane.BACKGROUND: 60.0})
    prefetch_batches: float = 2.0
    lead_s: float = 0.005
    overhead_s: float = 0.0


def make_policy(name: str) -> BatchingPolicy:
    """The policy of this name for one worker; raises ``ConfigError`` for one that does not exist."""
    if name not in POLICIES:
        raise ConfigError(f"there is no policy {name!r}", fix=f"use one of {', '.join(POLICIES)}")
    return POLICIES[name]()


@dataclass(slots=True, eq=False)
class Item:
    """One waiting request: what a policy may know of it (``policy.batching.Waiting``), and where it is counted."""

    sample: Sample
    arrived_at: float
    deadline_at: float | None
    due_at: float
    cost: float


@dataclass(slots=True)
class Outcome:
    """What a simulation gives. ``busy_s`` is the device time of all workers, ``ended_s`` when the last batch ended."""

    samples: list[Sample]
    batches: list[tuple[int, str]]
    busy_s: float
    ended_s: float
    books: list[LatencyBook]


class _Worker:
    """One imagined worker: its lines, its policy, what is on its device."""

    def __init__(self, world: World) -> None:
        self.book = LatencyBook()
        self.policy = make_policy(world.policy)
        self.lines: dict[str, list[Item]] = {lane: [] for lane in RANKS}
        self.share = MinimumShare()
        self.interactive_at: float | None = None
        self.busy_until = 0.0
        self.snapshot_lines = [Line(MODEL, lane, line) for lane, line in self.lines.items()]
        self.quota = max(1, int(world.batching.max_size * world.prefetch_batches))
        self.busy = False
        self.wakes_at: float | None = None


def simulate(world: World, arrivals: Sequence[Arrival], *, rng: Random) -> Outcome:
    """Run ``arrivals`` through the world to the end: every request has its fate then, each exactly one."""
    return _Simulation(world, arrivals, rng).run()


class _Simulation:
    def __init__(self, world: World, arrivals: Sequence[Arrival], noise: Random) -> None:
        self._world = world
        self._arrivals = sorted(arrivals, key=lambda arrival: arrival.at_s)
        self._noise = noise
        self._limits = {MODEL: world.batching}
        self._queues: dict[Lane, deque[Item]] = {lane: deque() for lane in LANES}
        self._workers = [_Worker(world) for _ in range(world.workers)]
        #: (time, order of planning, worker, what its batch took or ``None`` for a mere look).
        self._planned: list[tuple[float, int, int, tuple[list[Item], float, float] | None]] = []
        self._plans = 0
        self._out = Outcome([], [], 0.0, 0.0, [worker.book for worker in self._workers])

    def run(self) -> Outcome:
        coming = iter(self._arrivals)
        arrival = next(coming, None)
        while arrival is not None or self._planned:
            if arrival is not None and (not self._planned or arrival.at_s <= self._planned[0][0]):
                now = arrival.at_s
                # What comes at one instant is seen together.
                while arrival is not None and arrival.at_s == now:
                    self._arrive(arrival)
                    arrival = next(coming, None)
            else:
                now, _, number, batch = heapq.heappop(self._planned)
                if batch is None:
                    if self._workers[number].wakes_at != now:
                        continue  # it has looked since
                    self._workers[number].wakes_at = None
                else:
                    self._finish(number, batch, now)
            self._feed(now)
        left = [item for queue in self._queues.values() for item in queue]
        left += [item for worker in self._workers for line in worker.lines.values() for item in line]
        if left:
            # A policy that holds without saying until when, with nothing to come, would do so for ever.
            raise RuntimeError(f"policy {self._world.policy!r} left {len(left)} requests waiting for ever")
        return self._out

    def _arrive(self, arrival: Arrival) -> None:
        sample = Sample(arrival.at_s, arrival.lane, arrival.tenant, arrival.cost)
        self._out.samples.append(sample)
        deadline = None if arrival.deadline_s is None else arrival.at_s + arrival.deadline_s
        due_at = float("inf") if deadline is None else deadline
        if arrival.lane is Lane.INTERACTIVE:
            due_at = min(due_at, arrival.at_s + self._world.targets_s[Lane.INTERACTIVE] - self._world.overhead_s)
        self._queues[arrival.lane].append(Item(sample, arrival.at_s, deadline, due_at, arrival.cost))

    def _feed(self, now: float) -> None:
        """Idle workers first: they block on the queue's bell, busy ones claim a little before they are free."""
        for number, worker in sorted(enumerate(self._workers), key=lambda pair: pair[1].busy):
            self._claim(worker, now)
            if not worker.busy:
                self._decide(number, worker, now)

    def _claim(self, worker: _Worker, now: float) -> None:
        starts_in_s = max(0.0, worker.busy_until - now) if worker.busy else 0.0
        for lane, queue in self._queues.items():
            line = worker.lines[lane]
            held = len(line) + (len(worker.lines[LATE]) if lane is Lane.INTERACTIVE else 0)
            more = wanted(most=worker.quota, waiting=held, starts_in_s=starts_in_s, lead_s=self._world.lead_s)
            for _ in range(min(more, len(queue))):
                item = queue.popleft()
                item.arrived_at = now
                if lane is Lane.INTERACTIVE:
                    worker.interactive_at = now
                    insort(line, item, key=_due_at)
                else:
                    line.append(item)

    def _decide(self, number: int, worker: _Worker, now: float) -> None:
        while any(worker.lines.values()):
            decision = worker.policy.decide(self._snapshot(worker, now))
            if isinstance(decision, Demote):
                worker.lines[LATE].append(worker.lines[Lane.INTERACTIVE].pop(decision.place))
                continue
            if not isinstance(decision, Release):
                if decision.until is not None and decision.until != worker.wakes_at:
                    # A time that has come is looked at again a moment later, as a real worker's wait would.
                    worker.wakes_at = max(decision.until, now + 1e-6)
                    self._plan(worker.wakes_at, number, None)
                return
            items = []
            leftover = 0.0
            for lane, count in decision.take.items():
                items += worker.lines[lane][:count]
                leftover += sum(item.cost for item in worker.lines[lane][:count]) if lane != Lane.INTERACTIVE else 0.0
                del worker.lines[lane][:count]
            live = [item for item in items if not self._expired(item, now)]
            if not live:
                self._claim(worker, now)
            if live:
                cost = sum(item.cost for item in live)
                took_s = self._world.device.seconds(cost, self._noise)
                worker.share.spent(took_s, min(1.0, leftover / cost), now + took_s)
                worker.busy, worker.wakes_at = True, None
                worker.busy_until = now + worker.book.line(MODEL).predict(cost)
                claim_at = worker.busy_until - self._world.lead_s
                if claim_at > now:
                    worker.wakes_at = claim_at
                    self._plan(claim_at, number, None)
                self._out.batches.append((len(live), decision.reason))
                self._plan(now + took_s, number, (live, cost, took_s))
                self._claim(worker, now)
                return

    def _snapshot(self, worker: _Worker, now: float) -> Snapshot:
        return Snapshot(
            now,
            worker.snapshot_lines,
            self._limits,
            latency=worker.book,
            target_s=self._world.targets_s[Lane.INTERACTIVE],
            quiet_s=None if worker.interactive_at is None else now - worker.interactive_at,
            background_owed=worker.share.owed(),
        )

    def _expired(self, item: Item, now: float) -> bool:
        """As the claim in SQL has it: a deadline that has passed costs no device time."""
        if item.deadline_at is None or item.deadline_at > now:
            return False
        item.sample.fate, item.sample.latency_s = Fate.EXPIRED, now - item.sample.at_s
        return True

    def _finish(self, number: int, batch: tuple[list[Item], float, float], now: float) -> None:
        items, cost, took_s = batch
        worker = self._workers[number]
        worker.busy = False
        worker.book.observe(MODEL, cost, took_s)
        self._out.busy_s += took_s
        self._out.ended_s = max(self._out.ended_s, now)
        for item in items:
            late = item.deadline_at is not None and now > item.deadline_at
            item.sample.fate = Fate.EXPIRED if late else Fate.OK
            item.sample.latency_s = now - item.sample.at_s + self._world.overhead_s

    def _plan(self, at: float, number: int, what: tuple[list[Item], float, float] | None) -> None:
        # The counter keeps the heap from comparing batches, and ties in the order in which they were made.
        self._plans += 1
        heapq.heappush(self._planned, (at, self._plans, number, what))


def _due_at(item: Item) -> float:
    return item.due_at


def summary(world: World, outcome: Outcome, *, duration_s: float) -> dict[str, Any]:
    """The report of a simulation: ``tally.report`` with ``utilisation`` and ``batches``."""
    targets = {str(lane): target_s for lane, target_s in world.targets_s.items()}
    report = tally.report(outcome.samples, duration_s=duration_s, target_s=targets)
    span_s = max(duration_s, outcome.ended_s)
    sizes = [size for size, _ in outcome.batches]
    reasons = Counter(reason for _, reason in outcome.batches)
    return report | {
        "workers": world.workers,
        "policy": world.policy,
        "utilisation": outcome.busy_s / (span_s * world.workers),
        "ended_s": outcome.ended_s,
        "batches": {
            "batches": len(sizes),
            "mean_size": sum(sizes) / len(sizes) if sizes else None,
            "max_size": max(sizes, default=None),
            "reasons": dict(sorted(reasons.items())),
        },
    }


def denser(arrivals: Iterable[Arrival], times: float) -> list[Arrival]:
    """The same requests, ``times`` as many per second: for a trace, whose rate cannot be chosen otherwise."""
    return [replace(arrival, at_s=arrival.at_s / times) for arrival in arrivals]
