"""The policy of step-wise work: tables of decisions, and a simulated device with the figures it must show."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.lane import Lane
from penstock.policy.generation import (
    MOST_STEPS,
    Batch,
    Begin,
    Decision,
    Group,
    Idle,
    Line,
    Shares,
    Snapshot,
    Step,
    decide,
    free_slots,
    quantum,
)

A, B = Lane.INTERACTIVE, Lane.BACKGROUND
NOW = 100.0


def group(id: int = 1, lane: Lane = B, **fields: Any) -> Group:
    given: dict[str, Any] = {"model": "gen", "size": 1, "due_at": NOW + 60, "ran_at": NOW, "served_s": 0.0}
    return Group(id, lane=lane, **(given | {"step_s": 0.02} | fields))


def line(lane: Lane = B, *, model: str = "gen", slots: int | None = 2, **fields: Any) -> Line:
    given: dict[str, Any] = {"size": 1, "since": NOW, "due_at": NOW + 60, "served_s": 0.0, "max_size": 8}
    return Line(model, lane, slots=slots, **(given | fields))


def short(lane: Lane = A, **fields: Any) -> Line:
    """Waiting jobs of a model that runs whole batches."""
    return line(lane, model="short", slots=None, **({"due_at": NOW + 0.1} | fields))


def snapshot(*, groups: tuple[Group, ...] = (), lines: tuple[Line, ...] = (), **fields: Any) -> Snapshot:
    return Snapshot(NOW, groups, lines, **({"interactive_target_s": 0.1, "background_target_s": 60.0} | fields))


@pytest.mark.parametrize(
    ("what", "groups", "lines", "expected"),
    [
        ("nothing", (), (), Idle()),
        ("an empty line is none", (), (line(size=0),), Idle()),
        ("a newcomer begins", (), (line(size=3),), Begin("gen", B, 3, None)),
        ("at most a group's size", (), (line(size=30),), Begin("gen", B, 8, None)),
        ("a running group is stepped", (group(),), (), Step(1, 4)),
        ("newcomers join where there is room", (group(room=2),), (line(size=5),), Begin("gen", B, 2, 1)),
        ("lanes do not join each other", (group(room=2),), (line(A),), Begin("gen", A, 1, None)),
        ("short interactive work goes between the steps", (group(),), (short(),), Batch(A)),
        ("also between those of an interactive group", (group(lane=A),), (short(),), Batch(A)),
        ("the most urgent first", (), (short(), line(A, due_at=NOW + 0.05)), Begin("gen", A, 1, None)),
        ("who cannot begin does not block others", (group(),), (line(A, slots=0), short()), Batch(A)),
        ("an interactive group preempts", (group(1), group(2, A, due_at=NOW + 1)), (), Step(2, 4)),
        ("and keeps background newcomers waiting", (group(2, A),), (line(),), Step(2, 4)),
        ("interactive groups by urgency", (group(1, A), group(2, A, due_at=NOW)), (), Step(2, 4)),
        ("the least served background group", (group(1, served_s=2.0), group(2, served_s=1.0)), (), Step(2, 4)),
        ("a background batch with less", (group(1, served_s=2.0),), (short(B, served_s=1.0),), Batch(B)),
        ("a background batch with more waits", (group(1, served_s=1.0),), (short(B, served_s=2.0),), Step(1, 4)),
        ("no slot: the others go on", (group(1, served_s=1.0),), (line(slots=0),), Step(1, 4)),
        ("an aged group goes first, for one step", (group(1, ran_at=NOW - 16),), (short(),), Step(1, 1)),
        ("an interactive one ages sooner", (group(1, A, ran_at=NOW - 0.03),), (short(),), Step(1, 1)),
        ("an aged line goes first", (group(2, A),), (line(since=NOW - 16),), Begin("gen", B, 1, None)),
        (
            "of all that has aged, the longest first",
            (group(2, A, ran_at=NOW - 0.03),),
            (line(since=NOW - 16),),
            Begin("gen", B, 1, None),
        ),
        ("interactive lines age, too", (group(2, A, ran_at=NOW - 0.03),), (short(since=NOW - 0.04),), Batch(A)),
        ("aged newcomers join", (group(2, room=1),), (line(since=NOW - 16, slots=0),), Begin("gen", B, 1, 2)),
        ("unless nothing of it can begin", (group(2, A),), (line(since=NOW - 16, slots=0),), Step(2, 4)),
    ],
)
def test_decisions(what: str, groups: tuple[Group, ...], lines: tuple[Line, ...], expected: Decision) -> None:
    assert decide(snapshot(groups=groups, lines=lines)) == expected, what


@pytest.mark.parametrize(
    ("target_s", "batch_s", "step_s", "steps"),
    [
        (0.1, 0.0, 0.02, 4),  # (100 - 0 - 5) / 20
        (0.1, 0.05, 0.02, 2),
        (0.1, 0.2, 0.02, 1),  # the batch alone is too long: still one step at a time
        (0.1, 0.0, 1.0, 1),
        (60.0, 0.0, 0.001, MOST_STEPS),
        (0.1, 0.0, 0.0, 1),  # no step was measured yet
    ],
)
def test_the_quantum_leaves_a_batch_in_time(target_s: float, batch_s: float, step_s: float, steps: int) -> None:
    assert quantum(snapshot(interactive_target_s=target_s, batch_s=batch_s), step_s) == steps


@pytest.mark.parametrize(
    ("lane", "running", "parked", "slots"),
    [
        (B, (), 2, 2),  # the third is for interactive ones
        (A, (), 2, 3),
        (B, (group(1), group(2)), 2, 0),
        (A, (group(1), group(2)), 2, 1),
        (B, (group(1, A), group(2, A)), 2, 1),
        (B, (group(1, A), group(2, A), group(3, A)), 2, 0),
        (B, (), 0, 1),
        (B, (group(1, A),), 0, 0),
        (B, (group(1, model="other"),), 0, 1),
        (A, (group(1, slot=1), group(2, slot=1), group(3, slot=1)), 1, 1),  # one was split: its slot is the same
        (B, (group(1, slot=1), group(2, slot=1)), 2, 1),
    ],
)
def test_states_are_bounded(lane: Lane, running: tuple[Group, ...], parked: int, slots: int) -> None:
    assert free_slots(lane, running, "gen", parked) == slots


def test_nobody_saves_up_while_idle() -> None:
    shares = Shares()
    shares.enter("a")
    shares.charge("a", 10.0)
    shares.enter("b")
    assert shares.of("b") == 10.0
    shares.charge("b", 1.0)
    shares.keep({"b"}, returning={"a"})
    shares.enter("a")
    assert shares.of("a") == 11.0
    shares.keep(set())
    shares.enter("c")
    assert shares.of("c") == 11.0


def test_nobody_loses_a_debt_by_leaving_for_a_moment() -> None:
    shares = Shares()
    for key in ("long", "line"):
        shares.enter(key)
    shares.charge("line", 5.0)
    shares.keep({"long"}, returning={"line"})
    shares.enter("line")
    assert (shares.of("line"), shares.of("long")) == (5.0, 0.0)


# A simulated device ------------------------------------------------------------------------------------------------

STEP_S, SWITCH_S, BATCH_S, LONG_S = 0.02, 0.001, 0.01, 5.0


@dataclass
class Device:
    """Time jumps from one boundary to the next. Steps are broken off at a boundary when a short job has come."""

    arrivals: list[float]
    long_jobs: int
    now: float = 0.0
    latencies: list[float] = field(default_factory=list)
    long_s: float = 0.0
    short_s: float = 0.0
    switches: int = 0

    def run(self, until: float) -> None:
        left = dict.fromkeys(range(self.long_jobs), LONG_S)
        ran = dict.fromkeys(left, 0.0)
        waiting: list[float] = []
        last: int | None = None
        while self.now < until:
            while self.arrivals and self.arrivals[0] <= self.now:
                waiting.append(self.arrivals.pop(0))
            groups = [
                Group(n, "gen", B, 1, 1e9, ran[n], served_s=LONG_S - left[n], step_s=STEP_S) for n in sorted(left)[:2]
            ]
            lines = [Line("short", A, len(waiting), waiting[0], waiting[0] + 0.1, 0.0)] if waiting else []
            chosen = decide(Snapshot(self.now, groups, lines, 0.1, 60.0, batch_s=BATCH_S))
            match chosen:
                case Batch():
                    self.now += BATCH_S
                    self.short_s += BATCH_S
                    self.latencies += [self.now - at for at in waiting]
                    waiting, last = [], None
                case Step(number, most):
                    if number != last:
                        self.now += SWITCH_S
                        self.switches += 1
                    last = number
                    for _ in range(most):
                        self.now += STEP_S
                        self.long_s += STEP_S
                        left[number] -= STEP_S
                        if left[number] <= 1e-9:
                            del left[number]
                            break
                        if self.arrivals and self.arrivals[0] <= self.now:
                            break
                    ran[number] = self.now
                case Idle():
                    self.now = self.arrivals[0] if self.arrivals else until
                case _:
                    pytest.fail(f"unexpected: {chosen}")


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_figures_on_a_simulated_device(seed: int) -> None:
    """Interactive p99 beside 5 s jobs is at most alone + 1.5 (step + switch), and these keep 95 % of what is left."""
    rng, arrivals, at = random.Random(seed), [], 0.0
    while at < 200.0:
        at += rng.expovariate(20.0)
        arrivals.append(at)
    alone = Device(list(arrivals), 0)
    alone.run(200.0)
    beside = Device(list(arrivals), 100)
    beside.run(200.0)
    assert p99(beside.latencies) <= p99(alone.latencies) + 1.5 * (STEP_S + SWITCH_S)
    # What short work leaves over, less the overhead of switching.
    assert beside.long_s >= 0.95 * (beside.now - beside.short_s)
    assert len(beside.latencies) == pytest.approx(len(alone.latencies), abs=3)


@pytest.mark.parametrize("lane", [A, B])
def test_groups_with_long_steps_do_not_starve_short_work(lane: Lane) -> None:
    """Two interactive groups that keep each other waiting: who else waits has a turn, once it has waited for long."""
    ran_at, now, since, waits = {1: 0.0, 2: 0.0}, 0.0, 0.0, []
    while now < 60.0:
        groups = tuple(group(n, A, ran_at=at, step_s=0.2) for n, at in ran_at.items())
        chosen = decide(Snapshot(now, groups, (short(lane, since=since),), 0.1, 2.0))
        if isinstance(chosen, Step):
            now += 0.2
            ran_at[chosen.group] = now
        else:
            waits.append(now - since)
            now += 0.01
            since = now
    assert max(waits) <= 0.5 + 2 * 0.2 + 0.01 + 1e-9
    assert len(waits) > 60


def test_a_flood_of_short_work_does_not_starve_a_group() -> None:
    """Short work that never ends: the generation still gets a step per ``PATIENCE`` of its lane's target."""
    ran_at, now, steps = 0.0, 0.0, 0
    while now < 200.0:
        groups = (group(ran_at=ran_at),)
        chosen = decide(Snapshot(now, groups, (short(since=now),), 0.1, 60.0))
        now += 0.02 if isinstance(chosen, Step) else 0.05
        if isinstance(chosen, Step):
            ran_at, steps = now, steps + 1
    assert steps == 13
