"""The events of an imagined system, one after the other: arrivals, ends of batches, looks. PURE."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from penstock.lane import LANES, Lane
from penstock.loadgen import tally
from penstock.loadgen.arrivals import Arrival
from penstock.loadgen.simulator.broker import Queue
from penstock.loadgen.simulator.gate import Gate
from penstock.loadgen.simulator.worker import Worker
from penstock.loadgen.simulator.world import Item, World
from penstock.loadgen.tally import Fate, Sample
from penstock.policy.latency import LatencyBook
from penstock.policy.waitingroom import Chosen


@dataclass(slots=True)
class Outcome:
    """What a simulation gives. ``busy_s`` is the device time of all workers, ``ended_s`` when the last batch ended.

    ``device_s`` is each tenant's part of the device time: a job pays its share of its batch, by cost.
    """

    samples: list[Sample]
    batches: list[tuple[int, str]]
    busy_s: float
    ended_s: float
    books: list[LatencyBook]
    device_s: dict[str, float]


@dataclass(slots=True)
class _Batch:
    """One batch on a device."""

    chosen: Chosen[Item]
    took_s: float


def simulate(world: World, arrivals: Sequence[Arrival], *, rng: Random) -> Outcome:
    """Run ``arrivals`` through the world to the end: every request has its fate then, each exactly one.

    Raises ``ConfigError`` for a request of a model that the world has not.
    """
    return _Simulation(world, arrivals, rng).run()


class _Simulation:
    def __init__(self, world: World, arrivals: Sequence[Arrival], rng: Random) -> None:
        self._world = world
        self._arrivals = sorted(arrivals, key=lambda arrival: arrival.at_s)
        self._rng = rng
        held: Counter[str] = Counter()
        self._queues = {(name, lane): Queue(world.terms, held) for name in world.kinds for lane in LANES}
        self._gates = {name: Gate(world, self._queues[name, Lane.INTERACTIVE], rng) for name in world.kinds}
        self._workers = [Worker(world, names) for names in world.served()]
        #: (time, order of planning, worker, its batch or ``None`` for a mere look).
        self._planned: list[tuple[float, int, int, _Batch | None]] = []
        self._plans = 0
        self._out = Outcome([], [], 0.0, 0.0, [worker.room.latency for worker in self._workers], {})

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
        for worker in self._workers:
            self._bury(worker, float("inf"))
        left = sum(map(len, self._queues.values())) + sum(len(worker.room.lines) for worker in self._workers)
        if left:
            # A policy that holds without saying until when, with nothing to come, would do so for ever.
            raise RuntimeError(f"policy {self._world.policy!r} left {left} requests waiting for ever")
        return self._out

    def _arrive(self, arrival: Arrival) -> None:
        model = self._world.model_of(arrival.model)
        sample = Sample(arrival.at_s, arrival.lane, arrival.tenant, arrival.cost, model)
        self._out.samples.append(sample)
        gate = self._gates[model]
        if self._world.admission and gate.refuses(arrival):
            sample.fate, sample.latency_s, sample.answer_s = Fate.REFUSED, 0.0, 0.0
            return
        deadline = None if arrival.deadline_s is None else arrival.at_s + arrival.deadline_s
        due_at = float("inf") if deadline is None else deadline
        if arrival.lane is Lane.INTERACTIVE:
            due_at = min(due_at, arrival.at_s + self._world.targets_s[Lane.INTERACTIVE] - self._world.overhead_s)
        item = Item(sample, arrival.lane, arrival.at_s, deadline, due_at, arrival.cost)
        self._queues[model, arrival.lane].put(item)
        if self._world.admission:
            gate.published(arrival)

    def _feed(self, now: float) -> None:
        """Idle workers first: they block on the queue's bell, busy ones claim a little before they are free."""
        for number, worker in sorted(enumerate(self._workers), key=lambda pair: pair[1].busy):
            self._bury(worker, now)
            self._claim(worker, now)
            if not worker.busy:
                self._decide(number, worker, now)

    def _claim(self, worker: Worker, now: float) -> None:
        """Of the interactive queues only that one whose head has waited longest: see ``transport/lua/claim.lua``."""
        again = True
        while again:
            again = False
            wanted = worker.wanted(now)
            waits = {name: self._queues[name, lane].since() for name, lane in wanted if lane is Lane.INTERACTIVE}
            heads = [(since, name) for name, since in waits.items() if since is not None]
            first = min(heads, default=(0.0, ""), key=lambda head: head[0])[1]
            for (name, lane), more in wanted.items():
                if lane is Lane.INTERACTIVE and name != first:
                    continue
                items = self._queues[name, lane].take(more, worker.expected(name, lane))
                # Behind those that were abandoned there may be others.
                again = bool(items and worker.put(items, now)) or again

    def _decide(self, number: int, worker: Worker, now: float) -> None:
        while True:
            chosen = worker.room.decide(now)
            if isinstance(chosen, Chosen):
                if self._release(number, worker, chosen, now):
                    return
                self._claim(worker, now)
            elif not worker.room.revive(now):
                tried_in_s = worker.room.revive_in_s(now)
                times = [] if chosen.until is None else [chosen.until]
                times += [] if tried_in_s is None else [now + tried_in_s]
                if times and min(times) != worker.wakes_at:
                    # A time that has come is looked at again a moment later, as a real worker's wait would.
                    self._look(number, worker, max(min(times), now + 1e-6))
                return

    def _release(self, number: int, worker: Worker, chosen: Chosen[Item], now: float) -> bool:
        """Put a batch on the device; whether anything of it was still wanted."""
        model = chosen.name
        chosen.items = [item for item in chosen.items if not self._expired(model, item, now)]
        if not chosen.items:
            return False
        took_s = self._world.kinds[model].device.seconds(sum(item.cost for item in chosen.items), self._rng)
        worker.start(chosen, now)
        claim_at = worker.room.busy_until - worker.room.lead_s
        if claim_at > now:
            self._look(number, worker, claim_at)
        self._out.batches.append((len(chosen.items), chosen.reason))
        self._plan(now + took_s, number, _Batch(chosen, took_s))
        self._tell(number, worker, model, chosen.items, now)
        self._claim(worker, now)
        return True

    def _tell(self, number: int, worker: Worker, model: str, items: Sequence[Item], now: float) -> None:
        """The worker learns how long its items have waited, and says so."""
        waits_s = [now - item.sample.at_s for item in items if item.lane is Lane.INTERACTIVE]
        left = worker.room.lines.waiting[model, Lane.INTERACTIVE]
        worker.load.started(model, now, count=len(items), interactive=len(waits_s), waits_s=waits_s, left=left)
        said = worker.load.news(model, now, worker.stock(model))
        if said is not None:
            self._gates[model].said[str(number)] = said

    def _expired(self, model: str, item: Item, now: float) -> bool:
        """As the claim in SQL has it: a deadline that has passed costs no device time."""
        if item.deadline_at is None or item.deadline_at > now:
            return False
        self._expire(model, item, now)
        return True

    def _bury(self, worker: Worker, now: float) -> None:
        """Those that were abandoned and whose deadlines have passed."""
        for item in worker.room.hopeless.pull(lambda item: item.ends_at <= now):
            self._expire(item.model, item, item.ends_at)

    def _expire(self, model: str, item: Item, at: float) -> None:
        item.sample.fate, item.sample.latency_s = Fate.EXPIRED, at - item.sample.at_s
        self._queues[model, item.lane].settle(item, 0.0)

    def _finish(self, number: int, batch: _Batch, now: float) -> None:
        worker, chosen, took_s = self._workers[number], batch.chosen, batch.took_s
        model, cost = chosen.name, sum(item.cost for item in chosen.items)
        worker.end(chosen, took_s, now)
        lanes = {item.lane for item in chosen.items}
        worker.load.ended(
            model,
            now,
            took_s,
            count=len(chosen.items),
            size=len(chosen.items),
            full=chosen.reason == "full",
            interactive=Lane.INTERACTIVE in lanes,
        )
        self._out.busy_s += took_s
        self._out.ended_s = max(self._out.ended_s, now)
        took: dict[Lane, list[float]] = {}
        for item in chosen.items:
            late = item.deadline_at is not None and now > item.deadline_at
            item.sample.fate = Fate.EXPIRED if late else Fate.OK
            item.sample.latency_s = now - item.sample.at_s + self._world.overhead_s
            seconds = took_s * item.cost / cost
            self._queues[model, item.lane].settle(item, seconds)
            tenant = item.sample.tenant
            self._out.device_s[tenant] = self._out.device_s.get(tenant, 0.0) + seconds
            took.setdefault(item.lane, []).append(seconds)
        for lane, parts in took.items():
            worker.took(model, lane, sum(parts) / len(parts))

    def _look(self, number: int, worker: Worker, at: float) -> None:
        worker.wakes_at = at
        self._plan(at, number, None)

    def _plan(self, at: float, number: int, what: _Batch | None) -> None:
        # The counter keeps the heap from comparing batches, and ties in the order in which they were made.
        self._plans += 1
        heapq.heappush(self._planned, (at, self._plans, number, what))


def summary(world: World, outcome: Outcome, *, duration_s: float) -> dict[str, Any]:
    """The report of a simulation: ``tally.report`` with ``utilisation``, ``batches`` and ``device_s`` by tenant."""
    targets = {str(lane): target_s for lane, target_s in world.targets_s.items()}
    report = tally.report(outcome.samples, duration_s=duration_s, target_s=targets)
    span_s = max(duration_s, outcome.ended_s)
    workers = len(world.served())
    sizes = [size for size, _ in outcome.batches]
    reasons = Counter(reason for _, reason in outcome.batches)
    return report | {
        "workers": workers,
        "policy": world.policy,
        "admission": world.admission,
        "utilisation": outcome.busy_s / (span_s * workers),
        "ended_s": outcome.ended_s,
        "device_s": dict(sorted(outcome.device_s.items())),
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
