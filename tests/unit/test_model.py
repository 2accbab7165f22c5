"""The model API: hints become validation, mistakes become clear errors."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

import penstock
from penstock import Batching, ConfigError, InvalidInput, Model, Resources, UnknownModel
from penstock.codec import codec_of, item_from_call, item_type
from penstock.jsontext import NotJSON, dumps
from penstock.registry import Registry


class Point(BaseModel):
    x: float
    y: float = 0.0


class Opaque:
    """Nothing that pydantic knows."""


class Norm(Model):
    """Length of a vector.

    More text.
    """

    name = "norm"

    def predict(self, batch: list[Point]) -> list[float]:
        return [(p.x**2 + p.y**2) ** 0.5 for p in batch]


@penstock.model(name="shout", max_size=8)
def shout(batch: list[str]) -> list[str]:
    """Upper case."""
    return [text.upper() for text in batch]


@pytest.mark.parametrize("hint", [str, int, dict, dict[str, int], set[int], Point], ids=str)
def test_a_hint_for_one_item_is_refused(hint: Any) -> None:
    def one(batch):  # type: ignore[no-untyped-def]
        return batch

    one.__annotations__["batch"] = hint
    with pytest.raises(ConfigError, match=r"not a batch of them\n  fix: hint the batch: list\["):
        penstock.model(name="one")(one)


@pytest.mark.parametrize("hint", [list, list[str], tuple[int, ...], Any, "list[Later]", list[str] | None], ids=str)
def test_other_hints_are_left_alone(hint: Any) -> None:
    def many(batch):  # type: ignore[no-untyped-def]
        return batch

    many.__annotations__["batch"] = hint
    assert penstock.model(name="many")(many).name == "many"


def test_methods_that_cannot_be_called_say_how_to_write_them() -> None:
    class Loads(Model):
        name = "loads"

        def load(self): ...  # type: ignore[no-untyped-def, override]

        def predict(self, batch):  # type: ignore[no-untyped-def]
            return batch

    class Predicts(Model):
        name = "predicts"

        def predict(self):  # type: ignore[no-untyped-def, override]
            return []

    def nothing() -> list[str]:
        return []

    for cls, fix in ((Loads, r"def load\(self, device: str\)"), (Predicts, r"def predict\(self, batch")):
        with pytest.raises(ConfigError, match=fix):
            Registry([cls])
    with pytest.raises(ConfigError, match=r"does not take a batch"):
        penstock.model(name="nothing")(nothing)


def test_the_decorator_without_parentheses_takes_the_functions_name() -> None:
    @penstock.model
    def whisper(batch: list[str]) -> list[str]:
        return [text.lower() for text in batch]

    assert (whisper.name, item_type(whisper)) == ("whisper", str)


def test_the_item_type_comes_from_the_hint():
    assert item_type(Norm) is Point
    assert item_type(shout) is str


def test_a_model_without_hints_takes_anything():
    class Free(Model):
        name = "free"

        def predict(self, batch):  # type: ignore[no-untyped-def]
            return batch

    assert item_type(Free) is Any
    assert codec_of(Free).decode('{"a": [1]}') == {"a": [1]}


def test_inputs_are_validated_and_the_error_names_the_field():
    assert codec_of(Norm).decode('{"x": 3, "y": 4}') == Point(x=3, y=4)
    with pytest.raises(InvalidInput, match=r"x: .*valid number") as caught:
        codec_of(Norm).validate({"x": "east"})
    assert "penstock model show norm" in caught.value.fix


def test_the_schema_is_the_items():
    assert codec_of(Norm).schema()["required"] == ["x"]
    assert codec_of(shout).schema() == {"type": "string"}


def test_a_function_becomes_a_model():
    assert issubclass(shout, Model)
    assert shout.batching.max_size == 8
    assert shout().predict(["a"]) == ["A"]
    assert shout.describe() == "Upper case."
    assert Norm.describe() == "Length of a vector."


@pytest.mark.parametrize(
    ("args", "kwargs", "item"),
    [(("x",), {}, "x"), ((), {"a": 1}, {"a": 1}), (("x", "y"), {}, ["x", "y"]), ((), {}, [])],
)
def test_a_celery_call_means_one_item(args, kwargs, item):
    assert item_from_call(args, kwargs) == item


def test_a_mixed_call_is_refused():
    with pytest.raises(InvalidInput, match="cannot be mixed"):
        item_from_call((1,), {"a": 2})


@pytest.mark.parametrize("memory, expected", [("2GiB", 2 * 2**30), ("512 MB", 512_000_000), (7, 7), (None, None)])
def test_memory_units(memory, expected):
    assert Resources(memory=memory).memory_bytes == expected


def test_mistakes_in_a_class_are_config_errors():
    with pytest.raises(ConfigError, match="max_size=0"):
        Batching(max_size=0)
    with pytest.raises(ConfigError, match="no cost function"):
        Batching(max_cost=5)
    with pytest.raises(ConfigError, match="memory"):
        _ = Resources(memory="2 parsecs").memory_bytes
    with pytest.raises(ConfigError, match="lower-case"):
        penstock.model(name="Not A Name")(lambda batch: batch)


def test_an_item_type_that_cannot_be_validated_is_a_config_error():
    class Odd(Model):
        name = "odd"

        def predict(self, batch: list[Opaque]) -> list[int]:
            return [1 for _ in batch]

    with pytest.raises(ConfigError, match="item type of model 'odd'"):
        codec_of(Odd).validate({})


def test_text_that_is_no_unicode_is_an_invalid_input():
    with pytest.raises(NotJSON):
        dumps(codec_of(shout).validate("\ud800"))
    with pytest.raises(InvalidInput):
        codec_of(shout).decode(b'"\xff"')


def test_an_unknown_name_gets_a_suggestion():
    registry = Registry([Norm, shout])
    with pytest.raises(UnknownModel, match="did you mean 'norm'"):
        registry.get("nrom")
    with pytest.raises(UnknownModel, match="PENSTOCK_MODELS"):
        Registry().get("norm")


def test_two_models_of_one_name_are_refused():
    class Other(Model):
        name = "norm"

        def predict(self, batch: list[int]) -> list[int]:
            return batch

    with pytest.raises(ConfigError, match="two models are named 'norm'"):
        Registry([Norm, Other])


def test_sources(tmp_path, monkeypatch):
    (tmp_path / "my_models_t1.py").write_text(
        "import penstock\n@penstock.model(name='one')\ndef one(batch: list[int]) -> list[int]:\n    return batch\n"
    )
    assert "one" in Registry.load([str(tmp_path / "my_models_t1.py")])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "one" in Registry.load(["my_models_t1:one"])
    with pytest.raises(ConfigError, match="check the spelling"):
        Registry.load(["no_such_module_at_all"])
    with pytest.raises(ConfigError, match="not a penstock model"):
        Registry.load(["my_models_t1:two"])
    (tmp_path / "broken_t1.py").write_text("1/0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        Registry.load(["broken_t1"])
