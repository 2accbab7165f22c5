"""Which models stay loaded: tables, and a device that cannot hold all of ten models."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.residency import HELP_AFTER_S, KEEP_S, PATIENCE_S, Change, Holding, change, first


def held(name: str, size: int = 1, **more) -> Holding:
    return Holding(name=name, size=size, resident=True, resident_s=100.0, **more)


def cold(name: str, size: int = 1, **more) -> Holding:
    return Holding(name=name, size=size, **more)


@pytest.mark.parametrize(
    ("name", "holdings", "budget", "expected"),
    [
        ("nothing waits", [held("a"), cold("b")], 1, None),
        ("there is room", [held("a"), cold("b", waiting=1)], 2, Change("b")),
        ("the idle one leaves", [held("a"), cold("b", waiting=1, rate=1.0)], 1, Change("b", ("a",))),
        (
            "the one that is worth least leaves",
            [held("a", rate=9.0), held("b", rate=0.5), cold("c", waiting=5, rate=5.0)],
            2,
            Change("c", ("b",)),
        ),
        (
            "load time counts",
            [held("a", rate=1.0, load_s=30.0), held("b", rate=2.0, load_s=1.0), cold("c", waiting=5, rate=5.0)],
            2,
            Change("c", ("b",)),
        ),
        (
            "size counts",
            [held("a", 4, rate=3.0), held("b", 1, rate=1.0), cold("c", 4, waiting=9, rate=9.0)],
            5,
            Change("c", ("a",)),
        ),
        ("the worthy one stays", [held("a", rate=9.0), cold("b", waiting=1, rate=1.0)], 1, None),
        (
            "but not for ever",
            [held("a", rate=9.0), cold("b", waiting=1, rate=1.0, waited_s=PATIENCE_S)],
            1,
            Change("b", ("a",)),
        ),
        ("never what is in use", [held("a", used=True), cold("b", waiting=1, waited_s=PATIENCE_S / 2)], 1, None),
        (
            "what is always in use is drained in the end",
            [held("a", used=True, rate=99.0), cold("b", waiting=1, waited_s=PATIENCE_S)],
            1,
            Change("b", drain=("a",)),
        ),
        (
            "later for what takes long to load",
            [held("a", used=True), cold("b", waiting=1, waited_s=PATIENCE_S, load_s=PATIENCE_S)],
            1,
            None,
        ),
        ("never what is pinned", [held("a", used=True, pinned=True), cold("b", waiting=1, waited_s=99.0)], 1, None),
        (
            "the idle one first, then it is enough to drain one",
            [held("a", used=True, rate=9.0), held("b"), held("c", used=True), cold("d", 2, waiting=1, waited_s=99.0)],
            3,
            Change("d", drain=("c",)),
        ),
        (
            "no more is drained for what another worker has",
            [held("a", used=True), cold("b", waiting=1, elsewhere=True, waited_s=99.0)],
            1,
            None,
        ),
        (
            "a new one stays for a while",
            [Holding(name="a", size=1, resident=True, resident_s=KEEP_S / 2), cold("b", waiting=1, rate=5.0)],
            1,
            None,
        ),
        ("another worker has it", [held("a"), cold("b", waiting=1, elsewhere=True, waited_s=HELP_AFTER_S)], 1, None),
        (
            "another worker has it, and does not keep up",
            [held("a", rate=0.1), cold("b", waiting=1, elsewhere=True, waited_s=PATIENCE_S, rate=9.0)],
            1,
            Change("b", ("a",)),
        ),
        (
            "another worker has it, and what is here is worth more",
            [held("a", rate=9.0), cold("b", waiting=1, elsewhere=True, waited_s=99.0, rate=1.0)],
            1,
            None,
        ),
        (
            "another worker has it, but there is room and it does not keep up",
            [held("a"), cold("b", waiting=1, elsewhere=True, waited_s=HELP_AFTER_S)],
            2,
            Change("b"),
        ),
        (
            "what was claimed here must run here",
            [held("a", rate=9.0), cold("b", used=True, elsewhere=True)],
            1,
            Change("b", ("a",)),
        ),
        ("what can never fit is left alone", [held("a"), cold("b", 9, waiting=1, waited_s=99.0)], 2, None),
        (
            "who has waited longest comes first",
            [held("a"), cold("b", waiting=9, waited_s=1.0), cold("c", waiting=1, waited_s=2.0)],
            1,
            Change("c", ("a",)),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_changes(name, holdings, budget, expected):
    assert change(holdings, budget) == expected


def test_at_the_start_each_that_fits_in_order():
    assert first([("a", 3), ("b", 9), ("c", 2), ("d", 1)], 5) == ["a", "c"]


holdings = st.lists(
    st.builds(
        Holding,
        name=st.text("abc", min_size=1, max_size=6),
        size=st.integers(0, 5),
        load_s=st.floats(0.1, 30),
        rate=st.floats(0, 100),
        resident=st.booleans(),
        resident_s=st.floats(0, 10),
        used=st.booleans(),
        pinned=st.booleans(),
        waiting=st.integers(0, 3),
        waited_s=st.floats(0, 10),
        elsewhere=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda h: h.name,
)


@given(holdings=holdings, budget=st.integers(1, 12))
def test_a_change_fits_and_takes_nothing_in_use(holdings, budget):
    found = change(holdings, budget)
    if found is None:
        return
    by_name = {h.name: h for h in holdings}
    assert not by_name[found.load].resident
    assert all(by_name[name].resident and not by_name[name].used for name in found.evict)
    assert all(by_name[name].used and not by_name[name].pinned for name in found.drain)
    gone = {*found.evict, *found.drain, *(h.name for h in holdings if found.drain and not h.used)}
    after = sum(h.size for h in holdings if h.resident and h.name not in gone) + by_name[found.load].size
    before = sum(h.size for h in holdings if h.resident)
    assert after <= max(budget, before), "within the budget, if it was within it before"


def test_every_model_is_served_in_the_end_and_the_popular_ones_are_loaded_seldom():
    """Ten models of equal size, Zipf popularity, room for four; a fake device that loads in 1 s."""
    rng = random.Random(5)
    names = [f"m{rank}" for rank in range(10)]
    weights = [1 / (rank + 1) for rank in range(10)]
    resident: dict[str, float] = dict.fromkeys(names[:4], -100.0)
    waiting = dict.fromkeys(names, 0)
    since: dict[str, float] = {}
    rates = dict.fromkeys(names, 0.0)
    loads = dict.fromkeys(names, 0)
    longest, now = 0.0, 0.0
    while now < 600.0:
        for name in rng.choices(names, weights, k=5):
            waiting[name] += 1
            rates[name] += 1 / 30
        for name in names:
            rates[name] *= 0.977
            if name in resident:
                waiting[name] = 0
                since.pop(name, None)
            elif waiting[name]:
                since.setdefault(name, now)
                longest = max(longest, now - since[name])
        found = change(
            [
                Holding(
                    name=name,
                    size=1,
                    rate=rates[name],
                    resident=name in resident,
                    resident_s=now - resident.get(name, now),
                    waiting=waiting[name],
                    waited_s=now - since.get(name, now),
                )
                for name in names
            ],
            4,
        )
        if found is not None:
            for name in found.evict:
                del resident[name]
            resident[found.load] = now
            loads[found.load] += 1
        now += 1.0
    assert longest < 4 * PATIENCE_S, "nobody waits for ever"
    assert loads["m0"] < loads["m9"], "the popular one stays"
