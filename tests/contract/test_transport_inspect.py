"""Looking at the broker: depths, held jobs, the mark of its data, purge."""

from __future__ import annotations

import pytest
import redis

from penstock.job import NewJob, new_id
from penstock.transport import inspect
from penstock.transport.claims import Claims
from penstock.transport.publisher import Publisher
from tests.fixtures.redis import RedisServer

FAST, BULK = "ns.embed.interactive", "ns.embed.background"


def jobs(count: int, lane: str) -> list[NewJob]:
    return [
        NewJob(
            id=new_id(), model="embed", version="1", input="1", lane=lane, accepted_at=1.0, available_at=1.0,
            priority=n % 10,
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def stored(broker_url: str) -> dict[str, list[NewJob]]:
    made = {FAST: jobs(40, "interactive"), BULK: jobs(1_300, "background")}
    publisher = Publisher(broker_url, "ns")
    for some in made.values():
        publisher.publish(some)
    publisher.close()
    return made


def test_depths_count_ready_and_claimed(broker: redis.Redis, stored: dict[str, list[NewJob]]) -> None:
    one, two = Claims(broker, "ns"), Claims(broker, "ns")
    one.claim({FAST: 7, BULK: 5})
    two.claim({BULK: 600})
    depths = inspect.depths(broker, "ns", [FAST, BULK, "ns.none.interactive"])
    assert depths == {
        FAST: inspect.Depth(ready=33, claimed=7),
        BULK: inspect.Depth(ready=695, claimed=605),
        "ns.none.interactive": inspect.Depth(),
    }
    assert depths[BULK].total == 1_300


def test_held_ids_are_all_that_the_broker_has(broker: redis.Redis, stored: dict[str, list[NewJob]]) -> None:
    Claims(broker, "ns").claim({FAST: 7, BULK: 700})
    broker.lpush(FAST, "no json")
    assert inspect.held_ids(broker, "ns", [FAST, BULK]) == {job.id for some in stored.values() for job in some}


def test_queues_are_found(broker: redis.Redis, stored: dict[str, list[NewJob]]) -> None:
    broker.lpush("another.embed.interactive", "x")
    broker.set("ns.text", "x")
    assert inspect.queues(broker, "ns") == [BULK, FAST]


def test_the_epoch_changes_when_the_data_is_lost(redis_server: RedisServer, broker: redis.Redis) -> None:
    first = inspect.mark(broker, "ns")
    assert inspect.mark(broker, "ns") == first
    redis_server.flushall()
    second = inspect.mark(broker, "ns")
    assert second.epoch != first.epoch
    assert second.run_id == first.run_id
    redis_server.stop()
    redis_server.start()
    third = inspect.mark(broker, "ns")
    assert third.epoch == second.epoch
    assert third.run_id != first.run_id


def test_purge_takes_ready_messages_only(broker: redis.Redis, stored: dict[str, list[NewJob]]) -> None:
    claims = Claims(broker, "ns")
    claims.claim({FAST: 7})
    assert inspect.purge(broker, "ns", FAST) == 33
    assert inspect.purge(broker, "ns", FAST) == 0
    assert inspect.depths(broker, "ns", [FAST, BULK])[FAST] == inspect.Depth(ready=0, claimed=7)
    assert claims.leave() == 7
    assert inspect.depths(broker, "ns", [FAST, BULK])[BULK].ready == 1_300
