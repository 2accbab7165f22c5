"""Webhooks end to end: settled in SQL, delivered over HTTP, verified with the reference library."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from penstock import clock
from penstock.job import JobState, NewJob, Outcome, new_id
from penstock.settings import WebhookSettings
from penstock.store import Store
from penstock.webhooks import Signer, new_key
from penstock.webhooks.deliverer import Deliverer
from penstock.webhooks.listener import Listener, Received
from penstock.webhooks.slots import Slots
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import wait_for

KEY = new_key()
#: Attempts as fast as they can follow each other, four in all.
QUICK = (0.0, 0.0, 0.0, 0.0)

Answer = Callable[[Received], int | None]


class Receiver:
    """A listener that remembers, and answers as it is told."""

    def __init__(self, answer: Answer = lambda message: None) -> None:
        self.messages: list[Received] = []
        self._answer = answer
        self._listener = Listener(Signer([KEY]), self._receive)

    def _receive(self, message: Received) -> int | None:
        self.messages.append(message)
        return self._answer(message)

    def __enter__(self) -> Receiver:
        self._listener.start()
        self.url = self._listener.url
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


@pytest.fixture
def deliver(store: Store) -> Iterator[Callable[..., Deliverer]]:
    """Starts deliverers, and stops them at the end."""
    running: list[Deliverer] = []

    def start(**options: Any) -> Deliverer:
        settings = {"allow_private": True, "timeout_s": 5.0} | {
            name: options.pop(name) for name in list(options) if name in WebhookSettings.model_fields
        }
        deliverer = Deliverer(store, Signer([KEY]), WebhookSettings(**settings), poll_s=0.05, **options)
        deliverer.start()
        running.append(deliverer)
        return deliverer

    yield start
    for deliverer in running:
        deliverer.stop()


def settle(store: Store, url: str, *, count: int = 1, output: str = '{"answer":42}', failed: bool = False) -> list[str]:
    """Jobs with a webhook, run to their end."""
    now = clock.now()
    jobs = [
        NewJob(
            id=new_id(),
            model="echo",
            version="1",
            input='"x"',
            lane="interactive",
            accepted_at=now,
            available_at=now,
            webhook=url,
            tags={"run": "7"},
        )
        for _ in range(count)
    ]
    store.insert(jobs)
    ids = [job.id for job in jobs]
    store.register_worker("w1", name="w", pool="p", lease_until=now + 60, now=now, info={})
    claimed = store.claim(ids, worker="w1", now=now).claimed
    outcomes = [Outcome(id=id, attempt=claimed[id].attempt, state=JobState.SUCCEEDED, output=output) for id in ids]
    if failed:
        error = {"code": "model_raised", "message": "no", "retryable": False}
        outcomes = [replace(outcome, state=JobState.FAILED, output=None, error=error) for outcome in outcomes]
    store.settle(outcomes, worker="w1", now=clock.now())
    return ids


def states(store: Store) -> list[str]:
    return sorted(str(delivery.state) for delivery in store.list_deliveries(limit=1000))


def test_a_result_arrives_signed_and_is_delivered_once(store: Store, deliver: Callable[..., Deliverer]) -> None:
    with Receiver() as receiver:
        (id,) = settle(store, receiver.url)
        deliver()
        wait_for(lambda: states(store) == ["delivered"], timeout_s=PATIENCE_S)
    (message,) = receiver.messages
    assert message.problem is None
    assert message.event["type"] == "job.succeeded"
    assert message.event["data"]["id"] == id
    assert message.event["data"]["output"] == {"answer": 42}
    (delivery,) = store.list_deliveries(limit=10)
    assert (delivery.attempts, delivery.status_code, delivery.error) == (1, 204, None)


def test_what_is_stored_verifies_with_the_reference_library(store: Store) -> None:
    """The body is stored as it will be signed: byte for byte the same at every attempt."""
    settle(store, "https://example.com/", output='"ünïcode \\u0000 \U0001f600"', failed=False)
    (delivery,) = store.list_deliveries(limit=10)
    headers = Signer([KEY]).sign(delivery.id, delivery.payload, at=time.time())
    assert Webhook(KEY).verify(delivery.payload.encode(), headers)["data"]["output"] == "ünïcode \x00 \U0001f600"


def test_a_failed_job_is_reported_too(store: Store, deliver: Callable[..., Deliverer]) -> None:
    with Receiver() as receiver:
        settle(store, receiver.url, failed=True)
        deliver()
        wait_for(lambda: receiver.messages, timeout_s=PATIENCE_S)
    assert receiver.messages[0].event["type"] == "job.failed"
    assert receiver.messages[0].event["data"]["error"]["code"] == "model_raised"


def test_a_failure_is_retried_on_schedule_with_the_same_id(store: Store, deliver: Callable[..., Deliverer]) -> None:
    """The real wait before the first retry, shortened tenfold."""
    times: list[float] = []

    def answer(message: Received) -> int | None:
        times.append(time.monotonic())
        return 503 if len(times) == 1 else None

    with Receiver(answer) as receiver:
        settle(store, receiver.url)
        deliver(schedule_s=(0.0, 0.5, 30.0))
        wait_for(lambda: states(store) == ["delivered"], timeout_s=PATIENCE_S)
    first, second = receiver.messages
    assert first.id == second.id
    assert second.repeated
    assert first.event == second.event
    assert times[1] - times[0] >= 0.5


def test_retry_after_is_honoured(store: Store, deliver: Callable[..., Deliverer]) -> None:
    """Read from SQL: the next attempt is not before the time that the receiver asked for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        settle(store, f"http://127.0.0.1:{server.getsockname()[1]}/")
        deliver()
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 429 Busy\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n")
            (delivery,) = wait_for(
                lambda: [d for d in store.list_deliveries(limit=10) if d.attempts == 1], timeout_s=PATIENCE_S
            )
    assert delivery.status_code == 429
    assert 3590 < delivery.next_at - clock.now() <= 3600


def test_after_the_schedule_it_is_dead_and_can_be_replayed(store: Store, deliver: Callable[..., Deliverer]) -> None:
    broken = threading.Event()
    broken.set()
    with Receiver(lambda message: 500 if broken.is_set() else None) as receiver:
        settle(store, receiver.url)
        deliver(schedule_s=QUICK)
        wait_for(lambda: states(store) == ["dead"], timeout_s=PATIENCE_S)
        assert len(receiver.messages) == len(QUICK)
        broken.clear()
        (delivery,) = store.list_deliveries(state="dead", limit=10)
        assert delivery.error == "HTTP 500"
        store.replay_delivery(delivery.id, now=clock.now())
        wait_for(lambda: states(store) == ["delivered"], timeout_s=PATIENCE_S)
    assert {message.id for message in receiver.messages} == {delivery.id}


def test_410_ends_everything_for_that_address(store: Store, deliver: Callable[..., Deliverer]) -> None:
    with Receiver(lambda message: 410) as receiver, Receiver() as other:
        settle(store, receiver.url)
        deliver(schedule_s=QUICK)
        wait_for(lambda: states(store) == ["gone"], timeout_s=PATIENCE_S)
        settle(store, receiver.url)
        settle(store, other.url)
        wait_for(lambda: states(store) == ["delivered", "gone", "gone"], timeout_s=PATIENCE_S)
    assert len(receiver.messages) == 1


def test_redirects_are_failures(store: Store, deliver: Callable[..., Deliverer]) -> None:
    with Receiver(lambda message: 308) as receiver:
        settle(store, receiver.url)
        deliver(schedule_s=QUICK)
        wait_for(lambda: states(store) == ["dead"], timeout_s=PATIENCE_S)
    assert len(receiver.messages) == len(QUICK)


def test_a_slow_receiver_delays_nobody_else(store: Store, deliver: Callable[..., Deliverer]) -> None:
    """Two hundred due deliveries to one that hangs, then one to one that does not."""
    hang = threading.Event()

    def slow(message: Received) -> None:
        hang.wait(2 * PATIENCE_S)

    with Receiver(slow) as stuck, Receiver() as receiver:
        settle(store, stuck.url, count=200)
        # The same machine under another name: limits are per host.
        settle(store, receiver.url.replace("127.0.0.1", "localhost"), count=20)
        try:
            # No attempt gives up while we wait: what comes did not come by that.
            deliver(concurrency=4, per_host=2, timeout_s=2 * PATIENCE_S)
            wait_for(lambda: len(receiver.messages) >= 20, timeout_s=PATIENCE_S)
        finally:
            hang.set()


def test_dead_receivers_share_half_of_the_slots(store: Store, deliver: Callable[..., Deliverer]) -> None:
    """Many hosts that never answer, and one that does: it is served while they time out."""
    hang = threading.Event()

    def slow(message: Received) -> None:
        hang.wait(2 * PATIENCE_S)

    hosts = [f"127.0.0.{number}" for number in range(2, 10)]
    listener = Listener(Signer([KEY]), slow, host="0.0.0.0")
    with listener, Receiver() as receiver:
        port = listener.url.rsplit(":", 1)[1]
        for host in hosts:
            settle(store, f"http://{host}:{port}", count=5)
        # So many attempts that the dead ones are tried for longer than we wait.
        deliver(concurrency=4, per_host=2, timeout_s=0.5, schedule_s=(0.0, *[0.1] * 100))
        try:
            wait_for(lambda: sum(d.attempts for d in store.list_deliveries(limit=1000)) >= 4, timeout_s=PATIENCE_S)
            settle(store, receiver.url, count=20)
            wait_for(lambda: len(receiver.messages) >= 20, timeout_s=PATIENCE_S)
        finally:
            hang.set()


def test_private_addresses_are_dead_letters_when_not_allowed(store: Store, deliver: Callable[..., Deliverer]) -> None:
    """A name that leads inside, as an attacker would register one."""
    with Receiver() as receiver:
        settle(store, receiver.url.replace("http://127.0.0.1", "https://localtest.example"))

        async def resolve(host: str, port: int) -> list[ipaddress.IPv4Address]:
            return [ipaddress.IPv4Address("127.0.0.1")]

        deliver(schedule_s=QUICK, allow_private=False, resolve=resolve)
        wait_for(lambda: states(store) == ["dead"], timeout_s=PATIENCE_S)
        assert receiver.messages == []
    (delivery,) = store.list_deliveries(limit=10)
    assert "not a public address" in delivery.error


def test_a_crash_between_post_and_record_delivers_again(store: Store, deliver: Callable[..., Deliverer]) -> None:
    """The lease of the one that crashed runs out; another one delivers under the same id."""
    with Receiver() as receiver:
        settle(store, receiver.url)
        (taken,) = store.take_deliveries(now=clock.now(), limit=10, lease_s=1.0)  # and then it died
        deliver()
        wait_for(lambda: states(store) == ["delivered"], timeout_s=PATIENCE_S)
    assert [message.id for message in receiver.messages] == [taken.id]


def test_several_deliverers_do_not_fight(store: Store, deliver: Callable[..., Deliverer]) -> None:
    with Receiver() as receiver:
        settle(store, receiver.url, count=60)
        for _ in range(3):
            deliver()
        wait_for(lambda: states(store) == ["delivered"] * 60, timeout_s=PATIENCE_S)
    assert len(receiver.messages) == 60
    assert len({message.id for message in receiver.messages}) == 60


def test_a_large_output_is_left_out(store: Store, deliver: Callable[..., Deliverer]) -> None:
    with Receiver() as receiver:
        settle(store, receiver.url, output='"' + "x" * 100_000 + '"')
        deliver()
        wait_for(lambda: receiver.messages, timeout_s=PATIENCE_S)
    data = receiver.messages[0].event["data"]
    assert data["output_truncated"] is True
    assert data.get("output") is None


def test_stopping_is_quick_and_repeatable(store: Store, deliver: Callable[..., Deliverer]) -> None:
    deliverer = deliver()
    deliverer.stop()
    begin = time.monotonic()
    deliverer.stop()
    assert time.monotonic() - begin < 1


def test_what_a_stopped_deliverer_had_not_tried_is_due_at_once(store: Store, deliver: Callable[..., Deliverer]) -> None:
    """Taken while a place was free at its host, and overtaken there."""
    settle(store, "http://127.0.0.1:9/done", count=3)
    now = clock.now()
    taken = store.take_deliveries(now=now, limit=10, lease_s=60.0)
    assert not store.take_deliveries(now=now, limit=10, lease_s=60.0)
    stale, *others = taken
    deliverer = Deliverer(store, Signer([KEY]), WebhookSettings(allow_private=True), poll_s=0.05)
    deliverer._slots = Slots(total=1, per_host=1)
    assert deliverer._slots.acquire("127.0.0.1")
    deliverer._waiting["127.0.0.1"] = deque((delivery, now + 60.0) for delivery in others)
    deliverer._waiting["127.0.0.1"].append((stale, now + 59.0))  # somebody else's lease by now
    deliverer.start()
    wait_for(lambda: deliverer._loop is not None, what="the loop to run")
    deliverer.stop()
    again = store.take_deliveries(now=clock.now(), limit=10, lease_s=60.0)
    assert {delivery.id for delivery in again} == {delivery.id for delivery in others}


def test_no_key_is_stored_with_a_delivery(store: Store, database_url: str) -> None:
    settle(store, "https://example.com/hook")
    (delivery,) = store.list_deliveries(limit=10)
    assert KEY not in repr(delivery)
    if database_url.startswith("sqlite"):
        path = Path(database_url.removeprefix("sqlite:///"))
        assert KEY.removeprefix("whsec_").encode() not in path.read_bytes()
