"""Types along the edges of a pipeline: what can never fit is told where it is written, and nothing else is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

import penstock
from penstock import valuetypes
from penstock.calltypes import schemas_of
from penstock.errors import ConfigError, NoValue
from penstock.payload import write_output
from penstock.pipelines.expression import OPERATORS, evaluate
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.shapes.computed import NeverAValue, shape_of
from penstock.pipelines.shapes.connected import fault
from penstock.pipelines.shapes.fits import clash
from penstock.pipelines.shapes.shape import ANY, Shape, of_value, read
from tests.fixtures.examples import examples


class Doc(BaseModel):
    title: str
    score: float = 0.0


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str


class Tree(BaseModel):
    name: str
    inside: list[Tree] = []


class Lenient(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    text: str


class Aliased(BaseModel):
    title: str = Field(alias="t")


class Twice(BaseModel):
    model_config = ConfigDict(validate_by_name=True)
    title: str = Field(alias="t")


class Colour(Enum):
    RED = "red"


class Part(TypedDict, total=False):
    title: int


@dataclass
class Point:
    x: int
    name: str = ""


def shapes(one: Any, other: Any) -> tuple[Shape, Shape]:
    """What values of one type are, and what is taken by the other."""
    return read(valuetypes.given(one)), read(valuetypes.taken(other))


NEVER: list[tuple[Any, Any]] = [
    (int, str), (float, str), (bool, str), (list[float], list[str]), (list[str], str), (str, list[str]), (dict,
    list), (list, dict), (str, Doc), (list[Doc], Doc), (Doc, str), (Point, Doc), (Doc, Strict), (None, int),
    (None, str), (int | None, str), (int, str | list[int]), (dict[str, int], dict[str, str]), (dict[str,
    list[int]], Doc), (Literal["a"], Literal["b"]), (Literal["a"], int), (tuple[int, str], tuple[int, int,
    int]), (list[list[float]], list[float]), (tuple[list[int], int], list[int]), (Part, Doc), (Tree, Doc),
    (list[Tree], list[Doc]), (Doc, Point), (list[int] | str, list[str]), (float | ValueError, str), (int,
    Literal["a"]), (str, None), (Aliased, Doc), (int, Annotated[str, AfterValidator(str)]),
]  # fmt: skip
MAYBE: list[tuple[Any, Any]] = [
    (str, int), (str, float), (str, bool), (int, float), (float, int), (bool, int), (int, bool), (int, int |
    str), (str | None, str), (Any, str), (str, Any), (list, list[str]), (dict, Doc), (dict[str, str], Doc),
    (Doc, dict[str, Any]), (Doc, Doc), (Strict, Doc), (Part, Part), (Tree, Tree), (list[int], tuple[int, int]),
    (tuple[int, int], list[int]), (int, Annotated[str, BeforeValidator(str)]), (int, Lenient), ({"text": int},
    Lenient), (str, date), (int, date), (str, Colour), (Literal["5"], int), (Literal["a", "b"], Literal["b",
    "c"]), (Doc, Twice), (ValueError, str), (int, bytes), (list[ValueError], list[str]), (Point, Point), (str,
    Literal["a"]), (Doc, Aliased | Doc), (int, date | str),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), NEVER, ids=str)
def test_what_never_fits_is_told(one: Any, other: Any) -> None:
    assert clash(*shapes(one, other))


@pytest.mark.parametrize(("one", "other"), MAYBE, ids=str)
def test_what_may_fit_passes(one: Any, other: Any) -> None:
    if isinstance(one, dict):  # hints of fields
        one = TypedDict("Given", one)  # type: ignore[operator]
    assert clash(*shapes(one, other)) is None


LEAVES: list[Any] = [
    int, float, str, bool, None, Any, Literal["a", "b"], Literal["5", "b"], Literal[1, 2], Doc, Strict, Tree,
    Point, Part, Lenient, Aliased, Twice, date, Annotated[int, BeforeValidator(str)], Annotated[str,
    BeforeValidator(str)],
]  # fmt: skip
HINTS = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),  # type: ignore[valid-type]
        inner.map(lambda one: dict[str, one]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda two: tuple[two[0], two[1]]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda two: two[0] | two[1] if two[0] is not two[1] else two[0]).filter(bool),
        st.tuples(inner, inner).map(lambda two: TypedDict("Two", {"title": two[0], "x": two[1]})),
    ),
    max_leaves=3,
)
TEXTS = st.sampled_from(["a", "b", "5", "1.5", "true", "2020-01-01", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(TEXTS, inner, min_size=1, max_size=2),
    max_leaves=3,
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """JSON values of a schema; lists and objects of any keys are not empty."""
    return of_schema(schema, schema.get("$defs", {}), 4)


def of_schema(schema: dict[str, Any], defs: dict[str, Any], left: int) -> st.SearchStrategy[Any]:
    def inner(each: Any) -> st.SearchStrategy[Any]:
        return of_schema(each, defs, left)

    if "$ref" in schema:
        return of_schema(defs[schema["$ref"].removeprefix("#/$defs/")], defs, left - 1)
    if "anyOf" in schema:
        return st.one_of([inner(each) for each in schema["anyOf"]])
    match schema.get("type"):
        case "string":
            return st.sampled_from(schema["enum"]) if "enum" in schema else TEXTS
        case "integer":
            return st.integers(-9, 9)
        case "number":
            return st.floats(-9, 9) | st.integers(-9, 9)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array" if "prefixItems" in schema:
            return st.tuples(*map(inner, schema["prefixItems"])).map(list)
        case "array":
            return st.lists(inner(schema["items"]), min_size=1, max_size=2) if left else st.just([])
        case "object" if schema.get("properties"):
            fields = {name: inner(each) for name, each in schema["properties"].items()}
            required = {name: each for name, each in fields.items() if name in schema["required"]}
            optional = {name: each for name, each in fields.items() if name not in schema["required"]}
            return st.fixed_dictionaries(required, optional=optional)
        case "object":
            return st.dictionaries(TEXTS, inner(schema["additionalProperties"] or {}), min_size=1, max_size=2)
    return JSON


@given(st.data())
@settings(max_examples=examples(100))
def test_what_is_said_never_to_fit_pydantic_refuses(data: st.DataObject) -> None:
    one, other = data.draw(HINTS), data.draw(HINTS)
    found = clash(*shapes(one, other))
    if found is None:
        return
    value = data.draw(values(valuetypes.given(one)))
    adapter = TypeAdapter(other)
    for read_it, form in ((adapter.validate_json, json.dumps(value)), (adapter.validate_python, value)):
        with pytest.raises(ValueError):
            read_it(form)


@pytest.mark.parametrize("value", [Doc(title="a"), Point(1), Tree(name="a"), [1, 2.5], {"a": (1, "b")}, Aliased(t="x")])
def test_what_is_written_of_a_value_has_the_shape_of_its_type(value: Any) -> None:
    wanted = read(valuetypes.given(type(value) if not isinstance(value, list | dict) else Any))
    text = write_output(value, "result", max_bytes=1000)
    assert clash(of_value(json.loads(text)), wanted) is None


@pytest.mark.parametrize("value", [Doc(title="a"), Point(1), Tree(name="a"), Aliased(t="x")])
def test_a_record_is_written_with_all_its_fields_and_no_others(value: Any) -> None:
    schema = valuetypes.given(type(value))
    record = schema["$defs"]["0"] if "$ref" in schema else schema
    written = json.loads(write_output(value, "result", max_bytes=1000))
    assert set(written) == set(record["properties"]) == set(record["required"])


# Expressions -------------------------------------------------------------------------------------------------------

OUT = {
    "text": str,
    "count": int,
    "score": float,
    "flag": bool,
    "doc": Doc,
    "docs": list[Doc],
    "pair": tuple[int, str],
    "table": dict[str, int],
    "maybe": int | None,
}
OUTPUTS = {name: read(valuetypes.given(hint)) for name, hint in OUT.items()}


def told(expression: Any) -> str:
    return str(shape_of(expression, inputs={}, outputs=OUTPUTS, items=()))


@pytest.mark.parametrize(
    ("expression", "shape"),
    [
        ({"$get": [{"$out": "doc"}, "title"]}, "str"),
        ({"$get": [{"$get": [{"$out": "docs"}, 0]}, "score"]}, "float"),
        ({"$get": [{"$out": "pair"}, 1]}, "str"),
        ({"$get": [{"$out": "table"}, "any"]}, "int"),
        ({"$get": [{"$out": "text"}, 0]}, "str"),
        ({"$op": ["gt", {"$out": "score"}, 0.5]}, "bool"),
        ({"$op": ["eq", {"$out": "text"}, 1]}, "bool"),
        ({"$op": ["add", {"$out": "count"}, 1]}, "int"),
        ({"$op": ["truediv", {"$out": "count"}, 2]}, "float"),
        ({"$op": ["add", {"$out": "text"}, "!"]}, "str"),
        ({"$op": ["not", {"$out": "flag"}]}, "bool"),
        ({"$op": ["add", {"$out": "maybe"}, 1]}, "int"),
        ({"$if": [{"$out": "flag"}, {"$out": "text"}, None]}, "str | None"),
        ({"$else": [{"$out": "text"}, {"$out": "count"}]}, "str | int"),
        ({"$first": [1, [{"$out": "text"}, {"$out": "text"}]]}, "list[str]"),
        ({"$lit": {"a": [1]}}, "{a: [int]}"),
        ({"$object": ["$x", {"$out": "text"}]}, "{$x: str}"),
        ({"$out": "unknown"}, "Any"),
        ({"$op": ["add", {"$out": "unknown"}, 1]}, "Any"),
        ({"a": {"$out": "docs"}}, "{a: list[{title: str, score: float}]}"),
    ],
)
def test_what_an_expression_is(expression: Any, shape: str) -> None:
    assert told(expression) == shape


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ({"$get": [{"$out": "doc"}, "tilte"]}, "has no 'tilte'"),
        ({"$get": [{"$out": "docs"}, "title"]}, "has no 'title'"),
        ({"$get": [{"$out": "score"}, 0]}, "float has no 0"),
        ({"$get": [{"$out": "pair"}, 2]}, "has no 2"),
        ({"$op": ["gt", {"$out": "score"}, "0.5"]}, "float > Literal"),
        ({"$op": ["add", {"$out": "doc"}, 1]}, "has no value"),
        ({"$op": ["and", {"$out": "text"}, True]}, "has no value"),
        ({"$if": [{"$out": "score"}, 1, 2]}, "neither true nor false"),
    ],
)
def test_what_has_no_value_whatever_comes(expression: Any, words: str) -> None:
    with pytest.raises(NeverAValue, match=words):
        told(expression)


LEAF = st.sampled_from([*({"$out": name} for name in OUT), 1, 0.5, "a", True, None])
EXPRESSIONS = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from([n for n, (c, _) in OPERATORS.items() if c == 2]), inner, inner).map(
            lambda three: {"$op": list(three)}
        ),
        st.tuples(st.sampled_from(["neg", "not", "abs"]), inner).map(lambda two: {"$op": list(two)}),
        st.tuples(inner, st.sampled_from(["title", "score", 0, 1, -1])).map(lambda two: {"$get": list(two)}),
        st.tuples(inner, inner, inner).map(lambda three: {"$if": list(three)}),
        st.tuples(inner, inner).map(list),
        st.fixed_dictionaries({"title": inner}),
    ),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=examples(100))
def test_a_value_is_of_the_shape_that_was_told(data: st.DataObject) -> None:
    expression = data.draw(EXPRESSIONS)
    outputs = {name: data.draw(values(valuetypes.given(hint)), label=name) for name, hint in OUT.items()}
    try:
        shape: Shape | None = shape_of(expression, inputs={}, outputs=OUTPUTS)
    except NeverAValue:
        shape = None
    try:
        value = evaluate(expression, inputs={}, outputs=outputs)
    except NoValue:
        return
    # A choice that never has a value in one branch may have one in the other.
    assert shape is not None or "$if" in json.dumps(expression)
    if shape is not None:
        assert clash(of_value(value), shape) is None


# Pipelines ---------------------------------------------------------------------------------------------------------


@penstock.model(name="embed")
def embed(batch: list[str]) -> list[list[float]]:
    """A vector."""
    return [[float(len(text))] for text in batch]


@penstock.model(name="rerank")
def rerank(batch: list[list[str]]) -> list[int]:
    """A place."""
    return [0 for _ in batch]


@penstock.model(name="guess")
def guess(batch: list[Any]):  # type: ignore[no-untyped-def]
    """Without hints."""
    return batch


@penstock.step
def pick(passages: list[str], place: int, label: str = "") -> str:
    """One of some."""
    return passages[place] + label


@penstock.pipeline
def fine(question: str, passages: list[str], extra: dict) -> None:  # type: ignore[type-arg]
    """All that is not certain passes."""
    best = pick(passages, rerank(passages))
    guess(embed(best))
    rerank(guess(1))
    embed(extra["anything"])
    embed.map(guess.map(passages))
    embed(str(7))
    penstock.race(embed(question), guess(2))
    embed.using(version="7")(rerank(passages))  # another version may take another thing


def wrong_edge(q: str) -> Any:
    return rerank(embed(q))


def wrong_field(q: str) -> Any:
    return pick(passages=embed.map([q]), place=1)


def wrong_input(q: int) -> Any:
    return embed(q)


def wrong_map(q: str) -> Any:
    return embed.map(q)


def wrong_element(q: list[str]) -> Any:
    return embed.map(q, lambda each: {"text": each})


def wrong_arity(q: str) -> Any:
    return embed(q, q)


def wrong_condition(q: list[str]) -> Any:
    return penstock.when(rerank(q), 1, 2)


def wrong_branch(q: str) -> Any:
    return embed(penstock.when(rerank([q]) > 1, rerank([q]), None))


def wrong_attribute(q: str) -> Any:
    return embed(embed(q).text)


def wrong_race(q: str) -> Any:
    return embed(penstock.race(rerank([q]), rerank([q, q])))


@penstock.pipeline
def sized(text: str) -> Any:
    """A pipeline that others map."""
    return embed(text)


@penstock.pipeline
def nested(texts: list[str]) -> Any:
    """What comes of pipelines in it is known, too."""
    guess(sized.map(texts))
    return sized.map(guess(1), lambda each: {"text": each["anything"]})


def wrong_inner(q: list[int]) -> Any:
    return sized.map(q)


def wrong_of_inner(q: list[str]) -> Any:
    return rerank.map(sized.map(q))


def wrong_output(q: str) -> Any:
    return embed(q) - 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (wrong_edge, ["'rerank' takes list[str]", "given list[float] by 'embed'"]),
        (wrong_field, ["'pick' takes 'passages' as list[str]", "list[list[float]] by 'embed'"]),
        (wrong_input, ["'embed' takes str", "given int by input 'q'"]),
        (wrong_map, ["it maps str by input 'q'", "no list"]),
        (wrong_element, ["'embed' takes str", "{text: str}"]),
        (wrong_arity, ["'embed' takes str", "[str, str]"]),
        (wrong_condition, ["a condition is int"]),
        (wrong_branch, ["'embed' takes str", "int | None by 'rerank'"]),
        (wrong_attribute, ["list[float] has no 'text'"]),
        (wrong_race, ["'embed' takes str", "given int by 'race'"]),
        (wrong_inner, ["step 'sized': step 'embed': 'embed' takes str, and is given int by input 'text'"]),
        (wrong_of_inner, ["'rerank' takes list[str], and is given list[float] by 'sized'"]),
        (wrong_output, ["the output: list[float] - int"]),
    ],
)
def test_a_pipeline_that_can_never_work_is_refused_where_it_is_written(function: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        penstock.pipeline(function)
    for each in words:
        assert each in raised.value.message


def test_hints_that_cannot_be_read_yet_say_nothing() -> None:
    def later(batch: list[Unknown]) -> list[Unknown]:  # type: ignore[name-defined] # noqa: F821
        return batch

    class Late(penstock.Model):
        name = "late"
        predict = later

    assert schemas_of(Late) == ({}, {})


def test_a_functions_arguments_are_an_object_of_them() -> None:
    takes = read(schemas_of(pick).takes)
    assert str(takes) == "{passages: list[str], place: int, label: str}"
    assert clash(of_value({"passages": ["a"]}), takes) and clash(
        of_value({"passages": ["a"], "place": 1, "x": 1}), takes
    )
    assert clash(of_value({"passages": ["a"], "place": 1}), takes) is None
    assert schemas_of(pick.model) == schemas_of(pick), "workers announce it by its model"


def test_types_that_hold_themselves_have_names_of_their_own_among_arguments() -> None:
    @penstock.step
    def walk(one: Tree, two: list[Tree]) -> Tree:
        return one or two[0]

    takes = read(schemas_of(walk).takes)
    assert clash(of_value({"one": {"name": "a"}, "two": [{"name": 1}]}), takes)
    assert clash(of_value({"one": {"name": "a"}, "two": [{"name": "b", "inside": []}]}), takes) is None
    assert json.dumps(schemas_of(walk)), "it is announced as JSON"
    assert read(schemas_of(walk).gives) != ANY


@pytest.mark.parametrize(
    "output", [{"$else": [{"$out": "a99"}, {"$out": "b99"}]}, {"$op": ["add", {"$out": "a99"}, 1]}]
)
def test_values_in_values_are_looked_at_in_a_bounded_time(output: Any) -> None:
    """Each step's output holds that of the one before twice: written out, the last one has 2 ** 100 parts."""
    steps = []
    for letter in "ab":
        before: Any = {"$in": "x"}
        for number in range(100):
            name = f"{letter}{number}"
            steps.append(Step(name=name, kind="pick", input={"one": before, "two": [before]}))
            before = {"$out": name}
    found = fault(Graph(name="deep", inputs=["x"], steps=steps, output=output), {}, {})
    assert found is None if "$else" in output else found is not None and " + int has no value" in found
    assert len(found or "") < 10_000
