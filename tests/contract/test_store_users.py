"""What the store promises to people and their programs, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from uuid import UUID

import pytest

from penstock.errors import IllegalTransition, InvalidInput, JobNotFound
from penstock.job import JobState
from penstock.store import Count, Store
from penstock.store.engine import Database, Survives
from penstock.store.session import Session
from tests.fixtures.store import T0, W, add, claim, end, make_job, outcome, running


def test_an_unknown_id_is_an_error_never_pending(store: Store) -> None:
    for verb in (store.get, lambda id: store.cancel(id, now=T0), lambda id: store.retry(id, now=T0)):
        with pytest.raises(JobNotFound) as caught:
            verb("0190-nobody")
        assert caught.value.fix
    assert store.get_many(["nobody"]) == {}


@pytest.mark.parametrize("id", ["a\0b", "\ud800", "", "x" * 100_000, "'; DROP TABLE penstock_job; --", "ü%s{}:now"])
def test_an_id_of_any_kind(store: Store, id: str) -> None:
    """Not found, or refused: never a fault of the database's driver."""
    for verb in (store.get, lambda id: store.cancel(id, now=T0), lambda id: store.retry(id, now=T0)):
        with pytest.raises((JobNotFound, InvalidInput)):
            verb(id)
    try:
        assert store.get_many([id]) == {}
        assert store.claim([id], worker=W, now=T0).missing == [id]
        assert store.list(tag=(id, id), tenant=id) == []
        with pytest.raises(JobNotFound, match="go on from") as caught:
            store.list(before=id)
        assert caught.value.fix
    except InvalidInput as error:
        assert error.fix
    add(store)


# Cancel -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queued", [False, True])
def test_a_waiting_job_is_cancelled_at_once(store: Store, queued: bool) -> None:
    (id,) = add(store)
    if queued:
        store.mark_queued([id], now=T0)
    job = store.cancel(id, now=T0 + 5)
    assert (job.state, job.ledger.settled_at, job.cancel_requested) == (JobState.CANCELLED, T0 + 5, True)
    assert store.cancel(id, now=T0 + 9) == job
    assert store.claim([id], worker=W, now=T0 + 9).claimed == {}


def test_a_running_job_is_cancelled_at_the_end_of_its_attempt(store: Store) -> None:
    (id,) = running(store)
    job = store.cancel(id, now=T0 + 2)
    assert (job.state, job.status) == (JobState.RUNNING, "cancelling")
    assert store.cancel(id, now=T0 + 3) == job
    end(store, [id])
    assert store.get(id).state is JobState.CANCELLED


@pytest.mark.parametrize("final", [JobState.SUCCEEDED, JobState.FAILED])
def test_cancelling_what_has_ended_is_a_look(store: Store, final: JobState) -> None:
    (id,) = running(store)
    end(store, [id], final)
    before = store.get(id)
    assert store.cancel(id, now=T0 + 9) == before


# Retry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", [JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED])
def test_a_replay_is_a_new_chance(store: Store, final: JobState) -> None:
    (id,) = add(store, deadline_at=T0 + 20)
    claim(store, [id])
    store.settle([outcome(id, JobState.ACCEPTED, failures=1, ooms=1)], worker=W, now=T0 + 2)
    if final is JobState.FAILED:
        claim(store, [id], now=T0 + 3)
        store.settle([outcome(id, JobState.FAILED, attempt=2)], worker=W, now=T0 + 4)
    elif final is JobState.CANCELLED:
        store.cancel(id, now=T0 + 4)
    else:
        store.expire(now=T0 + 21, limit=10)
    attempt = store.get(id).attempt
    job = store.retry(id, now=T0 + 30)
    assert (job.state, job.available_at, job.error, job.deadline_at) == (JobState.ACCEPTED, T0 + 30, None, None)
    assert (job.failures, job.losses, job.ooms, job.cancel_requested, job.worker) == (0, 0, 0, False, None)
    assert (job.ledger.settled_at, job.ledger.started_at, job.ledger.accepted_at) == (None, None, T0)
    assert claim(store, [id], now=T0 + 31)[id].attempt == attempt + 1
    store.settle([outcome(id, attempt=attempt + 1)], worker=W, now=T0 + 32)
    assert store.get(id).state is JobState.SUCCEEDED


def test_a_mark_that_comes_late_does_not_make_a_replay_look_published(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer records its first message only now: whoever replays the job has a message to send all the same."""
    (id,) = running(store)
    end(store, [id], JobState.FAILED)
    step = Database.step

    @contextmanager
    def marked(self: Database, survives: Survives) -> Iterator[Session]:
        with step(self, survives) as session:
            yield session
        monkeypatch.undo()
        store.mark_queued([id], now=T0 + 9)

    monkeypatch.setattr(Database, "step", marked)
    assert store.retry(id, now=T0 + 9, publish_lease_s=2.0).state is JobState.ACCEPTED
    assert store.get(id).state is JobState.QUEUED


def test_a_deadline_ahead_is_kept_by_a_replay(store: Store) -> None:
    (id,) = running(store, deadline_at=T0 + 100)
    end(store, [id], JobState.FAILED)
    assert store.retry(id, now=T0 + 9).deadline_at == T0 + 100


def test_a_success_is_not_replayed_and_an_open_job_left_alone(store: Store) -> None:
    (id,) = add(store)
    before = store.get(id)
    assert store.retry(id, now=T0 + 9) == before
    claim(store, [id])
    assert store.retry(id, now=T0 + 9).state is JobState.RUNNING
    end(store, [id])
    with pytest.raises(IllegalTransition):
        store.retry(id, now=T0 + 9)
    assert store.get(id).state is JobState.SUCCEEDED


# List and count ---------------------------------------------------------------------------------------------------


def test_a_list_is_newest_first_in_pages(store: Store) -> None:
    ids = add(store, 25)
    newest_first = sorted(ids, reverse=True)
    page = store.list(limit=10)
    assert [job.id for job in page] == newest_first[:10]
    page = store.list(limit=10, before=page[-1].id)
    assert [job.id for job in page] == newest_first[10:20]
    assert len(store.list(before=page[-1].id)) == 5


@pytest.mark.parametrize(
    "filters",
    [{}, {"status": "accepted"}, {"model": "embed"}, {"tag": "run"}, {"tag": ("run", "7")}, {"tenant": "acme"}],
    ids=str,
)
def test_newest_is_by_time_whatever_the_ids_are(store: Store, filters: dict[str, Any]) -> None:
    """Celery's ids say nothing of time; those of one moment follow each other by their ids."""
    ids = [str(UUID(int=Random(at).getrandbits(128), version=4)) for at in range(30)]
    common: dict[str, Any] = {"tags": {"run": "7"}, "tenant": "acme"}
    store.insert([make_job(id=id, accepted_at=T0 + at // 3, **common) for at, id in enumerate(ids)])
    # States change nothing of the order.
    claim(store, ids[::4])
    for id in ids[1::4] if not filters.get("status") else ():
        store.cancel(id, now=T0)
    if filters.get("status"):
        ids = [id for at, id in enumerate(ids) if at % 4]
    times = {job.id: job.ledger.accepted_at for job in store.get_many(ids).values()}
    newest = sorted(ids, key=lambda id: (times[id], id), reverse=True)
    seen: list[str] = []
    while page := store.list(limit=4, before=seen[-1] if seen else None, **filters):
        seen += [job.id for job in page]
        # A job that comes while somebody turns the pages is on none that is still to come.
        store.insert([make_job(accepted_at=T0 + 1000 + len(seen), **common)])
    assert seen == newest


def test_filters_are_combined(store: Store) -> None:
    (one,) = add(store, model="a", tenant="x", lane="interactive")
    (two,) = add(store, model="a", tenant="y", lane="background")
    (three,) = add(store, model="b", tenant="x", lane="background")
    claim(store, [two])
    store.cancel(two, now=T0)
    claim(store, [three])

    def found(**filters: object) -> set[str]:
        return {job.id for job in store.list(**filters)}  # type: ignore[arg-type]

    assert found() == {one, two, three}
    assert found(model="a") == {one, two}
    assert found(tenant="x") == {one, three}
    assert found(lane="background", tenant="x") == {three}
    assert found(status="accepted") == {one}
    assert found(status="running") == {two, three}
    assert found(status="cancelling") == {two}
    assert found(status="cancelling", model="b") == set()
    with pytest.raises(InvalidInput, match="cancelling"):
        store.list(status="pending")


def test_tags_find_jobs(store: Store) -> None:
    (one,) = add(store, tags={"run": "7", "who": "a=b"})
    (two,) = add(store, tags={"run": "8", "café": ""})
    add(store)

    def found(tag: tuple[str, str] | str) -> set[str]:
        return {job.id for job in store.list(tag=tag)}

    assert found("run") == {one, two}
    assert found("run=7") == {one}
    assert found(("run", "8")) == {two}
    assert found(("who", "a=b")) == found("who=a=b") == {one}
    assert found("café=") == {two}
    assert found("run=9") == set()
    assert store.get(one).tags == {"run": "7", "who": "a=b"}


def test_open_jobs_are_counted_by_model_lane_and_state(store: Store) -> None:
    assert store.counts() == []
    ids = add(store, 5, model="a", lane="background") + add(store, 2, model="b", lane="interactive")
    store.mark_queued(ids[:2], now=T0)
    claim(store, ids[4:6])
    end(store, ids[4:5])
    assert store.counts() == [
        Count("a", "background", JobState.ACCEPTED, 2),
        Count("a", "background", JobState.QUEUED, 2),
        Count("b", "interactive", JobState.ACCEPTED, 1),
        Count("b", "interactive", JobState.RUNNING, 1),
    ]
