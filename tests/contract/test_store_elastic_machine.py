"""Random histories of leaders, backends and workers around a few slots, told to the store and to a model of it in plain
Python: leaders that were stopped go on, workers are killed, and all of them act on what they saw long ago."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from penstock.errors import Deposed
from penstock.policy.slots import Duty, duty
from penstock.store import Store
from penstock.store.elastic import Leadership, NewSlot, Slot
from penstock.store.elastic.slots import STATES
from tests.fixtures.examples import examples
from tests.fixtures.store import T0, register

#: Of starts; a worker without one was started by a person.
FENCES = st.sampled_from([None, "f", "g"])
#: Which of the last ones is meant: the newest most often.
RECENT = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
Term = tuple[str, int]
Process = tuple[str, str, str | None]
T = TypeVar("T")


def recent(made: Sequence[T], back: int) -> T:
    return made[-1 - min(back, len(made) - 1)]


@dataclass(frozen=True)
class Known:
    """What the model knows of one slot."""

    state: str
    epoch: int
    worker: str | None = None
    ready: bool = False
    fence: str | None = None
    placed: bool = False

    def without(self) -> Known:
        """Its worker has left, or is dead: a fence that no backend has given goes with it."""
        return replace(self, worker=None, ready=False, fence=self.fence if self.placed else None)


class Fleet(RuleBasedStateMachine):
    """Every verb at any time, under any epoch that there was, with any sight of a row that somebody had."""

    store: ClassVar[Store]
    numbers: ClassVar = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.elastic = self.store.elastic
        # One database for all examples: each has a leadership and a pool of its own.
        self.name = f"example-{next(self.numbers)}"
        self.leader: Leadership | None = None
        self.known: dict[str, Known] = {}
        #: What candidates and backends have seen, who has led, what was made and started: all of it may act again.
        self.looks: list[Leadership | None] = [None]
        self.sights: list[Slot] = []
        self.terms: list[Term] = []
        self.ids: list[str] = []
        self.workers: list[Process] = []

    def leads(self, epoch: int) -> bool:
        return self.leader is not None and bool(self.leader.holder) and self.leader.epoch == epoch

    # Leaders

    @initialize()
    def a_leader_and_a_worker(self) -> None:
        self.take_over(0)
        self.add(0, "wanted")
        self.begin(0, None, False)

    @rule(back=RECENT)
    def take_over(self, back: int) -> None:
        look, holder = recent(self.looks, back), f"leader-{next(self.numbers)}"
        epoch = self.elastic.lead(self.name, holder, look)
        assert (epoch is not None) == (look == self.leader)
        if epoch is None:
            epoch = 1  # it acts all the same
        else:
            assert epoch == (self.leader.epoch + 1 if self.leader is not None else 1)
            self.leader = Leadership(holder, epoch, self.leader.beat + 1 if self.leader is not None else 0)
        self.terms.append((holder, epoch))

    @rule(back=RECENT, resigns=st.sampled_from([False, False, False, True]))
    def beat_or_resign(self, back: int, resigns: bool) -> None:
        holder, epoch = term = recent(self.terms, back)
        expected = self.leader is not None and (self.leader.holder, self.leader.epoch) == term
        assert (self.elastic.resign if resigns else self.elastic.beat)(self.name, holder, epoch) == expected
        if expected and self.leader is not None:
            self.leader = replace(self.leader, holder="" if resigns else holder, beat=self.leader.beat + 1)

    # What leaders and their backends write

    @rule(back=RECENT, state=st.sampled_from(["wanted", "wanted", "parked"]))
    def add(self, back: int, state: str) -> None:
        _, epoch = recent(self.terms, back)
        new = NewSlot(pool=self.name, state=state)
        self.ids.append(new.id)
        with nullcontext() if self.leads(epoch) else pytest.raises(Deposed):
            self.elastic.change(self.name, epoch, add=[new], now=T0)
        if self.leads(epoch):
            self.known[new.id] = Known(state, epoch)

    @rule(back=RECENT, which=RECENT, state=st.sampled_from(STATES))
    def change(self, back: int, which: int, state: str) -> None:
        (_, epoch), id = recent(self.terms, back), recent(self.ids, which)
        with nullcontext() if self.leads(epoch) else pytest.raises(Deposed):
            self.elastic.change(self.name, epoch, set={id: state}, now=T0)
        slot = self.known.get(id)
        if self.leads(epoch) and slot is not None and slot.state not in ("draining", state):
            self.known[id] = replace(slot, state=state, epoch=epoch)

    @rule(back=RECENT, which=RECENT, fence=FENCES)
    def place(self, back: int, which: int, fence: str | None) -> None:
        (holder, epoch), id = recent(self.terms, back), recent(self.ids, which)
        slot = self.known.get(id)
        expected = self.leads(epoch) and slot is not None and (fence is None or slot.state != "draining")
        assert self.elastic.place(id, {"by": holder}, epoch=epoch, fence=fence, name=self.name) == expected
        if expected and slot is not None:
            self.known[id] = replace(slot, placed=True)
            if fence is not None and fence != slot.fence:
                self.known[id] = replace(slot, placed=True, fence=fence, worker=None, ready=False)

    @rule(back=RECENT, seen=RECENT)
    def gone(self, back: int, seen: int) -> None:
        if not self.sights:
            return
        (_, epoch), sight = recent(self.terms, back), recent(self.sights, seen)
        with nullcontext() if self.leads(epoch) else pytest.raises(Deposed):
            changed = self.elastic.gone([sight], epoch=epoch, name=self.name)
        if not self.leads(epoch):
            return
        slot = self.known.get(sight.id)
        expected: list[str] = []
        if slot is not None and slot.fence == sight.fence:
            if slot.state == "draining":
                del self.known[sight.id]
                expected = [sight.id]
            elif slot.worker in (None, sight.worker):
                self.known[sight.id] = Known(slot.state, slot.epoch)
                expected = [sight.id]
        assert changed == expected

    # Workers

    @rule(which=RECENT, fence=FENCES, meant=st.booleans())
    def begin(self, which: int, fence: str | None, meant: bool) -> None:
        id = recent(self.ids, which)
        if meant and id in self.known:
            fence = self.known[id].fence
        self.workers.append((id, f"worker-{next(self.numbers)}", fence))
        self.take(0)

    @rule(back=RECENT)
    def take(self, back: int) -> None:
        id, worker, fence = recent(self.workers, back)
        slot = self.known.get(id)
        expected = (
            slot is not None
            and slot.state != "draining"
            and slot.fence in (None, fence)
            and (slot.worker in (None, worker) or (fence is not None and slot.fence == fence))
        )
        taken = self.elastic.take(id, worker, fence=fence)
        assert (taken is not None) == expected
        if expected and slot is not None:
            same = slot.worker == worker
            self.known[id] = replace(slot, worker=worker, ready=slot.ready and same, fence=slot.fence or fence)

    @rule(back=RECENT, does=st.sampled_from(["ready", "leave", "die"]))
    def a_worker(self, back: int, does: str) -> None:
        id, worker, _ = recent(self.workers, back)
        slot = self.known.get(id)
        has = slot is not None and slot.worker == worker
        if does == "ready":
            assert self.elastic.ready(id, worker, now=T0) == has
        elif does == "leave":
            assert self.elastic.leave(id, worker) == has
        else:  # and the dispatcher finds it dead
            register(self.store, worker, lease_until=T0)
            self.store.rescue(now=T0 + 1, max_losses=3)
        if has and slot is not None:
            self.known[id] = replace(slot, ready=True) if does == "ready" else slot.without()

    # Always

    @invariant()
    def the_rows_are_as_they_should_be(self) -> None:
        look, rows = self.elastic.leadership(self.name), self.elastic.slots(self.name)
        assert look == self.leader
        assert {row.id: known(row) for row in rows} == self.known
        for id, worker, _ in self.workers:
            slot = self.known.get(id)
            serves = slot is not None and slot.worker == worker and slot.state != "draining"
            row = next((row for row in rows if row.id == id), None)
            assert (duty(row, worker=worker) in (Duty.WORK, Duty.PARK)) == serves
        if look != self.looks[-1]:
            self.looks.append(look)
        self.sights += [row for row in rows if row not in self.sights[-4:]]


def known(row: Slot) -> Known:
    return Known(row.state, row.epoch, row.worker, row.ready_at is not None, row.fence, row.place is not None)


def test_any_history_of_leaders_and_workers(store: Store) -> None:
    machine = type("Machine", (Fleet,), {"store": store, "numbers": itertools.count()})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(40),
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )
