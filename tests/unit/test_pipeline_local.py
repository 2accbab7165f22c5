"""Pipelines run in this process, without servers: functions, waits, failures and what stands in for them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

import penstock
from penstock.errors import ConfigError, InvalidInput, ModelRaised, UnknownModel, WaitTimeout
from penstock.testing import run_pipeline


@penstock.model(name="double")
def double(batch: list[int]) -> list[int]:
    """Twice."""
    return [2 * value for value in batch]


@penstock.model(name="shaky")
def shaky(batch: list[int]) -> list[int]:
    """Fails for odd numbers."""
    if any(value % 2 for value in batch):
        raise ValueError("odd")
    return batch


class Point(BaseModel):
    """Two numbers."""

    x: int
    y: int = 0


@penstock.step
def shift(point: Point, by: int = 1) -> Point:
    """A function of a record."""
    return Point(x=point.x + by, y=point.y)


@penstock.step(name="add-up", timeout_s=5)
def add_up(values: list[int]) -> int:
    """The sum."""
    return sum(values)


MODELS = (double, shaky, shift, add_up)


@penstock.pipeline
def shifted(x: int) -> Any:
    """A record through two functions."""
    return shift(shift({"x": double(x)}), by=10).x


@penstock.pipeline
def careful(x: int) -> Any:
    """What may fail, and what stands in for it."""
    return penstock.fallback(shaky.using(retry=1)(x), double(x))


@penstock.pipeline
def approved(x: int) -> Any:
    """A person decides."""
    draft = double(x)
    decision = penstock.wait_for("decision", timeout=60, after=draft)
    pause = penstock.sleep(5, after=decision)
    return penstock.when(decision == "yes", [draft, pause], shaky(draft + 1))


@penstock.pipeline
def squares(values: list[int]) -> Any:
    """A map whose items are made of its elements."""
    return add_up(double.map(values, lambda value: value * value))


def test_functions_are_steps() -> None:
    assert run_pipeline(shifted, {"x": 3}, models=MODELS) == 17
    assert [(step.model, step.timeout) for step in shifted.graph.steps] == [
        ("double", None),
        ("shift", None),
        ("shift", None),
    ]
    assert shift(Point(x=1)) == Point(x=2), "elsewhere it is the function"
    assert shift.model.resources.pool == "cpu" and add_up.model.timeout_s == 5


def test_a_map_makes_items_of_its_elements() -> None:
    assert run_pipeline(squares, {"values": [1, 2, 3]}, models=MODELS) == 28
    assert run_pipeline(squares, {"values": []}, models=MODELS) == 0


def test_something_stands_in_for_what_fails() -> None:
    assert [run_pipeline(careful, {"x": x}, models=MODELS) for x in (2, 3)] == [2, 6]


def test_signals_are_given() -> None:
    assert run_pipeline(approved, {"x": 1}, models=MODELS, signals={"decision": "yes"}) == [2, None]
    with pytest.raises(ModelRaised, match="odd"):
        run_pipeline(approved, {"x": 1}, models=MODELS, signals={"decision": "no"})
    with pytest.raises(WaitTimeout, match="decision"):
        run_pipeline(approved, {"x": 1}, models=MODELS)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(UnknownModel, match="shift"):
        run_pipeline(shifted, {"x": 1}, models=[double])
    with pytest.raises(InvalidInput, match="given no 'x'"):
        run_pipeline(shifted, {}, models=MODELS)


def test_what_is_no_step() -> None:
    with pytest.raises(ConfigError, match="name of its own"):
        penstock.step(lambda *args: args)
    with pytest.raises(TypeError, match="function of a pipeline"):
        penstock.wait_for("x")
    with pytest.raises(TypeError, match="has no 'lane'"):
        penstock.pipeline(name="p")(lambda x: double.using(lane="background")(x))
    with pytest.raises(TypeError, match="called in the function of a pipeline"):
        double(3)
    with pytest.raises(TypeError, match="run by workers"):
        shifted(3)
