"""Random histories of leaders, backends and workers around a few slots, told to the store and to a model of it in plain
Python: leaders that were stopped go on, workers are killed, and all of them act on what they saw long ago."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec import Struct
from msgspec.structs import replace

from penstock.errors import Deposed
from penstock.policy.leadership import name_of, pools_in
from penstock.policy.slots import Duty, duty
from penstock.store import Store
from penstock.store.elastic import Leadership, NewSlot, Slot, Term
from penstock.store.elastic.slots import STATES
from tests.fixtures.examples import examples
from tests.fixtures.store import T0, register

#: Of starts; a worker without one was started by a person.
FENCES = st.sampled_from([None, "f", "g"])
#: Which of the last ones is meant: the newest most often.
RECENT = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
Process = tuple[str, str, str | None]
T = TypeVar("T")


def recent(made: Sequence[T], back: int) -> T:
    return made[-1 - min(back, len(made) - 1)]


class Known(Struct, frozen=True):
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
        # One database for all examples: each has pools of its own, and slots in the first of them.
        self.pool, other = (f"example-{next(self.numbers)}" for _ in range(2))
        self.names = [name_of(pools) for pools in ([self.pool], [self.pool, other], [other])]
        self.leaders: dict[str, Leadership] = {}
        self.known: dict[str, Known] = {}
        #: What candidates and backends have seen, who has led, what was made and started: all of it may act again.
        self.looks: list[dict[str, Leadership]] = [{}]
        self.sights: list[Slot] = []
        self.terms: list[Term] = []
        self.ids: list[str] = []
        self.workers: list[Process] = []

    def leads(self, term: Term) -> bool:
        row = self.leaders.get(term.name)
        return row is not None and (row.holder, row.epoch) == (term.holder, term.epoch)

    def of_the_pool(self, back: int) -> Term:
        """A term of those who look after the slots."""
        return recent([term for term in self.terms if self.pool in pools_in(term.name)], back)

    # Leaders

    @initialize()
    def a_leader_and_a_worker(self) -> None:
        self.take_over(0, 0, False)
        self.add(0, "wanted")
        self.begin(0, None, False)

    @rule(back=RECENT, which=st.sampled_from([0, 0, 1, 1, 2]), same_number=st.booleans())
    def take_over(self, back: int, which: int, same_number: bool) -> None:
        look, name, holder = recent(self.looks, back), self.names[which], f"leader-{next(self.numbers)}"
        concerned = [each for each in self.names if pools_in(each) & pools_in(name)]
        term = self.elastic.lead(name, holder, look)
        assert (term is not None) == all(look.get(each) == self.leaders.get(each) for each in concerned)
        known = {each: self.leaders[each] for each in concerned if each in self.leaders}
        highest = max((leader.epoch for leader in known.values()), default=0)
        if term is None:  # it acts all the same, or is one that a backup knows nothing of
            self.terms.append(Term(name, holder, max(highest, 1) if same_number else 1))
            return
        assert term == Term(name, holder, highest + 1)
        for each, leader in known.items():
            if leader.holder:
                self.leaders[each] = replace(leader, holder="", beat=leader.beat + 1)
        beat = known[name].beat + 1 if name in known else 0
        self.leaders[name] = Leadership(holder, term.epoch, beat)
        self.terms.append(term)

    @rule(back=RECENT, resigns=st.sampled_from([False, False, False, True]))
    def beat_or_resign(self, back: int, resigns: bool) -> None:
        term = recent(self.terms, back)
        expected = self.leads(term)
        assert (self.elastic.resign if resigns else self.elastic.beat)(term) == expected
        if expected:
            row = self.leaders[term.name]
            self.leaders[term.name] = replace(row, holder="" if resigns else row.holder, beat=row.beat + 1)

    # What leaders and their backends write

    @rule(back=RECENT, state=st.sampled_from(["wanted", "wanted", "parked"]))
    def add(self, back: int, state: str) -> None:
        term = self.of_the_pool(back)
        new = NewSlot(pool=self.pool, state=state)
        self.ids.append(new.id)
        with nullcontext() if self.leads(term) else pytest.raises(Deposed):
            self.elastic.change(term, add=[new], now=T0)
        if self.leads(term):
            self.known[new.id] = Known(state, term.epoch)

    @rule(back=RECENT, which=RECENT, state=st.sampled_from(STATES))
    def change(self, back: int, which: int, state: str) -> None:
        term, id = self.of_the_pool(back), recent(self.ids, which)
        with nullcontext() if self.leads(term) else pytest.raises(Deposed):
            self.elastic.change(term, set={id: state}, now=T0)
        slot = self.known.get(id)
        if self.leads(term) and slot is not None and slot.state not in ("draining", state):
            self.known[id] = replace(slot, state=state, epoch=term.epoch)

    @rule(back=RECENT, which=RECENT, fence=FENCES)
    def place(self, back: int, which: int, fence: str | None) -> None:
        term, id = self.of_the_pool(back), recent(self.ids, which)
        slot = self.known.get(id)
        expected = self.leads(term) and slot is not None and (fence is None or slot.state != "draining")
        assert self.elastic.place(id, {"by": term.holder}, term=term, fence=fence) == expected
        if expected and slot is not None:
            self.known[id] = replace(slot, placed=True)
            if fence is not None and fence != slot.fence:
                self.known[id] = replace(slot, placed=True, fence=fence, worker=None, ready=False)

    @rule(back=RECENT, seen=RECENT)
    def gone(self, back: int, seen: int) -> None:
        if not self.sights:
            return
        term, sight = self.of_the_pool(back), recent(self.sights, seen)
        with nullcontext() if self.leads(term) else pytest.raises(Deposed):
            changed = self.elastic.gone([sight], term=term)
        if not self.leads(term):
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
        every, rows = self.elastic.leaderships(), self.elastic.slots(self.pool)
        look = {name: every[name] for name in self.names if name in every}
        assert look == self.leaders
        held = [pool for name, leader in look.items() if leader.holder for pool in pools_in(name)]
        assert len(held) == len(set(held)), "each pool has one leader"
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
