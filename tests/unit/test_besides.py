"""Queues that are no model's: when they are asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock_worker.schedule.besides import BUSY_S, Besides


class Hub:
    """A clock, the timers, and how often the loop was woken."""

    def __init__(self) -> None:
        self.now, self.woken = 0.0, 0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.timers.append((self.now + seconds, call))

    def wake(self) -> None:
        self.woken += 1

    def passes(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer not in due]
        for _, call in due:
            call()


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def besides(hub: Hub) -> Besides:
    return Besides(lambda: {"calls": 7}, later=hub.later, wake=hub.wake, clock=lambda: hub.now)


def test_they_are_asked_for_with_the_others(hub: Hub, besides: Besides) -> None:
    assert besides.quota(others=True) == {"calls": 7}
    assert hub.timers == []


def test_a_device_that_is_busy_for_a_moment_asks_for_nothing(hub: Hub, besides: Besides) -> None:
    for _ in range(20):
        assert besides.quota(others=False) == {"calls": 0}, "each queue is named"
        hub.passes(BUSY_S / 2)
        assert besides.quota(others=False) == {"calls": 0}
        assert len(hub.timers) == 1, "one timer for all batches"
        assert besides.quota(others=True) == {"calls": 7}
        hub.passes(BUSY_S / 4)


def test_a_device_that_is_busy_for_long_does_not_keep_them_waiting(hub: Hub, besides: Besides) -> None:
    assert besides.quota(others=False) == {"calls": 0}
    hub.passes(BUSY_S)
    assert hub.woken == 1, "the loop would sleep on"
    assert besides.quota(others=False) == {"calls": 7}
    hub.passes(10.0)
    assert besides.quota(others=False) == {"calls": 7} and hub.woken == 1


def test_a_timer_of_an_earlier_batch_is_not_the_last_one(hub: Hub, besides: Besides) -> None:
    besides.quota(others=False)
    hub.passes(BUSY_S * 0.8)
    besides.quota(others=True)
    besides.quota(others=False)
    hub.passes(BUSY_S * 0.2)
    assert hub.woken == 1
    assert besides.quota(others=False) == {"calls": 0}
    hub.passes(BUSY_S)
    assert hub.woken == 2
    assert besides.quota(others=False) == {"calls": 7}
