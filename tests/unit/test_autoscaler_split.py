"""Who is told to keep to one lane, when, and how often."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pytest

from penstock.autoscaler.split import FOR_S, REPEAT_S, Splitter, consuming, divided
from penstock.lane import Lane
from penstock.policy.scaling import Load
from penstock.policy.scaling.split import MERGE_AFTER_S, SPLIT_AFTER_S
from penstock.store.elastic import Slot

WORKERS = ["a@h", "b@h", "c@h", "d@h"]


class Leader:
    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[tuple[float, Lane | None, tuple[str, ...]]] = []
        self.splitter = Splitter(self._tell)
        self.workers: Collection[str] = WORKERS
        self.on = True

    def _tell(self, lane: Lane | None, names: Collection[str], for_s: float) -> None:
        assert for_s == FOR_S > 2 * REPEAT_S
        self.told.append((self.now, lane, tuple(names)))

    def turns(self, seconds: float, *, background_s: float = 400.0, interactive: float = 1.0) -> None:
        for _ in range(int(seconds)):
            self.now += 1
            load = Load(
                at=self.now,
                demand=1.0,
                backlog_s={Lane.BACKGROUND: background_s},
                interactive=interactive,
                longest_s=2.0,
            )
            self.splitter.turn("gpu", load, self.workers, on=self.on, target_s=1.0, now=self.now)


def test_workers_are_told_again_while_the_split_lasts_and_once_when_it_ends() -> None:
    leader = Leader()
    leader.turns(SPLIT_AFTER_S)
    assert leader.told == []
    leader.turns(1 + 3 * REPEAT_S)
    first = SPLIT_AFTER_S + 1
    assert leader.told == [(first + step * REPEAT_S, Lane.INTERACTIVE, ("a@h", "b@h")) for step in range(4)]
    leader.told.clear()
    leader.turns(MERGE_AFTER_S + 1, background_s=0.0)
    assert leader.told[-1] == (leader.now, None, ("a@h", "b@h"))
    leader.told.clear()
    leader.turns(600, background_s=0.0)
    assert leader.told == []


def test_when_one_of_them_leaves_another_takes_its_place_at_once() -> None:
    leader = Leader()
    leader.turns(SPLIT_AFTER_S + 1)
    leader.workers = ["b@h", "c@h", "d@h", "e@h"]
    leader.turns(1)
    assert leader.told[-2:] == [(leader.now, None, ("a@h",)), (leader.now, Lane.INTERACTIVE, ("b@h", "c@h"))]


def test_where_it_is_turned_off_those_that_were_told_do_both_again() -> None:
    leader = Leader()
    leader.turns(SPLIT_AFTER_S + 1)
    leader.on = False
    leader.turns(2)
    assert leader.told[1:] == [(SPLIT_AFTER_S + 2, None, ("a@h", "b@h"))]


def test_only_workers_that_consume_are_told() -> None:
    def slot(id: str, state: str, worker: str | None, ready_at: float | None) -> Slot:
        return Slot(
            id=id,
            pool="gpu",
            state=state,
            epoch=1,
            made_at=0,
            changed_at=0,
            worker=worker,
            ready_at=ready_at,
            reason="",
        )

    slots = [
        slot("1", "wanted", "worker-gpu-1@host:12:ab", 1.0),
        slot("2", "wanted", "worker-gpu-2@host:13:ab", None),
        slot("3", "parked", "worker-gpu-3@host:14:ab", 1.0),
        slot("4", "draining", "worker-gpu-4@host:15:ab", 1.0),
        slot("5", "wanted", None, None),
    ]
    assert consuming(slots) == ["worker-gpu-1@host"]


def test_a_successor_goes_on_with_the_same_workers_and_without_having_seen_anything() -> None:
    leader = Leader()
    leader.workers = ["b@h", "c@h", "d@h", "e@h"]
    leader.turns(SPLIT_AFTER_S + 1)
    leader.workers = [*WORKERS, "e@h"]  # one more, which by its name would come before those that were told
    leader.turns(1)
    left = json.loads(json.dumps(leader.splitter.left("gpu", now=leader.now)))
    successor = Leader()
    successor.now, successor.workers = 5000.0, leader.workers
    successor.splitter.inherit("gpu", left, now=successor.now)
    successor.splitter.turn("gpu", None, successor.workers, on=True, target_s=1.0, now=successor.now)
    assert successor.told == [(5000.0, Lane.INTERACTIVE, ("b@h", "c@h"))]
    successor.turns(MERGE_AFTER_S + 2, background_s=0.0)
    assert successor.told[-1][1:] == (None, ("b@h", "c@h"))
    assert successor.splitter.left("gpu", now=successor.now) is None


@pytest.mark.parametrize("left", [{}, {"alone": "x"}, {"alone": 1, "age_s": 1.0, "told": 7}, {"told": [1, None]}])
def test_of_what_another_release_has_written_it_makes_what_it_can(left: dict[str, Any]) -> None:
    leader = Leader()
    leader.splitter.inherit("gpu", left, now=0.0)
    leader.turns(2, background_s=0.0)
    assert {lane for _, lane, _ in leader.told} <= {Lane.INTERACTIVE}


@pytest.mark.parametrize(
    ("alone", "workers", "words"),
    [
        (0, 4, "all 4 workers do jobs of both lanes"),
        (1, 4, "1 of 4 workers does interactive jobs only"),
        (2, 4, "2 of 4 workers do interactive jobs only"),
    ],
)
def test_how_workers_are_divided_is_said(alone: int, workers: int, words: str) -> None:
    assert divided(alone, workers) == words
