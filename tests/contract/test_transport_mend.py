"""Every key of the namespace, broken in every way, under everything that uses the broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from penstock.dispatch.lostmessages import republish_lost
from penstock.job import NewJob, new_id
from penstock.lane import queue_name
from penstock.policy.fairness import Terms
from penstock.transport import inspect, keys, mend, residents, usage
from penstock.transport.claims import Claims, LeaseLost, restore_expired
from penstock.transport.progress import ProgressLog, write_commands
from penstock.transport.publisher import Publisher
from penstock.transport.tenants import configure, configured, used_s
from tests.fixtures.redis import broker, broker_url  # noqa: F401

NS = "ns"
MODEL = "m"
Q = queue_name(NS, MODEL, "interactive")
TWIN = queue_name(NS, MODEL, "interactive", "2")
TWINS = {Q: TWIN}
OTHER = queue_name(NS, "other", "interactive")
TERMS = {"one": Terms(2.0, 3), "two": Terms(0.5, None)}

TYPES = ("string", "list", "set", "zset", "hash", "stream")
TEXTS = ("", "abc", "-1", "0", "nan", "inf", "-inf", "1e308", "99999999999999999999", "\x00", "\xff")


def every_key(consumer: str) -> list[str]:
    """A key of each kind that ``keys`` names."""
    return [
        *dict.fromkeys((*keys.named(NS, [Q]), *keys.named(NS, [TWIN]))),
        *(keys.list_key(Q, step, tenant) for step in (0, 9) for tenant in ("default", "one")),
        *(keys.list_key(TWIN, step, tenant) for step in (0, 9) for tenant in ("default", "one")),
        keys.own_bell(NS, consumer),
        keys.unacked(NS, consumer),
        keys.unacked(NS, "somebody"),
        f"{keys.tenants(NS)}held:one",
        keys.load(NS, MODEL),
        keys.progress(NS, "job"),
    ]


def wrong(broker: redis.Redis, key: str, type: str, text: str = "x") -> None:  # noqa: F811
    broker.delete(key)
    if type == "string":
        broker.set(key, text.encode("latin-1"))
    elif type == "list":
        broker.rpush(key, text.encode("latin-1"))
    elif type == "set":
        broker.sadd(key, text.encode("latin-1"))
    elif type == "zset":
        broker.zadd(key, {text.encode("latin-1") or "x": 1})
    elif type == "hash":
        broker.hset(key, text.encode("latin-1") or "x", text.encode("latin-1"))
    else:
        broker.xadd(key, {"x": text.encode("latin-1")}, id="0-1")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here something breaks many times a second."""
    monkeypatch.setattr(mend, "EVERY_S", 0.0)


class Deployment:
    """Everything that uses the broker, one after the other."""

    def __init__(self, broker_url: str, broker: redis.Redis) -> None:  # noqa: F811
        self.broker = broker
        self.publisher = Publisher(broker_url, NS, timeout_s=5.0)
        self.progress = ProgressLog(broker_url, NS, timeout_s=5.0)
        self.claims = Claims(broker, NS)

    def prepare(self) -> None:
        """Terms, messages of three tenants, and some of them claimed."""
        self.broker.flushall()
        configure(self.broker, NS, TERMS)
        self.publish()
        self.claims = Claims(self.broker, NS)
        self.claims.claim({Q: 2, OTHER: 1}, twins=TWINS)

    def publish(self) -> None:
        tenants = ("default", "one", "two")
        jobs = [job(MODEL, tenant, version) for tenant in tenants for version in (None, "2")]
        refused = self.publisher.publish([*jobs, job("other")])
        assert not refused.refused

    def use(self) -> None:
        """All of it, twice; what was published last is claimed."""
        for _ in range(2):
            self.publish()
            assert configured(self.broker, NS) is not None
            restore_expired(self.broker, NS)
            inspect.tenants(self.broker, NS, [Q, OTHER])
            inspect.held_ids(self.broker, NS, [Q, OTHER])
            inspect.mark(self.broker, NS)
            used_s(self.broker, NS)
            usage.device_s(self.broker, NS, [Q])
            residents.say(self.broker, NS, "w", residents.Word(1.0, ["m"], 1, 2))
            assert "w" in residents.words(self.broker, NS)
            self.publisher.loads({MODEL: ["one"]}, "interactive")
            mend.mended(
                self.broker,
                NS,
                lambda: [
                    self.broker.execute_command(*command)
                    for command in write_commands(NS, "job", 1, time.time_ns(), "1", at=1.0, keep=10, ttl_s=60)
                ],
            )
            self.progress.read("job", 0, 0, 10)
            self.claim()
        mend.mend_keys(self.broker, NS, keys.named(NS, [Q, TWIN, OTHER]))

    def claim(self) -> None:
        try:
            found = self.claims.claim({Q: 20, OTHER: 20}, twins=TWINS)
        except LeaseLost:  # who held nothing goes on as another
            self.claims.renew()
            found = self.claims.claim({Q: 20, OTHER: 20}, twins=TWINS)
        tags = [message.tag for messages in found.values() for message in messages]
        assert len(tags) == len(set(tags))
        assert tags, "what was published is claimed"
        self.claims.give_back(tags[:1])
        self.claims.settle(dict.fromkeys(tags[1:2], 0.5))
        self.claims.ack(tags[2:])


def job(model: str, tenant: str = "default", version: str | None = None) -> NewJob:
    return NewJob(
        id=new_id(), model=model, asked_version=version, input="1", lane="interactive", tenant=tenant, accepted_at=1.0,
        available_at=1.0,
    )  # fmt: skip


@pytest.fixture
def deployment(broker_url: str, broker: redis.Redis) -> Iterator[Deployment]:  # noqa: F811
    deployment = Deployment(broker_url, broker)
    yield deployment
    deployment.publisher.close()
    deployment.progress.close()


def survives(deployment: Deployment, place: int, type: str) -> None:
    deployment.prepare()
    key = every_key(deployment.claims.consumer)[place]
    wrong(deployment.broker, key, type)
    try:
        deployment.use()
    except Exception as error:
        raise AssertionError(f"{key} as a {type}") from error


def test_no_key_of_another_type_stops_anything(deployment: Deployment):
    for place in range(len(every_key(""))):
        survives(deployment, place, TYPES[place % len(TYPES)])


@pytest.mark.soak
@pytest.mark.parametrize("type", TYPES)
def test_no_key_of_any_type_stops_anything(deployment: Deployment, type: str):
    for place in range(len(every_key(""))):
        survives(deployment, place, type)


Break = Callable[[redis.Redis, str], None]


def numbers(raw: bytes) -> dict[str, Break]:
    """What breaks each of the numbers, by what it is; the consumer is the one that holds messages."""

    def field(key: str, name: str) -> Break:
        return lambda client, _: client.hset(key, name, raw)

    def text(key: str) -> Break:
        return lambda client, _: client.set(key, raw)

    def member(key: str) -> Break:
        return lambda client, _: client.zadd(key, {raw or b"x": 1})

    hashes = (keys.weights(NS), keys.caps(NS), keys.used(NS), keys.device(NS))
    breaks = {f"{key} {name}": field(key, name) for key in hashes for name in ("one", "default", Q)}
    breaks |= {key: text(key) for key in (keys.tags(NS), keys.epoch(NS), keys.dispatcher(NS))}
    breaks |= {key: member(key) for key in (keys.consumers(NS), keys.busy(NS, Q), f"{keys.tenants(NS)}idle:{Q}")}
    breaks |= {
        "a held message": lambda client, consumer: client.hset(keys.unacked(NS, consumer), "1", raw),
        "a held tag": lambda client, consumer: client.hset(keys.unacked(NS, consumer), raw or "x", raw),
        "a dead one's message": lambda client, _: (
            client.hset(keys.unacked(NS, "somebody"), raw or "x", raw),
            client.zadd(keys.consumers(NS), {"somebody": 1}),
        ),
        "held by a tenant": lambda client, _: client.sadd(f"{keys.tenants(NS)}held:one", raw),
    }
    return breaks


SCORES: list[tuple[str, str]] = [
    (keys.consumers(NS), "somebody"),
    (keys.busy(NS, Q), "one"),
    (keys.busy(NS, Q), "default"),
    (f"{keys.tenants(NS)}idle:{Q}", ""),
    (f"{keys.tenants(NS)}idle:{Q}", "two"),
]


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_no_text_in_the_place_of_a_number_stops_anything(deployment: Deployment, text: str):
    deployment.prepare()
    for spoil in numbers(text.encode("latin-1")).values():
        spoil(deployment.broker, deployment.claims.consumer)
    deployment.use()


@pytest.mark.soak
@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_no_text_in_the_place_of_one_number_stops_anything(deployment: Deployment, text: str):
    for what, spoil in numbers(text.encode("latin-1")).items():
        deployment.prepare()
        spoil(deployment.broker, deployment.claims.consumer)
        try:
            deployment.use()
        except Exception as error:
            raise AssertionError(f"{what} is {text!r}") from error


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "-1e300"])
def test_no_score_without_end_stops_anything(deployment: Deployment, score: str):
    deployment.prepare()
    for key, member in SCORES:
        deployment.broker.execute_command("ZADD", key, score, member)
    deployment.use()


def test_a_broken_queue_costs_the_others_nothing(deployment: Deployment):
    """A claim that met a broken book after it had taken messages elsewhere must not lose those."""
    deployment.prepare()
    waiting = inspect.ready(deployment.broker, NS, [OTHER])[OTHER]
    deployment.publish()
    wrong(deployment.broker, keys.busy(NS, Q), "string")
    found = deployment.claims.claim({OTHER: 20, Q: 20})
    assert len(found[OTHER]) == waiting + 1


def test_what_was_repaired_is_said_once(deployment: Deployment, caplog: pytest.LogCaptureFixture):
    deployment.prepare()
    wrong(deployment.broker, Q, "hash")
    deployment.use()
    said = [record.message for record in caplog.records if "malformed keys" in record.message]
    assert said == [f"malformed keys at the broker: {Q}: a hash, set aside"]
    assert deployment.broker.type(keys.aside_prefix(NS) + Q) == b"hash"
    assert 0 < deployment.broker.ttl(keys.aside_prefix(NS) + Q) <= mend.ASIDE_S


def test_a_lease_or_a_counter_without_end_is_ended(deployment: Deployment):
    deployment.prepare()
    deployment.broker.execute_command("ZADD", keys.consumers(NS), "inf", "somebody")
    deployment.broker.execute_command("ZADD", keys.busy(NS, Q), "inf", "one")
    deployment.use()
    assert deployment.broker.zscore(keys.consumers(NS), "somebody") < time.time() + 60
    assert (deployment.broker.zscore(keys.busy(NS, Q), "one") or 0) < 1e12


def test_who_holds_messages_keeps_its_lease_when_the_leases_are_lost(deployment: Deployment):
    deployment.prepare()
    wrong(deployment.broker, keys.consumers(NS), "list")
    held = sum(depth.claimed for depth in inspect.depths(deployment.broker, NS, [Q, OTHER]).values())
    assert held == 3
    deployment.claims.refresh()


def test_keys_of_others_are_left_alone(deployment: Deployment):
    deployment.prepare()
    deployment.broker.hset(f"{NS}.settings", "theirs", "1")
    deployment.broker.hset(f"{NS}x:tags", "theirs", "1")
    wrong(deployment.broker, keys.caps(NS), "string")
    deployment.use()
    assert deployment.broker.hget(f"{NS}.settings", "theirs") == b"1"
    assert deployment.broker.hget(f"{NS}x:tags", "theirs") == b"1"


def test_the_reconciler_finds_lost_messages_in_a_broken_broker(store, broker: redis.Redis):  # type: ignore[no-untyped-def] # noqa: F811
    one = job(MODEL)
    store.insert([one])
    store.mark_queued([one.id], now=2.0)
    wrong(broker, Q, "string")
    wrong(broker, keys.consumers(NS), "hash")
    wrong(broker, keys.dead(NS), "set")
    assert republish_lost(store, broker, NS, stopping=threading.Event()).requeued == 1
