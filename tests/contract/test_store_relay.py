"""What the store promises to dispatchers, on each database: due jobs, leases, rescue, expiry, retention."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.errors import JobNotFound
from penstock.job import JobState, new_id
from penstock.store import Store
from tests.fixtures.store import T0, W, add, claim, end, make_job, outcome, register, running


def taken(store: Store, *, now: float, limit: int = 1000, lease_s: float = 5.0) -> list[str]:
    return [job.id for job in store.take_due(now=now, limit=limit, lease_s=lease_s)]


# Due --------------------------------------------------------------------------------------------------------------


def test_a_fresh_job_is_left_to_its_producer_for_a_while(store: Store) -> None:
    store.insert([job := make_job()], publish_lease_s=3.0)
    assert taken(store, now=T0 + 2.9) == []
    assert store.next_due_at() == T0 + 3.0
    assert taken(store, now=T0 + 3.0) == [job.id]


def test_a_delayed_job_is_due_at_its_time(store: Store) -> None:
    (later,), (soon,) = add(store, available_at=T0 + 60), add(store, available_at=T0 + 30)
    assert store.next_due_at() == T0 + 30
    assert taken(store, now=T0 + 29) == []
    assert taken(store, now=T0 + 60) == [soon, later]


def test_what_was_taken_is_not_taken_again_while_the_lease_lasts(store: Store) -> None:
    add(store, 5, available_at=T0 + 1)
    first = taken(store, now=T0 + 10, limit=3)
    second = taken(store, now=T0 + 10)
    assert (len(first), len(second)) == (3, 2)
    assert taken(store, now=T0 + 14.9) == []
    assert store.next_due_at() == T0 + 15
    store.mark_queued(first, now=T0 + 11)
    assert set(taken(store, now=T0 + 15)) == set(second)


def test_due_jobs_come_complete(store: Store) -> None:
    store.insert([job := make_job(canvas="{}", input="[1]", tags={"a": "b"}, priority=3, timeout_s=2.0)])
    (found,) = store.take_due(now=T0 + 9, limit=10, lease_s=5)
    assert found == store.get(job.id)


def test_nothing_is_due_in_an_empty_store(store: Store) -> None:
    assert store.next_due_at() is None
    assert taken(store, now=T0) == []


def test_dispatchers_share_the_work(store: Store) -> None:
    ids = add(store, 400, available_at=T0 + 1)

    def dispatch(_: int) -> list[str]:
        mine: list[str] = []
        while got := taken(store, now=T0 + 5, limit=17):
            mine += got
        return mine

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(dispatch, range(4)))
    everything = [id for share in shares for id in share]
    assert len(everything) == len(set(everything))
    # One that met only locked rows has stopped early; what it left is due all the same.
    assert set(everything) | set(taken(store, now=T0 + 5)) == set(ids)


def test_a_mark_concerns_jobs_that_wait_to_be_published(store: Store) -> None:
    fresh, claimed, cancelled = add(store, 3)
    claim(store, [claimed])
    store.cancel(cancelled, now=T0)
    assert store.mark_queued([fresh, claimed, cancelled, "nobody"], now=T0 + 1) == 1
    assert (store.get(fresh).state, store.get(fresh).ledger.queued_at) == (JobState.QUEUED, T0 + 1)


def test_a_late_mark_does_not_stick_to_a_retry(store: Store) -> None:
    """The first message was marked after its job had failed and was held back: only its next message counts."""
    (id,) = running(store)
    store.settle([outcome(id, JobState.ACCEPTED, available_at=T0 + 30, failures=1)], worker=W, now=T0 + 2)
    assert store.mark_queued([id], now=T0 + 3) == 0
    assert taken(store, now=T0 + 30) == [id]
    assert store.mark_queued([id], now=T0 + 31) == 1


# Rescue -----------------------------------------------------------------------------------------------------------


def test_jobs_of_a_dead_worker_are_accepted_again(store: Store) -> None:
    register(store, "dead", lease_until=T0 + 10)
    ids = running(store, 3, worker="dead", reply_to="c")
    (healthy,) = running(store)
    assert store.rescue(now=T0 + 9.9, max_losses=5) == []
    rescued = store.rescue(now=T0 + 10, max_losses=5)
    assert {row.id for row in rescued} == set(ids)
    assert {(row.state, row.attempt, row.reply_to) for row in rescued} == {(JobState.ACCEPTED, 1, "c")}
    assert {store.get(id).losses for id in ids} == {1}
    assert store.rescue(now=T0 + 11, max_losses=5) == []
    assert store.get(healthy).state is JobState.RUNNING
    job = store.get(ids[0])
    assert (job.worker, job.available_at, job.failures) == (None, T0 + 10, 0)
    assert set(taken(store, now=T0 + 10)) == set(ids)
    assert [worker.instance for worker in store.workers()] == [W]


def test_the_budget_of_losses_ends(store: Store) -> None:
    (id,) = add(store)
    for attempt in (1, 2, 3):
        register(store, "dead", lease_until=T0 + 10)
        claim(store, [id], worker="dead", now=T0 + 20)
        (row,) = store.rescue(now=T0 + 20, max_losses=2, max_kills=9)
        assert (row.attempt, store.get(id).losses) == (attempt, attempt)
    assert row.state is JobState.FAILED and row.error is not None
    job = store.get(id)
    assert job.error is not None
    assert (job.state, job.error["code"], job.ledger.settled_at) == (JobState.FAILED, "worker_lost", T0 + 20)


def test_a_rescue_ends_what_was_cancelled_or_is_overdue(store: Store) -> None:
    register(store, "dead", lease_until=T0 + 10)
    (cancelled,) = running(store, worker="dead")
    (overdue,) = running(store, worker="dead", deadline_at=T0 + 9)
    store.cancel(cancelled, now=T0)
    states = {row.id: row.state for row in store.rescue(now=T0 + 10, max_losses=0)}
    assert states == {cancelled: JobState.CANCELLED, overdue: JobState.EXPIRED}


def test_a_claim_without_a_lease_is_taken_back(store: Store) -> None:
    (id,) = running(store, worker="ghost")
    assert [row.id for row in store.rescue(now=T0 + 2, max_losses=5)] == [id]


def test_only_those_who_were_found_dead_lose_their_lease(store: Store) -> None:
    """Whatever their clocks say; and one that has beaten since keeps it."""
    late = T0 + 12345.678901234
    register(store, "behind", lease_until=T0 - 1e6)
    register(store, "dead", lease_until=late)
    register(store, "woken", lease_until=T0 + 10)
    ids = {worker: running(store, worker=worker)[0] for worker in ("behind", "dead", "woken")}
    store.heartbeat("woken", lease_until=T0 + 20, now=T0)
    rescued = store.rescue(now=T0 + 5, max_losses=5, dead=[("dead", late), ("woken", T0 + 10)])
    assert [row.id for row in rescued] == [ids["dead"]]
    assert store.rescue(now=T0 + 5, max_losses=5, dead=[]) == []


def test_a_heartbeat_keeps_the_lease_until_it_was_lost(store: Store) -> None:
    register(store, "w2", lease_until=T0 + 10)
    assert store.heartbeat("w2", lease_until=T0 + 20, now=T0 + 5)
    (id,) = running(store, worker="w2")
    assert store.rescue(now=T0 + 15, max_losses=5) == []
    # Late, but nobody has noticed.
    assert store.heartbeat("w2", lease_until=T0 + 40, now=T0 + 25)
    assert [row.id for row in store.rescue(now=T0 + 40, max_losses=5)] == [id]
    assert not store.heartbeat("w2", lease_until=T0 + 60, now=T0 + 41)
    register(store, "w2", lease_until=T0 + 60)
    assert store.heartbeat("w2", lease_until=T0 + 60, now=T0 + 42)


def test_workers_are_listed_with_what_they_said(store: Store) -> None:
    store.register_worker("i1", name="gpu0", pool="gpu", lease_until=T0 + 9, now=T0, info={"device": "cuda:0"})
    store.heartbeat("i1", lease_until=T0 + 30, now=T0 + 5)
    (worker,) = [worker for worker in store.workers() if worker.instance == "i1"]
    assert (worker.name, worker.pool, worker.info) == ("gpu0", "gpu", {"device": "cuda:0"})
    assert (worker.started_at, worker.seen_at, worker.lease_until) == (T0, T0 + 5, T0 + 30)
    store.unregister_worker("i1")
    assert [worker.instance for worker in store.workers()] == [W]


def test_two_dispatchers_rescue_a_job_once(store: Store) -> None:
    register(store, "dead", lease_until=T0 + 10)
    ids = running(store, 100, worker="dead")
    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(lambda _: store.rescue(now=T0 + 20, max_losses=5), range(4)))
    assert sorted(row.id for share in shares for row in share) == sorted(ids)
    assert {job.losses for job in store.get_many(ids).values()} == {1}


# Expire -----------------------------------------------------------------------------------------------------------


def test_waiting_jobs_past_their_deadline_expire(store: Store) -> None:
    accepted, queued, held, patient = add(store, 4, deadline_at=T0 + 10, reply_to="c")
    (patient,) = add(store)
    store.mark_queued([queued], now=T0)
    claim(store, [held])
    store.cancel(add(store, deadline_at=T0 + 1)[0], now=T0)
    assert store.expire(now=T0 + 9, limit=10) == []
    expired = [*store.expire(now=T0 + 10, limit=1), *store.expire(now=T0 + 10, limit=10)]
    assert {(row.state, row.reply_to) for row in expired} == {(JobState.EXPIRED, "c")}
    assert len(expired) == 3
    assert store.get(accepted).ledger.settled_at == T0 + 10
    assert store.get(held).state is JobState.RUNNING
    assert store.get(patient).state is JobState.ACCEPTED


# Lost messages ----------------------------------------------------------------------------------------------------


def test_queued_jobs_come_in_pages(store: Store) -> None:
    # Ids in the opposite order of time, as those of other programs may be.
    ids = sorted(new_id() for _ in range(25))[::-1]
    store.insert([make_job(id=id, accepted_at=T0 + at // 2) for at, id in enumerate(ids)])
    oldest = [id for at in range(0, 25, 2) for id in sorted(ids[at : at + 2])]
    store.mark_queued(oldest[:20], now=T0)
    page = store.queued(limit=8)
    assert [moment.id for moment in page] == oldest[:8]
    page = store.queued(after=page[-1], limit=8)
    assert [moment.id for moment in page] == oldest[8:16]
    assert [moment.id for moment in store.queued(after=page[-1], limit=8)] == oldest[16:20]


def test_a_job_whose_message_is_lost_is_due_again(store: Store) -> None:
    lost, held, accepted = add(store, 3)
    store.mark_queued([lost, held], now=T0)
    claim(store, [held])
    assert store.requeue([lost, held, accepted, "nobody"], now=T0 + 1) == 1
    assert taken(store, now=T0 + 1) == [lost]


# Retention --------------------------------------------------------------------------------------------------------


def test_what_is_past_its_retention_is_removed_with_its_parts(store: Store) -> None:
    old = running(store, 5, tags={"a": "b"}, idempotency_key=None, webhook="https://example.com/")
    end(store, old, now=T0 + 2)
    (keyed,) = running(store, idempotency_key="k", digest="d")
    end(store, [keyed], now=T0 + 2)
    (young,) = running(store, tags={"a": "b"})
    end(store, [young], now=T0 + 20)
    (open_,) = add(store)
    delivered, *pending = store.list_deliveries()
    store.record_delivery(delivered.id, now=T0 + 3, outcome="delivered", status_code=204)
    assert store.prune(before=T0 + 10, limit=4) == 4
    assert store.prune(before=T0 + 10, limit=4) == 2
    assert store.prune(before=T0 + 10, limit=4) == 0
    assert {job.id for job in store.list()} == {young, open_}
    assert [job.id for job in store.list(tag="a=b")] == [young]
    with pytest.raises(JobNotFound):
        store.get(old[0])
    # An event that was not delivered yet outlives its job.
    assert {row.id for row in store.list_deliveries()} == {row.id for row in pending}
    assert store.insert([make_job(idempotency_key="k", digest="other")])[0].created
