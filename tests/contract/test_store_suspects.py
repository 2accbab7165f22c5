"""Suspects and quarantine, on each database: what the policy says in Python the store says in SQL."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigError, Quarantined
from penstock.job import JobState
from penstock.policy.suspicion import Evidence, Sentence, after_loss, runs_alone
from penstock.store import Store
from tests.fixtures.store import T0, W, add, claim, outcome, register
from tests.unit.test_suspicion import LOSSES

KILLS = 2


def die(store: Store, ids: list[str], *, died: bool = True) -> dict[str, JobState]:
    """A worker that holds these jobs, with others that are no suspects, goes; their states after the rescue."""
    register(store, "dead", lease_until=T0 + 10)
    claim(store, ids, worker="dead", now=T0 + 10)
    if not died:
        store.unregister_worker("dead")
    rows = store.rescue(now=T0 + 10, max_losses=99, max_kills=KILLS)
    return {row.id: row.state for row in rows if row.id in ids}


def evidence(store: Store, id: str) -> Evidence:
    job = store.get(id)
    return Evidence(job.suspicions, job.kills)


def bring_to(store: Store, wanted: Evidence) -> str:
    """A job against which this is known, by the ways that there are."""
    (id,) = add(store)
    for _ in range(wanted.suspicions - wanted.kills):
        claim(store, [id], now=T0 + 10)
        store.settle([_stuck(store, id)], worker=W, now=T0 + 2)
    for _ in range(wanted.kills):
        die(store, [id])
    assert evidence(store, id) == wanted
    return id


def _stuck(store: Store, id: str):
    attempt = store.get(id).attempt
    return outcome(id, JobState.ACCEPTED, attempt=attempt, available_at=T0, suspicions=1)


@pytest.mark.parametrize(
    ("before", "died", "held", "after", "sentence"), [row[1:] for row in LOSSES], ids=[row[0] for row in LOSSES]
)
def test_the_store_judges_as_the_policy_does(store: Store, before, died, held, after, sentence) -> None:
    id = bring_to(store, Evidence(*before))
    # What the worker held besides: claimed apart, as finished jobs are whose outcome was not committed yet.
    register(store, "dead", lease_until=T0 + 10)
    if held > 1:
        claim(store, add(store, held - 1), worker="dead")
    state = die(store, [id], died=died)[id]
    assert evidence(store, id) == Evidence(*after)
    assert after_loss(Evidence(*before), died=died, held=held, max_kills=KILLS) == (Evidence(*after), sentence)
    assert state is (JobState.FAILED if sentence is Sentence.QUARANTINE else JobState.ACCEPTED)
    error = store.get(id).error
    assert (error or {}).get("code") == (Quarantined.code if sentence is Sentence.QUARANTINE else None)
    # Who has to run alone cannot be claimed together with another one.
    if state is JobState.ACCEPTED:
        (mate,) = add(store)
        result = store.claim([id, mate], worker=W, now=T0 + 20)
        alone = runs_alone(Evidence(*after))
        assert (id in result.claimed, mate in result.claimed) == (not alone, True)
        if alone:
            assert result.others[id].suspect
            claim(store, [id], now=T0 + 20)


def test_mates_of_a_killer_become_suspects_and_succeed(store: Store) -> None:
    ids = add(store, 4)
    assert set(die(store, ids).values()) == {JobState.ACCEPTED}
    for id in ids[1:]:
        claim(store, [id], now=T0 + 20)
        (row,) = store.settle([outcome(id, attempt=2)], worker=W, now=T0 + 21)
        assert row.state is JobState.SUCCEEDED
    assert [die(store, ids[:1])[ids[0]] for _ in range(KILLS)] == [JobState.ACCEPTED, JobState.FAILED]
    error = store.get(ids[0]).error
    assert error is not None
    assert (error["code"], error["retryable"]) == ("quarantined", False)
    assert "penstock job retry" in error["message"]


def test_who_is_sent_again_from_quarantine_starts_anew_and_alone(store: Store) -> None:
    (id,) = add(store)
    for _ in range(KILLS):
        die(store, [id])
    job = store.retry(id, now=T0 + 30)
    assert (job.state, job.kills, job.suspicions, job.error) == (JobState.ACCEPTED, 0, KILLS, None)
    assert not store.claim([id, *add(store)], worker=W, now=T0 + 40).claimed.get(id)
    claim(store, [id], now=T0 + 40)


@pytest.mark.parametrize(
    ("cancelled", "deadline_at", "state"),
    [(True, None, JobState.CANCELLED), (False, T0 + 9, JobState.EXPIRED), (True, T0 + 9, JobState.CANCELLED)],
)
def test_cancelled_and_overdue_jobs_are_not_quarantined(store: Store, cancelled, deadline_at, state) -> None:
    (id,) = add(store, deadline_at=deadline_at)
    register(store, "dead", lease_until=T0 + 10)
    claim(store, [id], worker="dead")
    if cancelled:
        store.cancel(id, now=T0 + 2)
    (row,) = store.rescue(now=T0 + 10, max_losses=9, max_kills=1)
    assert (row.state, row.error) == (state, None)


def test_a_suspect_that_may_not_run_is_not_offered(store: Store) -> None:
    """Its time has not come, or it runs elsewhere: then there is nothing to put back."""
    held, runs = add(store, 2)
    mate, other = add(store, 2)
    claim(store, [held, runs])
    stuck = [_stuck(store, held), _stuck(store, runs)]
    stuck[0].available_at = T0 + 1000
    store.settle(stuck, worker=W, now=T0 + 2)
    claim(store, [runs], now=T0 + 3)
    result = store.claim([held, runs, mate, other], worker=W, now=T0 + 4)
    assert set(result.claimed) == {mate, other}
    assert [result.others[id].suspect for id in (held, runs)] == [False, False]


def test_the_setting_allows_no_fewer_than_one_kill() -> None:
    from penstock.settings import Settings

    with pytest.raises(ConfigError):
        Settings.load(retry={"kills": 0})
