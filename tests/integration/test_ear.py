"""Bells of pools at zero, from a real broker that goes and comes back."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from penstock.autoscaler.front.ear import Ear
from penstock.job import NewJob, new_id
from penstock.transport.publisher import Publisher
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer, until

Rung = queue.Queue[str]


@pytest.fixture
def rung() -> Rung:
    return queue.Queue()


@pytest.fixture
def ear(broker_url: str, rung: Rung) -> Iterator[Ear]:
    ear = Ear(broker_url, "ns", rung.put)
    ear.start()
    yield ear
    assert ear.stop()
    assert ear.stop(), "again"


@pytest.fixture
def publisher(broker_url: str) -> Iterator[Publisher]:
    publisher = Publisher(broker_url, "ns")
    yield publisher
    publisher.close()


def job(model: str) -> NewJob:
    return NewJob(
        id=new_id(), model=model, version="1", input="1", lane="interactive", accepted_at=1.0, available_at=1.0
    )


def subscribers(server: RedisServer, model: str) -> int:
    with server.client() as client:
        ((_, count),) = client.pubsub_numsub(f"ns:wake:{model}")
    return int(count)


def test_only_models_of_pools_at_zero_are_heard(
    redis_server: RedisServer, ear: Ear, publisher: Publisher, rung: Rung
) -> None:
    ear.listen({"a": "gpu", "b": "gpu", "c": "cpu"})
    assert ear.heard(PATIENCE_S)
    publisher.publish([job("other")])
    publisher.publish([job("c")])
    assert rung.get(timeout=PATIENCE_S) == "cpu"
    ear.listen({"b": "gpu"})
    assert ear.heard(PATIENCE_S)
    until(lambda: subscribers(redis_server, "c") == 0)
    publisher.publish([job("c"), job("a")])
    publisher.publish([job("b")])
    assert rung.get(timeout=PATIENCE_S) == "gpu"
    ear.listen({})
    until(lambda: subscribers(redis_server, "b") == 0)
    assert rung.empty()


def test_bells_that_ring_together_are_one(ear: Ear, publisher: Publisher, rung: Rung) -> None:
    """A flood into a pool that may have no worker (its max is 0) must not keep the autoscaler turning."""
    ear.listen({"a": "gpu"})
    assert ear.heard(PATIENCE_S)
    ear.now_mono = lambda: 5.0
    for _ in range(200):
        publisher.publish([job("a")])
    ear.listen({"a": "gpu", "b": "last"})
    assert ear.heard(PATIENCE_S)
    publisher.publish([job("b")])
    assert [rung.get(timeout=PATIENCE_S), rung.get(timeout=PATIENCE_S)] == ["gpu", "last"]


def test_the_broker_may_go_and_come_back(redis_server: RedisServer, ear: Ear, publisher: Publisher, rung: Rung) -> None:
    ear.listen({"a": "gpu"})
    assert ear.heard(PATIENCE_S)
    redis_server.kill()
    redis_server.start()
    until(lambda: subscribers(redis_server, "a") == 1)
    publisher.publish([job("a")])
    assert rung.get(timeout=PATIENCE_S) == "gpu"
