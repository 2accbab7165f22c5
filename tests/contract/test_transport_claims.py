"""The claim protocol against a real Redis: atomic, in order, conserving."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from penstock.job import NewJob
from penstock.transport import inspect, keys
from penstock.transport.claims import CHUNK, Claims, LeaseLost, restore_expired, surrender
from penstock.transport.message import encode, id_of
from penstock.transport.publisher import RING_REPLIES, ring
from penstock.transport.refusals import Refused
from penstock.transport.url import connect
from penstock.transport.wire import Wire
from tests.fixtures.examples import examples
from tests.fixtures.forked import fork
from tests.fixtures.redis import RedisServer, until

Q, R = "ns.model.interactive", "ns.model.background"
NS = "ns"


def put(client: redis.Redis, *messages: str, queue: str = Q, priority: int = 0) -> None:
    client.lpush(keys.list_key(queue, priority), *messages)


def take(claims: Claims, count: int = 100, *queues: str, acks: Any = ()) -> list[str]:
    claimed = claims.claim(dict.fromkeys(queues or (Q,), count), acks=acks)
    return [message.raw.decode() for messages in claimed.values() for message in messages]


def ready(client: redis.Redis, queue: str = Q) -> list[str]:
    """A queue's messages in the order in which they will be claimed."""
    found: list[str] = []
    for key in keys.list_keys(queue):
        texts: Any = client.lrange(key, 0, -1)
        found += [text.decode() for text in reversed(texts)]
    return found


@pytest.fixture
def claims(broker: redis.Redis) -> Claims:
    return Claims(broker, NS)


# Claim ----------------------------------------------------------------------------------------------------------


def test_first_in_first_out(broker: redis.Redis, claims: Claims) -> None:
    put(broker, *(f"m{i}" for i in range(250)))
    assert take(claims, 100) + take(claims, 100) + take(claims, 100) == [f"m{i}" for i in range(250)]


def test_higher_priorities_first(broker: redis.Redis, claims: Claims) -> None:
    for priority in (0, 9, 3, 6, 1, 4, 7):
        put(broker, f"p{priority}", priority=priority)
    assert take(claims) == ["p9", "p6", "p7", "p3", "p4", "p0", "p1"]


def test_each_queue_has_its_quota_and_the_mapping_its_order(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "b1", "b2", "b3", queue=R)
    put(broker, "i1", "i2", "i3", queue=Q)
    claimed = claims.claim({Q: 2, R: 1})
    assert [(queue, [m.raw for m in messages]) for queue, messages in claimed.items()] == [
        (Q, [b"i1", b"i2"]),
        (R, [b"b1"]),
    ]
    assert claims.claim({R: 5, Q: 0})[R][0].raw == b"b2"


def test_a_limit_over_all_queues(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "b1", "b2", "b3", queue=R)
    put(broker, "i1", "i2", "i3", queue=Q)
    claimed = claims.claim({Q: 5, R: 5}, limit=4)
    assert {queue: len(messages) for queue, messages in claimed.items()} == {Q: 3, R: 1}


A, B, C = (f"ns.{name}.interactive" for name in "abc")


def sent_at(at: float, name: str = "m") -> str:
    """As much of a plain job's message as a claim looks at; the input says what looks like a time, too."""
    headers = {"id": name, "penstock": {"at": at, "deadline": None}}
    return json.dumps({"body": json.dumps([[{"at": 1, "deadline": 2}]]), "headers": headers}, separators=(",", ":"))


def names(claims: Claims, quotas: dict[str, int], *, one_of: Any = (A, B, C)) -> list[str]:
    claimed = claims.claim(quotas, one_of=frozenset(one_of))
    return [m.raw.decode().split('"id":"')[1][0] for messages in claimed.values() for m in messages]


def test_of_rival_queues_the_one_is_taken_from_whose_head_has_waited_longest(
    broker: redis.Redis, claims: Claims
) -> None:
    put(broker, sent_at(1002, "2"), sent_at(1005, "5"), queue=A)
    put(broker, sent_at(1001, "1"), sent_at(1009, "9"), queue=B)
    put(broker, sent_at(1000, "0"), queue=R)
    quotas = {A: 5, B: 5, C: 5, R: 5}
    assert names(claims, quotas) == ["1", "9", "0"]
    assert names(claims, quotas) == ["2", "5"]
    assert names(claims, quotas) == []


def test_a_step_of_a_late_run_counts_from_when_it_should_have_begun(broker: redis.Redis, claims: Claims) -> None:
    """It stands at the head of its queue, which would else be the youngest."""
    job = {"version": "1", "input": "1", "lane": "interactive", "accepted_at": 1.0, "deadline_at": 5000.0}
    put(broker, sent_at(1002, "2"), queue=A)
    put(broker, sent_at(1001, "1"), queue=B)
    late = NewJob(id="0", model="a", available_at=1009.0, start_by=1000.5, run_id="r", path="a", **job)  # type: ignore[arg-type]
    broker.rpush(A, encode(late, NS))
    taken = claims.claim({A: 1, B: 1}, one_of=frozenset((A, B)))
    assert [id_of(m.raw) for messages in taken.values() for m in messages] == ["0"]
    assert names(claims, {A: 1, B: 1}) == ["1"]


def test_a_rival_that_is_passed_over_keeps_its_bell(broker: redis.Redis, claims: Claims) -> None:
    put(broker, sent_at(1002, "2"), queue=A)
    put(broker, sent_at(1001, "1"), queue=B)
    names(claims, {A: 5, B: 5})
    assert broker.exists(keys.bell(NS, A)) == 1
    assert broker.exists(keys.bell(NS, B)) == 0


def test_a_rival_of_which_nothing_is_wanted_is_no_rival(broker: redis.Redis, claims: Claims) -> None:
    put(broker, sent_at(1001, "1"), queue=A)
    put(broker, sent_at(1002, "2"), queue=B)
    assert names(claims, {A: 0, B: 5}) == ["2"]


def test_a_low_priority_that_has_waited_brings_its_queue_forward(broker: redis.Redis, claims: Claims) -> None:
    put(broker, sent_at(1001, "1"), queue=A)
    put(broker, sent_at(1003, "3"), queue=A, priority=9)
    put(broker, sent_at(1002, "2"), queue=B)
    assert names(claims, {A: 1, B: 1}) == ["3"]
    assert names(claims, {A: 1, B: 1}) == ["1"]


def test_tenants_of_rival_queues_are_found(broker: redis.Redis, claims: Claims) -> None:
    broker.lpush(keys.list_key(A, 0, "acme"), sent_at(1001, "1"))
    broker.zadd(keys.busy(NS, A), {"acme": -1.0})
    put(broker, sent_at(1002, "2"), queue=B)
    assert names(claims, {A: 5, B: 5}) == ["1"]
    assert names(claims, {A: 5, B: 5}) == ["2"]


def test_a_tenant_without_messages_does_not_hide_its_queue(broker: redis.Redis, claims: Claims) -> None:
    broker.zadd(keys.busy(NS, A), {"gone": 0.0, "acme": 1.0})
    broker.lpush(keys.list_key(A, 0, "acme"), sent_at(1001, "1"))
    put(broker, sent_at(9e9, "2"), queue=B)
    assert names(claims, {A: 5, B: 5}) == ["1"]


def test_a_rival_whose_tenants_are_at_their_caps_does_not_hold_up_the_others(
    broker: redis.Redis, claims: Claims
) -> None:
    broker.hset(keys.caps(NS), "acme", 1)
    for at in (1000, 1001):
        broker.lpush(keys.list_key(A, 0, "acme"), sent_at(at, str(at)[-1]))
    broker.zadd(keys.busy(NS, A), {"acme": -1.0})
    put(broker, sent_at(1002, "2"), queue=B)
    quotas = {A: 5, B: 5}
    assert [names(claims, quotas) for _ in range(3)] == [["0"], ["2"], []]


def test_a_message_that_says_no_time_waits_neither_for_ever_nor_before_all(broker: redis.Redis, claims: Claims) -> None:
    (seconds, _) = broker.time()  # type: ignore[misc]
    put(broker, '{"id":"x"}', queue=A)
    put(broker, sent_at(seconds - 30, "1"), queue=B)
    put(broker, sent_at(seconds + 30, "2"), queue=C)
    quotas = {A: 5, B: 5, C: 5}
    assert [names(claims, quotas) for _ in range(3)] == [["1"], ["x"], ["2"]]


def test_tags_are_consecutive_and_grow(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a", "b", "c")
    first = [m.tag for m in claims.claim({Q: 2})[Q]]
    second = [m.tag for m in claims.claim({Q: 2})[Q]]
    assert first == [first[0], first[0] + 1]
    assert second == [first[0] + 2]


@pytest.mark.parametrize("message", [b"", b"\x00\x01", b"\xff;,", b"a" * 100_000])
def test_any_bytes_are_a_message(broker: redis.Redis, claims: Claims, message: bytes) -> None:
    broker.lpush(Q, b"before", message, b"after")
    claimed = claims.claim({Q: 10})[Q]
    assert [m.raw for m in claimed] == [b"before", message, b"after"]
    claims.give_back(m.tag for m in claimed)
    assert [m.raw for m in claims.claim({Q: 10})[Q]] == [b"before", message, b"after"]


def test_more_messages_than_a_lua_stack_holds(broker: redis.Redis, claims: Claims) -> None:
    texts = [f"m{i}" for i in range(20_000)]
    put(broker, *texts)
    assert take(claims, 15_000) == texts[:15_000]
    with_acks = list(map(int, broker.hkeys(keys.unacked(NS, claims.consumer))))
    assert take(claims, 15_000, acks=with_acks) == texts[15_000:]
    assert claims.leave() == 5_000
    assert ready(broker) == texts[15_000:]


def test_consumers_never_share_a_message(broker_url: str, broker: redis.Redis) -> None:
    put(broker, *(f"m{i}" for i in range(5_000)))
    seen: list[list[str]] = [[] for _ in range(4)]

    def work(mine: list[str]) -> None:
        with connect(broker_url, timeout_s=5.0) as client:
            claims = Claims(client, NS)
            while texts := take(claims, 7):
                mine.extend(texts)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(text for mine in seen for text in mine) == sorted(f"m{i}" for i in range(5_000))


def test_acknowledged_messages_ride_on_the_next_claim(broker: redis.Redis, claims: Claims) -> None:
    put(broker, *(f"m{i}" for i in range(10)))
    tags = [m.tag for m in claims.claim({Q: 5})[Q]]
    assert broker.hlen(keys.unacked(NS, claims.consumer)) == 5
    take(claims, 2, acks=tags)
    assert broker.hlen(keys.unacked(NS, claims.consumer)) == 2


# Give back --------------------------------------------------------------------------------------------------------


def test_what_is_given_back_is_next_in_its_old_order(broker: redis.Redis, claims: Claims) -> None:
    put(broker, *(f"m{i}" for i in range(6)))
    put(broker, "urgent", priority=9)
    tags = [m.tag for m in claims.claim({Q: 4})[Q]]
    assert claims.give_back([tags[2], tags[0], tags[3], tags[1]]) == 4
    assert ready(broker) == ["urgent", "m0", "m1", "m2", "m3", "m4", "m5"]
    assert broker.hlen(keys.unacked(NS, claims.consumer)) == 0


def test_giving_back_twice_gives_back_once(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "m")
    tags = [m.tag for m in claims.claim({Q: 1})[Q]]
    assert (claims.give_back(tags), claims.give_back(tags)) == (1, 0)
    assert ready(broker) == ["m"]


def test_leaving_gives_back_everything_and_leaves_no_key(broker: redis.Redis, claims: Claims) -> None:
    texts = [f"m{i}" for i in range(CHUNK * 2 + 500)]
    put(broker, *texts)
    assert take(claims, len(texts)) == texts
    assert claims.leave() == len(texts)
    assert ready(broker) == texts
    assert set(broker.keys()) == {Q.encode(), f"{NS}:bell:{Q}".encode(), f"{NS}:tags".encode()}


# Leases -----------------------------------------------------------------------------------------------------------


def expire_now(client: redis.Redis, consumer: str) -> None:
    client.zadd(keys.consumers(NS), {consumer: 0})


def test_a_dead_consumers_messages_come_back_marked(broker: redis.Redis, claims: Claims) -> None:
    put(broker, '{"n": 1}', '{"n": 2}', "no json")
    take(claims, 3)
    expire_now(broker, claims.consumer)
    assert restore_expired(broker, NS) == 3
    assert ready(broker) == ['{"n": 1,"redelivered":true}', '{"n": 2,"redelivered":true}', "no json"]
    assert restore_expired(broker, NS) == 0


def test_the_mark_is_set_once(broker: redis.Redis) -> None:
    put(broker, '{"n": 1}')
    for _ in range(3):
        claims = Claims(broker, NS)
        take(claims)
        expire_now(broker, claims.consumer)
        restore_expired(broker, NS)
    assert ready(broker) == ['{"n": 1,"redelivered":true}']


def test_a_live_consumers_messages_stay(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "m")
    take(claims)
    assert restore_expired(broker, NS) == 0
    assert ready(broker) == []


def test_claims_and_refreshes_renew_the_lease(broker: redis.Redis, claims: Claims) -> None:
    def ends() -> float:
        return float(broker.zscore(keys.consumers(NS), claims.consumer) or 0)

    take(claims)
    for renew in (claims.refresh, lambda: take(claims), lambda: claims.ack([])):
        expire_now(broker, claims.consumer)
        renew()
        seconds, micros = broker.time()
        assert ends() == pytest.approx(seconds + micros / 1e6 + claims.lease_s, abs=1.0)


def test_who_lost_its_lease_learns_it_at_the_next_call(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "m")
    take(claims)
    expire_now(broker, claims.consumer)
    restore_expired(broker, NS)
    for call in (claims.refresh, lambda: claims.ack([1]), lambda: take(claims)):
        with pytest.raises(LeaseLost):
            call()
    assert ready(broker) == ["m"]
    claims.renew()
    assert take(claims) == ["m"]


def test_a_large_dead_consumer_is_restored_in_steps_and_cannot_come_back(broker: redis.Redis, claims: Claims) -> None:
    texts = [f"m{i}" for i in range(CHUNK * 3 + 1)]
    put(broker, *texts)
    take(claims, len(texts))
    expire_now(broker, claims.consumer)
    assert restore_expired(broker, NS, calls=1) == CHUNK
    with pytest.raises(LeaseLost):
        claims.refresh()
    assert restore_expired(broker, NS) == len(texts) - CHUNK
    assert ready(broker) == texts
    assert broker.zcard(keys.consumers(NS)) == 0


def test_a_consumer_of_this_process_can_be_given_up_at_once(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a", "b")
    take(claims)
    assert surrender(broker, NS, claims.consumer) == 2
    assert ready(broker) == ["a", "b"]


def test_tags_do_not_come_again_after_a_flush(broker: redis.Redis, claims: Claims) -> None:
    """Else an acknowledgement from before the flush could remove a message from after it."""
    put(broker, "a")
    before = claims.claim({Q: 1})[Q][0].tag
    broker.flushall()
    put(broker, "b")
    claims.renew()
    assert claims.claim({Q: 1})[Q][0].tag > before


def test_a_server_that_forgot_the_scripts_is_sent_them(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a", "b")
    broker.script_flush()
    tags = [m.tag for m in claims.claim({Q: 2})[Q]]
    broker.script_flush()
    assert claims.give_back(tags) == 2
    broker.script_flush()
    assert claims.leave() == 0


def test_a_full_server_can_still_be_emptied(broker: redis.Redis, claims: Claims) -> None:
    """At its memory limit Redis refuses what can grow it; claims must go on, since they free it."""
    put(broker, *(f"m{i}" for i in range(100)))
    broker.config_set("maxmemory", 1)
    try:
        with pytest.raises(Refused, match="maxmemory"):
            put(broker, "one more")
        tags = [m.tag for m in claims.claim({Q: 50})[Q]]
        assert len(tags) == 50
        claims.give_back(tags[:25])
        claims.ack(tags[25:])
        assert claims.leave() == 0
    finally:
        broker.config_set("maxmemory", 0)
    assert len(ready(broker)) == 75


# Bells ------------------------------------------------------------------------------------------------------------


def rings(client: redis.Redis, queue: str = Q) -> int:
    return int(client.llen(keys.bell(NS, queue)))


def test_a_claim_that_leaves_messages_wakes_the_next(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a", "b", "c")
    take(claims, 2)
    assert rings(broker) == 1
    take(claims, 1)
    assert rings(broker) == 1  # it got all it wanted: there may be more, or not
    take(claims, 1)
    assert rings(broker) == 0  # found empty: silence


def test_what_comes_back_rings(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a")
    tags = [m.tag for m in claims.claim({Q: 5})[Q]]
    assert rings(broker) == 0
    claims.give_back(tags)
    assert rings(broker) == 1
    take(claims, 5)
    claims.leave()
    assert rings(broker) == 1


def test_bells_do_not_pile_up_and_pass_away(broker: redis.Redis) -> None:
    for _ in range(5):
        Wire(broker)([ring(keys.bell(NS, Q))], replies=RING_REPLIES)
    assert rings(broker) == 1
    assert 0 < int(broker.ttl(keys.bell(NS, Q))) <= keys.BELL_TTL_S


# Death ------------------------------------------------------------------------------------------------------------


def _consume(url: str, acked: Any) -> None:
    client = connect(url, timeout_s=5.0)
    claims = Claims(client, NS, lease_s=0.2)
    acks: list[int] = []
    while True:
        messages = claims.claim({Q: 3, R: 2}, acks=acks)
        acks = [m.tag for found in messages.values() for m in found]
        for found in messages.values():
            for message in found:
                os.write(acked, message.raw + b"\n")


@pytest.mark.parametrize("round", range(5))
def test_a_consumer_killed_at_any_instant_loses_nothing(
    redis_server: RedisServer, broker_url: str, broker: redis.Redis, round: int
) -> None:
    """Whatever a killed process had not acknowledged is delivered again once its lease has ended."""
    texts = {f"m{i}" for i in range(2_000)}
    half = len(texts) // 2
    put(broker, *sorted(texts)[:half], queue=Q)
    put(broker, *sorted(texts)[half:], queue=R)
    reader, writer = os.pipe()
    child = fork(_consume, broker_url, writer)
    os.close(writer)
    seen = b""
    while seen.count(b"\n") < 50 * (round + 1):
        seen += os.read(reader, 200)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while chunk := os.read(reader, 65_536):
        seen += chunk
    os.close(reader)
    finished = set(seen.decode().split("\n")[:-1])
    until(lambda: restore_expired(broker, NS) == 0 and broker.zcard(keys.consumers(NS)) == 0)
    left = ready(broker, Q) + ready(broker, R)
    assert len(left) == len(set(left))
    assert finished | set(left) == texts  # nothing is lost
    assert broker.keys(keys.unacked(NS, "*")) == []


def test_redis_killed_and_restarted_keeps_what_it_had(redis_server: RedisServer, broker_url: str) -> None:
    with redis_server.client() as client:
        claims = Claims(client, NS)
        put(client, *(f"m{i}" for i in range(10)))
        tags = [m.tag for m in claims.claim({Q: 4})[Q]]
        client.execute_command("CONFIG", "SET", "appendfsync", "always")
        claims.ack(tags[:1])
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            take(claims)
        redis_server.start()
        assert take(claims) == [f"m{i}" for i in range(4, 10)]
        assert claims.leave() == 9
        assert ready(client) == [f"m{i}" for i in range(1, 10)]


# Conservation -----------------------------------------------------------------------------------------------------


class Conservation(RuleBasedStateMachine):
    """Whatever is done in whatever order: each message is in one place, until it is acknowledged.

    A model of two queues and their priorities says in which order messages come out.
    """

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.lists: dict[str, deque[str]] = {key: deque() for queue in (Q, R) for key in keys.list_keys(queue)}
        self.consumers = [Claims(self.client, NS) for _ in range(3)]
        self.held: list[dict[int, tuple[str, str]]] = [{}, {}, {}]
        self.counter = 0

    @rule(queue=st.sampled_from([Q, R]), priority=st.integers(0, 9), count=st.integers(1, 5))
    def publish(self, queue: str, priority: int, count: int) -> None:
        texts = [f"m{self.counter + i}" for i in range(count)]
        self.counter += count
        put(self.client, *texts, queue=queue, priority=priority)
        self.lists[keys.list_key(queue, priority)].extend(texts)

    @rule(
        who=st.integers(0, 2),
        quotas=st.dictionaries(st.sampled_from([Q, R]), st.integers(0, 4)),
        limit=st.none() | st.integers(0, 5),
        acks=st.randoms(use_true_random=False),
    )
    def claim(self, who: int, quotas: dict[str, int], limit: int | None, acks: Any) -> None:
        done = [tag for tag in self.held[who] if acks.random() < 0.5]
        claimed = self.consumers[who].claim(quotas, acks=done, limit=limit)
        for tag in done:
            del self.held[who][tag]
        room = sum(quotas.values()) if limit is None else limit
        for queue, quota in quotas.items():
            messages = iter(claimed.get(queue, ()))
            wanted = min(quota, room)
            for key in keys.list_keys(queue):
                while wanted and self.lists[key]:
                    message = next(messages)
                    assert message.raw.decode() == self.lists[key].popleft()
                    self.held[who][message.tag] = (key, message.raw.decode())
                    wanted, room = wanted - 1, room - 1
            assert next(messages, None) is None

    @rule(who=st.integers(0, 2), which=st.randoms(use_true_random=False))
    def give_back(self, who: int, which: Any) -> None:
        tags = [tag for tag in self.held[who] if which.random() < 0.5]
        which.shuffle(tags)
        assert self.consumers[who].give_back(tags) == len(tags)
        self._returned(who, tags)

    @rule(who=st.integers(0, 2))
    def leave(self, who: int) -> None:
        assert self.consumers[who].leave() == len(self.held[who])
        self._returned(who, list(self.held[who]))

    @rule(who=st.integers(0, 2))
    def expire(self, who: int) -> None:
        if self.client.zscore(keys.consumers(NS), self.consumers[who].consumer) is None:
            return  # it has not claimed yet
        expire_now(self.client, self.consumers[who].consumer)
        assert restore_expired(self.client, NS) == len(self.held[who])
        self._returned(who, list(self.held[who]))
        with pytest.raises(LeaseLost):
            self.consumers[who].refresh()
        self.consumers[who].renew()

    def _returned(self, who: int, tags: list[int]) -> None:
        for tag in sorted(tags, reverse=True):
            key, text = self.held[who].pop(tag)
            self.lists[key].appendleft(text)

    @invariant()
    def each_message_is_in_one_place(self) -> None:
        for queue in (Q, R):
            assert ready(self.client, queue) == [t for key in keys.list_keys(queue) for t in self.lists[key]]
        for claims, held in zip(self.consumers, self.held, strict=True):
            stored: Any = self.client.hgetall(keys.unacked(NS, claims.consumer))
            assert {int(tag): value.decode().split("\0") for tag, value in stored.items()} == {
                tag: list(place) for tag, place in held.items()
            }
        depths = inspect.depths(self.client, NS, [Q, R])
        assert sum(depth.claimed for depth in depths.values()) == sum(map(len, self.held))


@pytest.mark.hypothesis
def test_messages_are_conserved(broker: redis.Redis) -> None:
    machine: Callable[[], RuleBasedStateMachine] = type("Bound", (Conservation,), {"client": broker})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(40), stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
