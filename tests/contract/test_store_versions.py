"""Jobs that ask for a version, on each database: who may claim them, and what their rows say."""

from __future__ import annotations

import pytest

from penstock.errors import IdempotencyConflict
from penstock.job import JobState
from penstock.store import Store
from tests.fixtures.store import T0, W, add, end, make_job, outcome, register


def test_a_row_says_what_ran_it(store: Store) -> None:
    (any_,) = add(store, version="")
    (two,) = add(store, version="", asked_version="2")
    assert [store.get(id).version for id in (any_, two)] == ["", ""]
    assert [store.get(id).asked_version for id in (any_, two)] == [None, "2"]
    assert set(store.claim([any_, two], worker=W, version="2", now=T0).claimed) == {any_, two}
    assert [store.get(id).version for id in (any_, two)] == ["2", "2"]


@pytest.mark.parametrize("times", [None, "each"])
def test_no_other_version_claims_it(store: Store, times: str | None) -> None:
    (two,) = add(store, version="", asked_version="2")
    (any_,) = add(store, version="")
    claimed_at = None if times is None else {two: T0, any_: T0 + 1}
    result = store.claim([two, any_], worker=W, version="1", now=T0, claimed_at=claimed_at)
    assert set(result.claimed) == {any_}
    assert result.others[two].state is JobState.ACCEPTED
    assert store.get(any_).version == "1"


def test_a_suspect_of_another_version_is_not_to_be_run_alone(store: Store) -> None:
    """Whoever may not run it would put it back among its own for ever."""
    (two,) = add(store, version="", asked_version="2", available_at=T0)
    store.claim([two], worker=W, version="2", now=T0)
    store.settle([outcome(two, JobState.ACCEPTED, available_at=T0, suspicions=1)], worker=W, now=T0)
    other, own = (store.claim([two, "x"], worker=W, version=version, now=T0 + 1) for version in "12")
    assert not other.others[two].suspect and own.others[two].suspect
    assert not store.claim([two], worker=W, version="1", now=T0 + 1, alone=True).others[two].suspect
    assert set(store.claim([two], worker=W, version="2", now=T0 + 1, alone=True).claimed) == {two}


def test_what_was_asked_for_outlives_every_way_back(store: Store) -> None:
    retried, rescued, replayed = (add(store, version="", asked_version="2", available_at=T0)[0] for _ in range(3))
    register(store, "dead", lease_until=T0 + 1)
    store.claim([retried, replayed], worker=W, version="2", now=T0)
    store.claim([rescued], worker="dead", version="2", now=T0)
    store.settle(
        [outcome(retried, JobState.ACCEPTED, available_at=T0), outcome(replayed, JobState.FAILED)], worker=W, now=T0
    )
    store.rescue(now=T0 + 2, max_losses=3, max_kills=3)
    store.retry(replayed, now=T0 + 2)
    due = {job.id: job for job in store.take_due(now=T0 + 3, limit=10, lease_s=1)}
    assert {job.asked_version for job in due.values()} == {"2"} and set(due) == {retried, rescued, replayed}
    assert due[replayed].version == "", "nothing has run it again yet"


def test_counts_know_the_version_asked_for(store: Store) -> None:
    add(store, 3, version="")
    add(store, 2, version="", asked_version="2")
    done = add(store, 1, version="", asked_version="2")
    store.claim(done, worker=W, version="2", now=T0)
    end(store, done)
    assert {(c.model, c.version, c.state, c.count) for c in store.counts()} == {
        ("embed", None, JobState.ACCEPTED, 3),
        ("embed", "2", JobState.ACCEPTED, 2),
    }


def test_a_list_of_what_asks_for_a_version(store: Store) -> None:
    add(store, 3, version="")
    two = add(store, 2, version="", asked_version="2")
    assert {job.id for job in store.list(model="embed@2")} == set(two)
    assert len(store.list(model="embed")) == 5
    assert {job.id for job in store.list(model="embed@2", status="accepted", lane="background")} == set(two)
    assert store.list(model="embed@3") == []


def test_a_key_of_an_earlier_release_is_the_same_request_after_the_upgrade(store: Store) -> None:
    """Its digest is that of the version which its producer had found."""
    old = make_job(idempotency_key="k", digest="0" * 32, version="1")
    store.insert([old])
    (again,) = store.insert([make_job(idempotency_key="k", digest="2:abc", version="")])
    assert (again.id, again.created) == (old.id, False)
    for other in ({"input": '"bye"'}, {"model": "shout"}, {"asked_version": "1"}):
        with pytest.raises(IdempotencyConflict):
            store.insert([make_job(idempotency_key="k", digest="2:abd", version="", **other)])
