"""A queue and its twin, the queue of one version, against a real Redis: one quota, one wait, fair to both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis

from penstock.job import NewJob, new_id
from penstock.lane import queue_name, split_name, version_of
from penstock.transport import keys
from penstock.transport.claims import Claims
from penstock.transport.message import decode, encode
from penstock.transport.publisher import Publisher
from tests.fixtures.store import make_job

NS = "ns"
ANY, TWO = queue_name(NS, "m", "interactive"), queue_name(NS, "m", "interactive", "2")
OTHER = queue_name(NS, "other", "interactive")
TWINS = {ANY: TWO, OTHER: queue_name(NS, "other", "interactive", "1")}


@pytest.fixture
def claims(broker: redis.Redis) -> Claims:
    return Claims(broker, NS)


@pytest.fixture
def publisher(broker: redis.Redis, broker_url: str) -> Any:
    publisher = Publisher(broker_url, NS)
    yield publisher
    publisher.close()


def job(at: float, version: str | None = None, *, model: str = "m", **fields: Any) -> NewJob:
    return make_job(
        model=model, asked_version=version, lane="interactive", available_at=1000.0 + at, input=str(at), **fields
    )


def claim(claims: Claims, quota: int, *queues: str, **options: Any) -> list[str]:
    found = claims.claim(dict.fromkeys(queues or (ANY,), quota), twins=TWINS, **options)
    assert set(found) <= set(queues or (ANY,)), "what the twin has comes under the queue's own name"
    envelopes = [decode(message.raw) for messages in found.values() for message in messages]
    return [envelope.input or "" for envelope in envelopes if envelope is not None]


def test_names() -> None:
    assert (ANY, TWO) == ("ns.m.interactive", "ns.m@2.interactive")
    assert [split_name(name) for name in ("m", "m@2", "m@2@x", "m@")] == [
        ("m", None), ("m", "2"), ("m", "2@x"), ("m", ""),
    ]  # fmt: skip
    for version in ("2", "1.0.0-rc.1", "a b", "ü", "a@b", "interactive", "x.background"):
        queue = queue_name(NS, "m", "background", version)
        assert version_of(queue, NS, "m") == version
        assert queue.endswith(".background")
        assert not any(mark in queue for mark in (" ", keys.SEP, "*"))
    assert version_of(ANY, NS, "m") is None


def test_only_who_has_the_version_gets_its_jobs(broker: redis.Redis, publisher: Publisher, claims: Claims) -> None:
    publisher.publish([job(1), job(2, "2"), job(3)])
    assert claims.claim({ANY: 10}, twins={ANY: queue_name(NS, "m", "interactive", "1")}).keys() == {ANY}
    assert broker.llen(TWO) == 1 and broker.llen(ANY) == 0
    assert claim(claims, 10) == ["2"]


@pytest.mark.parametrize("quota", [1, 2, 3, 4, 10])
def test_both_share_one_quota_and_the_older_head_goes_first(
    broker: redis.Redis, publisher: Publisher, claims: Claims, quota: int
) -> None:
    publisher.publish([job(3), job(4), job(5), job(1, "2"), job(2, "2"), job(6, "2")])
    got: list[str] = []
    while found := claim(claims, quota):
        assert len(found) <= quota
        got += found
    assert sorted(got) == ["1", "2", "3", "4", "5", "6"] and got[:2] == ["1", "2"]
    unacked: Any = broker.hvals(keys.unacked(NS, claims.consumer))
    assert sum(held.startswith(TWO.encode()) for held in unacked) == 3, "it goes back to where it came from"
    claims.leave()
    assert (broker.llen(ANY), broker.llen(TWO)) == (3, 3)


def test_the_limit_and_the_quotas_of_others_hold(publisher: Publisher, claims: Claims) -> None:
    publisher.publish([job(at) for at in range(3)] + [job(10 + at, "2") for at in range(3)])
    publisher.publish([job(20 + at, model="other") for at in range(9)])
    assert len(claim(claims, 5, ANY, OTHER, limit=7)) == 7
    assert len(claim(claims, 5, OTHER, limit=9)) == 5


def test_bells(broker: redis.Redis, publisher: Publisher, claims: Claims) -> None:
    """Who is left messages wakes the next one; of an empty queue nobody hears."""

    def rung() -> Sequence[bool]:
        return [bool(broker.exists(keys.bell(NS, queue))) for queue in (ANY, TWO)]

    publisher.publish([job(1), job(2), job(3, "2"), job(4, "2")])
    broker.delete(keys.bell(NS, ANY), keys.bell(NS, TWO))  # somebody has taken them
    assert claim(claims, 1) == ["1"]
    assert rung() == [True, True]
    assert claim(claims, 2) == ["2", "3"]
    assert rung() == [False, True]
    assert claim(claims, 2) == ["4"]
    assert rung() == [False, False]


def test_a_rival_is_as_old_as_the_older_of_its_two_heads(publisher: Publisher, claims: Claims) -> None:
    publisher.publish([job(5), job(1, "2"), job(3, model="other")])
    both = {"one_of": frozenset({ANY, OTHER})}
    assert claim(claims, 1, OTHER, ANY, **both) == ["1"]
    assert claim(claims, 1, OTHER, ANY, **both) == ["3"]
    assert claim(claims, 1, OTHER, ANY, **both) == ["5"]


def test_tenants_share_a_versions_queue_and_are_charged_there(
    broker: redis.Redis, publisher: Publisher, claims: Claims
) -> None:
    jobs = [job(at, "2", tenant=tenant) for at in range(8) for tenant in ("a", "b")]
    publisher.publish([*jobs, job(100)])
    found = claims.claim({ANY: 9}, twins=TWINS)[ANY]
    assert [message.charged for message in found] == [True] * 9 or found[-1].charged is False
    tenants = [envelope.tenant for message in found if (envelope := decode(message.raw)) is not None]
    assert abs(tenants.count("a") - tenants.count("b")) <= 1
    assert broker.zcard(keys.busy(NS, TWO)) == 2 and not broker.exists(keys.busy(NS, ANY))


def test_a_cap_counts_over_both(broker: redis.Redis, publisher: Publisher, claims: Claims) -> None:
    broker.hset(keys.caps(NS), "a", 3)
    publisher.publish([job(at, version, tenant="a") for at in range(4) for version in ("2", None)])
    assert len(claim(claims, 10)) == 3


def test_the_message_says_where_it_goes() -> None:
    one = make_job(id=new_id(), model="m", lane="interactive", asked_version="2")
    raw = encode(one, NS)
    assert b'"routing_key":"ns.m@2.interactive"' in raw and b'"version":"2"' in raw
    assert b'"version":""' in encode(make_job(model="m", version="7"), NS)
