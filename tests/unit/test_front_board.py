"""What may be told of a pool: unknown is not zero, and a ring is one worker."""

from __future__ import annotations

import pytest

from penstock.autoscaler.front.board import RING_HOLDS_S, Board, Desired, Standing, answer
from penstock.autoscaler.front.follow import standings
from penstock.policy.scaling import Fleet
from penstock.store.elastic import Leadership, Slot

NOW, STALE_S = 1000.0, 30.0
JUST, LONG_AGO = NOW - 0.1, NOW - RING_HOLDS_S - 0.1


def standing(desired: int, *, age_s: float = 0.5) -> Standing:
    return Standing(desired=desired, at=NOW - age_s)


@pytest.mark.parametrize(
    "known, rung_at, workers, active",
    [
        (None, None, None, None),
        (None, JUST, None, None),  # nobody knows such a pool
        (standing(3), None, 3, True),
        (standing(0), None, 0, False),
        (standing(0), JUST, 1, True),
        (standing(0), LONG_AGO, 0, False),
        (standing(3), JUST, 3, True),
        (standing(0, age_s=STALE_S), None, 0, False),
        (standing(0, age_s=STALE_S + 1), None, None, None),
        (standing(3, age_s=STALE_S + 1), None, None, None),
        (standing(0, age_s=STALE_S + 1), JUST, None, True),  # to wake one too many is the smaller fault
        (standing(3, age_s=STALE_S + 1), JUST, None, None),
        (standing(2, age_s=float("inf")), None, None, None),
    ],
)
def test_answers(known: Standing | None, rung_at: float | None, workers: int | None, active: bool | None) -> None:
    told = answer(known, rung_at=rung_at, now=NOW, stale_s=STALE_S)
    assert (told.workers, told.active) == (workers, active)
    assert bool(told.why) == (workers is None), "what is not known is explained"


def test_whoever_subscribed_is_called_until_he_ends_it() -> None:
    board, calls = Board(stale_s=STALE_S), []
    end = board.subscribe(lambda: calls.append(1))
    board.post({"gpu": standing(0)})
    board.ring("gpu")
    end()
    end()
    board.ring("gpu")
    assert len(calls) == 2


def test_pools_that_went_are_forgotten() -> None:
    board = Board(stale_s=STALE_S, now_mono=lambda: NOW)
    assert board.pools is None
    board.post({"gpu": standing(0), "cpu": standing(2)})
    assert board.pools == ["cpu", "gpu"] and board.at_zero() == ["gpu"]
    board.post({"cpu": standing(2)})
    assert board.pools == ["cpu"] and board.answer("gpu") == Desired(None, None, "nothing was decided on this pool yet")


def slot(pool: str, state: str = "wanted", *, worker: str | None = None, ready: bool = False) -> Slot:
    return Slot(f"{pool}{state}{worker}{ready}", pool, state, 1, 0.0, 0.0, worker, 1.0 if ready else None)


SLOTS = [
    slot("gpu"),
    slot("gpu", worker="a"),
    slot("gpu", worker="b", ready=True),
    slot("gpu", "parked", worker="c", ready=True),
    slot("gpu", "draining", worker="d", ready=True),
]


def test_whoever_follows_tells_what_the_rows_say() -> None:
    leadership = Leadership("x", 3, 7, {"pools": {"gpu": {"target": 3}, "cpu": {"target": 0}, "new": {"state": {}}}})
    found = standings(leadership, SLOTS, beaten_at=5.0)
    assert found["gpu"] == Standing(desired=3, fleet=Fleet(ready=1, starting=2, parked=1, draining=1), at=5.0)
    assert found["cpu"] == Standing(desired=0, fleet=Fleet(), at=5.0)
    assert "new" not in found, "inherited, and not decided on yet"
    assert standings(leadership, SLOTS, beaten_at=5.0, elsewhere=True)["gpu"].fleet is None


def test_a_pool_that_no_leader_has_decided_on_is_not_at_zero() -> None:
    """The first leader of all has not looked yet: whoever scales by us must not take its silence for no work."""
    assert standings(Leadership("x", 1, 0), [], beaten_at=5.0) == {}


def test_pools_of_another_leader_are_not_told() -> None:
    leadership = Leadership("x", 3, 7, {"pools": {"cpu": {"target": 0}}})
    assert set(standings(leadership, SLOTS, beaten_at=5.0)) == {"cpu"}
