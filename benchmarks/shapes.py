"""PURE: the graphs of ``benchmarks/pipeline.py`` as bare shapes: who waits for whom, and what a step costs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A step. ``parents`` are positions before its own; a batch takes time by the sum of its items' ``cost``."""

    parents: tuple[int, ...] = ()
    cost: float = 1.0


Shape = Sequence[Node]


def diamond() -> Shape:
    """Two ways of different lengths that meet."""
    return Node(cost=8), Node((0,), 40), Node((0,), 8), Node((1, 2), 8)


def zigzag() -> Shape:
    """``N``: C waits for A, D for A and B. B takes longer than A, and a barrier in front of C would wait for it."""
    return Node(cost=8), Node(cost=60), Node((0,), 60), Node((0, 1), 8)


def fan(width: int) -> Shape:
    """1 -> ``width`` -> 1."""
    return Node(), *[Node((0,))] * width, Node(tuple(range(1, width + 1)))


def drawn(steps: int, rng: random.Random) -> Shape:
    """A random graph: each step waits for up to three of the twelve before it, and costs 1 to 60."""
    nodes: list[Node] = []
    for place in range(steps):
        near = range(max(0, place - 12), place)
        parents = rng.sample(near, min(len(near), rng.choice((0, 1, 1, 2, 3))))
        nodes.append(Node(tuple(sorted(parents)), rng.randint(1, 60)))
    return nodes


def depth(shape: Shape) -> int:
    """Steps of the longest way through it."""
    depths: list[int] = []
    for node in shape:
        depths.append(1 + max((depths[parent] for parent in node.parents), default=0))
    return max(depths, default=0)
