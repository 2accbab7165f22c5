"""Values through every entrance: what the worker validates equals what the producer gave, or it is refused by name."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from kombu.utils import json as kombu_json
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, RootModel, SecretStr, field_validator

import penstock
from penstock import ConfigError, InvalidInput
from penstock.codec import codec_of, item_from_call
from penstock.dispatch.catalog import Target
from penstock.errors import InvalidOutput, NotSerializable, Rejected, TooLarge
from penstock.jsontext import LITTLE, MANY, NotJSON, dumps, loads, quick
from penstock.model import Model
from penstock.payload import check_keys, for_celery, read_strictly, write_input, write_output

LIMIT = 2**23


def model_of(kind: Any) -> type[Model]:
    """A model that takes items of this type."""

    def echo(batch):  # type: ignore[no-untyped-def]
        return batch

    echo.__annotations__["batch"] = list[kind]
    return penstock.model(name="echo")(echo)


ANYTHING = model_of(Any)


def by_name(value: Any, kind: Any = Any) -> Any:
    """What the worker has of a producer's that knows the model by name only."""
    return codec_of(model_of(kind)).decode(Target("echo", "1").encode(value, LIMIT))


def by_class(value: Any, kind: Any = Any) -> Any:
    """What the worker has of a producer's that holds the class."""
    codec = codec_of(model_of(kind))
    return codec.decode(Target("echo", "1", codec).encode(value, LIMIT))


def by_celery(value: Any, kind: Any = Any) -> Any:
    """What the worker has of ``model.s(value)``, behind kombu's JSON."""
    codec = codec_of(model_of(kind))
    text = kombu_json.dumps([[for_celery("echo", value, codec)], {}, {}])
    check_keys(text)
    args, kwargs, _ = kombu_json.loads(text)
    return codec.decode(write_input("echo", item_from_call(args, kwargs), codec=codec, max_bytes=LIMIT, fits=False))


ENTRANCES = [by_name, by_class, by_celery]


@dataclass
class Point:
    x: float
    at: datetime | None = None


class Query(BaseModel):
    text: str = ""
    score: float = 0.0
    at: datetime | None = None


class Colour(Enum):
    RED = 1


class Word(StrEnum):
    A = "a"


NAN, INF = math.nan, math.inf
NOW = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)

REFUSED: dict[str, tuple[Any, str]] = {
    "nan": (NAN, "holds NaN"),
    "infinity in a list": ([1, {"a": [1.0, INF]}], r"an infinity at \[1\]\.a\[1\]"),
    "nan in an array": (np.array([[1.0, NAN]]), r"NaN at \[0\]\[1\]"),
    "nan in a tensor": ({"v": torch.tensor([1.0, NAN])}, r"NaN at \.v\[1\]"),
    "nan in a numpy scalar": ([np.float32("nan")], r"NaN at \[0\]"),
    "nan in a numpy float64": (np.float64("nan"), "NaN"),
    "nan in a dataclass": (Point(NAN), r"NaN at \.x"),
    "nan in a pydantic model": ([Query(score=-INF)], r"an infinity at \[0\]\.score"),
    "nan in a tuple": ((1.0, (NAN,)), r"NaN at \[1\]\[0\]"),
    "bytes": (b"x", "holds bytes"),
    "bytes inside": ({"a b": [b"\xff"]}, r"bytes at \['a b'\]\[0\]"),
    "bytearray": (bytearray(b"x"), "bytearray"),
    "memoryview": (memoryview(b"x"), "memoryview"),
    "datetime": ([NOW], r"datetime\.datetime at \[0\]"),
    "date": (date(2024, 1, 1), "datetime.date"),
    "time": (time(1), "datetime.time"),
    "timedelta": (timedelta(1), "timedelta"),
    "datetime in a dataclass": (Point(1.0, NOW), r"datetime at \.at"),
    "datetime in a pydantic model": (Query(at=NOW), r"datetime at \.at"),
    "decimal": ({"p": Decimal("1.10")}, r"Decimal at \.p"),
    "uuid": (UUID(int=1), "uuid.UUID"),
    "enum": (Colour.RED, "Colour"),
    "set": ({1, 2}, "type set"),
    "frozenset": ([frozenset({1})], "frozenset"),
    "colliding keys": ({1: "a", "1": "b"}, "the key 1 of type int"),
    "a key that is no text": ({"a": {(1, 2): 3}}, r"the key \(1, 2\) of type tuple at \.a"),
    "a key that is none": ({None: 1}, "the key None"),
    "a key of bytes": ({b"k": 1}, "the key b'k'"),
    "half a surrogate pair": (["\ud800"], r"surrogate pair at \[0\]"),
    "half a surrogate pair in a key": ({"\ud800": 1}, "surrogate pair"),
    "more digits than a float's": ([10**400, "mixed"], r"308 digits at \[0\]"),
    "complex": (1j, "complex"),
    "complex array": (np.array([1j]), "dtype complex128"),
    "complex tensor": (torch.tensor([1j]), "torch.complex64"),
    "array of bytes": (np.array([b"a"]), "dtype |S1"),
    "array of dates": (np.array(["2024"], dtype="M8[ns]"), "datetime64"),
    "array of objects": (np.array([1, b"x"], dtype=object), r"bytes at \[1\]"),
    "masked array": (np.ma.array([1, 2], mask=[0, 1]), "masked"),  # type: ignore[no-untyped-call]
    "long double": (np.longdouble(1), "numpy.longdouble"),
    "iterator": (iter([1]), "list_iterator"),
    "view": ({"a": 1}.keys(), "dict_keys"),
    "class": (int, "the class int"),
    "object": ([object()], r"type object at \[0\]"),
    "secret": ({"s": SecretStr("x")}, r"SecretStr at \.s"),
}


@pytest.mark.parametrize("enter", ENTRANCES)
@pytest.mark.parametrize(("value", "says"), REFUSED.values(), ids=REFUSED)
def test_what_json_has_not_is_refused_with_its_place(enter: Any, value: Any, says: str) -> None:
    with pytest.raises(NotSerializable, match=says) as caught:
        enter(value)
    assert caught.value.fix


@pytest.mark.parametrize(("value", "says"), REFUSED.values(), ids=REFUSED)
def test_and_so_on_the_way_out(value: Any, says: str) -> None:
    with pytest.raises(InvalidOutput, match=says) as caught:
        write_output(value, "result", max_bytes=LIMIT)
    assert caught.value.fix


def test_what_is_nested_too_deeply_or_in_itself_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    around: list[Any] = []
    around.append(around)
    for value in (deep, around, {"a": around}):
        with pytest.raises(NotSerializable, match="inside each other"):
            by_name(value)


TAKEN: dict[str, tuple[Any, Any]] = {
    "text": ("naïve \U0001f600 \0", "naïve \U0001f600 \0"),
    "tuple": ((1, (2.5, None)), [1, [2.5, None]]),
    "ordered dict": (OrderedDict(b=1, a=True), {"b": 1, "a": True}),
    "array": (np.array([[1, 2], [3, 4]], dtype=np.uint8), [[1, 2], [3, 4]]),
    "array of text": (np.array(["a", "bc"]), ["a", "bc"]),
    "array of objects": (np.array([1, "a", None], dtype=object), [1, "a", None]),
    "array without dimensions": (np.array(2.5), 2.5),
    "numpy scalars": ([np.float64(0.1), np.int64(2), np.bool_(True), np.str_("x")], [0.1, 2, True, "x"]),
    "tensor": (torch.tensor([1.5, -0.0], dtype=torch.bfloat16, requires_grad=True), [1.5, -0.0]),
    "dataclass": (Point(1.5), {"x": 1.5, "at": None}),
    "pydantic model": ([Query(text="a")], [{"text": "a", "score": 0.0, "at": None}]),
    "enum of text": ({Word.A: Word.A}, {"a": "a"}),
    "beyond 64 bits": ([2**64, -(2**70), 10**30], [2**64, -(2**70), 10**30]),
    "largest floats": ([1.7976931348623157e308, 5e-324, 1e22], [1.7976931348623157e308, 5e-324, 1e22]),
}


@pytest.mark.parametrize("enter", [*ENTRANCES, lambda value: loads(dumps(value))])
@pytest.mark.parametrize(("value", "read"), TAKEN.values(), ids=TAKEN)
def test_what_json_has_is_taken_as_it_is(enter: Any, value: Any, read: Any) -> None:
    assert same(enter(value), read)


class Aliased(BaseModel):
    x: int = Field(alias="X")


class Numbers(RootModel[list[int]]):
    pass


class Picture(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    png: bytes


DECLARED: dict[str, tuple[Any, Any, Any]] = {
    "datetime": (NOW, datetime, NOW),
    "datetime in a dict": ({"at": NOW}, Query, Query(at=NOW)),
    "datetime beside an array": ({"score": np.float32(2), "at": NOW}, Query, Query(score=2.0, at=NOW)),
    "dataclass": (Point(1.0, NOW), Point, Point(1.0, NOW)),
    "pydantic model": (Query(at=NOW), Query, Query(at=NOW)),
    "decimal": (Decimal("1.10"), Decimal, Decimal("1.10")),
    "uuid": (UUID(int=7), UUID, UUID(int=7)),
    "enum": (Colour.RED, Colour, Colour.RED),
    "set": ({1, 2}, set[int], {1, 2}),
    "numbers as keys": ({1: "a"}, dict[int, str], {1: "a"}),
    "path": (Path("/a"), Path, Path("/a")),
    "timedelta": (timedelta(seconds=1.5), timedelta, timedelta(seconds=1.5)),
    "tuple": ((1, "a"), tuple[int, str], (1, "a")),
    "alias": (Aliased(X=1), Aliased, Aliased(X=1)),
    "root model": (Numbers([1]), Numbers, Numbers([1])),
    "bytes that say how they are encoded": (Picture(png=b"\xff\0"), Picture, Picture(png=b"\xff\0")),
}


@pytest.mark.parametrize(("value", "kind", "read"), DECLARED.values(), ids=DECLARED)
def test_what_the_item_type_declares_is_taken(value: Any, kind: Any, read: Any) -> None:
    assert by_class(value, kind) == read
    assert by_celery(value, kind) == read


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"abc", str),
        (Decimal("0.1"), float),
        (UUID(int=1), str),
        (NOW, str),
        ({"at": NOW}, dict[str, Any]),
        ([date(2024, 1, 1)], list[datetime]),
        ({1, 2}, list[int]),
        ({1: "a"}, dict[str, str]),
        ({1: "a", "1": "b"}, dict[int, str]),
        ({1: "a", "1": "b"}, dict[int | str, str]),
        (NAN, float),
        ([NAN, None], list[float | None]),
        (10**400, float),
    ],
    ids=repr,
)
def test_an_item_type_of_another_kind_does_not_change_a_value(value: Any, kind: Any) -> None:
    for enter in (by_class, by_celery):
        with pytest.raises(NotSerializable):
            enter(value, kind)


def test_a_validator_runs_once() -> None:
    class Doubled(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def double(cls, x: int) -> int:
            return 2 * x

    assert by_class({"x": 1}, Doubled) == by_name({"x": 1}, Doubled)
    assert by_class({"x": 1}, Doubled).x == 2


def test_the_constraints_of_an_annotated_item_type_hold() -> None:
    from typing import Annotated

    with pytest.raises(InvalidInput, match="greater than"):
        by_class(0, Annotated[int, Field(gt=0)])


class Raw(BaseModel):
    name: str
    png: bytes


@dataclass
class Nested:
    pictures: list[Raw]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (bytes, "takes bytes, which"),
        (bytearray, "takes bytearray"),
        (memoryview, "takes memoryview"),
        (str | bytes, "takes bytes"),
        (dict[str, list[bytes]], "takes bytes"),
        (Raw, "in its field png"),
        (Nested, r"in its field pictures\.png"),
    ],
    ids=str,
)
def test_bytes_are_refused_as_an_item_type(kind: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        model_of(kind)
    assert "Base64Bytes" in caught.value.fix


def test_bytes_that_say_how_they_are_encoded_are_none_of_these() -> None:
    class Decoding(BaseModel):
        png: bytes

        @field_validator("png", mode="before")
        @classmethod
        def decode(cls, text: str) -> bytes:
            return bytes.fromhex(text)

    assert by_class("YWJj", Base64Bytes) == b"abc"
    assert by_class({"png": "00ff"}, Decoding).png == b"\0\xff"
    with pytest.raises(NotSerializable):
        by_class(b"abc", Base64Bytes)


def test_the_limit_holds_in_bytes() -> None:
    codec = codec_of(ANYTHING)
    for value in ("é" * 10, ("é" * 10,), np.array(["é" * 10])):
        with pytest.raises(TooLarge, match=r"has \d\d bytes of JSON; the limit is 21"):
            write_input("echo", value, codec=codec, max_bytes=21)
        with pytest.raises(InvalidOutput, match="the limit is 21"):
            write_output(value, "result", max_bytes=21)
    assert write_input("echo", "é" * 10, codec=codec, max_bytes=22)


def test_json_text_is_read_as_it_was_written() -> None:
    for text in ('{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]', "1e400", "[-1e999]", "NaN", "1" * 5000):
        with pytest.raises(ValueError, match=r"twice|no float|not JSON|too long"):
            read_strictly(text)
    assert read_strictly('{"a": [1, 2.5, 18446744073709551616]}') == {"a": [1, 2.5, 2**64]}


# Any value at all ----------------------------------------------------------------------------------------------------

KEYS = st.text(st.characters(), max_size=3) | st.integers(-3, 3) | st.sampled_from(["1", "a", Word.A, None, True, b"k"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from([*Word, *Colour, b"x", NOW, Decimal("1.5"), UUID(int=3), {1}, "\ud800", 10**400])
    | npst.arrays(st.sampled_from(["f8", "f4", "i8", "u8", "?", "U2"]), npst.array_shapes(max_dims=2, max_side=3))
    | st.builds(Point, x=st.floats())
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.floats(), max_size=8)
        | st.lists(st.integers() | st.floats() | st.booleans(), max_size=8)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)


def listed(value: Any) -> Any:
    """The value as it is documented to arrive."""
    if isinstance(value, np.ndarray):
        return listed(value.tolist())
    if isinstance(value, Point):
        return {"x": value.x, "at": value.at}
    if isinstance(value, (list, tuple)):
        return [listed(each) for each in value]
    if isinstance(value, dict):
        return {key: listed(each) for key, each in value.items()}
    return str(value) if isinstance(value, Word) else value


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types."""
    if isinstance(other, dict):
        return type(one) is dict and one.keys() == other.keys() and all(same(one[k], other[k]) for k in other)
    if isinstance(other, list):
        return type(one) is list and len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, float):
        return type(one) is float and one == other and math.copysign(1, one) == math.copysign(1, other)
    return type(one) is type(other) and bool(one == other)


@given(VALUES)
def test_every_value_arrives_as_it_is_or_is_refused(value: Any) -> None:
    verdicts = []
    for enter in ENTRANCES:
        try:
            read = enter(value)
        except Rejected:
            verdicts.append("refused")
        else:
            assert same(read, listed(value))
            verdicts.append("taken")
    try:
        text = write_output(value, "result", max_bytes=LIMIT)
    except InvalidOutput:
        verdicts.append("refused")
    else:
        assert same(loads(text), listed(value))
        verdicts.append("taken")
    assert len(set(verdicts)) == 1, verdicts


@given(
    VALUES,
    st.sampled_from([str, int, float, list[int], list[float], dict[str, Any], dict[int, float], set[int], Point]),
)
def test_whoever_knows_the_item_type_refuses_no_less(value: Any, kind: Any) -> None:
    """What a producer sends that has the class is what the worker makes of the same value by name."""
    try:
        by_text = by_name(value, kind)
    except Rejected:
        return
    assert by_class(value, kind) == by_text


@pytest.mark.parametrize("length", [0, LITTLE, MANY])
@pytest.mark.parametrize("nothing", [None, "null", ""])
def test_the_quick_way_lets_nothing_pass_that_the_careful_way_would_not(length: int, nothing: Any) -> None:
    """Whichever of the ways it goes: they differ by the length and the shape of a value."""
    around = [
        lambda leaf: {"text": "x" * length, "more": nothing, "leaf": leaf},
        lambda leaf: [{"text": "x" * length, "more": nothing}, {"leaf": leaf}],
        lambda leaf: [{"text": "x" * length, "more": nothing, "leaf": [[leaf]]}],
        lambda leaf: {"text": "x" * length, "more": [{"leaf": leaf, "nothing": nothing}]},
        lambda leaf: ["x" * length, nothing, leaf],
    ]
    for put in around:
        for leaf in (1.5, -0.0, 2**70, 10**307, True, "text", [], {}, {"a": [1.5]}):
            value = put(leaf)
            assert same(loads(quick(value) or dumps(value)), value)
        for leaf in (NAN, [1.5, -math.inf], 10**309, -(10**400), b"x", NOW, Decimal("1.5"), UUID(int=3), {1}, {1: 2}):
            assert quick(put(leaf)) is None
        for leaf in (Point(1.0), Colour.RED, timedelta(1), "\ud800", {1: "a", "1": "b"}, {NOW: 1}, np.float64(1.5)):
            assert quick(put(leaf)) is None


def test_a_value_whose_own_attributes_raise_is_refused() -> None:
    class Nasty:
        @property
        def dtype(self) -> Any:
            raise RuntimeError("no")

        tolist = dtype

    with pytest.raises(NotJSON, match="cannot be read: RuntimeError: no"):
        dumps(Nasty())


def test_a_signature_says_at_once_what_celery_would_change() -> None:
    assert ANYTHING.s(np.array([1.5, 2.0]), Point(1.0)).args == ([1.5, 2.0], {"x": 1.0, "at": None})
    assert ANYTHING.s(at=NOW, v=(1, 2)).kwargs == {"at": NOW, "v": [1, 2]}, "Celery marks dates"
    assert model_of(dict[int, float]).s({1: 0.5}).args == ({"1": 0.5},)
    for value in (NAN, {1: "a", "1": "b"}, {NOW: 1}, {1, 2}, [Colour.RED]):
        with pytest.raises(NotSerializable, match="the input for model 'echo' holds"):
            ANYTHING.s(value)
