"""Step models without a worker: what is asked of them, and how they run alone."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import Progress, StepModel
from penstock.codec import codec_of
from penstock.errors import ConfigError, ModelLoadFailed, ModelRaised
from penstock.model import check_model
from penstock.testing import run_model
from penstock_worker.models.loader import load_model


class Countdown(StepModel):
    """Ends each sequence after as many steps as its number says."""

    name = "countdown"
    left = 0

    def begin(self, batch: list[int]) -> dict[int, int]:
        type(self).left = 0
        return dict(enumerate(batch))

    def step(self, state: dict[int, int]) -> dict[int, Any]:
        for index in state:
            state[index] -= 1
        return {index: Progress(left) if left > 0 else f"end {index}" for index, left in state.items()}

    def finish(self, state: dict[int, int], index: int) -> None:
        type(self).left += 1
        del state[index]


def test_it_runs_to_its_end_without_a_worker() -> None:
    assert run_model(Countdown, [3, 1, 2]) == ["end 0", "end 1", "end 2"]
    assert Countdown.left == 3, "each sequence has left"


def test_the_item_type_is_that_of_begin() -> None:
    assert codec_of(Countdown).schema() == {"type": "integer"}


@pytest.mark.parametrize(("written", "missing"), [((), "begin"), (("begin",), "step")])
def test_what_must_be_written_is_named(written: tuple[str, ...], missing: str) -> None:
    methods = {name: getattr(Countdown, name) for name in written}
    with pytest.raises(ConfigError, match=rf"has no {missing}\(\)"):
        check_model(type("Half", (StepModel,), {"name": "half", **methods}))


def test_newcomers_join_where_the_model_can() -> None:
    class Joining(Countdown):
        def join(self, state: dict[int, int], batch: list[int]) -> None:
            """Not called here."""

    assert (Countdown.joins(), Joining.joins()) == (False, True)


def test_the_warm_up_takes_a_few_steps_whatever_the_length() -> None:
    class Endless(Countdown):
        def example(self) -> int:
            return 10**9

    load_model(Endless, "cpu")
    assert Endless.left == 1


def test_a_warm_up_that_fails_is_told() -> None:
    class Broken(Countdown):
        def example(self) -> int:
            return 1

        def step(self, state: dict[int, int]) -> dict[int, Any]:
            return {0: ValueError("no step")}

    with pytest.raises(ModelLoadFailed, match="no step"):
        load_model(Broken, "cpu")
    with pytest.raises(ModelRaised, match="no step"):
        run_model(Broken, [1])
