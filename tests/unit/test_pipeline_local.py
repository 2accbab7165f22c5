"""Pipelines run in this process, without servers: functions, waits, failures and what stands in for them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

import penstock
from penstock.errors import ConfigError, InvalidInput, ModelRaised, OverBudget, UnknownModel, WaitTimeout
from penstock.pipelines.graph import read
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


@penstock.pipeline
def twice(x: int, plus: int = 1) -> Any:
    """What is mapped."""
    return double(double(x)) + plus


@penstock.pipeline
def row(values: list[int]) -> Any:
    """Calls another one."""
    return add_up(twice.map(values, lambda value: value + 1))


@penstock.pipeline
def table(rows: list[list[int]], plus: int) -> Any:
    """Maps of pipelines, and maps of these."""
    return {
        "first": [twice.map(rows[0]), double.map(twice.map(rows[1], lambda x: {"x": x, "plus": plus}))],
        "all": row.map(rows),
    }


def test_a_pipeline_is_run_for_each_element() -> None:
    output = run_pipeline(table, {"rows": [[1, 2], [3]], "plus": 100}, models=[double, add_up])
    assert output == {"first": [[5, 9], [224]], "all": [9 + 13, 17]}
    names = {step.name: step.graph.name for step in table.graph.steps if step.graph is not None}
    assert names == {"twice": "twice", "twice-2": "twice", "row": "row"}
    assert read(table.text) == table.graph


def test_a_failure_within_is_the_elements() -> None:
    @penstock.pipeline
    def careful_row(values: list[int]) -> Any:
        return penstock.fallback(broken_row.map(values), double(values[0]))

    assert run_pipeline(careful_row, {"values": [3]}, models=[shaky, double]) == 6


@penstock.pipeline
def broken_row(x: int) -> Any:
    """Fails."""
    return shaky(x)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (None, "missing a required argument: 'y'"),
        (lambda value: {"x": value}, "missing a required argument: 'y'"),
        (lambda value: {"x": value, "y": 1, "z": 2}, "unexpected keyword argument 'z'"),
    ],
)
def test_what_a_mapped_pipeline_is_given_is_checked(item: Any, words: str) -> None:
    @penstock.pipeline
    def pair(x: int, y: int) -> Any:
        return double(x + y)

    with pytest.raises(ConfigError, match=words) as caught:

        @penstock.pipeline
        def outer(values: list[int]) -> Any:
            return pair.map(values, item)

    assert "pair.map(values, lambda value: {'x': …, 'y': …})" in (caught.value.fix or "")


def test_a_pipeline_is_mapped_in_another_one() -> None:
    with pytest.raises(TypeError, match="in the function of another pipeline"):
        twice.map([1])


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


def test_a_step_asks_for_a_version() -> None:
    pinned = penstock.pipeline(name="pinned")(lambda x: double.using(version="2")(shift.using(version="1")(x, by=x)))
    assert [step.model for step in pinned.graph.steps] == ["shift@1", "double@2"]
    assert [step.name for step in pinned.graph.steps] == ["shift", "double"]
    with pytest.raises(InvalidInput, match="no version"):
        penstock.pipeline(name="p")(lambda x: double.using(version=2)(x))


def test_signals_are_given() -> None:
    assert run_pipeline(approved, {"x": 1}, models=MODELS, signals={"decision": "yes"}) == [2, None]
    with pytest.raises(ModelRaised, match="odd"):
        run_pipeline(approved, {"x": 1}, models=MODELS, signals={"decision": "no"})
    with pytest.raises(WaitTimeout, match="decision") as caught:
        run_pipeline(approved, {"x": 1}, models=MODELS)
    assert "signals={'decision': …}" in caught.value.fix


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(UnknownModel, match="shift") as caught:
        run_pipeline(shifted, {"x": 1}, models=[double])
    assert "models=[…]" in caught.value.fix
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


@penstock.pipeline
def refined(x: int) -> Any:
    """Doubled until it is large."""
    return penstock.refine(
        lambda draft, _: double(x if draft is None else draft),
        lambda draft: add_up([draft]),
        until=lambda verdict: verdict > 30,
        max_rounds=4,
    )


@penstock.pipeline
def raced(x: int) -> Any:
    """One of two, and two of three."""
    return [penstock.race(shaky(x), double(x)), penstock.quorum(2, shaky(x), double(x), double(x + 1))]


def test_a_draft_is_refined_until_it_is_good_or_for_so_many_rounds() -> None:
    assert [run_pipeline(refined, {"x": x}, models=MODELS) for x in (20, 10, 5, 1)] == [40, 40, 40, 16]
    assert len(refined.graph.steps) == 7


def test_the_first_that_are_there_are_taken() -> None:
    assert run_pipeline(raced, {"x": 2}, models=MODELS) == [2, [2, 4]]
    assert run_pipeline(raced, {"x": 3}, models=MODELS) == [6, [6, 8]]
    for count in (0, 4, True):
        with pytest.raises(ConfigError, match="of 3 values"):
            penstock.quorum(count, 1, 2, 3)
    with pytest.raises(ConfigError, match="max_rounds=0"):
        penstock.refine(lambda draft, _: draft, lambda draft: draft, until=bool, max_rounds=0)


def test_what_is_first_is_kept_by_a_step() -> None:
    first = {"$first": [1, [{"$in": "x"}]]}
    text = {"name": "g", "inputs": ["x"], "steps": [], "output": first}
    with pytest.raises(InvalidInput, match="the output takes the first"):
        read(msgspec.json.encode(text))


@penstock.step
def halve(number: int) -> Any:
    """Goes on with itself until the number is odd: how often is known only then."""
    if number % 2:
        return number
    return penstock.expand(lambda rest: halve(rest), rest=number // 2)


@penstock.pipeline
def odd_part(x: int) -> Any:
    """What is left of a number without its twos."""
    return double(halve(x))


def test_a_step_answers_with_steps() -> None:
    assert run_pipeline(odd_part, {"x": 40}, models=[*MODELS, halve]) == 10
    with pytest.raises(InvalidInput, match="no input 'other'"):
        penstock.expand(lambda rest: rest, other=1)
    with pytest.raises(InvalidInput, match="given no 'rest'"):
        penstock.expand(lambda rest: rest)


# Bounds -----------------------------------------------------------------------------------------------------------


@penstock.pipeline(max_parallel=2, budget=0)
def broke(x: int) -> Any:
    """Its first step takes more than it has."""
    return double.using(max_parallel=1).map([double(x), x])


def test_what_has_bounds_runs_here_and_the_budget_is_that_of_the_calls() -> None:
    assert run_pipeline(broke, {"x": 1}, models=MODELS, max_parallel=1, budget=60) == [4, 2]
    with pytest.raises(OverBudget, match="its budget is 0"):
        run_pipeline(broke, {"x": 1}, models=MODELS)
    one = penstock.pipeline(name="one", budget=0)(lambda x: double(x))
    assert run_pipeline(one, {"x": 1}, models=MODELS) == 2, "nothing is left to do"


@pytest.mark.parametrize("bounds", [{"max_parallel": 0}, {"max_parallel": True}, {"budget": -1}, {"budget": "2"}])
def test_bounds_that_are_none_are_refused(bounds: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        run_pipeline(broke, {"x": 1}, models=MODELS, **bounds)
    assert caught.value.fix
    with pytest.raises(InvalidInput):
        penstock.pipeline(name="bounded", **bounds)(lambda x: double(x))
