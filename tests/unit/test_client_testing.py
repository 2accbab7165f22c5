"""The helpers that users import into their own tests."""

from __future__ import annotations

import pytest

import penstock
from penstock import Batching, Model
from penstock.errors import InvalidInput, InvalidOutput, ModelRaised, WrongResultCount
from penstock.testing import FakeClock, run_model


class Sizes(Model):
    """Gives the size of the batch that an item was in."""

    name = "sizes"
    batching = Batching(max_size=3, cost=len, max_cost=6)

    def load(self, device: str) -> None:
        self.device = device

    def predict(self, batch: list[str]) -> list[int]:
        assert self.device == "cpu"
        return [len(batch)] * len(batch)


@penstock.model(name="inverse")
def inverse(batch: list[int]) -> list[float]:
    """1/x; raises for zero."""
    return [1 / value for value in batch]


@penstock.model(name="short")
def short(batch: list[int]) -> list[int]:
    return batch[1:]


def test_batches_keep_within_size_and_cost() -> None:
    assert run_model(Sizes, ["a", "b", "c", "d"]) == [3, 3, 3, 1]
    assert run_model(Sizes, ["aaaa", "bbbb", "c"]) == [1, 2, 2]
    assert run_model(Sizes, ["long enough to stand alone", "b"]) == [1, 1]
    assert run_model(Sizes, []) == []


def test_a_faulty_item_fails_alone() -> None:
    answers = run_model(inverse, [1, 0, 2, "no number", 4], return_exceptions=True)
    assert [answers[i] for i in (0, 2, 4)] == [1.0, 0.5, 0.25]
    assert isinstance(answers[1], ModelRaised)
    assert isinstance(answers[1].__cause__, ZeroDivisionError)
    assert isinstance(answers[3], InvalidInput)
    with pytest.raises(ModelRaised, match="ZeroDivisionError"):
        run_model(inverse, [1, 0])


def test_results_are_counted_and_must_be_json() -> None:
    with pytest.raises(WrongResultCount):
        run_model(short, [1, 2])

    @penstock.model(name="opaque")
    def opaque(batch: list[int]) -> list[object]:
        return [object() for _ in batch]

    with pytest.raises(InvalidOutput):
        run_model(opaque, [1])


def test_a_loaded_instance_is_used_as_it_is() -> None:
    model = Sizes()
    model.load("cpu")
    assert run_model(model, ["a"]) == [1]


def test_the_clock_moves_only_forward() -> None:
    clock = FakeClock(5.0)
    assert clock.advance(2.5) == clock() == 7.5
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
