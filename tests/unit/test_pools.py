"""Which pool serves a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.policy.pools import DEFAULT, Pool, Want, place, places, unknown, want_announced, want_of
from penstock.settings import Settings

GIB = 2**30

POOLS = {
    pool.name: pool
    for pool in (
        Pool(name="big", room=80 * GIB),
        Pool(name="small", room=16 * GIB),
        Pool(name="cpu", room=GIB),
        Pool(name="named", models=frozenset({"chosen", "huge"}), room=10 * GIB),
        Pool(name="open"),
    )
}


@pytest.mark.parametrize(
    ("want", "pool"),
    [
        (Want(name="chosen", pool="small"), "named"),  # the settings win
        (Want(name="chosen", memory=GIB), "named"),
        (Want(name="function", pool="cpu"), "cpu"),
        (Want(name="other", pool="open", memory=99 * GIB), "open"),  # a pool that does not say takes anything
        (Want(name="other", pool="nowhere", memory=GIB), "nowhere"),  # no settings are needed to make a pool
        (Want(name="light", memory=GIB // 2), "cpu"),
        (Want(name="just", memory=GIB), "cpu"),
        (Want(name="more", memory=GIB + 1), "named"),
        (Want(name="heavy", memory=40 * GIB), "big"),
        (Want(name="silent"), "default"),
    ],
)
def test_where_a_model_is_served(want: Want, pool: str) -> None:
    found = place(want, POOLS)
    assert (found.pool, found.fault) == (pool, "")


@pytest.mark.parametrize(
    ("want", "pool", "says"),
    [
        (Want(name="huge", memory=11 * GIB), "named", "pools.named.device_memory"),
        (Want(name="heavy", pool="small", memory=17 * GIB), "small", "needs 17 GiB of device memory"),
        (Want(name="heaviest", memory=81 * GIB), "big", "workers of pool big have 80 GiB"),
    ],
)
def test_a_model_that_no_pool_can_hold_says_why_and_what_to_do(want: Want, pool: str, says: str) -> None:
    found = place(want, POOLS)
    assert found.pool == pool and says in found.fault


def test_without_settings_a_model_is_where_it_says() -> None:
    wants = [Want(name="a"), Want(name="b", pool="cpu"), Want(name="c", memory=GIB)]
    assert {name: each.pool for name, each in places(wants, {}).items()} == {"a": "default", "b": "cpu", "c": "default"}


def test_names_that_are_no_models_are_told_with_the_nearest() -> None:
    pools = {"a": Pool(name="a", models=frozenset({"embde", "x"})), "b": Pool(name="b", models=frozenset({"embed"}))}
    assert unknown(pools, ["embed", "rerank"]) == [("a", "embde", "embed"), ("a", "x", None)]


def test_what_a_class_says_and_what_was_announced_of_it_are_the_same() -> None:
    class Heavy(penstock.Model):
        name = "heavy"
        resources = penstock.Resources(pool="big", memory="2GiB")

        def predict(self, batch: list[str]) -> list[str]:
            return batch

    assert want_of(Heavy) == Want(name="heavy", pool="big", memory=2 * GIB)
    assert want_announced("heavy", {"pool": "now", "own_pool": "big", "memory": 2 * GIB}) == want_of(Heavy)
    assert want_announced("heavy", {"pool": "big"}) == Want(name="heavy", pool="big")  # of an older release
    assert want_announced("heavy", {}).pool == DEFAULT


def test_models_move_by_settings_alone() -> None:
    want = Want(name="embed", pool="gpu", memory=GIB)
    assert place(want, Settings().served_pools()).pool == "gpu"
    moved = Settings(pools={"cpu": {"models": ["embed"]}})
    assert place(want, moved.served_pools()).pool == "cpu"


names = st.sampled_from(["a", "b", "c", "d"])
wants = st.builds(Want, name=names, pool=names | st.just(DEFAULT), memory=st.none() | st.integers(1, 100))
pools = st.dictionaries(names | st.just(DEFAULT), st.none() | st.integers(1, 100)).map(
    lambda rooms: {name: Pool(name=name, room=room) for name, room in rooms.items()}
)


@given(wants, pools)
def test_a_model_is_at_fault_exactly_where_it_does_not_fit(want: Want, pools: dict[str, Pool]) -> None:
    found = place(want, pools)
    room = pools[found.pool].room if found.pool in pools else None
    assert bool(found.fault) == (want.memory is not None and room is not None and want.memory > room)
    if want.pool != DEFAULT:
        assert found.pool == want.pool
    elif found.fault:
        assert all(pool.room is None or pool.room < (want.memory or 0) for pool in pools.values())


@given(wants, pools, st.randoms())
def test_the_answer_does_not_depend_on_the_order_of_the_settings(
    want: Want, pools: dict[str, Pool], random: object
) -> None:
    order = list(pools)
    random.shuffle(order)  # type: ignore[attr-defined]
    assert place(want, {name: pools[name] for name in order}) == place(want, pools)


@given(st.integers(1, 100), st.integers(0, 100), pools)
def test_a_heavier_model_is_never_in_a_smaller_pool(light: int, more: int, pools: dict[str, Pool]) -> None:
    one, other = place(Want(name="z", memory=light), pools), place(Want(name="z", memory=light + more), pools)
    if one.pool in pools and other.pool in pools:
        assert (pools[one.pool].room or 0) <= (pools[other.pool].room or 0)
