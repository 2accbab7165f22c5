"""The Redis keys: kombu's own form for queues, ours under the namespace."""

from __future__ import annotations

import pytest
from kombu.transport.redis import PRIORITY_STEPS, Channel

from penstock.transport import keys


@pytest.mark.parametrize(
    ("priority", "step"), [(0, 0), (1, 0), (2, 0), (3, 3), (5, 3), (6, 6), (8, 6), (9, 9), (-4, 0), (99, 9)]
)
def test_a_priority_falls_on_the_step_below_it(priority: int, step: int) -> None:
    assert keys.step_of(priority) == step


def test_steps_and_separator_are_kombus() -> None:
    assert tuple(PRIORITY_STEPS) == keys.PRIORITY_STEPS
    assert Channel.sep == keys.SEP


@pytest.mark.parametrize("priority", range(10))
def test_a_list_key_is_the_one_that_kombu_would_use(priority: int) -> None:
    channel = object.__new__(Channel)  # its key functions need no connection
    assert keys.list_key("q", priority) == channel._q_for_pri("q", priority)


def test_default_jobs_stand_on_the_bare_name() -> None:
    """So LLEN of the queue's name is what an autoscaler or a human sees."""
    assert keys.list_key("penstock.embed.interactive") == "penstock.embed.interactive"


def test_higher_priorities_are_served_first() -> None:
    assert keys.list_keys("q") == ("q\x06\x169", "q\x06\x166", "q\x06\x163", "q")


@pytest.mark.parametrize("priority", range(10))
def test_the_queue_is_read_back_from_its_list_key(priority: int) -> None:
    assert keys.queue_of(keys.list_key("ns.model.lane", priority)) == "ns.model.lane"


def test_all_keys_carry_the_namespace() -> None:
    made = [
        keys.bell("ns", "q"),
        keys.own_bell("ns", "c"),
        keys.unacked("ns", "c"),
        keys.consumers("ns"),
        keys.tags("ns"),
        keys.dead("ns"),
        keys.tenants("ns"),
        keys.busy("ns", "q"),
        keys.used("ns"),
        keys.device("ns"),
        keys.weights("ns"),
        keys.caps("ns"),
        keys.epoch("ns"),
        keys.reply("ns", "c"),
        keys.events("ns"),
    ]
    assert all(key.startswith("ns:") for key in made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("tenant", ["default", "acme", "a b", "x\x06\x16y", "ü/%41", "a\ud800"])
@pytest.mark.parametrize("priority", [0, 5, 9])
def test_queue_and_tenant_are_read_back_from_a_list_key(tenant: str, priority: int) -> None:
    key = keys.list_key("ns.model.lane", priority, tenant)
    assert (keys.queue_of(key), keys.tenant_of(key)) == ("ns.model.lane", tenant)
    assert key in keys.list_keys("ns.model.lane", tenant)


def test_no_two_tenants_share_a_list() -> None:
    names = ["default", "Default", "a", "a%", "%61", "a b", "a%20b"]
    assert len({keys.list_key("q", 0, name) for name in names}) == len(names)
