"""Chores a moment later."""

from __future__ import annotations

import threading

from penstock.dispatch import background
from penstock.dispatch.background import Background
from tests.fixtures.patience import PATIENCE_S


def test_a_chore_runs_once_however_often_it_is_planned() -> None:
    chores = Background()
    ran, count = threading.Event(), [0]

    def chore() -> None:
        count[0] += 1
        ran.set()

    for _ in range(10):
        chores.later(0.5, chore)  # not due before the last of them is planned
    assert ran.wait(PATIENCE_S)
    chores.close()
    assert count == [1]


def test_an_earlier_chore_overtakes_a_later_one() -> None:
    chores = Background()
    order: list[str] = []
    done = threading.Event()

    def late() -> None:
        order.append("late")
        done.set()

    chores.later(0.5, late)  # not due before the other one is planned
    chores.later(0.0, lambda: order.append("early"))
    assert done.wait(PATIENCE_S)
    chores.close()
    assert order == ["early", "late"]


def test_a_chore_that_raises_does_not_end_the_others() -> None:
    chores = Background()
    done = threading.Event()
    chores.later(0.0, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    chores.later(0.02, done.set)
    assert done.wait(PATIENCE_S)
    chores.close()


def test_the_thread_ends_when_idle_and_comes_back(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(background, "IDLE_S", 0.01)
    chores = Background()
    first, second = threading.Event(), threading.Event()
    chores.later(0.0, first.set)
    assert first.wait(PATIENCE_S)
    thread = chores._thread
    if thread is not None:
        thread.join(PATIENCE_S)
    assert chores._thread is None
    chores.later(0.0, second.set)
    assert second.wait(PATIENCE_S)
    chores.close()


def test_closing_drops_what_is_not_due_and_ends_the_thread() -> None:
    chores = Background()
    chores.later(60.0, lambda: None)
    thread = chores._thread
    chores.close()
    assert thread is not None
    assert not thread.is_alive()
    chores.later(0.0, lambda: None)
