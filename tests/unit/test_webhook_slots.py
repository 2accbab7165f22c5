"""The slots of deliveries: a slow or dead receiver delays nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.webhooks.slots import Slots


def test_one_host_gets_its_share_only() -> None:
    slots = Slots(total=16, per_host=4)
    assert [slots.acquire("a") for _ in range(5)] == [True] * 4 + [False]
    assert slots.full() == ["a"]
    assert slots.room("b") == 4


def test_a_host_that_failed_gets_one_slot_until_it_answers() -> None:
    slots = Slots(total=16, per_host=4)
    assert slots.acquire("a")
    slots.release("a", answered=False)
    assert slots.room("a") == 1
    assert slots.acquire("a")
    assert not slots.acquire("a")
    slots.release("a", answered=True)
    assert slots.room("a") == 4


def test_half_of_the_slots_stays_with_those_that_answer() -> None:
    slots = Slots(total=8, per_host=4)
    dead = [f"dead{number}" for number in range(20)]
    for host in dead:
        assert slots.acquire(host)
        slots.release(host, answered=False)
    assert sum(slots.acquire(host) for host in dead) == 4
    assert set(slots.full()) == set(dead)
    assert sum(slots.acquire("alive") for _ in range(10)) == 4


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["take", "ok", "fail"])), max_size=60))
def test_the_limits_always_hold(steps: list[tuple[str, str]]) -> None:
    slots = Slots(total=4, per_host=2)
    held: dict[str, int] = {}
    for host, step in steps:
        if step == "take":
            if slots.acquire(host):
                held[host] = held.get(host, 0) + 1
        elif held.get(host):
            held[host] -= 1
            slots.release(host, answered=step == "ok")
        assert sum(held.values()) + slots.free == 4
        assert all(count <= 2 for count in held.values())
        assert all(slots.room(name) == 0 for name in slots.full())
