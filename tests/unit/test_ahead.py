"""When the batch behind the running one is called for and chosen, and what is learned of how long that takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.policy.ahead import Ahead, Turn
from penstock.policy.prefetch import Lead


@dataclass
class Group:
    items: list[str] = field(default_factory=lambda: ["a", "b"])


LEAD_S = 0.02


def ahead(*, called: bool = False, fed: bool = False, **state: object) -> Ahead[Group]:
    it = Ahead[Group](Lead(LEAD_S))
    it.allowed = True
    if called:
        it.called(0.0)
    if fed:
        it.came(urgent=False)
    for name, value in state.items():
        setattr(it, name, value)
    return it


@pytest.mark.parametrize(
    "state, left_s, turn",
    [
        pytest.param({"allowed": False}, 0.0, None, id="not behind a suspect, nor behind a short batch"),
        pytest.param({}, 0.10, 0.08, id="the running batch takes longer than a claim"),
        pytest.param({}, 0.02, Turn.CALL, id="it is time: first what stands at the broker"),
        pytest.param({}, -0.01, Turn.CALL, id="it takes longer than was thought"),
        pytest.param({"called": True}, 0.015, 0.005, id="what was called for is waited for"),
        pytest.param({"called": True}, 0.010, Turn.CHOOSE, id="but not for ever"),
        pytest.param({"called": True, "fed": True}, 0.019, Turn.CHOOSE, id="it has come"),
        pytest.param({"called": True, "fed": True}, 0.030, 0.010, id="the lead has become shorter since"),
        pytest.param({"called": True, "fed": True, "staged": Group()}, 0.0, None, id="there is one already"),
        pytest.param({"called": True, "fed": True, "claiming": Group()}, 0.0, None, id="one is being claimed"),
    ],
)
def test_the_turn_of_the_batch_behind(state: dict[str, Any], left_s: float, turn: Turn | float | None) -> None:
    found = ahead(**state).turn(left_s, LEAD_S)
    assert found == (turn if isinstance(turn, Turn) or turn is None else pytest.approx(turn))


def test_each_running_batch_is_called_behind_once() -> None:
    it = ahead(called=True)
    it.ended()
    assert it.turn(0.0, LEAD_S) is None, "nothing runs"
    it.started(Group())
    it.allowed = True
    assert it.turn(0.0, LEAD_S) is Turn.CALL


def test_the_batch_that_starts_is_no_longer_behind_another_one_is() -> None:
    it, behind = ahead(), Group()
    it.claimed(behind, 1.0)
    it.started(Group())
    assert it.batch is behind and it.staged_at == 1.0, "an urgent one has overtaken it"
    it.started(behind)
    assert it.batch is None


def test_a_seized_batch_does_not_run_here() -> None:
    it, behind = ahead(), Group()
    it.claimed(behind, 1.0)
    assert it.seize() is behind and it.seize() is None


def test_a_claim_that_was_not_made_leaves_nothing_and_teaches_nothing() -> None:
    it, behind = ahead(called=True), Group()
    it.looks(1.0)
    it.chose(behind)
    assert it.batch is behind
    before_s = it.lead.claim.of(2)
    it.claimed(None, 9.0)
    assert it.batch is None and it.lead.claim.of(2) == before_s


def test_the_claim_in_sql_is_timed_from_the_choice() -> None:
    it, behind = ahead(called=True), Group()
    it.looks(1.0)
    it.chose(behind)
    it.claimed(behind, 1.25)
    assert it.lead.claim.of(2) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "fed, abandoned_at, took_s",
    [(True, None, 0.0), (True, 10.004, 0.004), (False, 10.004, 0.008)],
    ids=["nobody was abandoned", "so long until the last one was", "the time was over first: it takes longer"],
)
def test_how_long_it_takes_to_get_behind_those_that_are_abandoned(
    fed: bool, abandoned_at: float | None, took_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, searched = ahead(fed=fed), list[float]()
    monkeypatch.setattr(it.lead, "searched", searched.append)
    it.called(10.0)
    if abandoned_at is not None:
        it.abandoned(abandoned_at)
    it.looks(10.01)
    it.chose(Group())
    it.searched()
    assert searched == [pytest.approx(took_s)], "once for each batch"


def test_the_way_from_the_broker_is_timed_where_what_came_was_enough() -> None:
    it = ahead(fed=True)
    it.called(10.0)
    it.looks(10.007)
    it.chose(Group())
    assert it.lead.fetch.of(2) == pytest.approx(0.007)
