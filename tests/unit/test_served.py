"""What a worker serves: functions run beside no accelerator."""

from __future__ import annotations

import pytest

import penstock
from penstock.policy.pools import places, want_of
from penstock.settings import Settings
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


@penstock.model(name="roomy", resources=penstock.Resources(memory="2GiB"))
def roomy(batch: list[str]) -> list[str]:
    return batch


MODELS = [embed, tiny, pick.model, crop.model]
PLACES = places(map(want_of, MODELS), {})


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
    choice = choose(MODELS, PLACES, pool=pool, only=only, device=lambda: device)
    assert (list(choice.models), choice.functions) == (served, left)


@pytest.mark.parametrize(
    ("pool", "served", "left"),
    [("gpu", ["embed", "pick"], []), ("cpu", ["tiny"], []), (None, ["embed", "tiny", "pick", "crop"], [])],
)
def test_models_and_functions_are_served_where_the_settings_put_them(
    pool: str | None, served: list[str], left: list[str]
) -> None:
    pools = Settings(pools={"gpu": {"models": ["embed", "pick"]}}).served_pools()
    choice = choose(MODELS, places(map(want_of, MODELS), pools), pool=pool, only=(), device=lambda: "cuda:0")
    assert (list(choice.models), choice.functions) == (served, left)


def test_a_model_that_the_pool_cannot_hold_is_left_out_with_why() -> None:
    pools = Settings(pools={"gpu": {"models": ["roomy", "embed"], "device_memory": "1GiB"}}).served_pools()
    where = places(map(want_of, [embed, roomy]), pools)
    choice = choose([embed, roomy], where, pool="gpu", only=(), device=lambda: "cuda:0")
    assert list(choice.models) == ["embed"] and "needs 2 GiB" in choice.misfits["roomy"]
    # Who asks for no pool has said what memory there is in another way.
    assert list(choose([roomy], where, pool=None, only=(), device=lambda: "cpu").models) == ["roomy"]


def test_the_device_is_not_looked_for_where_no_function_asks() -> None:
    for models, pool in (([embed], None), (MODELS, "cpu")):
        choice = choose(models, PLACES, pool=pool, only=(), device=lambda: pytest.fail("torch would be imported"))
        assert choice.models


def test_what_to_type_is_whole() -> None:
    assert how_to_serve_functions(["a", "b.py"]) == "`penstock worker --pool cpu a b.py`"
