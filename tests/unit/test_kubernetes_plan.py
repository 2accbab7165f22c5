"""What is done about a slot, by what its row says and what the cluster has: tables, and a history of random ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.autoscaler.backends.kubernetes.manifest import Template, job_name, read_templates, template
from penstock.autoscaler.backends.kubernetes.plan import (
    PAUSE_FIRST_S,
    PAUSE_LONGEST_S,
    Plan,
    Situation,
    pause_s,
    plan,
)
from penstock.autoscaler.backends.kubernetes.seen import LONGEST_TEXT, Made, Pod, Seen, sentence
from penstock.errors import ConfigError

GPU = Template("gpu", {"spec": {"terminationGracePeriodSeconds": 60}}, "t1")


@dataclass(frozen=True)
class Row:
    id: str = "s"
    pool: str = "gpu"
    state: str = "wanted"
    worker: str | None = None
    place: Any = None
    spec: Any = field(default_factory=dict)


def made(attempt: int = 1, slot: str = "s", **fields: Any) -> Made:
    defaults: dict[str, Any] = {"pool": "gpu", "epoch": 1, "template": "t1"}
    return Made(name=job_name(slot, attempt), slot=slot, attempt=attempt, **(defaults | fields))


def pod(phase: Any = "running", slot: str = "s", **fields: Any) -> Pod:
    return Pod(**({"name": f"{slot}-pod", "slot": slot, "job": job_name(slot, 1), "phase": phase} | fields))


def decide(row: Row | None, *jobs: Made, pods: tuple[Pod, ...] = (), **fields: Any) -> Plan:
    seen = Seen({each.name: each for each in jobs}, {each.name: each for each in pods})
    defaults: dict[str, Any] = {"now": 1000.0, "epoch": 1, "templates": {"gpu": GPU}}
    return plan(Situation(rows=[row] if row else [], seen=seen, **(defaults | fields)))


PLACED = {"job": job_name("s", 1), "attempt": 1, "pod": "s-pod", "node": ""}


def did(planned: Plan) -> dict[str, Any]:
    """What is not empty, without the times."""
    names = ("create", "delete", "gone", "stuck", "outdated", "ask", "ask_pods", "deposed_by")
    told = {name: getattr(planned, name) for name in names}
    told["create"] = [each.attempt for each in planned.create]
    return {name: value for name, value in told.items() if value}


@pytest.mark.parametrize(
    ("row", "jobs", "pods", "then"),
    [
        pytest.param(Row(), [], [], {"create": [1]}, id="nothing is there"),
        pytest.param(Row(state="parked"), [], [], {"create": [1]}, id="a parked one must be loaded too"),
        pytest.param(Row(), [made()], [pod("pending")], {}, id="it is coming"),
        pytest.param(Row(place=PLACED, worker="w"), [made()], [pod()], {}, id="it runs"),
        pytest.param(Row(place=PLACED, worker="w"), [made()], [pod("ended")], {"gone": ["s"]}, id="its pod has ended"),
        pytest.param(
            Row(place=PLACED, worker="w"),
            [made()],
            [pod(name="another")],
            {"ask_pods": ["s-pod"]},
            id="another pod is there",
        ),
        pytest.param(
            Row(place=PLACED, worker="w"), [made()], [], {"ask_pods": ["s-pod"]}, id="a list of pods may be old"
        ),
        pytest.param(
            Row(place=PLACED, worker="w"),
            [made(state="complete", lived_s=3600.0)],
            [],
            {"gone": ["s"]},
            id="it has ended, and is wanted",
        ),
        pytest.param(Row(), [made(state="complete", lived_s=3600.0)], [], {"create": [2]}, id="and then the next"),
        pytest.param(Row(), [made(state="complete", lived_s=3600.0)], [pod()], {}, id="but not beside its pod"),
        pytest.param(Row(), [made(leaving=True)], [], {}, id="nor beside a Job that is on its way out"),
        pytest.param(
            Row(place=PLACED, worker="w"),
            [],
            [],
            {"ask": [job_name("s", 1)], "ask_pods": ["s-pod"]},
            id="a list may be old",
        ),
        pytest.param(Row(worker="w"), [], [], {"ask": [job_name("s", 1)]}, id="also without a place"),
        pytest.param(Row(place=PLACED, worker="w"), [], [pod()], {}, id="what runs is not gone"),
        pytest.param(Row(state="draining", place=PLACED, worker="w"), [made()], [pod()], {}, id="it drains by itself"),
        pytest.param(
            Row(state="draining"), [made()], [pod("pending")], {"delete": [job_name("s", 1)]}, id="it had not begun"
        ),
        pytest.param(Row(state="draining"), [made()], [], {"delete": [job_name("s", 1)]}, id="it had no pod"),
        pytest.param(
            Row(state="draining", place=PLACED),
            [made(state="complete")],
            [pod("ended")],
            {"gone": ["s"]},
            id="it has drained",
        ),
        pytest.param(Row(state="draining"), [], [pod()], {}, id="its pod is still on its way out"),
        pytest.param(Row(state="draining"), [], [], {"gone": ["s"]}, id="there never was one"),
        pytest.param(Row(), [made(template="t0")], [pod()], {"outdated": {"s"}}, id="of an older template"),
        pytest.param(Row(), [made(epoch=2)], [pod()], {"deposed_by": 2}, id="somebody else leads"),
        pytest.param(Row(pool="x"), [], [], {"stuck": {"s": "NoTemplate: there is no template x.json"}}, id="unknown"),
    ],
)
def test_a_slot(row: Row, jobs: list[Made], pods: list[Pod], then: dict[str, Any]) -> None:
    assert did(decide(row, *jobs, pods=tuple(pods))) == then


def test_what_was_asked_for_and_does_not_exist_is_gone_or_made() -> None:
    absent = frozenset({job_name("s", 1)})
    assert did(decide(Row(place=PLACED, worker="w"), absent=absent)) == {"ask_pods": ["s-pod"]}
    assert did(decide(Row(place=PLACED, worker="w"), absent=absent | {"s-pod"})) == {"gone": ["s"]}
    assert did(decide(Row(place=PLACED, worker="w"), made(), absent=frozenset({"s-pod"}))) == {"gone": ["s"]}
    announced = Row(place={"job": job_name("s", 1), "attempt": 1})
    assert did(decide(announced, absent=absent)) == {"create": [1]}, "announced, and then something came between"


def test_an_orphan_ends_itself_and_is_ended_when_it_does_not() -> None:
    first = decide(None, made(), pods=(pod(),))
    assert did(first) == {}
    assert did(decide(None, made(), pods=(pod(),), since=first.since, now=1089.0)) == {}
    assert did(decide(None, made(), pods=(pod(),), since=first.since, now=1090.0)) == {"delete": [job_name("s", 1)]}


def test_a_pod_that_comes_is_told_where_it_is() -> None:
    place = {"job": job_name("s", 1), "attempt": 1, "pod": "s-pod", "node": "n1"}
    assert decide(Row(), made(), pods=(pod(node="n1"),)).placed == {"s": place}
    assert decide(Row(place=place), made(), pods=(pod(node="n1"),)).placed == {}


def test_pauses_grow_and_are_bounded() -> None:
    assert [pause_s(deaths) for deaths in (0, 1, 2, 3)] == [0.0, PAUSE_FIRST_S, 2 * PAUSE_FIRST_S, 4 * PAUSE_FIRST_S]
    assert pause_s(10**9) == PAUSE_LONGEST_S


def test_a_long_life_forgives_what_was_before() -> None:
    jobs = [made(n, state="failed", lived_s=1.0) for n in (1, 2)]
    assert "2 in a row" in decide(Row(), *jobs).stuck["s"]
    assert did(decide(Row(), *jobs, made(3, state="complete", lived_s=600.0))) == {"create": [4]}


def test_texts_of_the_cluster_are_bounded() -> None:
    assert sentence("FailedCreate", "a\n  b") == "FailedCreate: a b"
    assert len(sentence("x", "y" * 10_000)) == LONGEST_TEXT


@given(st.data())
def test_a_slot_never_has_two_and_nothing_that_runs_is_deleted_early(data: st.DataObject) -> None:
    """Whatever the lists say."""
    state = data.draw(st.sampled_from(["wanted", "parked", "draining"]))
    jobs = [
        made(n, state=data.draw(st.sampled_from(["open", "complete", "failed"])), leaving=data.draw(st.booleans()))
        for n in range(1, data.draw(st.integers(0, 3)) + 1)
    ]
    phases = data.draw(st.lists(st.sampled_from(["pending", "running", "ended"]), max_size=2))
    pods = tuple(pod(phase, name=f"p{n}") for n, phase in enumerate(phases))
    row = Row(
        state=state, place=data.draw(st.sampled_from([None, PLACED])), worker=data.draw(st.sampled_from([None, "w"]))
    )
    planned = decide(data.draw(st.sampled_from([row, None])), *jobs, pods=pods)
    alive = "pending" in phases or "running" in phases or any(job.state == "open" for job in jobs)
    assert not (planned.create and alive)
    assert not (planned.delete and "running" in phases)
    assert not (planned.create and planned.gone)
    if state == "draining":
        assert planned.create == []


# Templates ----------------------------------------------------------------------------------------------------------

POD = {"spec": {"containers": [{"name": "worker", "image": "x"}], "terminationGracePeriodSeconds": 60}}


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        ([], "no pod template"),
        ({"spec": {}}, "no pod template"),
        ({"spec": {"containers": [{"name": "main"}]}}, "no container `worker`"),
        ({"spec": {**POD["spec"], "terminationGracePeriodSeconds": 600}}, "600 s to stop"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(pod: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        template("gpu", pod)


def test_templates_are_read_by_pool_and_named_by_content(tmp_path: Any) -> None:
    import json

    (tmp_path / "gpu.json").write_text(json.dumps(POD))
    (tmp_path / "README").write_text("not one")
    found = read_templates(tmp_path)
    assert set(found) == {"gpu"} and found["gpu"].grace_s == 60
    changed = json.loads(json.dumps(POD))
    changed["spec"]["containers"][0]["image"] = "y"
    assert template("gpu", changed).digest != found["gpu"].digest == template("gpu", POD).digest
    (tmp_path / "gpu.json").write_text("{")
    with pytest.raises(ConfigError, match=r"autoscaler\.kubernetes\.templates"):
        read_templates(tmp_path)
    with pytest.raises(ConfigError):
        read_templates(tmp_path / "none")
