"""The worker's wire: order, keeping, reconnecting; against a real Redis."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from structlog.testing import CapturingLogger

from penstock.clock import monotonic_s
from penstock.lane import Lane
from penstock.transport.url import parse
from penstock_worker.item import Item
from penstock_worker.report.celeryevents import CeleryEvents
from penstock_worker.report.wire import Wire
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer, until


@pytest.fixture
def wire(broker_url: str) -> Iterator[Wire]:
    wire = Wire(broker_url, "ns")
    yield wire
    wire.close()


def test_commands_arrive_in_order(wire: Wire, broker: redis.Redis):
    for number in range(1000):
        wire.send([("RPUSH", "l", number)])
    assert wire.flush()
    assert broker.lrange("l", 0, -1) == [str(n).encode() for n in range(1000)]


def test_what_is_held_goes_with_the_next_and_before_it(wire: Wire, broker: redis.Redis):
    wire.hold([("RPUSH", "l", 1)])
    assert not broker.exists("l")
    wire.send([("RPUSH", "l", 2)])
    assert wire.flush()
    assert broker.lrange("l", 0, -1) == [b"1", b"2"]
    wire.hold([("RPUSH", "l", 3)])
    wire.tell_held()
    wire.tell_held()
    assert wire.flush()
    assert broker.lrange("l", 0, -1) == [b"1", b"2", b"3"]


def test_what_is_held_is_news_and_lost_while_the_broker_is_away(wire: Wire, redis_server: RedisServer):
    assert wire.flush()
    redis_server.kill()
    wire.send([("PING",)], [("HSET", "h", "a", 1)])
    wire.hold([("RPUSH", "l", 1)])
    wire.tell_held()
    wire.tell_held()
    redis_server.start()
    until(wire.flush)
    assert wire.kept == 0


def test_must_commands_survive_a_restart_of_redis(wire: Wire, broker: redis.Redis, redis_server: RedisServer):
    wire.send([], [("HSET", "h", "a", 1)])
    assert wire.flush()
    redis_server.kill()
    wire.send([("PUBLISH", "news", "lost")], [("HSET", "h", "b", 2)])
    assert not wire.flush()
    assert wire.kept == 1
    redis_server.start()
    until(wire.flush)
    assert wire.kept == 0
    assert set(broker.hgetall("h")) >= {b"b"}


def test_written_but_unanswered_commands_are_sent_again(wire: Wire, broker: redis.Redis, redis_server: RedisServer):
    """A connection that dies before the answer: nobody knows whether it was done, so it is done again."""
    assert wire.flush()
    wire.send([("PING",)])
    assert wire.flush()
    pid = broker.info()["process_id"]
    os.kill(pid, signal.SIGSTOP)
    wire.send([], [("HSET", "h", "x", 1)])
    assert wire.kept == 1
    os.kill(pid, signal.SIGKILL)
    redis_server.start()
    until(wire.flush)
    assert broker.hget("h", "x") == b"1"


def test_a_refused_command_does_not_stop_the_wire(wire: Wire, broker: redis.Redis):
    broker.set("text", "x")
    wire.send([], [("HDEL", "text", "f")])
    wire.send([], [("HSET", "h", "a", 1)])
    assert wire.flush()
    assert broker.hget("h", "a") == b"1"


def test_a_command_that_is_refused_for_a_while_is_sent_again(wire: Wire, broker: redis.Redis):
    """As during a failover, when the old master has become a replica."""
    broker.hset("h", mapping={"a": 1, "b": 2, "c": 3})
    broker.replicaof("127.0.0.1", 1)
    try:
        wire.send([("PUBLISH", "news", "1"), ("SET", "text", "refused, and not kept")], [("HDEL", "h", "a")])
        wire.send([], [("HDEL", "h", "b"), ("PING",), ("HDEL", "h", "c")])
        assert not wire.flush()
        assert not wire.flush()
        assert wire.kept >= 3  # the PING too, when the first refusal was read before it was written
        assert broker.hlen("h") == 3
    finally:
        broker.replicaof("NO", "ONE")
    until(wire.flush)
    assert broker.hlen("h") == 0
    assert not broker.exists("text")
    assert wire.kept == 0


@pytest.mark.parametrize("answered", [True, False], ids=["all answers read", "answers unread"])
def test_news_after_an_idle_time_are_not_written_into_a_closed_connection(
    wire: Wire, broker: redis.Redis, answered: bool
):
    """As with Redis' `timeout`: the server closes what has been idle, and nobody has looked since."""
    heard = broker.pubsub(ignore_subscribe_messages=True)
    heard.subscribe("news")
    until(lambda: broker.pubsub_numsub("news")[0][1])
    wire.send([("PUBLISH", "news", "before")], [("HSET", "h", "a", 1)])
    if answered:
        assert wire.flush()
    until(lambda: (heard.get_message(timeout=0) or {}).get("data") == b"before")
    until(lambda: broker.hexists("h", "a"))
    closed = [client["id"] for client in broker.client_list() if client["cmd"] in ("hset", "publish")]
    assert [broker.client_kill_filter(_id=id) for id in closed] == [1]
    wire.send([("PUBLISH", "news", "after")], [("HSET", "h", "b", 2)])
    until(lambda: (heard.get_message(timeout=0) or {}).get("data") == b"after")
    until(lambda: wire.flush() and broker.hexists("h", "b"))
    heard.close()


def test_of_a_cause_one_line_is_said_until_it_has_passed(
    wire: Wire, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    said = CapturingLogger()
    monkeypatch.setattr("penstock_worker.report.wire.log", said)
    broker.config_set("min-replicas-to-write", 1)
    try:
        for _ in range(3):
            wire.send([("SET", "text", "news")], [("HSET", "h", "a", 1)])
            assert not wire.flush()
            until(lambda: monotonic_s() > wire._must_at)
    finally:
        broker.config_set("min-replicas-to-write", 0)
    until(wire.flush)
    assert broker.hget("h", "a") == b"1"
    assert [(call.args, call.kwargs.get("cause")) for call in said.calls] == [
        (("broker refused a command",), "NOREPLICAS"),
        (("broker is back",), None),
    ]


def test_celery_reads_our_events(broker_url: str, broker: redis.Redis, wire: Wire):
    """Many events in one message arrive at a stock Celery event receiver, in order."""
    from celery import Celery

    app = Celery("watcher", broker=f"{broker_url}?virtual_host=0", set_as_current=False)
    events = CeleryEvents(hostname="w@h", db=parse(broker_url).db, tick=app.clock.forward)
    items = [
        Item(f"id-{n}", "m", Lane.INTERACTIVE, input='"x"', tag=n, source="s", arrived_at=0.0, claimed_at=0.0)
        for n in range(3)
    ]
    seen: list[dict[str, object]] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        with receiver.consumer_context(wakeup=False) as (conn, _, _):
            with suppress(TimeoutError):  # the first turn subscribes
                conn.drain_events(timeout=0.05)
            until(broker.pubsub_numpat)
            wire.send([events.received(items, lambda model: f"penstock.{model}"), events.started(items)])
            wire.flush()
            until(lambda: drained(conn, seen, 6))
    app.close()
    assert [(e["type"], e["uuid"]) for e in seen] == [
        *(("task-received", f"id-{n}") for n in range(3)),
        *(("task-started", f"id-{n}") for n in range(3)),
    ]
    assert seen[0]["name"] == "penstock.m"
    assert seen[0]["args"] == '("x",)'
    assert seen[0]["hostname"] == "w@h"
    json.dumps(seen)


def drained(connection, seen, count: int) -> bool:
    if len(seen) < count:
        connection.drain_events(timeout=PATIENCE_S)
    return len(seen) >= count
