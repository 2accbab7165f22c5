"""A fleet of devices under a scaler, event by event.

Workers take the oldest waiting unit; one that is started is ready after the start delay; one that is told to stop
finishes what it runs. A worker costs its seconds from the decision that starts it until it is gone, starting included.
The scaler is asked at its own rhythm and sees what a real one would: counts, and work in device seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappush, heapreplace
from typing import Protocol

import numpy as np
from benchmarks.elastictraces import Floats, Workload


@dataclass(slots=True)
class View:
    """What a scaler sees."""

    now: float
    ready: int
    busy: int
    starting: int
    waiting: int
    #: Since the look before.
    arrived: int
    arrived_s: float
    backlog_s: float


class Scaler(Protocol):
    """Asked every ``every_s`` for the workers that it wants, ready and starting together."""

    every_s: float

    def target(self, view: View) -> int: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """``cost`` in worker-seconds, ``late`` as a share; ``reversals``: turns of the target's direction."""

    cost: float
    late: float
    mean: float
    most: int
    reversals: int


class Fleet:
    """Workers by when they are free, and what they cost."""

    def __init__(self, workload: Workload, ready: int, delay_s: float) -> None:
        self._times = workload.arrivals.tolist()
        self._work = workload.work_s.tolist()
        self._cumulated = np.concatenate([[0.0], np.cumsum(workload.work_s)]).tolist()
        self._delay = delay_s
        self._next = 0
        self._free = [0.0] * ready
        self._coming: list[float] = []  # ready at, ascending
        self.ends: list[float] = [0.0] * len(self._times)
        self.cost = 0.0

    @property
    def size(self) -> int:
        """Ready and starting."""
        return len(self._free) + len(self._coming)

    def advance(self, until: float) -> None:
        """Begin everything that begins before ``until``."""
        while self._coming and self._coming[0] <= until:
            heappush(self._free, self._coming.pop(0))
        free, times, work, ends, index, count = (
            self._free,
            self._times,
            self._work,
            self.ends,
            self._next,
            len(self._times),
        )
        if not free:
            return
        while index < count:
            begin, at = free[0], times[index]
            if at > begin:
                begin = at
            if begin >= until:
                break
            ends[index] = end = begin + work[index]
            heapreplace(free, end)
            index += 1
        self._next = index

    def start(self, count: int, now: float) -> None:
        """More of them."""
        for _ in range(count):
            if self._delay:
                self._coming.append(now + self._delay)
            else:
                heappush(self._free, now)
        self.cost -= count * now

    def stop(self, count: int, now: float, *, starting: bool = True) -> None:
        """Fewer: the starting ones first (the newest of them), then who is free the soonest."""
        while count and starting and self._coming:
            self._coming.pop()
            self.cost += now
            count -= 1
        gone, self._free = sorted(self._free)[:count], sorted(self._free)[count:]
        heapify(self._free)
        self.cost += sum(max(now, end) for end in gone)

    def view(self, now: float, arrived: int, before: int) -> View:
        """As it is at ``now``, when ``arrived`` units have come, ``before`` of them until the last look."""
        running = sum(end - now for end in self._free if end > now)
        return View(
            now=now,
            ready=len(self._free),
            busy=sum(end > now for end in self._free),
            starting=len(self._coming),
            waiting=arrived - self._next,
            arrived=arrived - before,
            arrived_s=self._cumulated[arrived] - self._cumulated[before],
            backlog_s=self._cumulated[arrived] - self._cumulated[self._next] + running,
        )

    def finish(self, now: float) -> None:
        """The work that is left, by who is there."""
        while self._next < len(self._times) and self.size:
            now += 60.0
            self.advance(now)

    def close(self, now: float) -> float:
        """What all of it has cost until ``now``."""
        return self.cost + self.size * now


def simulate(workload: Workload, scaler: Scaler, *, delay_s: float, begin: int) -> Outcome:
    """Run a workload under a scaler that finds ``begin`` ready workers.

    Units that were never begun are late. What is done after the last arrival costs nothing: all scalers have that end.
    """
    fleet = Fleet(workload, begin, delay_s)
    now, end, most, turns, direction, before = 0.0, workload.span_s, begin, 0, 0, 0
    marks = np.searchsorted(workload.arrivals, np.arange(0.0, end + scaler.every_s, scaler.every_s)).tolist()
    for arrived in marks[1:]:
        now += scaler.every_s
        fleet.advance(now)
        target = max(scaler.target(fleet.view(now, arrived, before)), 0)
        before = arrived
        change = target - fleet.size
        if change > 0:
            fleet.start(change, now)
        elif change < 0:
            fleet.stop(-change, now)
        if change and direction * change < 0:
            turns += 1
        direction = change or direction
        most = max(most, target)
    cost = fleet.close(now)
    fleet.finish(now)
    return outcome(workload, fleet.ends, cost, most, turns)


def outcome(workload: Workload, ends: list[float], cost: float, most: int, turns: int) -> Outcome:
    """From what was measured. A unit without an end is late."""
    finished = np.array(ends)
    waited = np.where(finished > 0, finished - workload.arrivals, np.inf)
    late = float((waited > workload.target_s).mean())
    return Outcome(cost=cost, late=late, mean=cost / workload.span_s, most=most, reversals=turns)


def first_need(workload: Workload) -> int:
    """Workers that all scalers find at the beginning: the need of the first ten minutes, and one."""
    first: Floats = workload.work_s[workload.arrivals < 600.0]
    return int(np.ceil(first.sum() / 600.0)) + 1
