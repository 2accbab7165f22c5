"""The client's subscription against a real Redis: who reads, who is woken, and what a broken connection does."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from penstock.client import push as module
from penstock.client import subscription
from penstock.client.inbox import Ticket
from penstock.client.push import Push
from penstock.dispatch.background import Background
from penstock.transport import keys
from tests.fixtures.patience import PATIENCE_S

CLIENT = "c1"


@pytest.fixture
def push(broker_url: str, namespace: str) -> Iterator[Push]:
    background = Background()
    push = Push(broker_url, namespace, CLIENT, background)
    yield push
    push.close()
    background.close()


@pytest.fixture
def tell(broker: redis.Redis, namespace: str) -> Callable[..., None]:
    def tell(*ids: str) -> None:
        records = [{"id": id, "state": "succeeded", "attempt": 1, "output": id} for id in ids]
        broker.publish(keys.reply(namespace, CLIENT), json.dumps(records))

    return tell


def until(condition: Callable[[], Any], timeout_s: float = 45.0) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at, "the awaited condition did not come true"
        threading.Event().wait(0.005)


def news(ticket: Ticket) -> list[str]:
    return [record.id for record in ticket.take()[0]]


def test_a_lone_waiter_reads_the_socket_itself(push: Push, tell: Callable[..., None]) -> None:
    ticket = push.open(["a"], foreign=False)
    before = threading.active_count()
    tell("x", "a")
    push.wait(ticket, 10)
    assert news(ticket) == ["a"]
    # No thread but the one that does chores.
    assert threading.active_count() <= before
    assert not any(t.name == "penstock-push" for t in threading.enumerate())


def test_a_wait_ends_in_time(push: Push) -> None:
    ticket = push.open(["a"], foreign=False)
    started = time.monotonic()
    push.wait(ticket, 0.05)
    assert 0.04 < time.monotonic() - started < 5
    assert not ticket.ready


def test_many_waiters_are_served_by_whoever_leads(push: Push, tell: Callable[..., None]) -> None:
    ids = [str(n) for n in range(40)]
    tickets = {id: push.open([id], foreign=False) for id in ids}

    def wait(id: str) -> list[str]:
        push.wait(tickets[id], 20)
        return news(tickets[id])

    with ThreadPoolExecutor(len(ids)) as pool:
        waits = {id: pool.submit(wait, id) for id in ids}
        until(lambda: len(push._own._followers) == len(ids) - 1)
        # One by one, in an order in which the lead has to be passed on again and again.
        for id in ids:
            tell(id)
            assert waits[id].result(PATIENCE_S) == [id]
    assert not push._own._followers
    assert not push._own._led


def test_what_came_before_the_wait_is_there(push: Push, tell: Callable[..., None]) -> None:
    push.listen()
    tell("a")
    ticket = push.open(["a"], foreign=False)
    push.wait(ticket, 10)
    assert news(ticket) == ["a"]


def test_arrivals_are_fetched_while_nobody_waits(
    push: Push, tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FETCH_EVERY_S", 0.02)
    push.listen()
    tell("a", "b")
    until(lambda: len(push._inbox._early) == 2)


def test_an_idle_subscription_is_given_up_and_comes_back(
    push: Push, tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FETCH_EVERY_S", 0.02)
    push.listen()
    first = push.mark
    assert first is not None
    monkeypatch.setattr(module, "IDLE_S", 0.05)  # only now: it must not be over before it was looked at
    until(lambda: push.mark is None)
    ticket = push.open(["a"], foreign=False)
    assert push.mark is not None
    assert push.mark != first  # whoever submitted under the first one reads SQL
    tell("a")
    push.wait(ticket, 10)
    assert news(ticket) == ["a"]


def test_a_lost_connection_makes_waiters_read_sql_and_comes_back(
    push: Push, tell: Callable[..., None], broker: redis.Redis
) -> None:
    ticket = push.open(["a"], foreign=False)
    mark = push.mark
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(push.wait, ticket, 20)
        until(lambda: push._own._led)
        broker.client_kill_filter(_type="pubsub")
        wait.result(PATIENCE_S)
    assert ticket.take() == ([], [], True)  # it is away
    push.wait(ticket, 10)
    assert ticket.take() == ([], [], True)  # it is back
    assert push.mark not in (None, mark)
    tell("a")
    push.wait(ticket, 10)
    assert news(ticket) == ["a"]


def test_a_broker_that_is_killed_and_started(push: Push, tell: Callable[..., None], redis_server: Any) -> None:
    ticket = push.open(["a"], foreign=False)
    redis_server.kill()
    push.wait(ticket, 10)
    assert ticket.take()[2]
    assert not push.connected
    push.wait(ticket, 0.1)
    assert not ticket.ready
    redis_server.start()
    push.wait(ticket, 20)
    assert ticket.take()[2]
    assert push.connected
    tell("a")
    push.wait(ticket, 10)
    assert news(ticket) == ["a"]


def test_coroutines_and_foreign_jobs_are_read_for_by_a_thread(
    push: Push, tell: Callable[..., None], broker: redis.Redis, namespace: str
) -> None:
    woken = threading.Event()
    own = push.open(["a"], foreign=False, wake=woken.set)
    tell("a")
    assert woken.wait(PATIENCE_S)
    assert news(own) == ["a"]
    foreign = push.open(["b"], foreign=True)
    until(lambda: broker.publish(keys.events(namespace), b'{"state":"succeeded","ids":["b"]}'))
    push.wait(foreign, 10)
    assert "b" in foreign.take()[1]
    push.close()
    assert not any(t.name == "penstock-push" for t in threading.enumerate())


def test_a_thread_and_a_waiting_thread_share_the_subscription(push: Push, tell: Callable[..., None]) -> None:
    woken = threading.Event()
    one = push.open(["a"], foreign=False, wake=woken.set)
    two = push.open(["b"], foreign=False)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(push.wait, two, 20)
        tell("b")
        wait.result(PATIENCE_S)
        tell("a")
        assert woken.wait(PATIENCE_S)
    assert news(one) == ["a"]
    assert news(two) == ["b"]


def test_closing_wakes_those_who_wait(push: Push) -> None:
    tickets = [push.open(["a"], foreign=False), push.open(["b"], foreign=False), push.open(["c"], foreign=True)]
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(push.wait, ticket, 60) for ticket in tickets]
        until(lambda: push._own._led)
        started = time.monotonic()
        push.close()
        for wait in waits:
            wait.result(PATIENCE_S)
    assert time.monotonic() - started < 5
    assert all(ticket.closed for ticket in tickets)


def test_a_silent_connection_is_probed(
    push: Push, tell: Callable[..., None], redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "PROBE_AFTER_S", 0.0)
    monkeypatch.setattr(subscription, "SLICE_S", 0.01)
    ticket = push.open(["a"], foreign=False)
    mark = push.mark
    push.wait(ticket, 1.0)
    assert push.mark == mark  # the server answers
    pid = redis_server.broker.pid
    monkeypatch.setattr(subscription, "PROBE_ANSWER_S", 0.5)  # a server that answers may take longer
    os.kill(pid, signal.SIGSTOP)  # as a machine that lost its power: the connection stays, nothing comes
    try:
        push.wait(ticket, 10.0)
        assert ticket.take()[2]
        assert not push.connected
    finally:
        os.kill(pid, signal.SIGCONT)
    push.wait(ticket, 20)
    assert ticket.take()[2]
    assert push.connected
