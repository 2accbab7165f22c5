"""Pipelines as workers announce them: what is refused without their module is what is refused with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import pytest
from pydantic import BeforeValidator

from penstock.errors import InvalidInput, TooLarge
from penstock.pipelines.announced import Announced, announcement
from penstock.pipelines.writing.pipeline import Pipeline
from penstock_cli.pipeline import _input

if TYPE_CHECKING:
    from decimal import Decimal

MAX = 1000


@dataclass
class Limits:
    top: int = 3


def answer(question: str, passages: list[str], limits: Limits = Limits(), *, weight: float | None = 0.5) -> Any:  # noqa: B008
    """The passage that fits.

    And more of it.
    """
    return [question, passages, limits, weight]


def loose(anything, when: Annotated[int, BeforeValidator(int)] = 1, since: date = date(2020, 1, 1)) -> Any:  # type: ignore[no-untyped-def]
    return anything


def nothing() -> Any:
    return 1


def unreadable(price: Decimal) -> Any:
    return price


def both(function: Any) -> tuple[Pipeline, Announced]:
    """A pipeline, and what is left of it after a way through the database."""
    pipeline = Pipeline(function, function.__name__)
    told = msgspec.json.decode(msgspec.json.encode(announcement(pipeline)))
    return pipeline, Announced(pipeline.name, told)


GOOD = [
    (answer, {"question": "q", "passages": ["p"]}),
    (answer, {"weight": 2, "passages": (), "question": "ü", "limits": {"top": 1}}),
    (answer, {"question": "q", "passages": ["p"], "limits": Limits(7), "weight": None}),
    (loose, {"anything": [1, {"$in": 2}], "when": "7", "since": "2024-02-29"}),
    (nothing, {}),
]


@pytest.mark.parametrize(("function", "inputs"), GOOD)
def test_the_same_text_is_stored(function: Any, inputs: Any) -> None:
    pipeline, announced = both(function)
    assert announced.encode(inputs, MAX) == pipeline.encode(inputs, MAX)
    assert (announced.text, announced.graph) == (pipeline.text, pipeline.graph)
    assert announced.describe() == pipeline.describe()


BAD = [
    (answer, {"question": "q"}, "given no 'passages'"),
    (answer, {"question": "q", "passage": ["p"]}, "no input 'passage'"),
    (
        answer,
        {"question": 1, "passages": ["p"]},
        "'question' does not fit pipeline 'answer': .* string",
    ),
    (
        answer,
        {"question": "q", "passages": "p"},
        "'passages' does not fit pipeline 'answer': .* list",
    ),
    (answer, {"question": "q", "passages": [], "weight": "much"}, "'weight' does not fit"),
    (answer, "q", "by name, not str"),
    (nothing, {"x": 1}, "no input 'x'"),
]


@pytest.mark.parametrize(("function", "inputs", "words"), BAD)
def test_the_same_is_refused(function: Any, inputs: Any, words: str) -> None:
    for one in both(function):
        with pytest.raises(InvalidInput, match=words) as caught:
            one.encode(inputs, MAX)
        assert caught.value.fix
    with pytest.raises(TooLarge):
        both(answer)[1].encode({"question": "x" * MAX, "passages": []}, MAX)


def test_what_a_schema_does_not_tell_passes() -> None:
    pipeline, announced = both(loose)
    given = {"anything": 1, "when": "soon", "since": "2024-02-29"}
    assert announced.encode(given, MAX)
    with pytest.raises(InvalidInput, match="'when' does not fit"):
        pipeline.encode(given, MAX)


def test_a_default_that_json_has_not_has_to_be_given(caplog: pytest.LogCaptureFixture) -> None:
    _, announced = both(loose)
    assert "default of input 'since'" in caplog.text
    with pytest.raises(InvalidInput, match="given no 'since'"):
        announced.encode({"anything": 1}, MAX)


def test_hints_that_cannot_be_read_are_no_hints(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline(unreadable, "unreadable")
    assert announcement(pipeline)["inputs"] == {"price": {"schema": {}, "exact": False}}
    assert "'unreadable' cannot be validated" in caplog.text


@dataclass
class Tree:
    """What holds itself."""

    name: str
    below: list[Tree]


def typed(
    plain: Any,
    text: str,
    passages: list[str],
    vectors: list[list[float]],
    names: dict[str, int],
    choice: Literal["fast", "good"],
    perhaps: str | None = None,
    top: int = 3,
    tree: Tree | None = None,
) -> Any:
    return text


def test_inputs_are_shown_with_their_types() -> None:
    told = announcement(Pipeline(typed, "typed"))["inputs"]
    shown = {name: _input(name, about) for name, about in told.items()}
    tree = shown.pop("tree")
    assert shown == {
        "plain": "plain",
        "text": "text: str",
        "passages": "passages: list[str]",
        "vectors": "vectors: list[list[float]]",
        "names": "names: dict[str, int]",
        "choice": "choice: Literal['fast', 'good']",
        "perhaps": "perhaps: str | None = null",
        "top": "top: int = 3",
    }
    assert tree.startswith("tree: {name: str, below: list[") and len(tree) < 140 and tree.endswith(" = null")


@pytest.mark.parametrize("schema", [{}, {"type": ["string", "null"]}, {"type": 7}, {"type": "array", "items": 3}])
def test_a_schema_of_another_kind_is_shown_as_far_as_it_is_understood(schema: Any) -> None:
    assert _input("x", {"schema": schema}) in ("x", "x: list[Any]")
