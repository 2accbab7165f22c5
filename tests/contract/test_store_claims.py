"""What the store promises to workers, on each database: fenced claims, outcomes that count once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.job import TERMINAL, JobState, Ledger
from penstock.store import Store
from tests.fixtures.store import T0, W, add, claim, end, make_job, outcome, register, running


def state(store: Store, id: str) -> JobState:
    return store.get(id).state


# Claim ------------------------------------------------------------------------------------------------------------


def test_a_claim_takes_accepted_and_queued_jobs(store: Store) -> None:
    ids = add(store, 4, timeout_s=3.0, deadline_at=T0 + 100)
    assert store.mark_queued(ids[:2], now=T0) == 2
    result = store.claim(ids, worker=W, now=T0 + 1, claimed_at=T0 + 0.5)
    assert set(result.claimed) == set(ids)
    for claimed in result.claimed.values():
        assert (claimed.attempt, claimed.timeout_s, claimed.deadline_at, claimed.input) == (1, 3.0, T0 + 100, None)
    job = store.get(ids[0])
    assert (job.state, job.worker, job.ledger.claimed_at, job.ledger.queued_at) == (
        JobState.RUNNING,
        W,
        T0 + 0.5,
        T0,
    )


@pytest.mark.parametrize("timed", [False, True])
def test_a_job_claimed_before_its_mark_has_been_queued_since_it_could_run(store: Store, timed: bool) -> None:
    first, second = add(store, 2)
    available_at = store.get(first).available_at
    at = {first: T0 + 1, second: T0 + 2} if timed else T0 + 1
    assert set(store.claim([first, second], worker=W, now=T0 + 2, claimed_at=at).claimed) == {first, second}
    assert store.mark_queued([first, second], now=T0 + 3) == 0, "the mark comes too late"
    assert [store.get(id).ledger.queued_at for id in (first, second)] == [available_at] * 2


def test_claim_times_may_differ_per_job(store: Store) -> None:
    ids = add(store, 3)
    times = {ids[0]: T0 + 0.25, ids[1]: T0 + 0.75}
    assert set(store.claim(ids, worker=W, now=T0 + 1, claimed_at=times).claimed) == set(ids)
    assert [store.get(id).ledger.claimed_at for id in ids] == [T0 + 0.25, T0 + 0.75, T0 + 1]


def test_inputs_come_only_where_they_are_asked_for(store: Store) -> None:
    ids = add(store, 3, input="[1, 2]")
    claimed = store.claim(ids, worker=W, now=T0, need_input=[ids[1], "unknown"]).claimed
    assert [claimed[id].input for id in ids] == [None, "[1, 2]", None]


def test_what_cannot_be_claimed_is_explained(store: Store) -> None:
    done, held, cancelled, overdue, fine = add(store, 5)
    claim(store, [done, held], worker="w2")
    store.settle([outcome(done, output='{"x": 1}')], worker="w2", now=T0 + 1)
    store.cancel(cancelled, now=T0)
    (overdue,) = add(store, deadline_at=T0 + 5, reply_to="c")
    result = store.claim([done, held, cancelled, overdue, fine, "nobody"], worker=W, now=T0 + 6)
    assert set(result.claimed) == {fine}
    assert result.missing == ["nobody"]
    assert [(row.id, row.state, row.reply_to) for row in result.expired] == [(overdue, JobState.EXPIRED, "c")]
    assert set(result.others) == {done, held, cancelled}
    assert result.others[done].state is JobState.SUCCEEDED and result.others[done].output == '{"x": 1}'
    assert (result.others[held].state, result.others[held].worker) == (JobState.RUNNING, "w2")
    assert result.others[cancelled].state is JobState.CANCELLED
    assert not result.others[done].canvas_done


def test_expired_jobs_are_ended_without_a_claim(store: Store) -> None:
    """As a claim does; who is not expired stays as it is."""
    done, held, cancelled, fine = add(store, 4)
    claim(store, [done, held], worker="w2")
    store.settle([outcome(done)], worker="w2", now=T0 + 1)
    store.cancel(cancelled, now=T0)
    overdue, later = (add(store, deadline_at=T0 + seconds, reply_to="c")[0] for seconds in (5, 7))
    result = store.end_expired([done, held, cancelled, overdue, later, fine, "nobody"], now=T0 + 6)
    assert (result.claimed, result.missing) == ({}, ["nobody"])
    assert [(row.id, row.state, row.reply_to) for row in result.expired] == [(overdue, JobState.EXPIRED, "c")]
    states = {id: row.state for id, row in result.others.items()}
    assert states == {
        done: JobState.SUCCEEDED,
        held: JobState.RUNNING,
        cancelled: JobState.CANCELLED,
        later: JobState.ACCEPTED,
        fine: JobState.ACCEPTED,
    }
    assert state(store, overdue) is JobState.EXPIRED and state(store, later) is JobState.ACCEPTED
    assert store.end_expired([], now=T0).others == {}


def test_a_delayed_job_is_not_claimed_before_its_time(store: Store) -> None:
    (id,) = add(store, available_at=T0 + 60)
    assert store.claim([id], worker=W, now=T0 + 59).others[id].state is JobState.ACCEPTED
    claim(store, [id], now=T0 + 60)


def test_clocks_that_differ_do_not_keep_a_published_job_from_being_claimed(store: Store) -> None:
    """Whoever publishes a job says by that that its time has come; the worker's clock may be behind."""
    (fresh,) = add(store, accepted_at=T0 + 100)
    (delayed,) = add(store, available_at=T0 + 60)
    store.take_due(now=T0 + 60, limit=10, lease_s=5)
    claim(store, [fresh, delayed], now=T0)


def test_a_leftover_message_does_not_start_a_retry_early(store: Store) -> None:
    (id,) = running(store)
    store.settle([outcome(id, JobState.ACCEPTED, available_at=T0 + 30, failures=1)], worker=W, now=T0 + 2)
    assert store.claim([id], worker=W, now=T0 + 29).claimed == {}
    assert claim(store, [id], now=T0 + 30)[id].attempt == 2


def test_two_workers_claim_disjoint_jobs(store: Store) -> None:
    ids = add(store, 300)
    register(store, "w2")

    def work(worker: str) -> set[str]:
        order = ids if worker == W else ids[::-1]
        return {
            id
            for start in range(0, 300, 30)
            for id in store.claim(order[start : start + 30], worker=worker, now=T0).claimed
        }

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, [W, "w2"])
    assert not first & second
    assert first | second == set(ids)


# Settle -----------------------------------------------------------------------------------------------------------


def test_an_outcome_is_kept_with_its_ledger(store: Store) -> None:
    (id,) = add(store, reply_to="client")
    store.mark_queued([id], now=T0 + 1)
    store.claim([id], worker=W, now=T0 + 3, claimed_at=T0 + 2)
    settled = store.settle(
        [
            outcome(
                id,
                output='{"v": [1.5]}',
                started_at=T0 + 4,
                batch_wait_s=0.5,
                load_s=0.25,
                compute_s=1.5,
                transfer_s=0.125,
                batch_size=8,
                batch_reason="full",
            )
        ],
        worker=W,
        now=T0 + 6,
    )
    assert [(row.id, row.state, row.attempt, row.reply_to, row.error) for row in settled] == [
        (id, JobState.SUCCEEDED, 1, "client", None)
    ]
    job = store.get(id)
    assert (job.state, job.output, job.batch_size, job.batch_reason) == (JobState.SUCCEEDED, {"v": [1.5]}, 8, "full")
    assert job.ledger == Ledger(
        accepted_at=T0,
        queued_at=T0 + 1,
        claimed_at=T0 + 2,
        started_at=T0 + 4,
        settled_at=T0 + 6,
        batch_wait_s=0.5,
        load_s=0.25,
        compute_s=1.5,
        transfer_s=0.125,
    )


def test_a_failure_keeps_its_error(store: Store) -> None:
    (id,) = running(store)
    error = {"code": "model_raised", "message": "Ümläut \0", "retryable": False}
    (row,) = store.settle([outcome(id, JobState.FAILED, error=error)], worker=W, now=T0 + 2)
    assert row.error is not None and "model_raised" in row.error
    job = store.get(id)
    assert (job.state, job.error, job.output) == (JobState.FAILED, error, None)


def test_one_call_settles_different_outcomes(store: Store) -> None:
    good, bad, retried, back = running(store, 4)
    settled = store.settle(
        [
            outcome(good, batch_wait_s=0.1, batch_size=4),
            outcome(bad, JobState.FAILED, batch_size=4),
            outcome(retried, JobState.ACCEPTED, available_at=T0 + 9, failures=1, error={"code": "x"}),
            outcome(back, JobState.QUEUED),
        ],
        worker=W,
        now=T0 + 2,
    )
    assert {row.id: row.state for row in settled} == {
        good: JobState.SUCCEEDED,
        bad: JobState.FAILED,
        retried: JobState.ACCEPTED,
        back: JobState.QUEUED,
    }
    job = store.get(retried)
    assert (job.available_at, job.failures, job.ooms, job.worker) == (T0 + 9, 1, 0, None)
    assert (job.ledger.queued_at, job.ledger.settled_at) == (None, None)
    assert store.get(back).failures == 0


def test_budgets_add_up(store: Store) -> None:
    (id,) = running(store)
    store.settle([outcome(id, JobState.ACCEPTED, failures=1)], worker=W, now=T0)
    claim(store, [id])
    store.settle([outcome(id, JobState.ACCEPTED, attempt=2, ooms=1)], worker=W, now=T0)
    claimed = claim(store, [id])[id]
    assert (claimed.attempt, claimed.failures, claimed.ooms) == (3, 1, 1)


def test_a_thousand_at_once(store: Store) -> None:
    ids = running(store, 1000)
    end(store, ids)
    assert store.counts() == []


@pytest.mark.parametrize("late", ["other worker", "older attempt", "newer attempt"])
def test_a_late_worker_cannot_settle(store: Store, late: str) -> None:
    (id,) = running(store)
    if late == "older attempt":
        store.settle([outcome(id, JobState.ACCEPTED)], worker=W, now=T0)
        claim(store, [id])
    worker = "w2" if late == "other worker" else W
    attempt = 2 if late == "newer attempt" else 1
    assert store.settle([outcome(id, attempt=attempt)], worker=worker, now=T0 + 3) == []
    assert state(store, id) is JobState.RUNNING


def test_a_rescued_job_is_fenced_off_from_its_old_worker(store: Store) -> None:
    register(store, "dead", lease_until=T0 + 5)
    (id,) = running(store, worker="dead")
    assert [row.id for row in store.rescue(now=T0 + 6, max_losses=3)] == [id]
    assert store.settle([outcome(id)], worker="dead", now=T0 + 7) == []
    claim(store, [id], now=T0 + 7)
    assert store.settle([outcome(id)], worker="dead", now=T0 + 8) == []
    assert state(store, id) is JobState.RUNNING


def test_repeating_a_settle_gives_the_same_answer_and_changes_nothing(store: Store) -> None:
    """The commit may have arrived although its answer did not."""
    ids = running(store, 3, webhook="https://example.com/")
    outcomes = [outcome(ids[0]), outcome(ids[1], JobState.FAILED), outcome(ids[2])]
    first = store.settle(outcomes, worker=W, now=T0 + 2)
    assert len(first) == 3
    assert sorted(store.settle(outcomes, worker=W, now=T0 + 9)) == sorted(first)
    assert store.get(ids[0]).ledger.settled_at == T0 + 2
    assert len(store.list_deliveries()) == 3


def test_two_settles_at_once_end_a_job_once(store: Store) -> None:
    for _ in range(20):
        (id,) = running(store, webhook="https://example.com/")
        with ThreadPoolExecutor(2) as pool:
            list(
                pool.map(
                    lambda final, id=id: store.settle([outcome(id, final)], worker=W, now=T0),
                    [JobState.SUCCEEDED, JobState.FAILED],
                )
            )
        assert len(store.list_deliveries(job_id=id)) == 1


@pytest.mark.parametrize("wanted", [JobState.SUCCEEDED, JobState.FAILED, JobState.ACCEPTED, JobState.QUEUED])
def test_a_cancellation_wins_over_the_outcome(store: Store, wanted: JobState) -> None:
    (id,) = running(store)
    assert store.cancel(id, now=T0 + 2).status == "cancelling"
    (row,) = store.settle([outcome(id, wanted)], worker=W, now=T0 + 3)
    assert row.state is JobState.CANCELLED
    job = store.get(id)
    assert (job.state, job.output, job.ledger.settled_at) == (JobState.CANCELLED, None, T0 + 3)


@pytest.mark.parametrize("wanted", [JobState.SUCCEEDED, JobState.ACCEPTED])
def test_a_deadline_that_passed_drops_the_output(store: Store, wanted: JobState) -> None:
    (id,) = running(store, deadline_at=T0 + 5)
    (row,) = store.settle([outcome(id, wanted)], worker=W, now=T0 + 5)
    assert row.state is JobState.EXPIRED
    assert store.get(id).output is None
    assert store.claim([id], worker=W, now=T0 + 6).claimed == {}


def test_a_release_costs_nothing(store: Store) -> None:
    one, two, cancelled, foreign = running(store, 4)
    store.cancel(cancelled, now=T0)
    pairs = [(one, 1), (two, 9), (cancelled, 1), (foreign, 1)]
    assert store.release([pairs[3]], worker="w2", now=T0) == 0
    assert store.release(pairs[:3], worker=W, now=T0) == 2
    assert [state(store, id) for id in (one, two, cancelled)] == [
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.CANCELLED,
    ]
    job = store.get(one)
    assert (job.failures, job.losses, job.ooms, job.worker) == (0, 0, 0, None)
    assert claim(store, [one])[one].attempt == 2
    assert store.settle([outcome(one)], worker=W, now=T0) == []


# Canvas -----------------------------------------------------------------------------------------------------------


def test_a_canvas_member_is_unfinished_until_it_is_marked(store: Store) -> None:
    member, other, open_ = add(store, 3, canvas="{}")
    (plain,) = add(store)
    claim(store, [member, other, plain])
    end(store, [member, other, plain], now=T0 + 2)
    store.mark_canvas_done([other])
    assert [job.id for job in store.unfinished_canvas(older_than=T0 + 3, limit=10)] == [member]
    assert store.unfinished_canvas(older_than=T0 + 1, limit=10) == []
    assert store.unfinished_canvas(older_than=T0 + 3, limit=10, exclude=[member]) == []
    leftover = store.claim([member, other], worker=W, now=T0 + 4).others
    assert (leftover[member].canvas_done, leftover[other].canvas_done) == (False, True)
    assert leftover[member].canvas == "{}"
    store.mark_canvas_done([member])
    assert store.unfinished_canvas(older_than=T0 + 3, limit=10) == []
    assert state(store, open_) is JobState.ACCEPTED


def test_terminal_states_never_change_again(store: Store) -> None:
    """Whatever verb is tried, except a user's replay."""
    jobs = {}
    for final in TERMINAL - {JobState.EXPIRED}:
        (jobs[final],) = running(store, deadline_at=T0 + 1000)
        if final is JobState.CANCELLED:
            store.cancel(jobs[final], now=T0)
        end(store, [jobs[final]], JobState.SUCCEEDED if final is JobState.CANCELLED else final)
    (jobs[JobState.EXPIRED],) = add(store, deadline_at=T0 + 1)
    store.expire(now=T0 + 2, limit=10)
    ids = list(jobs.values())
    before = store.get_many(ids)
    store.insert([make_job(id=id) for id in ids])
    store.adopt([make_job(id=id) for id in ids])
    store.mark_queued(ids, now=T0)
    store.requeue(ids, now=T0)
    store.claim(ids, worker=W, now=T0 + 3)
    store.settle([outcome(id, JobState.FAILED) for id in ids], worker="w9", now=T0)
    store.release([(id, 1) for id in ids], worker=W, now=T0)
    store.expire(now=T0 + 1e6, limit=10)
    store.rescue(now=T0 + 1e12, max_losses=0)
    store.take_due(now=T0 + 1e6, limit=10, lease_s=5)
    for id in ids:
        store.cancel(id, now=T0 + 5)
    assert store.get_many(ids) == before
    assert {id: job.state for id, job in before.items()} == {id: final for final, id in jobs.items()}


def test_held_names_what_still_runs_here_and_is_wanted(store: Store) -> None:
    mine, cancelled, done, other, waiting = add(store, 5)
    claim(store, [mine, cancelled, done])
    claim(store, [other], worker="w2")
    store.cancel(cancelled, now=T0)
    store.settle([outcome(done, output="1")], worker=W, now=T0 + 1)
    assert store.held([mine, cancelled, done, other, waiting, "nobody"], worker=W) == {mine}
    assert store.held([], worker=W) == set()
