"""A worker that keeps to one lane leaves the other only to somebody."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from penstock.errors import StoreUnavailable
from penstock.lane import Lane
from penstock_worker.schedule.lanes import LONGEST_S, LaneDuty, left

INTERACTIVE, BACKGROUND = Lane.INTERACTIVE, Lane.BACKGROUND


class World:
    """One worker of two models, and what the others serve."""

    def __init__(self, only: Lane | None = None) -> None:
        self.now = 0.0
        self.others: list[Mapping[str, str]] = []
        self.asked: list[Lane] = []
        self.away = False
        self.left: frozenset[tuple[str, Lane]] = frozenset()
        self.duty = LaneDuty(only, {"a": "1", "b": ""}, others=self._others, leave=self._leave, clock=lambda: self.now)

    def _others(self, lane: Lane) -> list[Mapping[str, str]]:
        self.asked.append(lane)
        if self.away:
            raise StoreUnavailable("away", fix="wait")
        return self.others

    def _leave(self, lanes: frozenset[tuple[str, Lane]]) -> None:
        self.left = lanes

    def looks(self) -> set[tuple[str, Lane]]:
        self.duty.look()
        return set(self.left)


@pytest.mark.parametrize(("only", "other"), [(INTERACTIVE, BACKGROUND), (BACKGROUND, INTERACTIVE)])
def test_the_other_lane_is_left_model_by_model_to_whoever_takes_it(only: Lane, other: Lane) -> None:
    world = World(only)
    assert world.looks() == set(), "where all keep to one lane, all do both"
    world.others = [{"a": "1"}]
    assert world.looks() == {("a", other)}
    world.others = [{"a": "2"}, {"b": ""}]
    assert world.looks() == {("b", other)}, "jobs that ask for a version wait for its workers"
    world.others = []
    assert world.looks() == set(), "whoever took it has died"
    assert {*world.asked} == {other} and world.duty.lane is only


def test_who_does_both_asks_nobody() -> None:
    world = World()
    world.others = [{"a": "1", "b": ""}]
    assert world.looks() == set() and world.asked == [] and world.duty.lane is None


def test_what_was_told_for_a_while_lapses() -> None:
    world = World()
    world.others = [{"a": "1", "b": ""}]
    assert "from its next heartbeat on" in world.duty.tell(INTERACTIVE, 20)
    assert world.left == frozenset() and world.duty.lane is INTERACTIVE, "first the others must be able to see it"
    assert len(world.looks()) == 2
    world.now = 19.9
    assert len(world.looks()) == 2
    world.now = 20.0
    assert world.looks() == set() and world.duty.lane is None


def test_a_split_is_undone_at_once() -> None:
    world = World()
    world.others = [{"a": "1", "b": ""}]
    world.duty.tell(INTERACTIVE, 20)
    world.looks()
    assert world.duty.tell(None, 20) == "it does both" and world.left == frozenset()


def test_nobody_is_told_for_ever() -> None:
    world = World()
    world.duty.tell(INTERACTIVE, 1e9)
    world.now = LONGEST_S
    assert world.duty.lane is None


def test_who_was_started_for_a_lane_keeps_to_it() -> None:
    world = World(INTERACTIVE)
    assert world.duty.tell(None, 20) == "it was started for interactive jobs only"
    assert world.duty.lane is INTERACTIVE


def test_while_the_database_is_away_all_stays_as_it_is() -> None:
    world = World(INTERACTIVE)
    world.others = [{"a": "1"}]
    before = world.looks()
    world.away, world.others = True, []
    assert world.looks() == before
    world.away = False
    assert world.looks() == set()


def test_a_model_is_left_to_its_own_version_only() -> None:
    assert left({"a": "1", "b": "2", "c": ""}, [{"a": "1", "b": "1"}, {"c": ""}]) == {"a", "c"}
    assert left({"a": "1"}, []) == set()
