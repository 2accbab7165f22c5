"""Tenants that share a queue, against a real Redis: the scripts obey the policy, and lose nothing."""

from __future__ import annotations

import os
import signal
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from penstock.job import NewJob, new_id
from penstock.policy import fairness
from penstock.policy.fairness import DEFAULT, Books, Terms
from penstock.transport import inspect, keys
from penstock.transport.claims import CHUNK, Claims, restore_expired, surrender
from penstock.transport.publisher import Publisher, register
from penstock.transport.tenants import configure, configured, used_s
from penstock.transport.url import connect
from penstock.transport.wire import Wire
from tests.fixtures.examples import examples
from tests.fixtures.forked import fork
from tests.fixtures.redis import RedisServer, until

NS = "ns"
Q, R = "ns.model.interactive", "ns.model.background"


def put(client: redis.Redis, tenant: str, *messages: str, queue: str = Q, priority: int = 0) -> None:
    client.lpush(keys.list_key(queue, priority, tenant), *messages)
    if tenant != DEFAULT:
        Wire(client)([register(NS, queue, [tenant])])


def many(tenant: str, count: int) -> list[str]:
    return [f"{tenant}:{number}" for number in range(count)]


def take(claims: Claims, count: int, **options: Any) -> list[str]:
    return [m.raw.decode() for m in claims.claim({Q: count}, **options).get(Q, ())]


def whose(texts: list[str]) -> str:
    return "".join(text[0] for text in texts)


def ready(client: redis.Redis, tenant: str, queue: str = Q) -> list[str]:
    """A tenant's messages in the order in which they will be claimed."""
    found: list[str] = []
    for key in keys.list_keys(queue, tenant):
        texts: Any = client.lrange(key, 0, -1)
        found += [text.decode() for text in reversed(texts)]
    return found


@pytest.fixture
def claims(broker: redis.Redis) -> Claims:
    return Claims(broker, NS)


def test_tenants_take_turns_whoever_came_first(broker: redis.Redis, claims: Claims) -> None:
    put(broker, DEFAULT, *many("d", 50))
    put(broker, "a", *many("a", 50))
    put(broker, "b", *many("b", 2))
    assert whose(take(claims, 9)) == "abdabdada"


def test_weights_share(broker: redis.Redis, claims: Claims) -> None:
    configure(broker, NS, {"a": Terms(weight=3.0)})
    put(broker, "a", *many("a", 90))
    put(broker, "b", *many("b", 90))
    assert Counter(whose(take(claims, 40))) == {"a": 30, "b": 10}


def test_priorities_first_within_a_tenant_only(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a", "a0")
    put(broker, "a", "a9", priority=9)
    put(broker, "b", "b0")
    assert take(claims, 9) == ["a9", "b0", "a0"]


def test_names_with_any_character(broker_url: str, broker: redis.Redis, claims: Claims) -> None:
    odd = ["ü", "a/b c", "x\x06\x16y", "%41", "@:+", " "]
    publisher = Publisher(broker_url, NS)
    jobs = [
        NewJob(
            id=new_id(), model="model", version="1", input="1", lane="interactive", accepted_at=1.0, available_at=1.0,
            tenant=tenant,
        )
        for tenant in odd
    ]  # fmt: skip
    publisher.publish(jobs)
    publisher.close()
    assert inspect.tenants(broker, NS, [Q]) == {Q: {tenant: inspect.Depth(ready=1) for tenant in odd}}
    assert inspect.held_ids(broker, NS, [Q]) == {job.id for job in jobs}
    assert len(take(claims, 99)) == len(odd)
    assert inspect.depths(broker, NS, [Q]) == {Q: inspect.Depth(claimed=len(odd))}
    assert inspect.held_ids(broker, NS, [Q]) == {job.id for job in jobs}


def test_a_lone_default_leaves_no_trace(broker: redis.Redis, claims: Claims) -> None:
    put(broker, DEFAULT, *many("d", 5))
    assert [m.charged for m in claims.claim({Q: 2})[Q]] == [False, False]
    assert broker.keys(f"{NS}:tenants:*") == []


def test_the_books_are_closed_when_the_others_have_gone(broker: redis.Redis, claims: Claims) -> None:
    put(broker, DEFAULT, *many("d", 5))
    put(broker, "a", "a")
    assert [m.charged for m in claims.claim({Q: 3})[Q]] == [True] * 3
    assert [m.charged for m in claims.claim({Q: 3})[Q]] == [False] * 3


def test_settling_charges_the_difference_once(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a", *many("a", 20))
    put(broker, "b", *many("b", 20))
    messages = claims.claim({Q: 2}, charges={Q: 1.0})[Q]
    spent = {messages[0].tag: 4.0, messages[1].tag: 1.0}
    assert (claims.settle(spent), claims.settle(spent)) == (2, 0)
    assert used_s(broker, NS) == {"a": 4.0, "b": 1.0}
    assert whose(take(claims, 5, charges={Q: 1.0})) == "bbbba"


@pytest.mark.parametrize("way", ["give_back", "leave", "surrender", "restore", "large"])
def test_what_comes_back_is_in_order_and_not_charged(broker: redis.Redis, claims: Claims, way: str) -> None:
    count = 2 * CHUNK + 10 if way == "large" else 6
    for tenant in ("a", "b", DEFAULT):
        put(broker, tenant, *many(tenant, count))
    before = {tenant: ready(broker, tenant) for tenant in ("a", "b", DEFAULT)}
    messages = claims.claim({Q: 2 * count})[Q]
    if way == "give_back":
        claims.give_back(message.tag for message in reversed(messages))
    elif way == "leave":
        claims.leave()
    elif way == "surrender":
        surrender(broker, NS, claims.consumer)
    else:
        broker.zadd(keys.consumers(NS), {claims.consumer: 0})
        assert restore_expired(broker, NS) == 2 * count
    assert {tenant: ready(broker, tenant) for tenant in before} == before
    counters: Any = broker.zrange(keys.busy(NS, Q), 0, -1, withscores=True)
    assert [score for _, score in counters] == [0.0] * 3
    assert broker.keys(keys.unacked(NS, "*")) == []


def test_what_comes_back_of_a_tenant_that_had_left_is_found(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a", '{"n": 1}')
    take(claims, 5)
    assert not broker.exists(keys.busy(NS, Q))
    broker.zadd(keys.consumers(NS), {claims.consumer: 0})
    restore_expired(broker, NS)
    claims.renew()
    assert take(claims, 5) == ['{"n": 1,"redelivered":true}']


# Caps -------------------------------------------------------------------------------------------------------------


def test_a_cap_counts_over_queues_and_consumers(broker: redis.Redis, claims: Claims) -> None:
    configure(broker, NS, {"a": Terms(cap=3)})
    put(broker, "a", *many("a", 5))
    put(broker, "a", *many("a", 5), queue=R)
    put(broker, "b", "b")
    got = claims.claim({Q: 3, R: 5})
    assert {queue: len(messages) for queue, messages in got.items()} == {Q: 3, R: 1}
    other = Claims(broker, NS)
    assert other.claim({Q: 5, R: 5}) == {}
    mine = [m.tag for messages in got.values() for m in messages if m.raw.startswith(b"a")]
    claims.ack(mine[:1])
    assert {queue: len(messages) for queue, messages in other.claim({Q: 5, R: 5}).items()} == {Q: 1}


def test_the_default_tenant_may_have_a_cap(broker: redis.Redis, claims: Claims) -> None:
    configure(broker, NS, {DEFAULT: Terms(cap=2)})
    put(broker, DEFAULT, *many("d", 5))
    tags = [m.tag for m in claims.claim({Q: 5})[Q]]
    assert len(tags) == 2 and take(claims, 5) == []
    assert len(take(claims, 5, acks=tags)) == 2


@pytest.mark.parametrize("end", ["ack", "settle", "give_back", "leave", "restore", "surrender", "flush", "raw"])
def test_a_cap_never_leaks(broker: redis.Redis, end: str) -> None:
    """However running jobs end, their places are free again."""
    for _ in range(4):
        configure(broker, NS, {"a": Terms(cap=2)})
        put(broker, "a", *many("a", 5))
        claims, other = Claims(broker, NS), Claims(broker, NS)
        tags = [m.tag for m in claims.claim({Q: 5})[Q]]
        assert len(tags) == 2 and take(other, 5) == []
        if end == "ack":
            claims.ack(tags)
        elif end == "settle":
            claims.settle(dict.fromkeys(tags, 0.5))
        elif end == "give_back":
            claims.give_back(tags)
        elif end == "leave":
            claims.leave()
        elif end == "restore":
            broker.zadd(keys.consumers(NS), {claims.consumer: 0})
            restore_expired(broker, NS)
        elif end == "surrender":
            surrender(broker, NS, claims.consumer)
        elif end == "raw":
            broker.hdel(keys.unacked(NS, claims.consumer), *map(str, tags))
        else:
            broker.flushall()
            other.renew()
            put(broker, "a", *many("a", 5))
            configure(broker, NS, {"a": Terms(cap=2)})
        assert len(take(other, 5)) == 2
        other.leave()
        inspect.purge(broker, NS, Q)


def test_a_cap_that_is_set_while_jobs_run_counts_them(broker: redis.Redis, claims: Claims) -> None:
    put(broker, "a", *many("a", 9))
    tags = [m.tag for m in claims.claim({Q: 4})[Q]]
    configure(broker, NS, {"a": Terms(weight=2.0, cap=5)})
    assert configured(broker, NS) == {"a": Terms(weight=2.0, cap=5)}
    assert len(take(claims, 9)) == 1
    configure(broker, NS, {"a": Terms(cap=3)})
    assert take(claims, 9) == []
    configure(broker, NS, {})
    assert len(take(claims, 9, acks=tags)) == 4
    assert broker.keys(f"{NS}:tenants:held:*") == []


def test_settling_a_capped_tenant_wakes_the_next(broker: redis.Redis, claims: Claims) -> None:
    configure(broker, NS, {"a": Terms(cap=1)})
    put(broker, "a", *many("a", 5))
    tags = [m.tag for m in claims.claim({Q: 5})[Q]]
    assert not broker.exists(keys.bell(NS, Q))
    claims.settle({tags[0]: 1.0})
    assert broker.exists(keys.bell(NS, Q))


# Around -----------------------------------------------------------------------------------------------------------


def test_purge_takes_every_tenants_messages(broker: redis.Redis, claims: Claims) -> None:
    for tenant in ("a", "b", DEFAULT):
        put(broker, tenant, *many(tenant, 10))
        put(broker, tenant, *many(tenant, 10), priority=9)
    take(claims, 5)
    assert inspect.purge(broker, NS, Q) == 55
    assert inspect.depths(broker, NS, [Q]) == {Q: inspect.Depth(claimed=5)}
    assert claims.leave() == 5
    assert len(take(claims, 99)) == 5


def test_a_full_server_can_still_be_emptied(broker: redis.Redis, claims: Claims) -> None:
    for tenant in ("a", "b"):
        put(broker, tenant, *many(tenant, 20))
    broker.config_set("maxmemory", 1)
    try:
        tags = [m.tag for m in claims.claim({Q: 30})[Q]]
        assert len(tags) == 30
        claims.settle(dict.fromkeys(tags[:10], 1.0))
        claims.give_back(tags[10:20])
        assert claims.leave() == 10
    finally:
        broker.config_set("maxmemory", 0)
    assert sum(len(ready(broker, tenant)) for tenant in ("a", "b")) == 30


def test_a_queue_with_a_thousand_tenants(broker: redis.Redis, claims: Claims) -> None:
    for number in range(1_000):
        put(broker, f"t{number:04}", f"t{number:04}", f"u{number:04}")
    configure(broker, NS, {f"t{number:04}": Terms(cap=1) for number in range(900)})
    assert take(claims, 900) == [f"t{number:04}" for number in range(900)]
    assert take(claims, 500) == [f"t{number:04}" for number in range(900, 1_000)] + [
        f"u{number:04}" for number in range(900, 1_000)
    ]


def _consume(url: str, acked: Any) -> None:
    client = connect(url, timeout_s=5.0)
    claims = Claims(client, NS, lease_s=0.2)
    while True:
        messages = claims.claim({Q: 7}, charges={Q: 0.5}).get(Q, [])
        claims.settle({m.tag: 0.75 for m in messages})
        for message in messages:
            os.write(acked, message.raw + b"\n")


@pytest.mark.parametrize("round", range(3))
def test_a_consumer_killed_at_any_instant_loses_nothing(
    redis_server: RedisServer, broker_url: str, broker: redis.Redis, round: int
) -> None:
    names = ("a", "b", DEFAULT)
    texts = {text for tenant in names for text in many(tenant, 700)}
    configure(broker, NS, {"b": Terms(weight=2.0, cap=3)})
    for tenant in names:
        put(broker, tenant, *many(tenant, 700))
    reader, writer = os.pipe()
    child = fork(_consume, broker_url, writer)
    os.close(writer)
    seen = b""
    while seen.count(b"\n") < 60 * (round + 1):
        seen += os.read(reader, 200)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while chunk := os.read(reader, 65_536):
        seen += chunk
    os.close(reader)
    finished = seen.decode().split("\n")[:-1]
    until(lambda: restore_expired(broker, NS) == 0 and broker.zcard(keys.consumers(NS)) == 0)
    left = [text for tenant in names for text in ready(broker, tenant)]
    assert len(left) == len(set(left)) and len(finished) == len(set(finished))
    # What it had settled and not yet told of: at most one claim.
    assert len(texts - set(finished) - set(left)) <= 7
    assert set(finished).isdisjoint(left)
    rest = Claims(broker, NS)
    assert len(rest.claim({Q: 5})[Q]) == 5


# The scripts and the policy -----------------------------------------------------------------------------------------


NAMES = ("a", "b", "c", DEFAULT)


class Sharing(RuleBasedStateMachine):
    """Whatever is done in whatever order, the scripts do what the policy says, and each message is in one place."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.books = Books()
        self.terms: dict[str, Terms] = {}
        self.lists: dict[str, deque[str]] = {k: deque() for name in NAMES for k in keys.list_keys(Q, name)}
        self.consumers = [Claims(self.client, NS) for _ in range(3)]
        #: Per consumer: tag -> (tenant, list, text, charge).
        self.held: list[dict[int, tuple[str, str, str, float]]] = [{}, {}, {}]
        self.counter = 0

    def waiting(self) -> dict[str, int]:
        return {name: sum(len(self.lists[key]) for key in keys.list_keys(Q, name)) for name in NAMES}

    def _cap(self, name: str) -> float:
        cap = self.terms.get(name, fairness.PLAIN).cap
        return float("inf") if cap is None else cap

    def running(self) -> Counter[str]:
        return Counter(entry[0] for held in self.held for entry in held.values())

    @rule(
        weights=st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 3.0]) for name in NAMES}),
        caps=st.fixed_dictionaries({name: st.sampled_from([None, None, 1, 3]) for name in NAMES}),
    )
    def agree(self, weights: dict[str, float], caps: dict[str, int | None]) -> None:
        self.terms = {name: Terms(weights[name], caps[name]) for name in NAMES}
        configure(self.client, NS, self.terms)

    @rule(name=st.sampled_from(NAMES), priority=st.sampled_from([0, 5, 9]), count=st.integers(1, 6))
    def publish(self, name: str, priority: int, count: int) -> None:
        texts = [f"{name}{self.counter + i}" for i in range(count)]
        self.counter += count
        put(self.client, name, *texts, priority=priority)
        self.lists[keys.list_key(Q, priority, name)].extend(texts)
        if name != DEFAULT:
            self.books = fairness.arrive(self.books, name)

    @rule(who=st.integers(0, 2), quota=st.integers(0, 9), seconds=st.sampled_from([0.01, 0.1, 1.0, 1 / 3]))
    def claim(self, who: int, quota: int, seconds: float) -> None:
        before, running, fresh = self.books, self.running(), self.books.come
        start = before.least
        messages = self.consumers[who].claim({Q: quota}, charges={Q: seconds}).get(Q, [])
        waiting = self.waiting()
        self.books, turns = fairness.deal(before, waiting, self.terms, running, quota=quota, expected_s=seconds)
        assert len(messages) == len(turns) <= quota
        for message, turn in zip(messages, turns, strict=True):
            key = next(key for key in keys.list_keys(Q, turn.tenant) if self.lists[key])
            assert message.raw.decode() == self.lists[key].popleft()
            assert message.charged == (turn.charge > 0)
            self.held[who][message.tag] = (turn.tenant, key, message.raw.decode(), turn.charge)
        for name in fresh:  # no credit for the time in which it had nothing
            assert self.books.busy.get(name, start) >= start
        for name, terms in self.terms.items():
            if terms.cap is not None:  # a cap that was lowered stops new ones
                assert self.running()[name] <= max(terms.cap, running[name])
        able = [n for n in NAMES if waiting[n] and (self._cap(n)) > running[n]]
        assert (
            len(turns) == quota
            or not quota
            or all(  # work-conserving
                self.waiting()[n] == 0 or self.running()[n] >= self._cap(n) for n in able
            )
        )

    @rule(
        who=st.integers(0, 2), seconds=st.sampled_from([0.0, 0.05, 0.7, 2.0]), which=st.randoms(use_true_random=False)
    )
    def settle(self, who: int, seconds: float, which: Any) -> None:
        spent = {tag: seconds for tag in self.held[who] if which.random() < 0.5}
        assert self.consumers[who].settle(spent) == len(spent)
        for tag in spent:
            name, _, _, charge = self.held[who].pop(tag)
            if charge:
                self.books = fairness.settle(self.books, name, charge, self.terms, seconds=seconds)

    @rule(who=st.integers(0, 2), which=st.randoms(use_true_random=False))
    def acknowledge(self, who: int, which: Any) -> None:
        tags = [tag for tag in self.held[who] if which.random() < 0.5]
        if tags:
            self.consumers[who].ack(tags)
        for tag in tags:
            del self.held[who][tag]

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
        self.client.zadd(keys.consumers(NS), {self.consumers[who].consumer: 0})
        assert restore_expired(self.client, NS) == len(self.held[who])
        self._returned(who, list(self.held[who]))
        self.consumers[who].renew()

    def _returned(self, who: int, tags: list[int]) -> None:
        for tag in sorted(tags, reverse=True):
            name, key, text, charge = self.held[who].pop(tag)
            self.lists[key].appendleft(text)
            if charge:
                self.books = fairness.refund(self.books, name, charge)
            elif name != DEFAULT:
                self.books = fairness.arrive(self.books, name)

    @invariant()
    def the_books_are_the_policys(self) -> None:
        stored: Any = self.client.zrange(keys.busy(NS, Q), 0, -1, withscores=True)
        busy = {id.decode(): score for id, score in stored}
        assert {name: score for name, score in busy.items() if score >= 0} == self.books.busy
        assert {name for name, score in busy.items() if score < 0} == self.books.come
        kept: Any = self.client.zrange(f"{keys.tenants(NS)}idle:{Q}", 0, -1, withscores=True)
        idle = {id.decode(): score for id, score in kept}
        assert idle.pop("", 0.0) == self.books.start
        assert idle == self.books.idle

    @invariant()
    def each_message_is_in_one_place(self) -> None:
        for name in NAMES:
            assert ready(self.client, name) == [t for key in keys.list_keys(Q, name) for t in self.lists[key]]
        depth = inspect.tenants(self.client, NS, [Q])[Q]
        running = self.running()
        expected = {n: inspect.Depth(w, running[n]) for n, w in self.waiting().items() if w or running[n]}
        assert depth == expected


@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    weights=st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 3.0]) for name in NAMES}),
    deals=st.lists(st.tuples(st.integers(1, 16), st.sampled_from([0.01, 0.2, 1 / 3, 1.0])), min_size=1, max_size=40),
)
def test_busy_tenants_are_two_charges_apart_at_most(
    broker: redis.Redis, weights: dict[str, float], deals: list[tuple[int, float]]
) -> None:
    """Several consumers, claims of any size: what each tenant got, over its weight, stays close at every message."""
    broker.flushall()
    configure(broker, NS, {name: Terms(weight) for name, weight in weights.items()})
    for name in NAMES:
        put(broker, name, *[f"{name} {number}" for number in range(16 * len(deals))])
    consumers = [Claims(broker, NS) for _ in range(3)]
    got, largest = dict.fromkeys(NAMES, 0.0), 0.0
    for number, (quota, seconds) in enumerate(deals):
        consumer = consumers[number % 3]
        messages = consumer.claim({Q: quota}, charges={Q: seconds})[Q]
        assert len(messages) == quota
        for message in messages:
            name = message.raw.decode().split()[0]
            got[name] += seconds / weights[name]
            largest = max(largest, seconds / weights[name])
            assert max(got.values()) - min(got.values()) <= 2 * largest + 1e-9
        if number % 2:
            assert consumer.settle({message.tag: seconds for message in messages}) == quota


@pytest.mark.hypothesis
def test_the_scripts_obey_the_policy(broker: redis.Redis) -> None:
    machine: Callable[[], RuleBasedStateMachine] = type("Bound", (Sharing,), {"client": broker})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(60), stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
