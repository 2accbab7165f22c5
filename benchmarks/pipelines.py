"""The pipelines of ``benchmarks/pipeline.py``, and the models that only they need. Workers and clients import it.

``BENCH_SEED`` (default 1) draws the random graphs.
"""

from __future__ import annotations

import os
import random
from typing import Any

from benchmarks import shapes
from benchmarks.devices import Costly, Device
from benchmarks.shapes import Node, Shape
from benchmarks.subject import Noop

import penstock
from penstock.pipelines.writing.pipeline import Pipeline


def shapes_of(seed: int) -> dict[str, Shape]:
    """What runs on the simulated devices, by the pipelines' names. The one of a fan is written as a map."""
    return {
        "two": (Node(), Node((0,))),
        "diamond": shapes.diamond(),
        "n": shapes.zigzag(),
        "map-200": shapes.fan(200),
        "random-40": shapes.drawn(40, random.Random(seed)),
        "random-400": shapes.drawn(400, random.Random(seed + 1)),
    }


#: Sources of the graph of 400 steps whose messages are read.
WIDE = 399


class Join(penstock.Model):
    """How many there are."""

    name = "join"

    def predict(self, batch: list[list[Any]]) -> list[int]:
        """The length of each list."""
        return [len(each) for each in batch]


class Nobody(penstock.Model):
    """Served by nobody: a run with a step of it waits. What a run waits for elsewhere may take its place."""

    name = "nobody"

    def predict(self, batch: list[Any]) -> list[Any]:
        """Give back what came."""
        return batch


@penstock.pipeline(name="pair")
def pair(item: str) -> Any:
    """Two steps: one edge."""
    return Noop(Noop(item))


@penstock.pipeline(name="waiting")
def waiting(item: str) -> Any:
    """Waits in its first step."""
    return Noop(Nobody(item))


def _six(step: Any, item: Any) -> Any:
    first = step(item)
    return step(step(step(first) + step(first) + step(first)))


@penstock.pipeline(name="six-noop")
def six_noop(item: str) -> Any:
    """1 -> 3 -> 1 -> 1."""
    return _six(Noop, item)


@penstock.pipeline(name="six-device")
def six_device(item: int) -> Any:
    """1 -> 3 -> 1 -> 1."""
    return _six(Device, item)


@penstock.pipeline(name="wide-map")
def wide_map(values: list[str]) -> Any:
    """A call for each, then all of them together."""
    return Join(Noop.map(values))


@penstock.pipeline(name="one-step")
def one_step(text: str) -> Any:
    """The smallest graph."""
    return Noop(text)


@penstock.pipeline(name="wide-graph")
def wide_graph(text: str) -> Any:
    """400 steps, the last of which is given all the others' outputs, and waits for good."""
    return Nobody([Noop(text) for _ in range(WIDE)])


def of_shape(name: str, shape: Shape) -> Pipeline:
    """A shape as steps of ``Costly``, which is given ``[number, cost]`` and looks at nothing behind that."""

    def function(number: float) -> Any:
        outputs: list[Any] = []
        for node in shape:
            first, *others = [outputs[parent] for parent in node.parents] or [number]
            outputs.append(Costly([first, node.cost, *others]))
        return outputs[-1]

    return Pipeline(function, name)


@penstock.pipeline(name="map-200")
def fan(number: float) -> Any:
    """``shapes.fan``, as it is written with a map."""
    first = Costly([number, 1.0])
    return Costly([Costly.map([[first, 1.0]] * 200)[0], 1.0])


_SEED = int(os.environ.get("BENCH_SEED") or 1)
_WRITTEN = (pair, waiting, six_noop, six_device, wide_map, one_step, wide_graph, fan)
_OF_SHAPES = [of_shape(name, shape) for name, shape in shapes_of(_SEED).items() if name != fan.name]
PIPELINES: dict[str, Pipeline] = {each.name: each for each in (*_WRITTEN, *_OF_SHAPES)}
