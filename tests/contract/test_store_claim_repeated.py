"""A claim whose answer was lost is repeated: what it claimed must not stay with a worker that does not know of it."""

from __future__ import annotations

from penstock.job import JobState
from penstock.store import Store
from tests.fixtures.store import T0, W, add, outcome, register


def test_a_repeated_claim_has_what_the_first_one_claimed(store: Store) -> None:
    """Under a new attempt number, so that whatever the first answer would have allowed is shut out."""
    ids = add(store, 3)
    store.claim(ids[:2], worker=W, now=T0 + 1, claimed_at=T0 + 0.5)
    again = store.claim(ids, worker=W, now=T0 + 1, claimed_at=T0 + 0.5, repeated=True, need_input=ids)
    assert {id: row.attempt for id, row in again.claimed.items()} == {ids[0]: 2, ids[1]: 2, ids[2]: 1}
    assert {row.input for row in again.claimed.values()} == {'"hello"'}
    assert not again.others
    assert store.settle([outcome(ids[0], attempt=1)], worker=W, now=T0 + 2) == []
    (row,) = store.settle([outcome(ids[0], attempt=2)], worker=W, now=T0 + 2)
    assert row.state is JobState.SUCCEEDED


def test_claim_times_may_differ_per_job(store: Store) -> None:
    """They travel as JSON then, and may come back a bit different."""
    ids = add(store, 3)
    times = {ids[0]: 1_700_000_000.123456789, ids[1]: 1_700_000_000.1, ids[2]: 1_700_000_007.7}
    store.claim(ids[:2], worker=W, now=T0 + 9, claimed_at=times)
    again = store.claim(ids, worker=W, now=T0 + 9, claimed_at=times, repeated=True)
    assert {id: row.attempt for id, row in again.claimed.items()} == {ids[0]: 2, ids[1]: 2, ids[2]: 1}


def test_only_its_own_claim_is_repeated(store: Store) -> None:
    """Not what another worker runs, and not what this one has claimed with another call."""
    register(store, "w2")
    foreign, earlier = add(store, 2)
    store.claim([foreign], worker="w2", now=T0 + 1, claimed_at=T0 + 0.5)
    store.claim([earlier], worker=W, now=T0 + 1, claimed_at=T0 + 0.25)
    again = store.claim([foreign, earlier], worker=W, now=T0 + 1, claimed_at=T0 + 0.5, repeated=True)
    assert not again.claimed
    assert {id: row.attempt for id, row in again.others.items()} == {foreign: 1, earlier: 1}


def test_what_has_been_settled_since_is_not_claimed_again(store: Store) -> None:
    """The lease was lost in between, and somebody else was faster."""
    (id,) = add(store)
    store.claim([id], worker=W, now=T0 + 1, claimed_at=T0 + 0.5)
    store.settle([outcome(id)], worker=W, now=T0 + 2)
    again = store.claim([id], worker=W, now=T0 + 1, claimed_at=T0 + 0.5, repeated=True)
    assert not again.claimed
    assert again.others[id].state is JobState.SUCCEEDED
