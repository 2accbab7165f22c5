"""PURE: how long a graph takes on devices when nothing else costs anything (Graham's list schedule, with batches).

A device that is free takes at once what can start, in the order in which it could, as much as a batch holds; a batch
takes ``alpha + beta * (the sum of its costs)``. Not the best schedule that there is: one that looks at what is ready
and never waits, as a queue does. What a real run takes beyond it is overhead.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from benchmarks.shapes import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """``count`` devices that are alike. A batch of at most ``max_size`` takes ``alpha + beta * cost``, seconds."""

    count: int
    max_size: int
    alpha_s: float
    beta_s: float

    def batch_s(self, cost: float) -> float:
        """How long a batch of this cost takes."""
        return self.alpha_s + self.beta_s * cost


def makespan_s(shape: Shape, devices: Devices) -> float:
    """When the last step ends, seconds after the first could start."""
    children: list[list[int]] = [[] for _ in shape]
    for place, node in enumerate(shape):
        for parent in node.parents:
            children[parent].append(place)
    waits_for = [len(node.parents) for node in shape]
    ready = deque(place for place, count in enumerate(waits_for) if not count)
    free, now = devices.count, 0.0
    running: list[tuple[float, list[int]]] = []
    while ready or running:
        while ready and free:
            batch = [ready.popleft() for _ in range(min(len(ready), devices.max_size))]
            heapq.heappush(running, (now + devices.batch_s(sum(shape[place].cost for place in batch)), batch))
            free -= 1
        now = running[0][0]
        while running and running[0][0] == now:  # what ends together lets its children begin together
            _, batch = heapq.heappop(running)
            free += 1
            for child in sorted(child for place in batch for child in children[place]):
                waits_for[child] -= 1
                if not waits_for[child]:
                    ready.append(child)
    return now
