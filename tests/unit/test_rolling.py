"""From a decision and a rollout to changes of slots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from penstock.autoscaler.fleet import Change
from penstock.autoscaler.rolling import Versions, is_through, renewal, rolled
from penstock.policy.scaling import Decision, State
from penstock.store.elastic import RolloutOf, Slot

ROLLOUT = RolloutOf("gpu", "2", {"revision": "2", "image": "a:2"}, "1", {"revision": "1"}, 1.0, 1, False, 0.0, 0.0)


NONE = Versions()


def slot(id: str, revision: str, state: str = "wanted", *, ready: bool = True) -> Slot:
    worker = f"w{id}" if ready else None
    at = 1.0 if ready else None
    return Slot(id, "gpu", state, 1, float(ord(id)), 0.0, worker, at, spec={"revision": revision} if revision else {})


def decision(target: int, parked: int = 0) -> Decision:
    return Decision(target=target, parked=parked, state=State(), code="steady", reason="")


def taken(
    slots: list[Slot], target: int, parked: int = 0, *, versions: Versions = NONE, most: int = 100, **asked: Any
) -> tuple[Change, str]:
    change, step = rolled(
        decision(target, parked), slots, replace(ROLLOUT, **asked), busy=(), most=most, versions=versions
    )
    return change, step.code


def test_new_slots_are_of_the_new_revision() -> None:
    change, code = taken([slot("a", "1"), slot("b", "1")], 2)
    assert [(new.pool, new.state, new.spec) for new in change.add] == [("gpu", "wanted", ROLLOUT.spec)]
    assert (dict(change.set), code) == ({}, "start")


def test_workers_of_before_any_rollout_are_old_ones() -> None:
    change, _ = taken([slot("a", ""), slot("b", ""), slot("c", "2")], 2)
    assert dict(change.set) == {"b": "draining"}


def test_what_drains_holds_its_place_until_it_is_gone() -> None:
    change, code = taken([slot("a", "1"), slot("b", "1", "draining")], 2, most=2)
    assert (list(change.add), dict(change.set), code) == ([], {}, "wait")


def test_a_parked_one_of_the_right_revision_is_woken_first() -> None:
    slots = [slot("a", "1"), slot("p", "2", "parked"), slot("q", "1", "parked")]
    change, _ = taken(slots, 1, 1)
    assert dict(change.set) == {"p": "wanted", "q": "draining"}
    assert [(new.state, new.spec) for new in change.add] == [("parked", ROLLOUT.spec)]


def test_spares_of_a_canary_are_of_what_most_are() -> None:
    change, code = taken([slot("a", "1"), slot("b", "2")], 2, 1, share=0.5)
    assert [(new.state, new.spec) for new in change.add] == [("parked", {"revision": "1"})]
    assert code == "canary"


def test_spares_that_are_too_many_go() -> None:
    slots = [slot("a", "2"), slot("p", "2", "parked"), slot("q", "2", "parked"), slot("b", "1", ready=False)]
    change, _ = taken(slots, 1, 1)
    assert dict(change.set) == {"b": "draining", "q": "draining"}


@pytest.mark.parametrize(("asked", "drained"), [(("m", "1"), {}), (("m", "2"), {"a": "draining"})])
def test_who_alone_serves_a_version_that_is_asked_for_stays(asked: tuple[str, str], drained: dict[str, str]) -> None:
    serves = {"wa": frozenset({("m", "1")}), "wb": frozenset({("m", "2")})}
    change, code = taken([slot("a", "1"), slot("b", "2")], 1, versions=Versions(frozenset({asked}), serves))
    assert dict(change.set) == drained
    assert code == ("drain" if drained else "kept")


@pytest.mark.parametrize(
    ("slots", "share", "through"),
    [
        ([slot("a", "2"), slot("b", "2", "parked")], 1.0, True),
        ([slot("a", "2"), slot("b", "1", "draining")], 1.0, True),
        ([slot("a", "2"), slot("b", "1", "parked")], 1.0, False),
        ([slot("a", "")], 1.0, False),
        ([], 1.0, True),
        ([slot("a", "2")], 0.5, False),
    ],
)
def test_a_rollout_is_through_when_nothing_else_is_there(slots: list[Slot], share: float, through: bool) -> None:
    assert is_through(replace(ROLLOUT, share=share), slots) is through


def test_what_has_another_template_by_now_is_renewed_without_being_asked() -> None:
    rollout = renewal("gpu", None, surge=1)
    slots = [slot("a", ""), slot("b", ""), slot("c", "")]
    assert is_through(rollout, slots)
    assert not is_through(rollout, slots, {"a", "b"})
    change, step = rolled(decision(3), slots, rollout, busy=(), most=3, versions=NONE, outdated={"a", "b"})
    assert (dict(change.set), step.code) == ({"b": "draining"}, "swap"), "there is no room for one more"
    change, step = rolled(decision(3), slots, rollout, busy=(), most=4, versions=NONE, outdated={"a", "b"})
    assert [(new.state, new.spec) for new in change.add] == [("wanted", {})]


def test_a_pool_that_was_rolled_out_is_renewed_as_what_it_is() -> None:
    rollout = renewal("gpu", ROLLOUT, surge=2)
    slots = [slot("a", "2"), slot("b", "2")]
    change, _ = rolled(decision(2), slots, rollout, busy=(), most=9, versions=NONE, outdated="ab")
    assert [new.spec for new in change.add] == [ROLLOUT.spec, ROLLOUT.spec]
