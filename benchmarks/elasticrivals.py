"""The policies of KEDA with an HPA, Knative and Ray Serve, as their sources and documents describe them.

Each is given what it likes best: exact counts without delay, and its parameters from a grid, chosen afterwards for each
workload and start delay. None knows seconds of device time; they count units that wait and run.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from benchmarks.elasticsim import Scaler, View

LEAST = 1


@dataclass(slots=True)
class Keda:
    """KEDA's queue trigger on an HPA (autoscaling/v2): every 15 s ``ceil(metric / target)`` of an average value;
    changes within the tolerance of 10 % are ignored; up at most by 100 % or 4 in 15 s, whichever is more; down to the
    highest recommendation of the window. The metric is what waits and runs, or the rate of the last minute.
    """

    per_worker: float
    window_s: float
    by_rate: bool = False
    every_s: float = 15.0
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _rates: deque[int] = field(default_factory=lambda: deque(maxlen=4))

    def target(self, view: View) -> int:
        """What the HPA sets."""
        have = view.ready + view.starting
        self._rates.append(view.arrived)
        rate = sum(self._rates) / (len(self._rates) * self.every_s)
        metric = rate if self.by_rate else view.waiting + view.busy
        ratio = metric / (self.per_worker * max(have, 1))
        wanted = have if abs(ratio - 1) <= 0.1 else math.ceil(metric / self.per_worker)
        wanted = max(wanted, LEAST)
        self._wanted.append((view.now, wanted))
        while self._wanted[0][0] < view.now - self.window_s:
            self._wanted.popleft()
        if wanted > have:
            return min(wanted, max(2 * have, have + 4))
        return min(have, max(one for _, one in self._wanted))


@dataclass(slots=True)
class Knative:
    """Knative's autoscaler (KPA): every 2 s the average concurrency of the stable window over the target; in a panic
    (the panic window, a tenth of it, wants twice what is ready) the higher one, never down, until 60 s without. Up at
    most tenfold, down at most by half in a turn; down only after the highest of the scale-down delay.
    """

    per_worker: float
    window_s: float
    down_delay_s: float
    every_s: float = 2.0
    _seen: deque[int] = field(default_factory=deque)
    _panic_at: float = -math.inf
    _panic: int = 0
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def target(self, view: View) -> int:
        """What the KPA sets."""
        have, ready = view.ready + view.starting, max(view.ready, 1)
        self._seen.append(view.waiting + view.busy)
        while len(self._seen) > self.window_s / self.every_s:
            self._seen.popleft()
        short = list(self._seen)[-max(round(self.window_s / 10 / self.every_s), 1) :]
        stable = self._bounded(sum(self._seen) / len(self._seen), ready)
        panic = self._bounded(sum(short) / len(short), ready)
        if panic / ready >= 2.0:
            self._panic_at = view.now
        if view.now - self._panic_at < self.window_s:
            self._panic = max(self._panic, stable, panic)
            stable = self._panic
        else:
            self._panic = 0
        self._wanted.append((view.now, stable))
        while self._wanted[0][0] < view.now - self.down_delay_s:
            self._wanted.popleft()
        return max(stable if stable >= have else max(one for _, one in self._wanted), LEAST)

    def _bounded(self, concurrency: float, ready: int) -> int:
        wanted = math.ceil(concurrency / self.per_worker)
        return max(min(wanted, ready * 1000), math.floor(ready / 2))


@dataclass(slots=True)
class RayServe:
    """Ray Serve's default policy: ongoing requests, averaged over the look-back period, over the target per replica;
    the change happens when it was wanted throughout the up- or downscale delay.
    """

    per_worker: float
    up_s: float
    down_s: float
    look_back_s: float = 30.0
    every_s: float = 1.0
    _seen: deque[int] = field(default_factory=deque)
    _turns: int = 0

    def target(self, view: View) -> int:
        """What the controller sets."""
        have = view.ready + view.starting
        self._seen.append(view.waiting + view.busy)
        while len(self._seen) > self.look_back_s / self.every_s:
            self._seen.popleft()
        wanted = max(math.ceil(sum(self._seen) / len(self._seen) / self.per_worker), LEAST)
        if wanted > have:
            self._turns = max(self._turns, 0) + 1
            if self._turns * self.every_s > self.up_s:
                self._turns = 0
                return wanted
        elif wanted < have:
            self._turns = min(self._turns, 0) - 1
            if -self._turns * self.every_s > self.down_s:
                self._turns = 0
                return wanted
        else:
            self._turns = 0
        return have


#: Units that wait and run, per worker. One is a worker without a queue.
CONCURRENCIES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
#: Shares of a worker's own rate, for the HPA on the rate.
SHARES = (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def grid(unit_s: float, *, quick: bool) -> Iterator[tuple[str, str, Scaler]]:
    """All rivals: the family, the parameters in words, and a fresh scaler. ``unit_s`` is a unit's device time."""
    thin = slice(None, None, 3) if quick else slice(None)
    for share, window in product(SHARES[thin], (60.0, 300.0)):
        rate = share / unit_s
        yield "KEDA", f"{rate:.3g} units/s each, window {window:.0f} s", Keda(rate, window, by_rate=True)
    for each, window in product(CONCURRENCIES[thin], (60.0, 300.0)):
        yield "KEDA", f"{each:g} units each, window {window:.0f} s", Keda(each, window)
    for each, window, delay in product(CONCURRENCIES[thin], (20.0, 60.0), (0.0, 300.0)):
        yield "Knative", f"{each:g} units each, window {window:.0f} s, down {delay:.0f} s", Knative(each, window, delay)
    for each, up, down in product(CONCURRENCIES[thin], (0.0, 30.0), (60.0, 600.0)):
        yield "Ray Serve", f"{each:g} units each, up {up:.0f} s, down {down:.0f} s", RayServe(each, up, down)
