"""One look at all work at the broker."""

from __future__ import annotations

import pytest
import redis

from penstock.job import NewJob, new_id
from penstock.policy.fairness import Terms
from penstock.transport import keys, work
from penstock.transport.claims import Claims
from penstock.transport.publisher import Publisher
from penstock.transport.tenants import configure
from penstock.transport.work import Spent, look, within_caps

FAST, BULK = "ns.embed.interactive", "ns.embed.background"


def publish(url: str, lane: str, count: int, tenant: str = "default") -> None:
    publisher = Publisher(url, "ns")
    publisher.publish(
        [
            NewJob(
                id=new_id(), model="embed", version="1", input="1", lane=lane, accepted_at=1.0, available_at=1.0,
                priority=n % 10, tenant=tenant,
            )
            for n in range(count)
        ]
    )  # fmt: skip
    publisher.close()


def test_ready_and_held_work_of_all_tenants_is_seen(broker: redis.Redis, broker_url: str) -> None:
    publish(broker_url, "interactive", 40)
    publish(broker_url, "interactive", 10, "acme")
    publish(broker_url, "background", 300)
    one, two = Claims(broker, "ns"), Claims(broker, "ns")
    one.claim({FAST: 7, BULK: 5})
    two.claim({BULK: 60})
    found = look(broker, "ns", [FAST, BULK, "ns.none.interactive"])
    assert found.ready == {FAST: 43, BULK: 235, "ns.none.interactive": 0}
    assert found.held == {FAST: 7, BULK: 65, "ns.none.interactive": 0}
    assert found.consumers == {one.consumer: 12, two.consumer: 60}


def test_a_move_from_queue_to_worker_changes_nothing_in_all(broker: redis.Redis, broker_url: str) -> None:
    publish(broker_url, "interactive", 20)
    claims = Claims(broker, "ns")
    for _ in range(5):
        claims.claim({FAST: 4})
        found = look(broker, "ns", [FAST])
        assert found.ready[FAST] + found.held[FAST] == 20


def test_of_many_held_messages_a_sample_tells(
    broker: redis.Redis, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum is exact however few are looked at; the shares are estimated."""
    monkeypatch.setattr(work, "SAMPLE", 100)
    publish(broker_url, "interactive", 1000)
    publish(broker_url, "background", 1000)
    Claims(broker, "ns").claim({FAST: 1000, BULK: 1000})
    found = look(broker, "ns", [FAST, BULK])
    assert sum(found.held.values()) == 2000
    assert 500 < found.held[FAST] < 1500


def test_what_workers_have_told_is_read(broker: redis.Redis) -> None:
    broker.hincrby(keys.done("ns"), FAST, 12)
    broker.hincrbyfloat(keys.device("ns"), FAST, 1.5)
    broker.hset(keys.done("ns"), BULK, "no number")
    assert look(broker, "ns", [FAST, BULK]).spent == {FAST: Spent(12, 1.5), BULK: Spent()}


def test_what_a_cap_holds_back_is_no_work_for_more_workers(broker: redis.Redis, broker_url: str) -> None:
    configure(broker, "ns", {"acme": Terms(cap=5)})
    publish(broker_url, "interactive", 50, "acme")
    publish(broker_url, "interactive", 3)
    assert look(broker, "ns", [FAST]).ready == {FAST: 5 + 3}
    Claims(broker, "ns").claim({FAST: 8})
    found = look(broker, "ns", [FAST])
    assert found.ready[FAST] + found.held[FAST] == 5 + 3


def test_room_under_a_cap_is_shared_by_a_tenants_queues() -> None:
    ready = {"a": {"acme": 30, "default": 2}, "b": {"acme": 10}}
    assert within_caps(ready, {"acme": 8}) == {"a": 6 + 2, "b": 2}
    assert within_caps(ready, {}) == {"a": 32, "b": 10}


def test_broken_keys_are_passed_over(broker: redis.Redis, broker_url: str) -> None:
    publish(broker_url, "interactive", 3)
    for key in (keys.busy("ns", FAST), keys.done("ns"), keys.caps("ns"), keys.unacked("ns", "x")):
        broker.set(key, "text")
    broker.zadd(keys.consumers("ns"), {"x": 9e9})
    assert look(broker, "ns", [FAST]).ready == {FAST: 3}


def test_one_look_is_quick_however_much_is_ready(broker: redis.Redis) -> None:
    """A million messages cost what three do: lengths are read, not messages."""
    calls = "local n = 0 for i = 1, 1000 do redis.call('LPUSH', KEYS[1], unpack(ARGV)) end"
    for _ in range(2):
        broker.eval(calls, 1, FAST, *["{}"] * 500)
    found = look(broker, "ns", [FAST])
    assert found.ready[FAST] == 1_000_000
    broker.config_resetstat()
    look(broker, "ns", [FAST])
    spent = broker.info("commandstats")
    microseconds = sum(each["usec"] for name, each in spent.items() if name.startswith("cmdstat_eval"))
    assert microseconds < 20_000, spent
    broker.delete(FAST)
