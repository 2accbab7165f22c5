"""Who may lead, and what a worker does about its slot."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from penstock.policy.leadership import may_act, may_lead, name_of, pools_in, rivals
from penstock.policy.liveness import Seen
from penstock.policy.slots import Duty, duty
from penstock.store.elastic import Leadership, Slot

LEASE_S = 10.0


def test_where_nobody_leads_anybody_may() -> None:
    assert may_lead({}, [], lease_s=LEASE_S, now=0.0) == ({}, True)
    resigned = Leadership("", 4, 17)
    assert may_lead({"a": Seen(16.0 + LEASE_S, 0.0)}, [resigned], lease_s=LEASE_S, now=0.5) == ({}, True)


def test_a_leader_that_beats_is_left_alone_however_long() -> None:
    seen: Mapping[str, Seen] = {}
    for second in range(100):
        seen, may = may_lead(seen, [Leadership("a", 1, second)], lease_s=LEASE_S, now=float(second))
        assert not may


def test_a_silent_one_is_replaced_after_a_lease_of_the_candidates_own_time() -> None:
    leader = Leadership("a", 1, 5)
    seen, may = may_lead({}, [leader], lease_s=LEASE_S, now=1000.0)
    assert not may, "nothing is known of how long it has been silent"
    seen, may = may_lead(seen, [leader], lease_s=LEASE_S, now=1009.9)
    assert not may
    seen, may = may_lead(seen, [leader], lease_s=LEASE_S, now=1010.0)
    assert may


def test_another_holder_begins_with_a_whole_lease() -> None:
    seen, _ = may_lead({}, [Leadership("a", 1, 5)], lease_s=LEASE_S, now=0.0)
    seen, may = may_lead(seen, [Leadership("b", 2, 6)], lease_s=LEASE_S, now=10.0)
    assert not may
    _, may = may_lead(seen, [Leadership("b", 2, 6)], lease_s=LEASE_S, now=20.0)
    assert may


def test_of_several_all_must_be_silent() -> None:
    silent = Leadership("a", 1, 5)
    seen, _ = may_lead({}, [silent, Leadership("b", 2, 1)], lease_s=LEASE_S, now=0.0)
    seen, may = may_lead(seen, [silent, Leadership("b", 2, 9)], lease_s=LEASE_S, now=10.0)
    assert not may, "one of them lives"
    _, may = may_lead(seen, [silent, Leadership("", 2, 10)], lease_s=LEASE_S, now=10.1)
    assert may, "and now has resigned"


def test_a_leadership_is_of_the_pools_that_its_name_names() -> None:
    assert (name_of([]), pools_in("autoscaler")) == ("autoscaler", frozenset())
    assert name_of(["gpu", "cpu", "gpu"]) == "autoscaler:cpu,gpu"
    assert pools_in("autoscaler:cpu,gpu") == {"cpu", "gpu"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("autoscaler", ["autoscaler", "autoscaler:cpu", "autoscaler:cpu,gpu", "autoscaler:gpu-2"]),
        ("autoscaler:cpu", ["autoscaler", "autoscaler:cpu", "autoscaler:cpu,gpu"]),
        ("autoscaler:gpu", ["autoscaler", "autoscaler:cpu,gpu"]),
        ("autoscaler:gpu,gpu-2", ["autoscaler", "autoscaler:cpu,gpu", "autoscaler:gpu-2"]),
        ("autoscaler:other", ["autoscaler"]),
    ],
)
def test_rivals_have_a_pool_in_common(name: str, expected: list[str]) -> None:
    every = ["autoscaler", "autoscaler:cpu", "autoscaler:cpu,gpu", "autoscaler:gpu-2"]
    assert rivals(name, every) == expected
    assert all(name in rivals(other, [name]) for other in expected), "and are rivals of each other"


def test_a_leader_that_could_not_beat_for_a_lease_does_nothing() -> None:
    assert may_act(100.0, lease_s=LEASE_S, now=109.9)
    assert not may_act(100.0, lease_s=LEASE_S, now=110.0)


@pytest.mark.parametrize(
    ("state", "worker", "expected"),
    [
        ("wanted", "me", Duty.WORK),
        ("parked", "me", Duty.PARK),
        ("draining", "me", Duty.DRAIN),
        ("draining", None, Duty.DRAIN),
        ("wanted", None, Duty.TAKE),
        ("parked", None, Duty.TAKE),
        ("wanted", "another", Duty.DRAIN),
        ("parked", "another", Duty.DRAIN),
    ],
)
def test_what_a_worker_does_about_its_slot(state: str, worker: str | None, expected: Duty) -> None:
    assert duty(Slot("s", "gpu", state, 1, 0.0, 0.0, worker), worker="me") is expected


def test_a_worker_whose_slot_was_removed_drains() -> None:
    assert duty(None, worker="me") is Duty.DRAIN
