"""The fairness policy: shares by weight, no credit for idle time, no starvation, caps. No server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.fairness import DEFAULT, Books, Terms, arrive, deal, refund, settle

NONE: dict[str, int] = {}


def busy(*tenants: str) -> Books:
    books = Books()
    for tenant in tenants:
        books = arrive(books, tenant)
    return books


@pytest.mark.parametrize(
    ("waiting", "weights", "quota", "got"),
    [
        ({"a": 9, "b": 9}, {}, 4, "abab"),
        ({"a": 9, "b": 9}, {"a": 2.0}, 6, "abaaba"),
        ({"a": 1, "b": 9}, {}, 4, "abbb"),
        ({"a": 9, "b": 9, DEFAULT: 9}, {}, 3, "abd"),
        ({"a": 2}, {}, 9, "aa"),
        ({DEFAULT: 3}, {}, 9, "ddd"),
        ({"a": 9, "b": 9}, {}, 0, ""),
    ],
)
def test_turns(waiting: dict[str, int], weights: dict[str, float], quota: int, got: str) -> None:
    books = busy(*(tenant for tenant in waiting if tenant != DEFAULT))
    terms = {tenant: Terms(weight=weight) for tenant, weight in weights.items()}
    _, turns = deal(books, waiting, terms, NONE, quota=quota, expected_s=1.0)
    assert "".join(turn.tenant[0] for turn in turns) == got


def test_a_lone_default_is_not_counted() -> None:
    books, turns = deal(Books(), {DEFAULT: 5}, {}, NONE, quota=3, expected_s=2.0)
    assert books == Books() and [turn.charge for turn in turns] == [0.0] * 3


def test_who_comes_late_starts_level_with_the_others() -> None:
    books, _ = deal(busy("a"), {"a": 99}, {}, NONE, quota=50, expected_s=1.0)
    books, turns = deal(arrive(books, "b"), {"a": 49, "b": 99}, {}, NONE, quota=10, expected_s=1.0)
    assert [turn.tenant for turn in turns].count("b") == 5


def test_a_pause_does_not_forgive_a_debt() -> None:
    books, _ = deal(busy("a", "b"), {"a": 1, "b": 9}, {}, NONE, quota=2, expected_s=1.0)
    books = settle(books, "a", 1.0, {}, seconds=5.0)  # its one job took long; it has left
    _, turns = deal(arrive(books, "a"), {"a": 9, "b": 9}, {}, NONE, quota=6, expected_s=1.0)
    assert [turn.tenant for turn in turns] == ["b", "b", "b", "b", "b", "a"]


def test_what_comes_back_is_not_charged() -> None:
    books, turns = deal(busy("a", "b"), {"a": 9, "b": 9}, {}, NONE, quota=2, expected_s=1.0)
    books = refund(books, "a", turns[0].charge)
    _, turns = deal(books, {"a": 9, "b": 9}, {}, NONE, quota=2, expected_s=1.0)
    assert [turn.tenant for turn in turns] == ["a", "a"]


def test_a_cap_holds_and_the_others_go_on() -> None:
    terms = {"a": Terms(cap=2)}
    books, turns = deal(busy("a", "b"), {"a": 9, "b": 3}, terms, {"a": 1}, quota=9, expected_s=1.0)
    assert sorted(turn.tenant for turn in turns) == ["a", "b", "b", "b"]
    _, turns = deal(books, {"a": 8}, terms, {"a": 2}, quota=9, expected_s=1.0)
    assert turns == []


def test_time_at_a_cap_earns_nothing() -> None:
    """Neither for the tenant at its cap nor for one that comes while it is there."""
    terms = {"a": Terms(cap=1)}
    books, _ = deal(busy("a", "b"), {"a": 999, "b": 999}, terms, NONE, quota=2, expected_s=1.0)
    books, turns = deal(books, {"a": 998, "b": 998}, terms, {"a": 1}, quota=500, expected_s=1.0)
    assert {turn.tenant for turn in turns} == {"b"}
    books, _ = deal(books, {"a": 998, "b": 498}, terms, {"a": 1}, quota=1, expected_s=1.0)
    books, turns = deal(arrive(books, "c"), {"a": 998, "b": 497, "c": 99}, {}, {"a": 1}, quota=30, expected_s=1.0)
    counts = [sum(turn.tenant == name for turn in turns) for name in "abc"]
    assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize(("weight", "cap"), [(0.0, None), (-1.0, None), (float("nan"), None), (1.0, 0), (1.0, -1)])
def test_terms_make_sense(weight: float, cap: int | None) -> None:
    with pytest.raises(ValueError):
        Terms(weight=weight, cap=cap)


TENANTS = ("a", "b", "c", DEFAULT)


@given(
    weights=st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 3.0]) for name in TENANTS}),
    jobs=st.lists(st.tuples(st.floats(0.001, 2.0), st.floats(0.001, 2.0)), min_size=1, max_size=120),
    batch=st.integers(1, 8),
)
def test_the_gap_between_busy_tenants_is_two_charges_at_most(
    weights: dict[str, float], jobs: list[tuple[float, float]], batch: int
) -> None:
    """Over any time in which tenants always have jobs: what they got, over their weights, stays close."""
    terms = {name: Terms(weight=weight) for name, weight in weights.items()}
    waiting = dict.fromkeys(TENANTS, 10_000)
    books, got = busy(*TENANTS), dict.fromkeys(TENANTS, 0.0)
    exact = batch > 1  # a batch is dealt before its costs are known: then only foreseen costs keep the bound
    largest = 0.0
    for expected_s, actual_s in jobs:
        books, turns = deal(books, waiting, terms, NONE, quota=batch, expected_s=expected_s)
        for turn in turns:
            seconds = expected_s if exact else actual_s
            books = settle(books, turn.tenant, turn.charge, terms, seconds=seconds)
            got[turn.tenant] += seconds / weights[turn.tenant]
            largest = max(largest, seconds / weights[turn.tenant], turn.charge)
        assert max(got.values()) - min(got.values()) <= 2 * largest + 1e-9


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(("a", "b", "c")), st.integers(0, 6), st.floats(0.01, 5.0)), min_size=5, max_size=80
    )
)
def test_nobody_starves(steps: list[tuple[str, int, float]]) -> None:
    """Whatever the others do, a tenant with a waiting job has it served within a bounded number of charges."""
    waiting = {"a": 0, "b": 0, "c": 0, "victim": 1_000}
    books, unserved = busy("victim"), 0.0
    largest = 0.0
    for tenant, count, seconds in steps:
        waiting[tenant] += count
        books = arrive(books, tenant) if waiting[tenant] else books
        books, turns = deal(books, waiting, {}, NONE, quota=1, expected_s=seconds)
        largest = max(largest, seconds)
        for turn in turns:
            waiting[turn.tenant] -= 1
            unserved = 0.0 if turn.tenant == "victim" else unserved + seconds
        assert unserved <= 2 * 3 * largest + 1e-9  # two charges for each of the others
