"""The pipeline benchmark's arithmetic: shapes, the schedule that they are compared with, and the bars."""

from __future__ import annotations

import random

import pytest
from benchmarks import shapes
from benchmarks.listschedule import Devices, makespan_s
from benchmarks.shapes import Node, Shape
from hypothesis import given
from hypothesis import strategies as st


def devices(count: int = 1, max_size: int = 64, alpha_s: float = 8.0, beta_s: float = 0.25) -> Devices:
    return Devices(count=count, max_size=max_size, alpha_s=alpha_s, beta_s=beta_s)


def one_by_one(count: int) -> Devices:
    return devices(count, max_size=1, alpha_s=0.0, beta_s=1.0)


@pytest.mark.parametrize(
    ("shape", "on", "lasts"),
    [
        ((), devices(), 0.0),
        ([Node()], devices(), 8.25),
        ([Node(cost=4)], devices(), 9.0),
        ([Node()] * 64, devices(), 24.0),
        ([Node()] * 65, devices(), 24.0 + 8.25),
        ([Node()] * 65, devices(2), 24.0),
        ([Node(), Node((0,))], devices(2), 16.5),
        (shapes.fan(200), devices(), 2 * 8.25 + 3 * 24.0 + 10.0),
        (shapes.fan(200), devices(4), 2 * 8.25 + 24.0),
        (shapes.diamond(), one_by_one(1), 64.0),
        (shapes.diamond(), one_by_one(2), 56.0),
        # A to 8, B to 60; C from 8 to 68 beside B; D from 60. With a barrier, C would begin at 60 and end at 120.
        (shapes.zigzag(), one_by_one(2), 68.0),
        ([Node(cost=1), Node(cost=2), Node(cost=2)], one_by_one(2), 3.0),
    ],
)
def test_the_list_schedule(shape: Shape, on: Devices, lasts: float) -> None:
    assert makespan_s(shape, on) == pytest.approx(lasts)


@given(steps=st.integers(1, 60), seed=st.integers(0, 99), count=st.integers(1, 5))
def test_the_list_schedule_is_within_grahams_bounds(steps: int, seed: int, count: int) -> None:
    """No shorter than the longest way, nor than the work shared out; no longer than both together."""
    shape = shapes.drawn(steps, random.Random(seed))
    ends: list[float] = []
    for node in shape:
        ends.append(node.cost + max((ends[parent] for parent in node.parents), default=0.0))
    longest, shared = max(ends), sum(node.cost for node in shape) / count
    assert max(longest, shared) - 1e-9 <= makespan_s(shape, one_by_one(count)) <= longest + shared + 1e-9


@given(steps=st.integers(1, 60), seed=st.integers(0, 99))
def test_one_device_alone_is_busy_all_the_time(steps: int, seed: int) -> None:
    shape = shapes.drawn(steps, random.Random(seed))
    assert makespan_s(shape, one_by_one(1)) == pytest.approx(sum(node.cost for node in shape))


@pytest.mark.parametrize(
    ("shape", "steps"), [((), 0), (shapes.diamond(), 3), (shapes.zigzag(), 2), (shapes.fan(9), 3), ([Node()] * 5, 1)]
)
def test_the_depth_is_that_of_the_longest_way(shape: Shape, steps: int) -> None:
    assert shapes.depth(shape) == steps


def test_a_drawn_graph_is_its_seeds() -> None:
    first, second = (shapes.drawn(40, random.Random(7)) for _ in range(2))
    assert first == second != shapes.drawn(40, random.Random(8))
    assert all(parent < place for place, node in enumerate(first) for parent in node.parents)
