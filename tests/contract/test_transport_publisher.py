"""The publisher against a real Redis: order, bells, news, and clear errors within a second."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from penstock.errors import BrokerUnavailable
from penstock.job import NewJob, new_id
from penstock.policy.fairness import Terms
from penstock.policy.sharing import Standing
from penstock.transport import keys
from penstock.transport.message import decode, id_of
from penstock.transport.publisher import Publisher
from penstock.transport.tenants import configure
from penstock.transport.wire import Wire, pack
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer
from tests.fixtures.stopwatch import Stopwatch


def job(**changes: Any) -> NewJob:
    fields: dict[str, Any] = {
        "id": new_id(),
        "model": "embed",
        "version": "1",
        "input": '"hello"',
        "lane": "interactive",
        "accepted_at": 1.0,
        "available_at": 1.0,
    }
    return NewJob(**fields | changes)


@pytest.fixture
def publisher(broker_url: str) -> Iterator[Publisher]:
    publisher = Publisher(broker_url, "ns")
    yield publisher
    publisher.close()


def test_jobs_stand_in_their_queues_in_order(publisher: Publisher, broker: redis.Redis) -> None:
    mine = [job(lane=lane, priority=priority) for _ in range(3) for lane in ("interactive", "background")
            for priority in (0, 1, 9)]  # fmt: skip
    publisher.publish(mine)
    for lane in ("interactive", "background"):
        queue = f"ns.embed.{lane}"
        normal, urgent = broker.lrange(queue, 0, -1)[::-1], broker.lrange(keys.list_key(queue, 9), 0, -1)[::-1]
        of_lane = [j for j in mine if j.lane == lane]
        assert [id_of(raw) for raw in normal] == [j.id for j in of_lane if j.priority < 9]
        assert [id_of(raw) for raw in urgent] == [j.id for j in of_lane if j.priority == 9]
        assert broker.llen(keys.bell("ns", queue)) == 1


def test_thousands_go_in_one_call(publisher: Publisher, broker: redis.Redis) -> None:
    mine = [job() for _ in range(10_000)]
    publisher.publish(mine)
    assert [id_of(raw) for raw in broker.lrange("ns.embed.interactive", 0, -1)[::-1]] == [j.id for j in mine]


def test_whoever_wakes_a_model_hears_of_its_jobs_once_a_call(publisher: Publisher, broker: redis.Redis) -> None:
    """Whatever their lane, version, tenant and priority: the pool that serves the model is one."""
    with broker.pubsub(ignore_subscribe_messages=True) as ear:  # type: ignore[no-untyped-call]
        ear.subscribe(keys.wake("ns", "embed"))
        assert ear.get_message(timeout=PATIENCE_S) is None  # the subscription's own answer
        publisher.publish([job(model="other")])
        publisher.publish([job(lane=lane, tenant=tenant) for lane in ("interactive", "background") for tenant in "ab"])
        heard = ear.get_message(timeout=PATIENCE_S)
        assert heard is not None and heard["channel"] == b"ns:wake:embed"
        assert ear.get_message(timeout=0) is None


def test_to_tell_who_wakes_a_model_takes_no_round_trip(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher.publish([job()])  # connects
    sent: list[bytes] = []
    send = redis.connection.UnixDomainSocketConnection.send_packed_command

    def counted(self: Any, command: Any, check_health: bool = True) -> None:
        sent.append(b"".join(command))
        send(self, command, check_health)

    monkeypatch.setattr(redis.connection.UnixDomainSocketConnection, "send_packed_command", counted)
    publisher.publish([job(), job(lane="background"), job(model="other", tenant="a")])
    assert len(sent) == 1
    assert sent[0].count(b"PUBLISH") == 2


def test_nothing_is_nothing(publisher: Publisher, broker: redis.Redis) -> None:
    publisher.publish([])
    publisher.notify({})
    assert broker.keys() == []


def test_threads_share_a_publisher(publisher: Publisher, broker: redis.Redis) -> None:
    threads = [threading.Thread(target=lambda: [publisher.publish([job()]) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    messages = broker.lrange("ns.embed.interactive", 0, -1)
    assert len({id_of(raw) for raw in messages}) == 400


def test_news_reach_who_listens(publisher: Publisher, broker: redis.Redis) -> None:
    listener = broker.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(keys.reply("ns", "c1"), keys.reply("ns", "c2"), keys.events("ns"))
    for _ in range(3):
        listener.get_message(timeout=PATIENCE_S)
    publisher.notify(
        {"c1": [{"id": "a", "state": "succeeded", "output": [1.5]}, {"id": "b", "state": "failed"}], "c2": []},
        [{"state": "succeeded", "ids": ["a"]}, {"state": "failed", "ids": ["b"]}],
    )
    heard = []
    while len(heard) < 4:
        message = listener.get_message(timeout=PATIENCE_S)
        assert message is not None
        heard.append((message["channel"].decode(), json.loads(message["data"])))
    listener.close()
    assert heard == [
        ("ns:reply:c1", [{"id": "a", "state": "succeeded", "output": [1.5]}, {"id": "b", "state": "failed"}]),
        ("ns:reply:c2", []),
        ("ns:events", {"state": "succeeded", "ids": ["a"]}),
        ("ns:events", {"state": "failed", "ids": ["b"]}),
    ]


def test_who_waits_is_read_with_what_the_workers_say(publisher: Publisher, broker: redis.Redis) -> None:
    """Every tenant that waits, with its terms, and those that were asked for; nobody else."""
    publisher.publish(
        [job(), job(priority=7), *(job(tenant="a/b") for _ in range(3)), job(tenant="far", model="other")]
    )
    configure(broker, "ns", {"a/b": Terms(weight=2.0, cap=5), "idle": Terms(weight=0.5), "absent": Terms(weight=9.0)})
    broker.hset(keys.load("ns", "embed"), "w1", "{}")
    found = publisher.loads({"embed": ["idle", "a/b"], "unknown": []}, "interactive")
    assert found["embed"].by_worker == {"w1": b"{}"}
    shares = found["embed"].shares
    assert shares.of().own == Standing((1, 0, 1, 0))
    assert shares.of("a/b").own == Standing((3, 0, 0, 0), weight=2.0, cap=5)
    assert shares.of("idle").own == Standing(weight=0.5)
    assert shares.of("absent").own == Standing(), "not asked for"
    assert (shares.total, found["unknown"].shares.total) == (5, 0)
    assert shares.of("idle").part == 0.5 / 3.5


def test_a_full_server_says_so(publisher: Publisher, broker: redis.Redis) -> None:
    publisher.publish([job()])
    broker.config_set("maxmemory", 1)
    try:
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            publisher.publish([job()])
    finally:
        broker.config_set("maxmemory", 0)
    publisher.publish([job()])  # the connection is still in step
    assert broker.llen("ns.embed.interactive") == 2


def test_a_stopped_server_is_an_error_with_a_fix_and_a_started_one_is_found_again(
    redis_server: RedisServer, publisher: Publisher, broker: redis.Redis
) -> None:
    publisher.publish([job()])
    redis_server.stop()
    for call in (publisher.check, lambda: publisher.publish([job()]), lambda: publisher.notify({"c": []})):
        watch = Stopwatch()
        with pytest.raises(BrokerUnavailable, match="does not answer") as caught:
            call()
        assert watch.took_s < 1
        assert "penstock up" in caught.value.fix
    redis_server.start()
    publisher.publish([job()])
    publisher.check()
    assert broker.llen("ns.embed.interactive") == 2


def test_a_server_that_hangs_is_given_up_after_a_second(redis_server: RedisServer, publisher: Publisher) -> None:
    publisher.publish([job()])
    pid = redis_server.broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        watch = Stopwatch()
        with pytest.raises(BrokerUnavailable):
            publisher.publish([job()])
        assert watch.took_s < 2.5
    finally:
        os.kill(pid, signal.SIGCONT)
    publisher.publish([job()])


def test_a_message_is_what_the_worker_reads(publisher: Publisher, broker: redis.Redis) -> None:
    mine = job(input='{"text":"ü"}', tenant="acme", reply_to="c", timeout_s=3.0)
    publisher.publish([mine])
    read = decode(broker.lpop(keys.list_key("ns.embed.interactive", tenant="acme")))
    assert read is not None
    assert (read.id, read.input, read.tenant, read.reply_to, read.timeout_s) == (
        mine.id,
        '{"text":"ü"}',
        "acme",
        "c",
        3.0,
    )


# The wire ---------------------------------------------------------------------------------------------------------


def test_commands_are_packed_as_redis_reads_them(broker: redis.Redis) -> None:
    wire = Wire(broker)
    values: list[str | bytes | int | float] = ["text ü", b"\x00\xff\r\n", 7, 1.5, ""]
    assert wire([pack("RPUSH", "l", *values), pack("LRANGE", "l", 0, -1)]) == [
        5,
        ["text ü".encode(), b"\x00\xff\r\n", b"7", b"1.5", b""],
    ]


def test_an_error_among_replies_leaves_the_connection_in_step(broker: redis.Redis) -> None:
    wire = Wire(broker)
    with pytest.raises(redis.ResponseError, match="unknown command"):
        wire([pack("PING"), pack("NONSENSE"), pack("PING")])
    assert wire([pack("ECHO", "still here")]) == [b"still here"]


def test_a_lost_connection_is_tried_again_only_when_asked(broker: redis.Redis) -> None:
    wire = Wire(broker)
    killer = pack("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
    wire([pack("PING")])
    with pytest.raises((redis.ConnectionError, OSError)):
        wire([killer, pack("PING"), pack("PING"), pack("DEBUG", "SLEEP", "0.05"), pack("PING")])
    assert wire([pack("PING")], retry=True) == [b"PONG"]


def test_steps_of_late_runs_go_before_all_that_waits_at_their_priority(
    publisher: Publisher, broker: redis.Redis
) -> None:
    """The one that should have begun first is the first one. Whose time has not come yet waits in its turn."""
    now = time.time()
    waiting = [job(), job(start_by=now + 1000.0), job(deadline_at=now + 1000.0)]
    publisher.publish(waiting)
    late, later, urgent = job(start_by=now - 1), job(start_by=now - 9), job(priority=9)
    lengths = publisher.publish([late, job(id="plain"), later, urgent]).lengths
    queue = "ns.embed.interactive"
    heads = [id_of(raw) for raw in broker.lrange(queue, 0, -1)[::-1]]
    assert heads == [later.id, late.id, *(each.id for each in waiting), "plain"]
    assert lengths == {queue: 6, keys.list_key(queue, 9): 1}
    assert [id_of(raw) for raw in broker.lrange(keys.list_key(queue, 9), 0, -1)] == [urgent.id]
    publisher.publish([job(tenant="acme"), job(tenant="acme", id="late", start_by=now - 5)])
    assert id_of(broker.lindex(keys.list_key(queue, 0, "acme"), -1) or b"") == "late"
    assert id_of(broker.lindex(queue, -1) or b"") == later.id, "other tenants are not overtaken"
