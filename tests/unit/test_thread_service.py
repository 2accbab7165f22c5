"""One contract for what runs in a thread of ours."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from penstock.service import Loop, ThreadService, turned
from tests.fixtures.patience import PATIENCE_S


class Turns(ThreadService):
    """Counts its turns."""

    def __init__(self, *, at_once: bool = True, now_mono: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__("turns", now_mono=now_mono)
        self.turned = threading.Semaphore(0)
        self._at_once = at_once

    def run(self) -> None:
        for _ in self.turns(0.001 if self._at_once else PATIENCE_S, at_once=self._at_once):
            self.turned.release()


def test_it_is_named_and_a_daemon_and_ends_when_it_is_stopped() -> None:
    service = Turns()
    assert not service.alive
    service.start()
    assert all(service.turned.acquire(timeout=PATIENCE_S) for _ in range(3))
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "penstock-turns"]
    assert thread.daemon
    assert service.alive
    assert service.stop()
    assert not service.alive


def test_stop_is_idempotent_before_the_start_and_after_the_end() -> None:
    service = Turns()
    assert service.stop()
    assert service.stop()
    service.start()
    assert service.stop(), "it was told before it began"
    assert service.stop()
    assert service.turned.acquire(blocking=False), "one turn at once, and none after it"
    assert not service.turned.acquire(blocking=False)


def test_the_first_turn_may_come_after_the_first_pause() -> None:
    service = Turns(at_once=False)
    service.start()
    assert service.stop()
    assert not service.turned.acquire(blocking=False)


def test_a_stop_that_is_too_short_says_so_and_a_later_one_goes_on() -> None:
    busy, free = threading.Event(), threading.Event()

    def run() -> None:
        busy.set()
        free.wait(PATIENCE_S)

    service = ThreadService("busy", run)
    service.start()
    assert busy.wait(PATIENCE_S)
    assert not service.stop(0.0)
    free.set()
    assert service.stop(PATIENCE_S)


def test_it_may_stop_itself() -> None:
    stopped: list[bool] = []
    service = ThreadService("itself", lambda: stopped.append(service.stop()))
    service.start()
    assert service.join(PATIENCE_S)
    assert stopped == [False], "it does not wait for itself"


@pytest.mark.parametrize("waits", [True, False], ids=["it waits for work", "it is at work"])
def test_only_what_is_at_work_is_stuck(waits: bool) -> None:
    inside, free, now = threading.Event(), threading.Event(), [100.0]

    def hang() -> None:
        inside.set()
        free.wait(PATIENCE_S)

    service = ThreadService("s", lambda: service.waiting(hang) if waits else hang(), now_mono=lambda: now[0])
    assert service.pulse.stuck_s() == 0.0, "it has not begun"
    service.start()
    assert inside.wait(PATIENCE_S)
    now[0] = 107.0
    assert service.pulse.stuck_s() == (0.0 if waits else 7.0)
    free.set()
    assert service.join(PATIENCE_S)
    assert service.pulse.stuck_s() == 0.0, "it has ended"


def test_who_waits_for_a_server_and_tries_again_is_not_stuck() -> None:
    tried, free, now = threading.Event(), threading.Event(), [100.0]

    def insist() -> None:
        now[0] = 150.0
        turned()
        tried.set()
        free.wait(PATIENCE_S)

    service = ThreadService("s", insist, now_mono=lambda: now[0])
    service.start()
    assert tried.wait(PATIENCE_S)
    now[0] = 151.0
    assert service.pulse.stuck_s() == 1.0
    turned()  # on a thread that is no service's
    assert service.pulse.stuck_s() == 1.0
    free.set()
    assert service.join(PATIENCE_S)


def test_a_loop_goes_on_after_a_turn_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.service.AFTER_FAILURE_S", 0.001)
    again = threading.Semaphore(0)

    def turn() -> float:
        again.release()
        raise ValueError("unexpected")

    loop = Loop("fails", turn)
    assert not loop.turned_once
    loop.start()
    assert all(again.acquire(timeout=PATIENCE_S) for _ in range(3))
    assert loop.stop(PATIENCE_S)
    assert loop.turned_once


def test_loops_that_share_their_end_stop_together() -> None:
    stopping = threading.Event()
    loops = [Loop(name, lambda: PATIENCE_S, stopping=stopping) for name in ("a", "b")]
    for loop in loops:
        loop.start()
    stopping.set()
    assert all(loop.join(PATIENCE_S) for loop in loops)
