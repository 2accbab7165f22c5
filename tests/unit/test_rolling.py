"""From a decision and a rollout to changes of slots."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from penstock.autoscaler.backends.command import Named, words_of
from penstock.autoscaler.backends.kubernetes.manifest import Owner, Template, job
from penstock.autoscaler.fleet import Change
from penstock.autoscaler.rolling import Versions, is_through, renewal, rolled
from penstock.policy.scaling import Decision, State
from penstock.settings import Settings
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
        ([slot("a", "2"), slot("b", "1", "draining")], 1.0, False),
        ([slot("a", "2"), slot("b", "2", "draining")], 1.0, True),
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


def test_a_local_worker_of_a_revision_serves_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(models=["a.py"])
    of_a_revision = replace(slot("a", "2"), spec={"revision": "2", "models": ["b.py", "c.py"]})
    for each, models in ((slot("a", "2"), None), (of_a_revision, ["b.py", "c.py"])):
        argv, env = words_of(["worker"], settings, each, Named("gpu", 1, 1), "fence")
        assert argv[:3] == ["worker", "--slot", "a"]
        assert ("PENSTOCK_MODELS" in env) == (models is not None)
        if models is not None:
            monkeypatch.setenv("PENSTOCK_MODELS", env["PENSTOCK_MODELS"])
            assert Settings.load().models == models, "as its process reads it"


def test_a_job_of_a_revision_has_its_image_and_its_modules_in_one_container_only() -> None:
    containers = [{"name": "worker", "image": "a:1"}, {"name": "sidecar", "image": "s:1"}]
    template = Template("gpu", {"spec": {"containers": containers}}, "d")
    made: Any = {
        name: job(template, slot="a", attempt=1, spec=spec, epoch=1, fleet="f", ttl_s=60, owner=Owner("o", "u"))[
            "spec"
        ]["template"]["spec"]["containers"]
        for name, spec in {"old": {}, "new": {"revision": "2", "image": "a:2", "models": ["b"]}}.items()
    }
    assert [container["image"] for container in made["old"]] == ["a:1", "s:1"]
    assert [container["image"] for container in made["new"]] == ["a:2", "s:1"]
    assert {"name": "PENSTOCK_MODELS", "value": '["b"]'} in made["new"][0]["env"]
    assert "PENSTOCK_MODELS" not in str(made["old"])
    assert containers[0] == {"name": "worker", "image": "a:1"}, "the template stays as it is"
