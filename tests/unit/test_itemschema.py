"""Inputs against the schema that workers announced: what is refused, the type refuses, too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from penstock.itemschema import DEEPEST, at_once, misfit, tells_all


class Ask(BaseModel):
    text: str
    top: int = 3
    inner: Ask | None = None


class Row(TypedDict, total=False):
    a: float
    b: list[bool]


@dataclass
class Point:
    x: int
    name: str = ""


class Named(BaseModel):
    model_config = ConfigDict(validate_by_name=True)
    text: str = Field(alias="t")


class Loose(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    text: str


class Left(BaseModel):
    parts: list[Left | Right]


class Right(BaseModel):
    parts: list[Left | Right]


TYPES: list[Any] = [
    str, int, float, bool, list[int], list[list[float]], dict[str, int], dict[str, Any], Any, tuple[int, str], Ask, Row,
    Point, str | None, int | list[str], Literal["a", "b"], Literal[1, 2], Literal["a", 1], list[Ask], dict[str, Ask],
    Annotated[int, Field(ge=0)], None,
]  # fmt: skip
OTHERS: list[Any] = [Annotated[str, BeforeValidator(str)], Named, Loose, bytes, set[int], pydantic.SecretStr]

TEXTS = st.sampled_from(["", "a", "7", " 7 ", "1.5", "x", "on"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "top", "inner", "x", "name", "a", "b"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ADAPTERS = [TypeAdapter(kind) for kind in TYPES]


@given(st.integers(0, len(TYPES) - 1), VALUES)
def test_nothing_is_refused_that_the_type_takes(number: int, value: Any) -> None:
    adapter = ADAPTERS[number]
    if misfit(adapter.json_schema(), value) is None:
        return
    assert type(value) not in at_once(adapter.json_schema())
    with pytest.raises(ValueError):
        adapter.validate_json(json.dumps(value))
    with pytest.raises(ValueError):
        adapter.validate_python(value)


@pytest.mark.parametrize(
    ("kind", "value", "fault"),
    [
        (str, 42, "Input should be a valid string"),
        (int, "x", "Input should be a valid integer"),
        (list[int], {"a": 1}, "Input should be a valid list"),
        (list[Ask], [{"text": "a"}, {"top": 1}], "1.text: Field required"),
        (Ask, {"text": "a", "inner": {"text": 7}}, "inner.text: Input should be a valid string"),
        (Literal["a", "b"], "c", "Input should be 'a' or 'b'"),
        (Ask, {"text": "a", "top": "5"}, None),
        (Ask, Ask(text="a"), None),
        (Any, object(), None),
    ],
)
def test_what_is_wrong_is_told_as_the_type_would(kind: Any, value: Any, fault: str | None) -> None:
    assert misfit(TypeAdapter(kind).json_schema(), value) == fault


def test_only_types_without_validators_of_their_own_tell_all() -> None:
    assert all(tells_all(adapter.core_schema) for adapter in ADAPTERS)
    assert not any(tells_all(TypeAdapter(kind).core_schema) for kind in OTHERS)


def test_it_is_not_looked_without_end_into_what_is_nested() -> None:
    """A value inside itself ended in a `RecursionError`; a fault far down in a choice of types took hours."""
    endless: dict[str, Any] = {"text": "a"}
    endless["inner"] = endless
    assert misfit(Ask.model_json_schema(), endless) is None
    schema = TypeAdapter(Left | Right).json_schema()
    fault: dict[str, Any] = {"parts": 7}
    for depth in range(30):
        assert (misfit(schema, fault) is None) == (depth >= DEEPEST // 2)
        fault = {"parts": [fault]}
