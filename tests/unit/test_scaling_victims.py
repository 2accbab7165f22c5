"""Who stops when a pool has too many workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.scaling.victims import ORDER, Candidate, victims

SLOTS = st.lists(
    st.builds(Candidate, st.uuids().map(str), st.sampled_from(sorted(ORDER)), st.floats(0, 1e6)),
    unique_by=lambda c: c.id,
)


def test_starting_before_parked_before_idle_before_busy_and_the_newest_first() -> None:
    slots = [
        Candidate("busy", "busy", 5.0),
        Candidate("old idle", "idle", 1.0),
        Candidate("new idle", "idle", 2.0),
        Candidate("parked", "parked", 0.0),
        Candidate("starting", "starting", 0.0),
    ]
    assert victims(slots, 9) == ["starting", "parked", "new idle", "old idle", "busy"]
    assert victims(slots, 2) == ["starting", "parked"]
    assert victims(slots, 0) == victims(slots, -3) == victims([], 5) == []


@given(SLOTS, st.integers(-2, 20))
def test_no_victim_is_dearer_than_one_that_stays(slots: list[Candidate], surplus: int) -> None:
    chosen = set(victims(slots, surplus))
    assert len(chosen) == min(max(surplus, 0), len(slots))
    gone = [ORDER[slot.phase] for slot in slots if slot.id in chosen]
    stay = [ORDER[slot.phase] for slot in slots if slot.id not in chosen]
    assert not gone or not stay or max(gone) <= min(stay)
