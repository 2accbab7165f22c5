"""One look at all work at the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from penstock.job import NewJob, new_id
from penstock.policy.fairness import Terms
from penstock.transport import keys
from penstock.transport.claims import Claims
from penstock.transport.publisher import Publisher
from penstock.transport.tenants import configure
from penstock.transport.work import Bounds, Spent, Watch, Work, within_caps

FAST, BULK = "ns.embed.interactive", "ns.embed.background"


def look(broker: redis.Redis, namespace: str, queues: Sequence[str], bounds: Bounds | None = None) -> Work:
    """The first look of one that has just begun."""
    return Watch(broker, namespace, bounds).look(queues)


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


def test_what_was_refused_is_seen(broker: redis.Redis, broker_url: str) -> None:
    publisher = Publisher(broker_url, "ns")
    for _ in range(2):
        publisher.refused({FAST: 3, BULK: 1})
    publisher.close()
    found = look(broker, "ns", [FAST, "ns.none.interactive"])
    assert found.spent == {FAST: Spent(refused=6), "ns.none.interactive": Spent()}


def test_a_move_from_queue_to_worker_changes_nothing_in_all(broker: redis.Redis, broker_url: str) -> None:
    publish(broker_url, "interactive", 20)
    claims = Claims(broker, "ns")
    for _ in range(5):
        claims.claim({FAST: 4})
        found = look(broker, "ns", [FAST])
        assert found.ready[FAST] + found.held[FAST] == 20


def test_of_many_held_messages_a_sample_tells(broker: redis.Redis, broker_url: str) -> None:
    """The sum is exact however few are looked at; the shares are estimated."""
    publish(broker_url, "interactive", 1000)
    publish(broker_url, "background", 1000)
    Claims(broker, "ns").claim({FAST: 1000, BULK: 1000})
    found = look(broker, "ns", [FAST, BULK], Bounds(messages=50, each=10))
    assert sum(found.held.values()) == 2000
    assert 500 < found.held[FAST] < 1500


def test_whose_messages_are_held_is_read_of_some_at_a_time_and_remembered(broker: redis.Redis, broker_url: str) -> None:
    """In turns: after one of each, what every consumer holds is known. The sum is exact from the first look on."""
    publish(broker_url, "interactive", 100)
    publish(broker_url, "background", 100)
    consumers = [Claims(broker, "ns") for _ in range(20)]
    for n, one in enumerate(consumers):
        one.claim({FAST: 5} if n < 15 else {BULK: 5})
    watch = Watch(broker, "ns", Bounds(messages=20, each=4))
    for _ in range(5):
        found = watch.look([FAST, BULK])
        assert sum(found.held.values()) == 100 and set(found.consumers.values()) == {5}
    assert found.held == {FAST: 75, BULK: 25}
    consumers[-1].claim({BULK: 3})
    assert watch.look([FAST, BULK]).held == {FAST: 75, BULK: 28}, "by what is remembered"


def test_what_is_beyond_the_bounds_is_asked_for_piece_by_piece(broker: redis.Redis, broker_url: str) -> None:
    """And comes to the same: queues, tenants with and without caps, consumers."""
    configure(broker, "ns", {"t1": Terms(cap=5), "t2": Terms(cap=2)})
    for n in range(6):
        publish(broker_url, "interactive", 10 + n, f"t{n}")
        publish(broker_url, "background", n, f"t{n}")
    publish(broker_url, "background", 7)
    consumers = [Claims(broker, "ns") for _ in range(4)]
    for one in consumers:
        one.claim({FAST: 3})
    queues = [FAST, BULK, "ns.none.interactive"]
    whole = look(broker, "ns", queues)
    assert whole.held == {FAST: 12, BULK: 0, "ns.none.interactive": 0}
    assert whole.ready[FAST] < 75 - 12, "caps hold some back"
    assert look(broker, "ns", queues, Bounds(queues=1, tenants=2, consumers=1, piece=3)) == whole
    broker.set(keys.unacked("ns", "broken"), "text")
    broker.zadd(keys.consumers("ns"), {"broken": 9e9})
    watch = Watch(broker, "ns", Bounds(consumers=0, tenants=0))
    assert watch.look(queues).ready == whole.ready
    assert watch.look(queues) == whole, "those who hold any are known by now, and read first"


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


def test_names_of_others_may_be_anything(broker: redis.Redis) -> None:
    strange = b'\xff"\\/\n\0:1:x'
    broker.zadd(keys.consumers("ns"), {strange: 9e9})
    broker.hset(keys.unacked_prefix("ns").encode() + strange, mapping={"1": f"{FAST}\0{{}}", "2": strange + b"\0{}"})
    found = look(broker, "ns", [FAST])
    assert found.consumers == {strange.decode(errors="replace"): 2} and found.held[FAST] == 1


def calls(broker: redis.Redis) -> dict[str, int]:
    """How often each command was called since the last ``config_resetstat``, in scripts as well."""
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in broker.info("commandstats").items()}


def test_one_look_is_as_short_however_much_is_ready(broker: redis.Redis) -> None:
    """A million messages cost what one does: lengths are read, not messages."""

    def spent() -> dict[str, int]:
        look(broker, "ns", [FAST])  # the script is known
        broker.config_resetstat()
        look(broker, "ns", [FAST])
        return calls(broker)

    broker.lpush(FAST, "{}")
    before = spent()
    text = "for i = 1, 1000 do redis.call('LPUSH', KEYS[1], unpack(ARGV)) end"
    for _ in range(2):
        broker.eval(text, 1, FAST, *["{}"] * 500)
    assert look(broker, "ns", [FAST]).ready[FAST] == 1_000_001
    assert spent() == before
    broker.delete(FAST)


def test_one_look_is_short_however_large_the_fleet(broker: redis.Redis) -> None:
    """A thousand consumers that hold 64 each, of two hundred queues: no more messages are read than of a few of them,
    and in a look two keys are asked for a consumer, a queue and its tenants."""
    queues = [f"ns.m{n}.{lane}" for n in range(100) for lane in ("interactive", "background")]
    with broker.pipeline(transaction=False) as pipeline:
        for n in range(1000):
            held: Any = {f"{tag}": f"{queues[(n + tag % 2) % 200]}\0" + "x" * 500 for tag in range(64)}
            pipeline.hset(keys.unacked("ns", f"host:{n}:x"), mapping=held)
            pipeline.zadd(keys.consumers("ns"), {f"host:{n}:x": 9e9})
        pipeline.execute()
    watch = Watch(broker, "ns")
    bounds = Bounds()
    readings = bounds.messages // bounds.each
    turns = -(-1000 // readings)
    for _ in range(turns):
        broker.config_resetstat()
        found = watch.look(queues)
        spent = calls(broker)
        assert spent["hvals"] <= readings and "hrandfield" not in spent
        assert sum(spent[name] for name in ("hlen", "llen", "zrange", "hmget")) <= 1000 + 200 * (4 + 1) + 4
        assert sum(found.consumers.values()) == 64_000
    assert sum(found.held.values()) == 64_000 and set(found.held.values()) == {320.0}, "by now all were read"


def test_a_script_looks_at_no_more_than_its_bounds(broker: redis.Redis) -> None:
    """Ten thousand consumers, and as many tenants: the rest is asked for by commands of their own."""
    with broker.pipeline(transaction=False) as pipeline:
        pipeline.zadd(keys.busy("ns", FAST), {f"t{n}": n for n in range(10_000)})
        pipeline.zadd(keys.consumers("ns"), {f"host:{n}:x": 9e9 for n in range(10_000)})
        for n in range(0, 10_000, 100):
            pipeline.lpush(keys.list_key(FAST, 0, f"t{n}"), "{}")
            pipeline.hset(keys.unacked("ns", f"host:{n}:x"), "1", f"{FAST}\0{{}}")
        pipeline.execute()
    watch = Watch(broker, "ns")
    watch.look([])  # the script is known
    broker.config_resetstat()
    watch._script([FAST], consumers=True)
    spent, bounds = calls(broker), Bounds()
    assert spent["llen"] == 4 * (bounds.tenants + 1)
    assert spent["hlen"] <= bounds.consumers + bounds.messages // bounds.each + 1
    found = watch.look([FAST])
    assert (found.ready, found.held) == ({FAST: 100}, {FAST: 100})
