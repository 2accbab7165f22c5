"""The transport as kombu, Celery and Flower see it: everything that works with Redis works with ours."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu
import kombu.transport
import pytest
import redis
from celery import Celery
from flower.utils.broker import Broker as FlowerBroker

from penstock.errors import ConfigError
from penstock.job import NewJob, new_id
from penstock.lane import queue_name
from penstock.transport import inspect, keys
from penstock.transport.claims import Claimed, Claims
from penstock.transport.lease import LeaseKeeper
from penstock.transport.publisher import Publisher
from penstock.transport.url import for_kombu
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer, until
from tests.fixtures.stopwatch import Stopwatch


@pytest.fixture
def queue(namespace: str) -> str:
    return queue_name(namespace, "embed", "interactive")


@pytest.fixture
def make_job(namespace: str) -> Callable[..., NewJob]:
    def make(text: str = '"hello"', **changes: Any) -> NewJob:
        fields: dict[str, Any] = {
            "id": new_id(),
            "model": "embed",
            "version": "1",
            "input": text,
            "lane": "interactive",
            "accepted_at": 1.0,
            "available_at": 1.0,
        }
        return NewJob(**fields | changes)

    return make


@pytest.fixture
def publisher(broker_url: str, namespace: str) -> Iterator[Publisher]:
    publisher = Publisher(broker_url, namespace)
    yield publisher
    publisher.close()


@pytest.fixture
def connect_kombu(
    broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., kombu.Connection]]:
    """Connections through our transport, or with ``stock=True`` through kombu's own."""
    monkeypatch.setitem(kombu.transport.TRANSPORT_ALIASES, "penstock", "penstock.transport.redis:Transport")
    opened: list[kombu.Connection] = []

    def connect(*, stock: bool = False, **options: Any) -> kombu.Connection:
        url = for_kombu(broker_url).url
        connection = kombu.Connection(
            url if stock else url.replace("redis+socket", "penstock+socket"),
            transport_options={"namespace": namespace, "lease_s": 2.0, **options},
        )
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.release()


class Inbox:
    """Takes messages from a connection without an event loop."""

    def __init__(self, connection: kombu.Connection, *queues: str, ack: bool = True, **options: Any) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.channel = connection.channel()
        self.consumer = kombu.Consumer(
            self.channel,
            [kombu.Queue(name, no_declare=True) for name in queues],
            on_message=self._take,
            accept=["json"],
            **options,
        )
        self._ack = ack

    def _take(self, message: Any) -> None:
        self.messages.append(message)
        if self._ack and not self.consumer.no_ack:
            message.ack()

    def until(self, count: int, timeout_s: float = PATIENCE_S) -> list[Any]:
        deadline = time.monotonic() + timeout_s
        while len(self.messages) < count:
            assert time.monotonic() < deadline, f"{len(self.messages)} of {count} messages came"
            try:
                self.connection.drain_events(timeout=0.5)
            except TimeoutError:
                continue
        return [message.payload[0][0] for message in self.messages]

    def silence(self, timeout_s: float = 0.3) -> None:
        with pytest.raises(TimeoutError):
            self.connection.drain_events(timeout=timeout_s)


@contextmanager
def inbox(connection: kombu.Connection, *queues: str, **options: Any) -> Iterator[Inbox]:
    box = Inbox(connection, *queues, **options)
    with box.consumer:
        yield box


def ready(client: redis.Redis, queue: str) -> int:
    return sum(client.llen(key) for key in keys.list_keys(queue))


# Both directions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_a_consumer_reads_what_our_publisher_wrote(
    stock: bool, connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis
) -> None:
    jobs = [make_job(str(i)) for i in range(100)]
    publisher.publish(jobs)
    with inbox(connect_kombu(stock=stock), queue) as box:
        assert box.until(100) == list(range(100))
        assert [message.headers["id"] for message in box.messages] == [job.id for job in jobs]
    assert ready(broker, queue) == 0


def test_our_consumer_reads_what_a_stock_producer_sent(connect_kombu: Any, queue: str, broker_url: str) -> None:
    app = Celery("producer", broker=for_kombu(broker_url).url, set_as_current=False)
    with inbox(connect_kombu(), queue) as box, connect_kombu(stock=True) as connection:
        for i in range(50):
            app.send_task("anything", args=[i], queue=queue, connection=connection)
        assert box.until(50) == list(range(50))
        assert box.messages[0].headers["task"] == "anything"
    app.close()


def test_a_stock_producers_message_is_noticed_by_an_idle_consumer(
    connect_kombu: Any, queue: str, broker: redis.Redis
) -> None:
    """It rings no bell, so the idle wait must end by itself."""
    connection = connect_kombu()
    with inbox(connection, queue) as box:
        box.silence()
        with connect_kombu(stock=True) as stock:
            kombu.Producer(stock).publish([[1], {}, {}], routing_key=queue, serializer="json")
        watch = Stopwatch()
        box.until(1)
        assert watch.took_s < 1.0


def test_priorities_larger_first(connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any) -> None:
    publisher.publish([make_job(str(p), priority=p) for p in (0, 9, 3, 6)])
    with inbox(connect_kombu(), queue) as box:
        assert box.until(4) == [9, 6, 3, 0]


def test_a_message_that_names_a_tenant_goes_to_its_lists(
    connect_kombu: Any, queue: str, broker: redis.Redis, namespace: str
) -> None:
    """Sent alone or in kombu's batch; stock parts count, read and purge a queue whose tenants they do not know."""
    with connect_kombu() as connection, connection.channel() as channel:
        producer = kombu.Producer(channel)

        def send(text: str, **headers: Any) -> None:
            producer.publish([[text], {}, {}], routing_key=queue, serializer="json", headers=headers, priority=9)

        send("a", penstock={"tenant": "acme"})
        send("d")
        with producer.batch():
            send("b", penstock={"tenant": "acme"})
        assert broker.llen(keys.list_key(queue, 9, "acme")) == 2
        assert channel._size(queue) == 3
        assert inspect.depths(broker, namespace, [queue])[queue].ready == 3
        with inbox(connect_kombu(), queue) as box:
            assert sorted(box.until(3)) == ["a", "b", "d"]
        send("c", penstock={"tenant": "acme"})
        assert channel.queue_purge(queue) == 1
        assert channel._size(queue) == 0


def test_our_producer_is_read_by_stock_consumers(connect_kombu: Any, queue: str) -> None:
    with connect_kombu() as connection:
        producer = kombu.Producer(connection)
        for i in range(10):
            producer.publish([[i], {}, {}], routing_key=queue, serializer="json", priority=i)
    with inbox(connect_kombu(stock=True), queue) as box:
        assert sorted(box.until(10)) == list(range(10))


def test_a_batch_of_kombu_rings_the_bell(connect_kombu: Any, queue: str, broker: redis.Redis, namespace: str) -> None:
    with connect_kombu() as connection, connection.channel() as channel:
        producer = kombu.Producer(channel)
        with producer.batch():
            for i in range(10):
                producer.publish([[i], {}, {}], routing_key=queue, serializer="json")
        assert broker.llen(keys.bell(namespace, queue)) == 1
    assert ready(broker, queue) == 10


def test_one_ring_wakes_as_many_consumers_as_there_is_work_for(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any
) -> None:
    """Who leaves messages behind rings again; the idle wait is too long to help."""
    boxes = [Inbox(connect_kombu(idle_tick_s=2 * PATIENCE_S), queue, ack=False, prefetch_count=1) for _ in range(3)]
    for box in boxes:
        box.consumer.consume()
        box.silence(0.05)
    threads = [threading.Thread(target=box.until, args=(1,)) for box in boxes]
    for thread in threads:
        thread.start()
    publisher.publish([make_job(str(i)) for i in range(3)])
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(message.payload[0][0] for box in boxes for message in box.messages) == [0, 1, 2]


# Acknowledgement, prefetch, rejection --------------------------------------------------------------------------------


def test_unacknowledged_messages_go_back_when_the_connection_closes(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis
) -> None:
    publisher.publish([make_job(str(i)) for i in range(20)])
    connection = connect_kombu()
    box = Inbox(connection, queue, ack=False)
    box.consumer.consume()
    box.until(20)
    box.messages[0].ack()
    assert ready(broker, queue) == 0
    connection.release()
    assert ready(broker, queue) == 19
    with inbox(connect_kombu(), queue) as again:
        assert again.until(19) == list(range(1, 20))


def test_prefetch_bounds_what_is_claimed(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis
) -> None:
    publisher.publish([make_job(str(i)) for i in range(10)])
    with inbox(connect_kombu(), queue, ack=False, prefetch_count=3) as box:
        box.until(3)
        box.silence()
        assert ready(broker, queue) == 7
        box.messages[0].ack()
        box.messages[1].ack()
        assert box.until(5) == [0, 1, 2, 3, 4]
        assert ready(broker, queue) == 5


def test_a_prefetch_limit_is_shared_by_queues(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis, namespace: str
) -> None:
    background = queue_name(namespace, "embed", "background")
    publisher.publish([make_job() for _ in range(5)] + [make_job(lane="background") for _ in range(5)])
    with inbox(connect_kombu(), queue, background, ack=False, prefetch_count=4) as box:
        box.until(4)
        box.silence()
        assert ready(broker, queue) + ready(broker, background) == 6


def test_requeue_puts_back_and_reject_drops(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis
) -> None:
    publisher.publish([make_job("1"), make_job("2")])
    with inbox(connect_kombu(), queue, ack=False, prefetch_count=1) as box:
        box.until(1)
        box.messages[0].requeue()
        assert box.until(2) == [1, 1]
        box.messages[1].reject()
        assert box.until(3) == [1, 1, 2]
        box.messages[2].ack()
        box.silence()
    assert ready(broker, queue) == 0


def test_no_ack_consumers_leave_nothing_behind(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis, namespace: str
) -> None:
    publisher.publish([make_job(str(i)) for i in range(5)])
    connection = connect_kombu()
    with inbox(connection, queue, no_ack=True) as box:
        box.until(5)
        box.silence(0.1)
        assert inspect.depths(broker, namespace, [queue])[queue].total == 0


def test_get_takes_one(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis
) -> None:
    publisher.publish([make_job("1"), make_job("2"), make_job("3")])
    connection = connect_kombu()
    bound = kombu.Queue(queue, no_declare=True)(connection.channel())
    first, second = bound.get(), bound.get(no_ack=True)
    assert (first.payload[0], second.payload[0]) == ([1], [2])
    assert ready(broker, queue) == 1
    first.reject(requeue=True)
    assert ready(broker, queue) == 2
    connection.release()
    assert ready(broker, queue) == 2


def test_a_cancelled_consumer_gets_nothing_more(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis, namespace: str
) -> None:
    """Even a wait that was begun for it must not keep what it brings."""
    other = queue_name(namespace, "embed", "background")
    connection = connect_kombu()
    with inbox(connection, queue, other) as box:
        box.silence()
        box.consumer.cancel_by_queue(queue)
        publisher.publish([make_job("1"), make_job("2", lane="background")])
        assert box.until(1) == [2]
        box.silence()
    until(lambda: ready(broker, queue) == 1)


def test_a_message_that_is_none_is_set_aside(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis, namespace: str
) -> None:
    broker.lpush(queue, b"no json", b"[]", b'{"properties": 1}')
    publisher.publish([make_job("1")])
    with inbox(connect_kombu(), queue) as box:
        assert box.until(1) == [1]
    assert broker.lrange(keys.dead(namespace), 0, -1) == [b'{"properties": 1}', b"[]", b"no json"]
    assert ready(broker, queue) == 0


def test_a_callback_that_raises_keeps_nothing_but_its_message(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis
) -> None:
    publisher.publish([make_job(str(i)) for i in range(5)])
    box = Inbox(connect_kombu(), queue)

    def fail(message: Any) -> None:
        raise LookupError

    box.consumer.on_message = fail
    with box.consumer:
        with pytest.raises(LookupError):
            box.connection.drain_events(timeout=PATIENCE_S)
        assert ready(broker, queue) == 4


# Loss ---------------------------------------------------------------------------------------------------------------


def test_a_silent_consumers_messages_are_delivered_elsewhere(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis, namespace: str
) -> None:
    publisher.publish([make_job("1")])
    dead = Inbox(connect_kombu(), queue, ack=False)
    dead.consumer.consume()
    dead.until(1)
    dead.channel._keeper.stop()
    broker.zadd(keys.consumers(namespace), {dead.channel._claims.consumer: 0})
    with inbox(connect_kombu(lease_s=0.3), queue) as box:
        assert box.until(1) == [1]
        assert box.messages[0].delivery_info["redelivered"] is True
    # The first one turns out to live: it learns of its loss and goes on.
    publisher.publish([make_job("2")])
    dead.until(2)
    dead.messages[0].ack()  # void, and harmless
    assert inspect.depths(broker, namespace, [queue])[queue].claimed == 1


def test_a_channel_that_is_dropped_without_being_closed_gives_up_its_messages(
    broker_url: str, namespace: str, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis
) -> None:
    claims = Claims(broker, namespace, lease_s=0.15)
    publisher.publish([make_job("1")])
    claims.claim({queue: 1})

    class Dropped:
        """Stands for a channel; a real one is in a cycle with its connection."""

    keeper = LeaseKeeper(Dropped(), claims)  # type: ignore[arg-type]
    keeper.start()
    keeper.join(PATIENCE_S)
    assert not keeper.is_alive()
    assert ready(broker, queue) == 1


def test_a_flush_while_messages_are_claimed(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, redis_server: RedisServer, broker: redis.Redis
) -> None:
    publisher.publish([make_job("1")])
    with inbox(connect_kombu(), queue, ack=False) as box:
        box.until(1)
        redis_server.flushall()
        publisher.publish([make_job("2")])
        assert box.until(2) == [1, 2]
        box.messages[0].ack()
        box.messages[1].ack()
    assert ready(broker, queue) == 0


def test_redis_killed_under_an_idle_consumer(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, redis_server: RedisServer
) -> None:
    """The consumer notices at once, and the next connection gives back what the first one held."""
    connection = connect_kombu(lease_s=60.0)
    publisher.publish([make_job("1")])
    redis_server.broker._client().config_set("appendfsync", "always")
    box = Inbox(connection, queue, ack=False)
    box.consumer.consume()
    box.until(1)
    redis_server.kill()
    with pytest.raises(connection.connection_errors):
        connection.drain_events(timeout=PATIENCE_S)
    connection.release()
    redis_server.start()
    with inbox(connect_kombu(), queue) as again:
        assert again.until(1) == [1]


def test_the_data_of_others_is_not_touched(connect_kombu: Any, queue: str, broker: redis.Redis) -> None:
    """Stock consumers share the keys `unacked*`, whatever queue they serve; ours has no part in that."""
    with connect_kombu(stock=True) as connection:
        stock = Inbox(connection, "elsewhere", ack=False)
        kombu.Producer(connection).publish([[1], {}, {}], routing_key="elsewhere", serializer="json")
        stock.consumer.consume()
        stock.until(1)
        before = broker.hgetall("unacked")
        assert before, (stock.channel, stock.messages, broker.keys())
        with inbox(connect_kombu(lease_s=0.2), queue) as box:
            box.silence(0.6)
        assert broker.hgetall("unacked") == before


# Time ---------------------------------------------------------------------------------------------------------------


def test_an_idle_consumer_hears_the_bell(connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any) -> None:
    """Even where the idle wait is long."""
    with inbox(connect_kombu(idle_tick_s=2 * PATIENCE_S), queue) as box:
        for i in range(5):
            timer = threading.Timer(0.1, publisher.publish, [[make_job(str(i))]])
            timer.start()
            box.until(i + 1)
            timer.join()


def test_an_idle_consumer_hardly_uses_the_processor(connect_kombu: Any, queue: str) -> None:
    with inbox(connect_kombu(), queue) as box:
        box.silence(0.2)
        used, began = time.thread_time(), time.monotonic()
        box.silence(2.0)
        assert (time.thread_time() - used) / (time.monotonic() - began) < 0.02


# Whole programs -------------------------------------------------------------------------------------------------------


def test_a_stock_worker_runs_our_jobs(
    publisher: Publisher,
    namespace: str,
    make_job: Any,
    queue: str,
    broker_url: str,
    broker: redis.Redis,
    tmp_path: Path,
) -> None:
    done = tmp_path / "done"
    environment = os.environ | {
        "STOCK_BROKER": for_kombu(broker_url).url,
        "STOCK_TASK": f"{namespace}.embed",
        "STOCK_DONE": str(done),
    }
    publisher.publish([make_job(f'"text {i}"') for i in range(20)])
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tests.fixtures.stock_app", "worker", "-P", "solo", "-Q", queue,
         "--without-gossip", "--without-mingle", "-l", "warning"],
        env=environment,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        until(lambda: done.exists() and len(done.read_text().splitlines()) == 20, timeout_s=60)
        until(lambda: not broker.exists("unacked"))
    finally:
        worker.terminate()
        worker.wait(PATIENCE_S)
    assert sorted(done.read_text().splitlines()) == sorted(f'"text {i}"' for i in range(20))
    assert ready(broker, queue) == 0


def test_flower_shows_the_true_length(publisher: Publisher, make_job: Any, queue: str, broker_url: str) -> None:
    publisher.publish([make_job(priority=p % 10) for p in range(25)])
    flower = FlowerBroker(for_kombu(broker_url).url, broker_options={})
    (shown,) = asyncio.run(flower.queues([queue]))
    assert shown == {"name": queue, "messages": 25}


def test_install_takes_the_place_of_kombus_transports() -> None:
    code = (
        "from penstock.transport.redis import install; install(); install()\n"
        "from kombu import Connection\n"
        "for url in ('redis://', 'rediss://', 'redis+socket:///tmp/x', 'sentinel://'):\n"
        "    print(Connection(url).get_transport_cls().__module__)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["penstock.transport.redis"] * 4


def test_kombus_key_prefix_is_refused(connect_kombu: Any) -> None:
    """It would reach only some of the keys; our keys have the namespace."""
    with pytest.raises(ConfigError) as caught:
        connect_kombu(global_keyprefix="x-").channel()
    assert "PENSTOCK_NAMESPACE" in caught.value.fix


def test_the_host_name_is_part_of_a_consumers_name(connect_kombu: Any, queue: str) -> None:
    with inbox(connect_kombu(), queue) as box:
        box.silence(0.05)
        assert box.channel._claims.consumer.startswith(f"{socket.gethostname()}:{os.getpid()}:")


def test_what_a_consumer_had_is_marked_when_it_comes_again(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis, namespace: str
) -> None:
    """Rejected to the queue or left at the end: as on every broker, so that a task can tell that it was here before."""
    publisher.publish([make_job("1"), make_job("2"), make_job("3")])
    connection = connect_kombu()
    with inbox(connection, queue, ack=False, prefetch_count=1) as box:
        box.until(1)
        assert not box.messages[0].delivery_info.get("redelivered")
        box.messages[0].requeue()
        assert box.until(2) == [1, 1]
        assert box.messages[1].delivery_info["redelivered"] is box.messages[1].headers["redelivered"] is True
        box.messages[1].requeue()  # marked once: the text does not grow
        assert box.until(3) == [1, 1, 1]
    connection.release()
    raw = [bytes(message) for message in reversed(broker.lrange(queue, 0, -1))]
    assert [message.count(b',"redelivered":true}') for message in raw] == [1, 0, 0]
    connection = connect_kombu()
    one = kombu.Queue(queue, no_declare=True)(connection.channel())
    assert [one.get().delivery_info.get("redelivered", False) for _ in range(3)] == [True, False, False]


def test_set_aside_messages_free_their_places(
    connect_kombu: Any, publisher: Publisher, queue: str, make_job: Any, broker: redis.Redis, namespace: str
) -> None:
    publisher.publish([make_job(str(n)) for n in range(5)])
    with inbox(connect_kombu(), queue, ack=False, prefetch_count=1) as box:
        for count in range(1, 5):
            message = box.messages[-1] if box.until(count) else None
            assert message is not None
            box.channel.set_aside(Claimed(message.delivery_tag, b"{}"))
        assert box.until(5) == [0, 1, 2, 3, 4]
        # One that kombu was never given frees nobody else's place.
        broker.lpush(queue, b"no json")
        box.silence(0.1)
        assert box.channel.qos.can_consume_max_estimate() == 0
    assert broker.llen(keys.dead(namespace)) == 4
