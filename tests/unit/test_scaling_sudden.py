"""Parked spares are woken for what comes suddenly: by rows of looks, one a second."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from penstock.lane import Lane
from penstock.policy.scaling import Context, Decision, Fleet, Load, State, Terms, decide

TARGET = {Lane.INTERACTIVE: 0.5, Lane.BACKGROUND: 60.0}
#: (new work a second, what is there, the part of it that was refused).
Look = tuple[float, float, float]
CALM: Look = (0.75, 0.1, 0.0)


def decisions(
    looks: Sequence[Look], *, spares: int = 4, wake_in_s: float | None = 0.1, lane: Lane = Lane.INTERACTIVE
) -> list[Decision]:
    """Of a pool of one ready worker and parked ones, which are woken as it is decided."""
    terms = Terms(least=1, most=5, target_s=TARGET, warm=4, ready_in_s=1.0, wake_in_s=wake_in_s)
    state, made, ready = State(), [], 1
    for second, (demand, there, refused) in enumerate(looks, start=1000):
        load = Load(at=float(second), demand=demand, backlog_s={lane: there}, refused_s=refused, jobs=int(there * 20))
        fleet = Fleet(ready=ready, busy=ready, parked=spares + 1 - ready)
        made.append(decide(Context(now=float(second), terms=terms, load=load, fleet=fleet, state=state)))
        state = made[-1].state
        ready = min(max(made[-1].target, 1), spares + 1)
    return made


def test_what_one_second_brings_beyond_those_who_are_ready_wakes_spares_at_once() -> None:
    # Five times as much for a second: of 3.75 one was done, 0.45 waits, and the rest was refused.
    *_, last = decisions([*[CALM] * 60, (2.2, 2.75, 2.3)])
    assert last.target == 5
    assert last.code == "panic"


def test_a_second_look_finishes_what_the_first_has_seen_the_beginning_of() -> None:
    """The step was just before the look; at the next one two are ready."""
    *_, first, second = decisions([*[CALM] * 60, (1.0, 0.6, 0.3), (2.4, 2.6, 1.7)])
    assert first.target == 2
    assert second.target == 5


def test_those_who_were_woken_stay_for_a_minute() -> None:
    after = decisions([*[CALM] * 60, (2.2, 2.75, 2.3), *[(3.75, 0.3, 0.0)] * 59])[60:]
    assert {each.target for each in after} == {5}


def test_what_the_ready_have_done_in_time_wakes_nobody() -> None:
    *_, last = decisions([*[CALM] * 60, (0.9, 0.24, 0.0)])
    assert last.target <= 2
    assert last.code != "panic"


@pytest.mark.parametrize(
    "more", [{"spares": 0}, {"wake_in_s": None}, {"lane": Lane.BACKGROUND}], ids=["none", "cannot park", "can wait"]
)
def test_it_is_not_sudden(more: dict[str, object]) -> None:
    """Nobody can be woken, or the lane's target leaves the time to see whether it goes on."""
    *_, last = decisions([*[CALM] * 60, (2.2, 2.75, 2.3)], **more)  # type: ignore[arg-type]
    assert last.target < 5
    assert last.state.sudden == 0


def test_what_was_refused_is_not_counted_again_at_the_next_look() -> None:
    """It is gone: the same refusals a second later are as many new ones."""
    *_, last = decisions([*[CALM] * 60, (2.2, 2.75, 2.3)])
    assert last.state.left_s == pytest.approx(0.45)
