"""The search for faulty items: who is found, and in how many calls."""

from __future__ import annotations

from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.bisect import PROBES, SMALL, Answer, Search, Verdict


def search(size: int, bad: set[int], *, misfits: set[int] = frozenset(), room: int = 10**6, alike: bool = True):
    """Drive one search: ``bad`` items raise, ``misfits`` never fit, nor do more than ``room`` items together."""
    found = Search(size)
    plan = found.plan()
    calls: list[range] = []
    fine: list[int] = []
    guilty: list[int] = []
    try:
        part = next(plan)
        while True:
            calls.append(part)
            if len(part) > room or misfits & set(part):
                answer = Answer(Verdict.NO_MEMORY, "memory")
            elif bad & set(part):
                answer = Answer(Verdict.RAISED, "bug" if alike else part[0])
            else:
                answer = Answer(Verdict.FINE)
                fine += part
            if len(part) == 1 and answer.verdict is not Verdict.FINE:
                guilty += part
            part = plan.send(answer)
    except StopIteration:
        pass
    return calls, fine, guilty, found.condemned


@given(st.integers(1, 80), st.data())
def test_every_item_has_exactly_one_fate(size: int, data: st.DataObject) -> None:
    """And none is called guilty that is not; a condemned one was not tried alone."""
    some = st.sets(st.integers(0, size - 1))
    bad, misfits = data.draw(some), data.draw(some)
    room = data.draw(st.integers(1, size))
    _, fine, guilty, condemned = search(size, bad, misfits=misfits, room=room, alike=data.draw(st.booleans()))
    assert sorted(fine + guilty + condemned) == list(range(size))
    assert set(guilty) <= bad | misfits
    if size <= SMALL or fine:
        assert condemned == []


@pytest.mark.parametrize("size", [2, 3, 7, 32, 64, 100])
def test_one_faulty_item_costs_a_logarithm(size: int) -> None:
    for place in range(size):
        calls, fine, guilty, _ = search(size, {place})
        assert (len(fine), guilty) == (size - 1, [place])
        assert len(calls) <= 1 + 2 * ceil(log2(size))


def test_a_broken_model_costs_few_calls() -> None:
    calls, fine, guilty, condemned = search(64, set(range(64)))
    assert (fine, len(guilty), len(condemned)) == ([], PROBES, 64 - PROBES)
    assert len(calls) == 7 + 1 + PROBES - 2
    assert max(guilty) == 63, "the probes are spread over the batch"


@pytest.mark.parametrize(
    ("name", "size", "bad", "alike"),
    [
        ("small batches are searched to the end", SMALL, set(range(SMALL)), True),
        ("faults of many kinds", 64, set(range(64)), False),
        ("the last item is innocent", 64, set(range(63)), True),
        ("faulty items in front", 64, set(range(40)), True),
    ],
)
def test_nobody_is_condemned_without_need(name: str, size: int, bad: set[int], alike: bool) -> None:
    _, fine, guilty, condemned = search(size, bad, alike=alike)
    assert (sorted(guilty), len(fine), condemned) == (sorted(bad), size - len(bad), [])


def test_too_large_a_size_is_not_tried_twice() -> None:
    calls, fine, _, _ = search(64, set(), room=16)
    assert [len(part) for part in calls] == [64, 32, 16, 16, 16, 16]
    assert len(fine) == 64


def test_an_item_that_never_fits_does_not_make_the_others_run_alone() -> None:
    calls, fine, guilty, _ = search(64, set(), misfits={0})
    assert (guilty, len(fine)) == ([0], 63)
    assert len(calls) == 1 + 2 * 6
