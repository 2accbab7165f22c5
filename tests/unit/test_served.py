"""What a worker serves: functions run beside no accelerator."""

from __future__ import annotations

import pytest

import penstock
from penstock_worker.models.served import choose, how_to_serve_functions


@penstock.model(name="embed")
def embed(batch: list[str]) -> list[str]:
    return batch


@penstock.model(name="tiny", resources=penstock.Resources(pool="cpu"))
def tiny(batch: list[str]) -> list[str]:
    return batch


@penstock.step
def pick(passage: str) -> str:
    return passage


@penstock.step(pool="default")
def crop(passage: str) -> str:
    return passage


MODELS = [embed, tiny, pick.model, crop.model]


@pytest.mark.parametrize(
    ("pool", "only", "device", "served", "left"),
    [
        (None, (), "cpu", ["embed", "tiny", "pick", "crop"], []),
        (None, (), "cpu:0", ["embed", "tiny", "pick", "crop"], []),
        (None, (), "cuda:0", ["embed", "tiny", "crop"], ["pick"]),
        (None, (), "mps", ["embed", "tiny", "crop"], ["pick"]),
        (None, ("pick",), "cuda:0", [], ["pick"]),
        (None, ("embed",), "cuda:0", ["embed"], []),
        ("cpu", (), "cpu", ["tiny", "pick"], []),
        ("cpu", (), "cuda:0", ["tiny", "pick"], []),
        ("default", (), "cuda:0", ["embed", "crop"], []),
        ("default", ("pick",), "cuda:0", [], []),
    ],
)
def test_which_models_a_worker_serves(
    pool: str | None, only: tuple[str, ...], device: str, served: list[str], left: list[str]
) -> None:
    choice = choose(MODELS, pool=pool, only=only, device=lambda: device)
    assert (list(choice.models), choice.functions) == (served, left)


def test_the_device_is_not_looked_for_where_no_function_asks() -> None:
    assert choose([embed], pool=None, only=(), device=lambda: pytest.fail("torch would be imported")).models
    assert choose(MODELS, pool="cpu", only=(), device=lambda: pytest.fail("torch would be imported")).models


def test_what_to_type_is_whole() -> None:
    assert how_to_serve_functions(["a", "b.py"]) == "`penstock worker --pool cpu a b.py`"
