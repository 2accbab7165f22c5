"""Webhook events, on each database: one per end of a job, in the transaction that ends it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.errors import InvalidInput, JobNotFound
from penstock.job import JobState
from penstock.store import Delivery, Store
from tests.fixtures.store import T0, W, add, claim, end, outcome, register, running

URL = "https://hooks.example.com/done?x=1"


def take(store: Store, *, now: float = T0 + 10, limit: int = 100, **options: object) -> list[Delivery]:
    return store.take_deliveries(now=now, limit=limit, lease_s=30.0, **options)  # type: ignore[arg-type]


def ended(store: Store, count: int = 1, *, url: str = URL, now: float = T0 + 2) -> list[str]:
    ids = running(store, count, webhook=url)
    end(store, ids, now=now)
    return ids


def test_the_event_says_how_the_job_ended(store: Store) -> None:
    (id,) = add(store, webhook=URL, tags={"run": "7"}, tenant="acme")
    claim(store, [id])
    store.settle([outcome(id, output='{"v": [1, 2]}', started_at=T0 + 1)], worker=W, now=T0 + 2)
    (event,) = take(store)
    assert (event.job_id, event.url, event.host, event.type) == (id, URL, "hooks.example.com", "job.succeeded")
    assert event.id.startswith("msg_")
    body = json.loads(event.payload)
    assert body["type"] == "job.succeeded"
    assert body["timestamp"] == "2023-11-14T22:13:22.000Z"
    data = body["data"]
    assert (data["id"], data["status"], data["output"], data["error"]) == (id, "succeeded", {"v": [1, 2]}, None)
    assert (data["model"], data["lane"], data["tenant"], data["tags"]) == ("embed", "background", "acme", {"run": "7"})
    assert (data["attempts"], data["completed_at"]) == (1, "2023-11-14T22:13:22.000Z")


def test_every_way_to_end_makes_an_event(store: Store) -> None:
    register(store, "dead", lease_until=T0 + 5)
    failed, cancelling = running(store, 2, webhook=URL)
    (lost,) = running(store, worker="dead", webhook=URL)
    (waiting,) = add(store, webhook=URL)
    (overdue,), (met,) = add(store, webhook=URL, deadline_at=T0 + 5), add(store, webhook=URL, deadline_at=T0 + 5)
    (released,) = running(store, webhook=URL)
    store.cancel(cancelling, now=T0)
    store.cancel(waiting, now=T0)
    store.cancel(waiting, now=T0)
    store.cancel(released, now=T0)
    store.release([(released, 1)], worker=W, now=T0)
    store.settle([outcome(failed, JobState.FAILED), outcome(cancelling)], worker=W, now=T0 + 3)
    assert store.claim([met], worker=W, now=T0 + 6).expired
    store.expire(now=T0 + 6, limit=10)
    store.rescue(now=T0 + 6, max_losses=0)
    events = {event.job_id: event.type for event in take(store)}
    assert events == {
        failed: "job.failed",
        cancelling: "job.cancelled",
        waiting: "job.cancelled",
        released: "job.cancelled",
        overdue: "job.expired",
        met: "job.expired",
        lost: "job.failed",
    }
    assert len(store.list_deliveries()) == len(events)
    body = json.loads(next(event.payload for event in store.list_deliveries(job_id=lost)))
    assert body["data"]["error"]["code"] == "worker_lost"
    assert "output" not in body["data"]


def test_a_retry_makes_no_event(store: Store) -> None:
    (id,) = running(store, webhook=URL)
    store.settle([outcome(id, JobState.ACCEPTED)], worker=W, now=T0)
    assert store.list_deliveries() == []


def test_a_replayed_job_makes_another_event(store: Store) -> None:
    (id,) = running(store, webhook=URL)
    end(store, [id], JobState.FAILED)
    store.retry(id, now=T0 + 5)
    claim(store, [id], now=T0 + 6)
    store.settle([outcome(id, attempt=2)], worker=W, now=T0 + 7)
    assert sorted(event.type for event in store.list_deliveries(job_id=id)) == ["job.failed", "job.succeeded"]


@pytest.mark.parametrize(("size", "inline"), [(19_000, True), (21_000, False), (3_000_000, False)])
def test_a_long_output_is_left_out(store: Store, size: int, inline: bool) -> None:
    (id,) = running(store, webhook=URL)
    store.settle([outcome(id, output=json.dumps("x" * size))], worker=W, now=T0)
    (event,) = take(store)
    data = json.loads(event.payload)["data"]
    assert ("output" in data) is inline
    assert data.get("output_truncated", False) is not inline
    assert len(event.payload.encode()) <= 20_000


@pytest.mark.parametrize(
    ("message", "tags", "whole"),
    [
        (10, {}, True),
        (15_000, {}, True),
        (5_000_000, {}, False),
        (10, {f"t{n}": "ä" * 255 for n in range(64)}, False),
        (5_000_000, {f"t{n}": "ä" * 255 for n in range(64)}, False),
    ],
)
def test_every_body_is_bounded(store: Store, message: int, tags: dict[str, str], whole: bool) -> None:
    (id,) = running(store, webhook=URL, tags=tags)
    error = {"code": "model_raised", "message": "x" * message, "retryable": False, "type": "ValueError"}
    store.settle([outcome(id, JobState.FAILED, error=error)], worker=W, now=T0)
    (event,) = take(store)
    data = json.loads(event.payload)["data"]
    assert len(event.payload.encode()) <= 20_000
    assert (data["error"], data["tags"]) == (error, tags) if whole else "truncated" in event.payload
    assert data["error"]["code"] == "model_raised"
    assert data["error"]["message"].startswith("xxxxxxxxxx")
    stored = store.get(id).error
    assert stored is not None
    assert len(stored["message"]) == message, "what the receiver can fetch"


def test_a_batch_with_and_without_webhooks(store: Store) -> None:
    with_, without = running(store, 30, webhook=URL), running(store, 30)
    end(store, [id for pair in zip(with_, without, strict=True) for id in pair])
    assert {event.job_id for event in take(store)} == set(with_)


# Delivering -------------------------------------------------------------------------------------------------------


def test_a_taken_delivery_is_leased(store: Store) -> None:
    ended(store, 3)
    first = take(store, limit=2)
    second = take(store)
    assert (len(first), len(second)) == (2, 1)
    assert take(store, now=T0 + 39) == []
    assert len(take(store, now=T0 + 40)) == 3


def test_one_host_does_not_fill_the_whole_take(store: Store) -> None:
    ended(store, 20, url="https://busy.example/")
    (quiet,) = ended(store, url="https://quiet.example/", now=T0 + 5)
    (other,) = ended(store, url="https://other.example/", now=T0 + 5)
    got = take(store, limit=10, per_host=3, exclude_hosts=["other.example"])
    assert [event.host for event in got].count("busy.example") == 3
    assert quiet in {event.job_id for event in got}
    assert other not in {event.job_id for event in got}


def test_deliverers_share_the_work(store: Store) -> None:
    ended(store, 200)

    def deliver(_: int) -> list[str]:
        mine: list[str] = []
        while got := take(store, limit=7):
            mine += [event.id for event in got]
        return mine

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(deliver, range(4)))
    everything = [id for share in shares for id in share]
    assert len(everything) == len(set(everything))
    assert len(everything) + len(take(store)) == 200


def test_a_failed_attempt_is_tried_again_at_its_time(store: Store) -> None:
    ended(store)
    (event,) = take(store)
    assert store.record_delivery(
        event.id, now=T0 + 11, outcome="retry", next_at=T0 + 60, status_code=503, error="HTTP 503 \0 " + "x" * 9999
    )
    assert take(store, now=T0 + 59) == []
    (again,) = take(store, now=T0 + 60)
    assert (again.id, again.attempts, again.status_code, again.attempted_at) == (event.id, 1, 503, T0 + 11)
    assert again.payload == event.payload
    assert again.error is not None and len(again.error) <= 500
    assert store.record_delivery(event.id, now=T0 + 61, outcome="delivered", status_code=200)
    done = store.get_delivery(event.id)
    assert (done.state, done.attempts, done.status_code, done.error) == ("delivered", 2, 200, None)
    assert take(store, now=T0 + 1e6) == []


def test_an_attempt_that_was_recorded_late_changes_nothing(store: Store) -> None:
    ended(store)
    (event,) = take(store)
    store.record_delivery(event.id, now=T0 + 11, outcome="delivered", status_code=200)
    assert not store.record_delivery(event.id, now=T0 + 12, outcome="dead", error="late")
    assert store.get_delivery(event.id).state == "delivered"


def test_the_dead_are_kept_and_replayed(store: Store) -> None:
    ended(store)
    (event,) = take(store)
    store.record_delivery(event.id, now=T0 + 11, outcome="dead", status_code=500, error="HTTP 500")
    assert [row.id for row in store.list_deliveries(state="dead")] == [event.id]
    assert take(store, now=T0 + 1e6) == []
    replayed = store.replay_delivery(event.id, now=T0 + 100)
    assert (replayed.state, replayed.attempts, replayed.next_at) == ("pending", 0, T0 + 100)
    assert [row.id for row in take(store, now=T0 + 100)] == [event.id]
    # A second replay of what waits already is no harm.
    assert store.replay_delivery(event.id, now=T0 + 101).state == "pending"


def test_gone_stops_everything_to_that_url(store: Store) -> None:
    ended(store, 3)
    (other,) = ended(store, url="https://hooks.example.com/other")
    first, *_ = [event for event in take(store) if event.url == URL]
    store.record_delivery(first.id, now=T0 + 11, outcome="gone", status_code=410)
    (later,) = ended(store)
    assert {event.job_id for event in store.list_deliveries(state="pending")} == {other}
    assert store.list_deliveries(job_id=later)[0].state == "gone"
    # Whoever replays one wants the URL to be used again.
    store.replay_delivery(first.id, now=T0 + 20)
    (now_open,) = ended(store)
    assert {event.job_id for event in store.list_deliveries(state="pending")} == {first.job_id, other, now_open}
    assert len(store.list_deliveries(state="dead")) == 3


def test_mistakes_are_told(store: Store) -> None:
    with pytest.raises(JobNotFound, match="webhook list"):
        store.get_delivery("msg_x")
    with pytest.raises(JobNotFound, match="webhook list"):
        store.replay_delivery("msg_x", now=T0)
    with pytest.raises(InvalidInput, match="pending"):
        store.list_deliveries(state="lost")
    assert not store.record_delivery("msg_x", now=T0, outcome="dead")
