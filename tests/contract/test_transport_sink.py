"""A channel with a sink, driven by kombu's event loop as in a worker: quotas, bulk acknowledgement, waking, loss."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import kombu.transport
import pytest
import redis
from kombu.asynchronous import Hub, set_event_loop

from penstock.job import NewJob, new_id
from penstock.lane import queue_name
from penstock.policy.fairness import Terms
from penstock.transport import inspect, keys
from penstock.transport.claims import settle_arguments
from penstock.transport.message import Envelope
from penstock.transport.publisher import Publisher
from penstock.transport.scripts import SETTLE
from penstock.transport.tenants import configure
from penstock.transport.url import for_kombu
from penstock.transport.wire import Wire
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer, until
from tests.fixtures.stopwatch import Stopwatch


class Batcher:
    """A sink that keeps what it is given and wants up to ``room`` jobs per queue."""

    def __init__(self, room: dict[str, int]) -> None:
        self.room = room
        self.taken: list[Envelope] = []
        #: Of which queues, one by one.
        self.queues: list[str] = []
        self.done: set[int] = set()
        self.losses = 0
        self.asked = 0

    def charges(self) -> dict[str, float]:
        self.asked += 1
        return dict.fromkeys(self.room, 0.25)

    def quota(self) -> dict[str, int]:
        held = dict.fromkeys(self.room, 0)
        for queue, envelope in zip(self.queues, self.taken, strict=True):
            held[queue] += envelope.tag not in self.done
        return {queue: room - held[queue] for queue, room in self.room.items()}

    def take(self, queue: str, envelopes: list[Envelope]) -> None:
        self.queues += [queue] * len(envelopes)
        self.taken += envelopes

    def lost(self) -> None:
        self.losses += 1

    @property
    def inputs(self) -> list[str | None]:
        return [envelope.input for envelope in self.taken]


class Loop:
    """kombu's event loop with one consuming channel, turned by hand."""

    def __init__(self, connection: kombu.Connection, sink: Batcher | None, *queues: str) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.hub = Hub()
        set_event_loop(self.hub)
        connection.register_with_event_loop(self.hub)
        self.channel = connection.channel()
        if sink is not None:
            self.channel.set_sink(sink)
        self.consumer = kombu.Consumer(
            self.channel,
            [kombu.Queue(name, no_declare=True) for name in queues],
            on_message=self.messages.append,
            accept=["json"],
        )
        self.consumer.consume()

    def until(self, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Turn until the condition holds. A thread watches it, so that the loop's own poll is not disturbed before."""
        holds = threading.Event()

        def watch() -> None:
            until(condition, timeout_s=timeout_s)
            holds.set()
            self.channel.wake()

        watcher = threading.Thread(target=watch)
        watcher.start()
        while watcher.is_alive() and not holds.is_set():
            self.hub.run_once()
        watcher.join()
        assert holds.is_set(), "the awaited condition did not come true"

    def turn_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.hub.run_once()

    def close(self) -> None:
        self.connection.release()
        self.hub.close()
        set_event_loop(None)


@pytest.fixture
def interactive(namespace: str) -> str:
    return queue_name(namespace, "embed", "interactive")


@pytest.fixture
def background(namespace: str) -> str:
    return queue_name(namespace, "embed", "background")


@pytest.fixture
def sink(interactive: str, background: str) -> Batcher:
    return Batcher({interactive: 8, background: 8})


@pytest.fixture
def publisher(broker_url: str, namespace: str) -> Iterator[Publisher]:
    publisher = Publisher(broker_url, namespace)
    yield publisher
    publisher.close()


@pytest.fixture
def make_loop(broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Loop]]:
    monkeypatch.setitem(kombu.transport.TRANSPORT_ALIASES, "penstock", "penstock.transport.redis:Transport")
    loops: list[Loop] = []

    def make(sink: Batcher | None, *queues: str, **options: Any) -> Loop:
        url = for_kombu(broker_url).url.replace("redis+socket", "penstock+socket")
        # A long idle wait: what comes in time did not come by its end.
        options = {"namespace": namespace, "idle_tick_s": 2 * PATIENCE_S, **options}
        loops.append(Loop(kombu.Connection(url, transport_options=options), sink, *queues))
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()


@pytest.fixture
def loop(make_loop: Callable[..., Loop], sink: Batcher, interactive: str, background: str) -> Loop:
    return make_loop(sink, interactive, background)


def job(text: str = '"hello"', **changes: Any) -> NewJob:
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


def jobs(count: int, **changes: Any) -> list[NewJob]:
    return [job(str(i), **changes) for i in range(count)]


# Claiming -----------------------------------------------------------------------------------------------------------


def test_the_sink_gets_whole_envelopes(loop: Loop, sink: Batcher, publisher: Publisher, interactive: str) -> None:
    mine = job('{"a":1}', reply_to="client", deadline_at=5.0, priority=3)
    publisher.publish([mine])
    loop.until(lambda: sink.taken)
    (envelope,) = sink.taken
    assert (envelope.id, envelope.input, sink.queues) == (mine.id, '{"a":1}', [interactive])
    assert (envelope.reply_to, envelope.deadline_at, envelope.priority) == ("client", 5.0, 3)


def test_quotas_bound_what_is_claimed_per_queue(
    loop: Loop,
    sink: Batcher,
    publisher: Publisher,
    broker: redis.Redis,
    namespace: str,
    interactive: str,
    background: str,
) -> None:
    sink.room = {interactive: 3, background: 5}
    publisher.publish(jobs(20) + jobs(20, lane="background"))
    loop.until(lambda: len(sink.taken) == 8)
    assert sink.queues == [interactive] * 3 + [background] * 5
    depths = inspect.depths(broker, namespace, [interactive, background])
    assert (depths[interactive].ready, depths[background].ready) == (17, 15)
    assert (depths[interactive].claimed, depths[background].claimed) == (3, 5)


def test_room_that_opens_is_filled_at_once_and_acknowledgements_go_along(
    loop: Loop, sink: Batcher, publisher: Publisher, broker: redis.Redis, namespace: str, interactive: str
) -> None:
    publisher.publish(jobs(100))
    loop.until(lambda: len(sink.taken) == 8)
    for count in (16, 24, 32):
        tags = [e.tag for e in sink.taken[-8:]]
        sink.done.update(tags)
        loop.channel.ack_many(tags)
        loop.until(lambda wanted=count: len(sink.taken) == wanted)
        assert inspect.depths(broker, namespace, [interactive])[interactive].claimed == 8
    assert sink.inputs == [str(i) for i in range(32)]


def test_room_in_one_queue_is_filled_while_another_is_waited_for(
    loop: Loop, sink: Batcher, publisher: Publisher, background: str
) -> None:
    """The wait for interactive jobs must not hold up a saturated background queue."""
    publisher.publish(jobs(200, lane="background"))
    loop.until(lambda: len(sink.taken) == 8)
    watch = Stopwatch()
    while len(sink.taken) < 200:
        tags = [e.tag for e in sink.taken]
        sink.done.update(tags)
        loop.channel.ack_many(tags)
        count = len(sink.taken)
        loop.until(lambda seen=count: len(sink.taken) > seen)
    assert watch.took_s < 5


def test_interactive_jobs_arrive_while_background_is_full(
    loop: Loop, sink: Batcher, publisher: Publisher, interactive: str
) -> None:
    publisher.publish(jobs(100, lane="background"))
    loop.until(lambda: len(sink.taken) == 8)
    loop.turn_for(0.05)
    publisher.publish([job("1")])
    loop.until(lambda: sink.queues[-1] == interactive)


def test_a_queue_that_gets_room_while_another_is_waited_for_is_waited_for_too(
    loop: Loop, sink: Batcher, publisher: Publisher, interactive: str, background: str
) -> None:
    sink.room = {interactive: 8, background: 0}
    loop.turn_for(0.05)
    sink.room = {interactive: 8, background: 8}
    loop.channel.wake()
    loop.turn_for(0.05)
    publisher.publish([job(lane="background")])
    loop.until(lambda: sink.taken)


def test_a_sink_that_wants_nothing_gets_nothing(
    loop: Loop, sink: Batcher, publisher: Publisher, broker: redis.Redis, interactive: str, background: str
) -> None:
    sink.room = {interactive: 0, background: 0}
    publisher.publish(jobs(3))
    loop.turn_for(0.1)
    assert sink.taken == []
    sink.room = {interactive: 2, background: 0}
    loop.channel.wake()
    loop.until(lambda: len(sink.taken) == 2)


def test_other_messages_go_kombus_way(
    loop: Loop, sink: Batcher, publisher: Publisher, broker: redis.Redis, interactive: str, namespace: str
) -> None:
    """Canvas jobs and those of producers without penstock reach the consumer as kombu messages, in the quota."""
    canvas = '{"headers":{"id":"c","task":"t"},"properties":{},"embed":null}'
    publisher.publish([job("1"), job("2", canvas=canvas), job("3")])
    loop.until(lambda: len(sink.taken) == 2 and loop.messages)
    assert sink.inputs == ["1", "3"]
    (message,) = loop.messages
    assert message.payload[0] == [2]
    assert message.headers["id"] == "c"
    message.ack()
    loop.turn_for(0.02)
    assert inspect.depths(broker, namespace, [interactive])[interactive].claimed == 2


def test_what_a_delivery_puts_off_is_done_at_once(loop: Loop, publisher: Publisher) -> None:
    """Celery acknowledges through the loop's next turn; a poll that waits before it would hold up the queue."""
    put_off: list[Any] = []
    loop.consumer.on_message = lambda message: loop.hub.call_soon(put_off.append, message)
    publisher.publish([job(canvas='{"headers":{"id":"c","task":"t"},"properties":{},"embed":null}')])
    watch = Stopwatch()
    loop.until(lambda: put_off)
    assert watch.took_s < 0.9


def test_queues_without_a_quota_keep_kombus_prefetch(
    make_loop: Callable[..., Loop], sink: Batcher, broker: redis.Redis, interactive: str, publisher: Publisher
) -> None:
    loop = make_loop(sink, interactive, "plain-celery")
    loop.consumer.qos(prefetch_count=2)
    producer = kombu.Producer(loop.connection)
    for i in range(5):
        producer.publish([[i], {}, {}], routing_key="plain-celery", serializer="json")
    publisher.publish(jobs(5))
    loop.until(lambda: len(loop.messages) == 2 and len(sink.taken) == 5)
    loop.turn_for(0.05)
    assert len(loop.messages) == 2
    loop.messages[0].ack()
    loop.until(lambda: len(loop.messages) == 3)


# Acknowledging and giving back -------------------------------------------------------------------------------------


def test_acknowledgements_do_not_linger(
    loop: Loop, sink: Batcher, publisher: Publisher, broker: redis.Redis, namespace: str, interactive: str
) -> None:
    """Even from another thread, while the loop is in its poll and nothing else happens."""
    publisher.publish(jobs(3))
    loop.until(lambda: len(sink.taken) == 3)
    loop.turn_for(0.05)
    timer = threading.Timer(0.05, loop.channel.ack_many, [[e.tag for e in sink.taken]])
    timer.start()
    watch = Stopwatch()
    loop.until(lambda: inspect.depths(broker, namespace, [interactive])[interactive].claimed == 0)
    assert watch.took_s < 0.9
    timer.join()


def test_a_thread_can_wake_the_loop(loop: Loop) -> None:
    loop.turn_for(0.05)
    woken = []
    threading.Timer(0.05, lambda: (woken.append(1), loop.channel.wake())).start()
    watch = Stopwatch()
    loop.until(lambda: woken)
    assert watch.took_s < 0.9


def test_given_back_jobs_are_next_for_another_worker(
    loop: Loop, sink: Batcher, publisher: Publisher, make_loop: Callable[..., Loop], interactive: str, background: str
) -> None:
    publisher.publish(jobs(5))
    loop.until(lambda: len(sink.taken) == 5)
    tags = [e.tag for e in sink.taken]
    sink.room = {interactive: 0, background: 0}
    loop.channel.give_back(tags[3:] + tags[:1])
    other_sink = Batcher({interactive: 8})
    other = make_loop(other_sink, interactive)
    other.until(lambda: len(other_sink.taken) == 3)
    assert other_sink.inputs == ["0", "3", "4"]


def test_closing_gives_everything_back_at_once_even_from_within_the_wait(
    loop: Loop, sink: Batcher, publisher: Publisher, broker: redis.Redis, interactive: str, namespace: str
) -> None:
    publisher.publish(jobs(5))
    loop.until(lambda: len(sink.taken) == 5)
    loop.turn_for(0.05)  # into the wait, which would last 30 s
    loop.channel.ack_many([sink.taken[0].tag])
    publisher.publish(jobs(2))  # claimed by the wait, and never read
    watch = Stopwatch()
    loop.connection.release()
    assert watch.took_s < 2
    assert broker.llen(interactive) == 6
    assert sink.losses == 1
    assert broker.zcard(keys.consumers(namespace)) == 0


# Loss ---------------------------------------------------------------------------------------------------------------


def test_the_sink_is_told_when_the_lease_was_lost_and_work_goes_on(
    make_loop: Callable[..., Loop],
    sink: Batcher,
    publisher: Publisher,
    broker: redis.Redis,
    interactive: str,
    namespace: str,
) -> None:
    loop = make_loop(sink, interactive, lease_s=1.0)
    publisher.publish(jobs(3))
    loop.until(lambda: len(sink.taken) == 3)
    old = loop.channel._claims.consumer
    broker.zrem(keys.consumers(namespace), old)
    loop.until(lambda: sink.losses == 1)
    sink.taken.clear()
    sink.queues.clear()
    loop.channel.ack_many([1, 2, 3])
    publisher.publish([job("new")])
    loop.until(lambda: sink.taken)
    assert loop.channel._claims.consumer != old


def test_the_lease_is_kept_while_the_loop_is_busy(
    make_loop: Callable[..., Loop],
    sink: Batcher,
    publisher: Publisher,
    broker: redis.Redis,
    interactive: str,
    namespace: str,
) -> None:
    # Longer than a busy machine may put the keeping thread aside, and shorter than the loop stands still.
    loop = make_loop(sink, interactive, lease_s=1.5)
    publisher.publish(jobs(1))
    loop.until(lambda: sink.taken)
    other = make_loop(Batcher({interactive: 8}), interactive, lease_s=1.5)
    other.turn_for(2.5)  # the first loop stands still meanwhile, as it does while a task runs in its thread
    loop.turn_for(0.05)
    assert sink.losses == 0


def test_a_flush_in_the_middle(
    loop: Loop, sink: Batcher, publisher: Publisher, redis_server: RedisServer, interactive: str
) -> None:
    publisher.publish(jobs(3))
    loop.until(lambda: len(sink.taken) == 3)
    loop.turn_for(0.05)
    redis_server.flushall()
    publisher.publish([job('"after"')])
    loop.until(lambda: sink.losses == 1)
    loop.until(lambda: sink.inputs[-1] == '"after"')


def test_a_wait_whose_answer_is_lost_loses_no_message(
    make_loop: Callable[..., Loop],
    loop: Loop,
    sink: Batcher,
    publisher: Publisher,
    broker: redis.Redis,
    interactive: str,
    namespace: str,
) -> None:
    """Its claim is run by the server, but nobody reads under which tags: the whole consumer is given up."""
    publisher.publish([job("1")])
    loop.until(lambda: sink.taken)
    loop.turn_for(0.05)
    loop.channel.client.connection._sock.shutdown(socket.SHUT_RD)
    publisher.publish([job("2")])  # claimed by the wait
    with pytest.raises(loop.connection.connection_errors):
        loop.turn_for(5)
    assert sink.losses == 1
    loop.connection.release()
    until(lambda: broker.llen(interactive) == 2)
    assert broker.keys(keys.unacked(namespace, "*")) == []


def test_a_wait_that_is_overdue_is_given_up(
    make_loop: Callable[..., Loop], loop: Loop, sink: Batcher, publisher: Publisher, interactive: str
) -> None:
    """As kombu's health check does with a half-open connection."""
    loop.turn_for(0.05)
    loop.channel.client.connection.disconnect()
    with pytest.raises(loop.connection.connection_errors):
        loop.turn_for(5)
    loop.connection.release()
    again = Batcher({interactive: 8})
    second = make_loop(again, interactive)
    publisher.publish([job()])
    second.until(lambda: again.taken)


def test_a_channel_can_go_on_after_an_error(
    loop: Loop, sink: Batcher, publisher: Publisher, redis_server: RedisServer
) -> None:
    """Celery makes a new connection, other programs may not."""
    with redis_server.client() as client:
        client.config_set("appendfsync", "always")
    publisher.publish([job("1")])
    loop.until(lambda: sink.taken)
    loop.turn_for(0.05)
    redis_server.kill()
    with pytest.raises(loop.connection.connection_errors):
        loop.turn_for(5)
    redis_server.start()
    loop.until(lambda: len(sink.taken) == 2)
    assert sink.inputs == ["1", "1"]


def test_redis_killed_and_started_again(
    make_loop: Callable[..., Loop],
    loop: Loop,
    sink: Batcher,
    publisher: Publisher,
    redis_server: RedisServer,
    interactive: str,
) -> None:
    """As Celery does: the loop raises a connection error, the connection is closed and a new one opened."""
    with redis_server.client() as client:
        client.config_set("appendfsync", "always")
    publisher.publish(jobs(3))
    loop.until(lambda: len(sink.taken) == 3)
    redis_server.kill()
    with pytest.raises(loop.connection.connection_errors):
        loop.turn_for(10)
    loop.connection.release()
    assert sink.losses
    redis_server.start()
    again = Batcher({interactive: 8})
    second = make_loop(again, interactive)
    second.until(lambda: len(again.taken) == 3, timeout_s=5)  # well before the lease's end
    assert again.inputs == ["0", "1", "2"]


# Time ---------------------------------------------------------------------------------------------------------------


def test_an_idle_loop_wakes_by_the_bell(loop: Loop, sink: Batcher, publisher: Publisher) -> None:
    """Within a few milliseconds. The quickest tell: other programs can only make one slower."""
    loop.turn_for(0.05)
    delays = []
    for i in range(20):
        sent: list[float] = []
        timer = threading.Timer(0.01, lambda sent=sent: (sent.append(time.monotonic()), publisher.publish([job()])))
        timer.start()
        loop.until(lambda seen=i: len(sink.taken) > seen)
        delays.append(time.monotonic() - sent[0])
        sink.done.add(sink.taken[-1].tag)
        loop.channel.ack_many([sink.taken[-1].tag])
        timer.join()
    assert sorted(delays)[4] < 0.05


def test_stock_producers_are_noticed_soon_while_they_are_active(
    make_loop: Callable[..., Loop], interactive: str, broker: redis.Redis
) -> None:
    loop = make_loop(None, interactive, idle_tick_s=0.1)
    loop.turn_for(0.05)
    raw = b'{"body":"W1tdLCB7fSwge31d","headers":{},"properties":{"body_encoding":"base64","delivery_info":{}}}'
    delays = []
    for i in range(20):
        watch = Stopwatch()
        broker.lpush(interactive, raw)
        loop.until(lambda seen=i: len(loop.messages) > seen)
        delays.append(watch.took_s)
        loop.messages[-1].ack()
        loop.turn_for(0.01)
    assert sorted(delays)[10] < 0.08


# Tenants ------------------------------------------------------------------------------------------------------------


def test_tenants_share_what_the_sink_wants_and_are_charged_what_it_expects(
    loop: Loop, sink: Batcher, publisher: Publisher, broker: redis.Redis, namespace: str, interactive: str
) -> None:
    publisher.publish(jobs(50, tenant="flood") + jobs(50, tenant="light") + jobs(50))
    loop.until(lambda: len(sink.taken) == 8)
    assert sorted(e.tenant for e in sink.taken) == ["default"] * 3 + ["flood"] * 3 + ["light"] * 2
    assert all(e.charged for e in sink.taken) and sink.asked
    counters: Any = broker.zrange(keys.busy(namespace, interactive), 0, -1, withscores=True)
    assert dict(counters) == {b"default": 0.75, b"flood": 0.75, b"light": 0.5}


def test_jobs_of_one_tenant_alone_are_not_charged(loop: Loop, sink: Batcher, publisher: Publisher) -> None:
    publisher.publish(jobs(5))
    loop.until(lambda: len(sink.taken) == 5)
    assert not any(e.charged for e in sink.taken)


def test_a_tenant_at_its_cap_goes_on_as_soon_as_a_job_is_settled(
    loop: Loop, sink: Batcher, publisher: Publisher, broker: redis.Redis, namespace: str
) -> None:
    """Well before the idle wait of 30 s is over: the settling rings the bell."""
    configure(broker, namespace, {"acme": Terms(cap=2)})
    publisher.publish(jobs(6, tenant="acme"))
    loop.until(lambda: len(sink.taken) == 2)
    for already in (2, 4):
        loop.turn_for(0.1)
        assert len(sink.taken) == already
        spent = {e.tag: 0.1 for e in sink.taken if e.tag not in sink.done}
        sink.done.update(spent)
        arguments = settle_arguments(namespace, loop.channel.unacked_name, spent)
        assert SETTLE(Wire(broker), *arguments) == 2
        loop.until(lambda count=already: len(sink.taken) == count + 2)
