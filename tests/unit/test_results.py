"""What ``predict`` may return: one result per item, in order, and nothing that only looks like it."""

from __future__ import annotations

from collections import OrderedDict, UserString, deque, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import penstock
from penstock import StepModel
from penstock.errors import ModelLoadFailed, WrongResultCount
from penstock.model import Model
from penstock.results import results_of
from penstock.stepwise import Progress
from penstock.testing import run_model
from penstock_worker.execute.prediction import predict_each
from penstock_worker.models.loader import load_model

Pair = namedtuple("Pair", "values indices")


class Table:
    """Iterates its columns, as data frames do."""

    shape = (2, 2)

    def __iter__(self) -> Any:
        return iter("ab")

    def __len__(self) -> int:
        return 2


async def later() -> list[int]:
    return [1, 2]


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "set": (lambda: {1, 2}, "a set"),
    "frozenset": (lambda: frozenset({1, 2}), "a frozenset"),
    "dict": (lambda: {"a": 1, "b": 2}, "a dict"),
    "ordered dict": (lambda: OrderedDict(a=1, b=2), "a collections.OrderedDict"),
    "keys": (lambda: {"a": 1, "b": 2}.keys(), "a dict_keys"),
    "values": (lambda: {"a": 1, "b": 2}.values(), "a dict_values"),
    "items": (lambda: {"a": 1, "b": 2}.items(), "a dict_items"),
    "text": (lambda: "ab", "one str"),
    "text of a class": (lambda: UserString("ab"), "one collections.UserString"),
    "bytes": (lambda: b"ab", "one bytes"),
    "bytearray": (lambda: bytearray(b"ab"), "one bytearray"),
    "memoryview": (lambda: memoryview(b"ab"), "one memoryview"),
    "generator": (lambda: (x for x in (1, 2)), "a generator"),
    "iterator": (lambda: iter([1, 2]), "a list_iterator"),
    "map": (lambda: map(str, [1, 2]), "a map"),
    "zip": (lambda: zip([1, 2], [3, 4], strict=True), "a zip"),
    "none": (lambda: None, "None"),
    "number": (lambda: 2, "a int"),
    "array without dimensions": (lambda: np.array(2.0), "a numpy.ndarray without dimensions"),
    "numpy scalar": (lambda: np.float32(2), "a numpy.float32 without dimensions"),
    "tensor without dimensions": (lambda: torch.tensor(2.0), "a torch.Tensor without dimensions"),
    "named tuple": (lambda: Pair([1], [2]), "Pair"),
    "torch's named tuple": (lambda: torch.max(torch.ones(2, 2), dim=1), "torch.return_types.max"),
    "table": (Table, "Table"),
    "coroutine": (later, "a coroutine"),
}


def model_that_returns(make: Callable[[], Any]) -> type[Model]:
    @penstock.model(name="odd")
    def odd(batch: list[int]) -> Any:
        return make()

    return odd


@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_what_is_no_list_of_results_fails_by_name(make: Callable[[], Any], says: str) -> None:
    odd = model_that_returns(make)
    in_worker = predict_each(odd(), [1, 2])
    in_test = run_model(odd, [1, 2], return_exceptions=True)
    for error in (*in_worker, *in_test):
        assert isinstance(error, WrongResultCount), error
        assert f"predict() of model 'odd' returned {says}" in error.message or says in error.message
        assert error.fix


def test_a_model_that_returns_one_is_not_served() -> None:
    class Warm(Model):
        name = "warm"

        def example(self) -> int:
            return 1

        def predict(self, batch: list[int]) -> Any:
            return "x" * len(batch)

    with pytest.raises(ModelLoadFailed, match="one str"):
        load_model(Warm, "cpu")


@pytest.mark.parametrize(
    ("make", "results"),
    [
        (lambda: [1, 2], [1, 2]),
        (lambda: (1, 2), [1, 2]),
        (lambda: deque([1, 2]), [1, 2]),
        (lambda: np.array([1, 2]), [1, 2]),
        (lambda: np.array([[1.0], [2.0]]), [[1.0], [2.0]]),
        (lambda: torch.tensor([[1.0], [2.0]], requires_grad=True), [[1.0], [2.0]]),
    ],
)
def test_sequences_arrays_and_tensors_are_lists_of_results(make: Callable[[], Any], results: list[Any]) -> None:
    assert run_model(model_that_returns(make), [1, 2]) == results


def test_the_number_counts_whatever_it_is() -> None:
    for returned in ([1], (1, 2, 3), np.ones(3), torch.ones(5, 2), []):
        with pytest.raises(WrongResultCount, match=f"returned {len(returned)} results for 2 items"):
            results_of("odd", returned, 2)


@pytest.mark.parametrize("answers", [[Progress(1)], None, "ab", {7: "done"}, {"0": "done"}], ids=repr)
def test_a_step_answers_with_a_mapping_of_those_that_run(answers: Any) -> None:
    class Odd(StepModel):
        name = "odd"

        def begin(self, batch: list[int]) -> None: ...

        def step(self, state: None) -> Any:
            return answers

    for error in run_model(Odd, [1, 2], return_exceptions=True):
        assert isinstance(error, WrongResultCount)
        assert "step() of model 'odd'" in error.message
