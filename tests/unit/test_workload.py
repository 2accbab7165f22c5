"""What a worker learns of its load, and when it says so."""

from __future__ import annotations

from random import Random

import pytest

from penstock.model import Batching
from penstock.policy.admission import Admit, Ask, Refuse, WorkerLoad, combine, decide
from penstock.policy.workload import EVERY_S, HALF_S, Stock, Workload


def workload(*names: str, size: int = 8) -> Workload:
    limits = [(name, Batching(max_size=size)) for name in names]
    return Workload(limits, target_s=0.1)


def stock(waiting: int) -> Stock:
    return Stock(waiting=waiting, filled=False, room=16, lead_s=0.004)


def batches(of: Workload, model: str, count: int, *, size: int = 4, turn_s: float = 0.01) -> None:
    for number in range(count):
        of.started(model, number * turn_s, count=size, interactive=size, waits_s=[0.0] * size)
        of.ended(model, (number + 1) * turn_s, turn_s, count=size, size=size, full=False, interactive=True)


def test_alone_a_model_has_the_whole_device_and_may_have_claimed_two_batches() -> None:
    it = workload("a")
    batches(it, "a", 20)
    said = it.say("a", 1.0, stock(3))
    assert (said.free, said.room, said.waiting, said.done, said.seen) == (1.0, 16, 3, 80, 20)
    assert said.alpha + said.beta * 4 == pytest.approx(0.01)


def test_lone_jobs_that_wait_for_background_batches_are_no_overload() -> None:
    """The target (0.1 s) is kept by batches of six, full ones take 0.13 s; what fills a batch up is background."""
    it = workload("a", size=12)

    def run(interactive: int) -> float:
        for n in range(200):
            now = 1.0 + n * 0.13
            it.started("a", now, count=12, interactive=interactive, waits_s=[0.07] * interactive)
            it.ended("a", now + 0.13, 0.01 * (1 + n % 12), count=n % 12, size=12, full=True, interactive=True)
        return it.say("a", 40.0, stock(0)).level

    assert run(1) == 1.0
    assert run(12) < 0.5


def test_more_is_claimed_shortly_before_the_running_batch_ends() -> None:
    it = workload("a")
    batches(it, "a", 20)
    it.started("a", 1.0, count=4, interactive=4, waits_s=[0.0] * 4)
    said = it.say("a", 1.0, stock(3))
    assert said.claims_at == pytest.approx(1.006, abs=1e-4)
    assert [said.held(now) for now in (1.0, 1.005, 1.007, 2.0)] == [3, 3, 16, 16]


def test_beside_a_busy_model_little_of_the_device_is_free_and_little_is_claimed() -> None:
    it = workload("a", "b")
    batches(it, "a", 2000)
    said = it.say("b", 20.0, stock(0))
    assert said.free == pytest.approx(0.0, abs=0.02)
    assert said.room == 2
    assert it.say("a", 20.0, stock(0)).room == 16
    assert it.say("b", 20.0 + HALF_S, stock(0)).free == pytest.approx(0.5, abs=0.02)


def test_shares_are_of_the_time_not_of_the_batches() -> None:
    """Batches of 100 ms and of 1 ms in turns, and then ten models of which each is asked now and then."""
    it, now = workload("long", "short"), 0.0
    for _ in range(1000):
        for model, turn_s in (("long", 0.1), ("short", 0.001)):
            now += turn_s
            it.ended(model, now, turn_s, count=1, size=1, full=False, interactive=True)
    assert it.say("long", now, stock(0)).free == pytest.approx(0.99, abs=0.01)
    assert it.say("short", now, stock(0)).free == pytest.approx(0.01, abs=0.05)
    names = [f"m{number}" for number in range(10)]
    it = workload(*names)
    for second in range(200):
        it.ended(names[second % 10], float(second), 0.044, count=1, size=1, full=False, interactive=True)
    assert min(it.say(name, 200.0, stock(0)).free for name in names) > 0.9


def test_it_is_said_again_only_after_a_while_or_when_nothing_waits_any_more() -> None:
    it = workload("a")
    assert it.news("a", 1.0, stock(5)) is not None
    assert it.news("a", 1.0 + EVERY_S / 2, stock(6)) is None
    assert it.news("a", 1.0 + EVERY_S / 2, stock(0)) is not None
    assert it.news("a", 1.0 + EVERY_S, stock(0)) is None


def test_waits_that_stand_lower_the_level() -> None:
    it = workload("a")
    for step in range(20):
        it.started("a", step * 0.1, count=4, interactive=4, waits_s=[0.5] * 4)
    assert it.say("a", 2.0, stock(0)).level < 1.0


def test_a_full_batch_tells_how_large_full_is_whatever_expired_in_it() -> None:
    it = workload("a", size=64)
    for number in range(60):
        it.ended("a", number * 0.01, 0.01, count=16 - number % 3, size=16, full=True, interactive=True)
    assert it.say("a", 1.0, stock(0)).size == pytest.approx(16, abs=0.1)


def test_sequences_free_their_places_one_after_another() -> None:
    """Eight side by side, each of which takes 4 s: every half second somebody may begin, and takes 4 s."""
    it = Workload([("steps", Batching(max_size=8))], target_s=0.1, stepwise=["steps"])
    for _ in range(20):
        it.sequence_ended("steps", 4.0)
    free = it.say("steps", 100.0, Stock(waiting=0, filled=True, room=8, lead_s=0.0, held=7))
    full = it.say("steps", 100.0, Stock(waiting=3, filled=True, room=8, lead_s=0.0, held=8))
    assert free.busy_until == 100.0
    assert full.busy_until == pytest.approx(100.5, abs=0.05)
    for said in (free, full):
        assert (said.size, said.beta, said.filled) == (1.0, 0.0, False)
        assert said.alpha == pytest.approx(0.5, abs=0.05)
        assert said.factor * said.full_s == pytest.approx(4.0, abs=0.4), "its own time"

    def verdict(load: WorkerLoad, ready: int, deadline_s: float | None = None) -> Admit | Refuse:
        at = None if deadline_s is None else 100.0 + deadline_s
        picture = combine([load], (ready, 0, 0, 0), now=100.0)
        return decide(picture, Ask(now=100.0, target_s=0.1, deadline_at=at), Random(1))

    assert isinstance(verdict(free, 0), Admit)
    assert isinstance(verdict(free, 0, 5.0), Admit)
    assert isinstance(verdict(full, 20, 5.0), Refuse), "four of them and it begins too late"
    assert isinstance(verdict(full, 4, 20.0), Admit)
    assert isinstance(verdict(full, 0, 1.0), Refuse), "shorter than a sequence takes"
    assert isinstance(verdict(full, 100_000), Refuse)
