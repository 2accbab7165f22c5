"""The cheapest whole-numbered plan that knows the future, with the same start delay and lateness.

Algorithm: dynamic programming backwards over steps of time, with the state (ready workers, backlog in device seconds).
A worker costs one a second, and its start delay when it is started, since it is ordered that long before; stopping is
free. A unit that is done after its target costs ``price``. How late work is follows from the backlog alone: the queue
is first come, first served, so what is done now arrived when the cumulated work was that much. Between the grid's
backlogs is interpolated. The price is found by bisection: of the plans, each run through the simulator that runs the
scalers, the cheapest is taken whose lateness there is not above the one asked for. So the plan is a real one, and
nobody can say that it could not have been kept; a cheaper one may exist in between (the grid, the steps, and prices
that no plan answers to), by a few percent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from benchmarks.elasticsim import Fleet, Outcome, outcome
from benchmarks.elastictraces import Floats, Workload

LEVELS = 24
#: Steps of a plan: a second, or for days a bit more where the target allows it.
STEP_S, LONG_STEP_S, LONG_S = 1.0, 3.0, 7200.0
#: Plans are also made for shorter targets: what is done just in time in seconds is late in single units.
TARGETS = (1.0, 0.8)


@dataclass(frozen=True, slots=True)
class Found:
    """A plan: ready workers second by second, and what came of it."""

    plan: np.ndarray[tuple[int], np.dtype[np.int64]]
    outcome: Outcome


def cheapest(workload: Workload, *, late: float, delay_s: float, most: int, rounds: int = 6) -> Found:
    """The cheapest plan found with at most ``late`` of the units late."""
    unit_s = float(workload.work_s.mean())
    best: Found | None = None
    for share in TARGETS:
        low, high = 0.0, 1.0
        for _ in range(rounds):
            middle = (low + high) / 2
            price = unit_s * 10 ** (5 * middle - 1)
            found = follow(workload, solve(workload, price, delay_s, most, share), delay_s)
            if found.outcome.late <= late:
                high = middle
                if best is None or found.outcome.cost < best.outcome.cost:
                    best = found
            else:
                low = middle
    # Where not even the dearest is as good: it is the best that there is.
    return best or follow(workload, solve(workload, unit_s * 1e6, delay_s, most, TARGETS[-1]), delay_s)


def solve(
    workload: Workload, price: float, delay_s: float, most: int, share: float
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The best plan when a unit that is done after ``share`` of its target costs ``price`` worker-seconds."""
    step_s = _step_s(workload)
    steps = int(np.ceil(workload.span_s / step_s))
    edges = np.arange(steps + 1) * step_s
    total = np.concatenate([[0.0], np.cumsum(workload.work_s)])
    arrived = total[np.searchsorted(workload.arrivals, edges)]
    unit_s = float(workload.work_s.mean())
    # Work that arrived before this is late when it is done in the step.
    cut = total[np.searchsorted(workload.arrivals, edges - workload.target_s * share + unit_s + step_s / 2)]
    new = np.diff(arrived)
    grid = most * workload.target_s * 2 * np.linspace(0, 1, LEVELS) ** 2
    sizes = np.arange(most + 1, dtype=float)
    # What is left at the end, or beyond the grid, is late.
    value = np.repeat(grid[None, :] / unit_s * price, most + 1, axis=0)
    choice = np.zeros((steps, most + 1, LEVELS), dtype=np.int16)
    start = sizes[:, None] * delay_s
    rows = np.arange(most + 1)[:, None]
    capacity = sizes[:, None] * step_s
    for step in range(steps - 1, -1, -1):
        held = grid[None, :] + new[step]
        served = np.minimum(held, capacity)
        left = held - served
        begin = arrived[step + 1] - held
        late = np.clip(np.minimum(begin + served, cut[step]) - begin, 0.0, None) / unit_s
        after = np.minimum(left, grid[-1])
        late += (left - after) / unit_s
        position = np.sqrt(after / grid[-1]) * (LEVELS - 1)
        lower = np.minimum(position.astype(np.intp), LEVELS - 2)
        share = (after - grid[lower]) / (grid[lower + 1] - grid[lower])
        ahead = value[rows, lower] * (1 - share) + value[rows, lower + 1] * share
        worth = sizes[:, None] * step_s + late * price + ahead
        # From c to any c': what more costs is its start; less is free.
        up = worth + start
        up_best, up_at = _running_min(up[::-1])
        up_best, up_at = up_best[::-1] - start, most - up_at[::-1]
        down_best, down_at = _running_min(worth)
        better = down_best <= up_best
        value = np.where(better, down_best, up_best)
        choice[step] = np.where(better, down_at, up_at)
    return _walk(choice, value, grid, new, step_s)


def _step_s(workload: Workload) -> float:
    return STEP_S if workload.span_s < LONG_S else min(LONG_STEP_S, workload.target_s / 2)


def _running_min(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    least = np.minimum.accumulate(values, axis=0)
    fresh = np.vstack([np.ones((1, values.shape[1]), dtype=bool), values[1:] < least[:-1]])
    where = np.maximum.accumulate(np.where(fresh, np.arange(len(values))[:, None], 0), axis=0)
    return least, where


def _walk(choice: np.ndarray, value: np.ndarray, grid: Floats, new: Floats, step_s: float) -> np.ndarray:
    size, backlog = int(np.argmin(value[:, 0])), 0.0
    plan = np.zeros(len(choice), dtype=np.int64)
    for step in range(len(choice)):
        level = int(np.argmin(np.abs(grid - backlog)))
        size = int(choice[step, size, level])
        plan[step] = size
        backlog = max(backlog + new[step] - size * step_s, 0.0)
    return plan


def follow(workload: Workload, plan: np.ndarray, delay_s: float) -> Found:
    """What comes of a plan in the simulator. A start is ordered the delay before, and paid from then on."""
    fleet = Fleet(workload, int(plan[0]), 0.0)
    step_s = _step_s(workload)
    starts = 0
    for step, size in enumerate(plan.tolist()):
        now = step * step_s
        fleet.advance(now)
        change = size - fleet.size
        if change > 0:
            fleet.start(change, now)
            starts += change
        elif change < 0:
            fleet.stop(-change, now)
    now = len(plan) * step_s
    fleet.advance(now)
    cost = fleet.close(now) + starts * delay_s
    fleet.finish(now)
    return Found(plan, outcome(workload, fleet.ends, cost, int(plan.max()), 0))
