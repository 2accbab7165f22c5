"""Random histories of leaders, backends and workers around a few slots, told to the store and to a model of it in plain
Python: leaders that were stopped go on, workers are killed, and all of them act on what they saw long ago."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from penstock.errors import Deposed
from penstock.policy.slots import Duty, duty
from penstock.store import Store
from penstock.store.elastic import Leadership, NewSlot, Slot
from penstock.store.elastic.slots import STATES
from tests.fixtures.examples import examples
from tests.fixtures.store import T0, register

#: Of starts; a worker without one was started by a person.
FENCES = st.sampled_from([None, "f", "g"])
Term = tuple[str, int]


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
    looks, terms = Bundle("looks"), Bundle("terms")
    slots, sights, workers = Bundle("slots"), Bundle("sights"), Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.elastic = self.store.elastic
        # One database for all examples: each has a leadership and a pool of its own.
        self.name = f"example-{next(self.numbers)}"
        self.leader: Leadership | None = None
        self.known: dict[str, Known] = {}

    def leads(self, epoch: int) -> bool:
        return self.leader is not None and bool(self.leader.holder) and self.leader.epoch == epoch

    def beats(self, holder: str) -> None:
        assert self.leader is not None
        self.leader = replace(self.leader, holder=holder, beat=self.leader.beat + 1)

    # Leaders

    @rule(target=looks)
    def look_who_leads(self) -> Leadership | None:
        return self.elastic.leadership(self.name)

    @initialize(target=terms)
    def the_first_leads(self) -> Term:
        return self.take_over(None)

    @rule(target=terms, look=looks)
    def take_over(self, look: Leadership | None) -> Term:
        holder = f"leader-{next(self.numbers)}"
        epoch = self.elastic.lead(self.name, holder, look)
        assert (epoch is not None) == (look == self.leader)
        if epoch is None:
            return holder, 1  # it acts all the same
        assert epoch == (self.leader.epoch + 1 if self.leader is not None else 1)
        self.leader = Leadership(holder, epoch, self.leader.beat + 1 if self.leader is not None else 0)
        return holder, epoch

    @rule(term=terms, resigns=st.sampled_from([False, False, False, True]))
    def beat_or_resign(self, term: Term, resigns: bool) -> None:
        holder, epoch = term
        expected = self.leader is not None and (self.leader.holder, self.leader.epoch) == term
        assert (self.elastic.resign if resigns else self.elastic.beat)(self.name, holder, epoch) == expected
        if expected:
            self.beats("" if resigns else holder)

    # What leaders and their backends write

    @rule(target=slots, term=terms, state=st.sampled_from(["wanted", "wanted", "parked"]))
    def add(self, term: Term, state: str) -> str:
        new = NewSlot(pool=self.name, state=state)
        if self.leads(term[1]):
            self.elastic.change(self.name, term[1], add=[new], now=T0)
            self.known[new.id] = Known(state, term[1])
        else:
            with pytest.raises(Deposed):
                self.elastic.change(self.name, term[1], add=[new], now=T0)
        return new.id

    @rule(term=terms, id=slots, state=st.sampled_from(STATES))
    def change(self, term: Term, id: str, state: str) -> None:
        if not self.leads(term[1]):
            with pytest.raises(Deposed):
                self.elastic.change(self.name, term[1], set={id: state}, now=T0)
            return
        self.elastic.change(self.name, term[1], set={id: state}, now=T0)
        slot = self.known.get(id)
        if slot is not None and slot.state not in ("draining", state):
            self.known[id] = replace(slot, state=state, epoch=term[1])

    @rule(term=terms, id=slots, fence=FENCES)
    def place(self, term: Term, id: str, fence: str | None) -> None:
        slot = self.known.get(id)
        expected = self.leads(term[1]) and slot is not None and (fence is None or slot.state != "draining")
        assert self.elastic.place(id, {"by": term[0]}, epoch=term[1], fence=fence, name=self.name) == expected
        if expected and slot is not None:
            self.known[id] = replace(slot, placed=True)
            if fence is not None and fence != slot.fence:
                self.known[id] = replace(slot, placed=True, fence=fence, worker=None, ready=False)

    @rule(target=sights, id=slots)
    def see(self, id: str) -> Slot | None:
        return self.elastic.slot(id)

    @rule(term=terms, sight=consumes(sights))
    def gone(self, term: Term, sight: Slot | None) -> None:
        if sight is None:
            return
        if not self.leads(term[1]):
            with pytest.raises(Deposed):
                self.elastic.gone([sight], epoch=term[1], name=self.name)
            return
        changed = self.elastic.gone([sight], epoch=term[1], name=self.name)
        slot = self.known.get(sight.id)
        same = slot is not None and slot.fence == sight.fence
        if slot is not None and same and slot.state == "draining":
            del self.known[sight.id]
        elif slot is not None and same and slot.worker in (None, sight.worker):
            self.known[sight.id] = Known(slot.state, slot.epoch)
        else:
            assert changed == []
            return
        assert changed == [sight.id]

    # Workers

    @rule(target=workers, id=slots, fence=FENCES)
    def begin(self, id: str, fence: str | None) -> tuple[str, str, str | None]:
        worker = f"worker-{next(self.numbers)}"
        self.take((id, worker, fence))
        return id, worker, fence

    @rule(given=workers)
    def take(self, given: tuple[str, str, str | None]) -> None:
        id, worker, fence = given
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

    @rule(given=workers)
    def ready(self, given: tuple[str, str, str | None]) -> None:
        id, worker, _ = given
        slot = self.known.get(id)
        has = slot is not None and slot.worker == worker
        assert self.elastic.ready(id, worker, now=T0) == has
        if has and slot is not None:
            self.known[id] = replace(slot, ready=True)

    @rule(given=workers)
    def leave(self, given: tuple[str, str, str | None]) -> None:
        id, worker, _ = given
        slot = self.known.get(id)
        has = slot is not None and slot.worker == worker
        assert self.elastic.leave(id, worker) == has
        if has and slot is not None:
            self.known[id] = slot.without()

    @rule(given=workers)
    def is_found_dead(self, given: tuple[str, str, str | None]) -> None:
        id, worker, _ = given
        register(self.store, worker, lease_until=T0)
        self.store.rescue(now=T0 + 1, max_losses=3)
        slot = self.known.get(id)
        if slot is not None and slot.worker == worker:
            self.known[id] = slot.without()

    @rule(given=workers)
    def look_what_to_do(self, given: tuple[str, str, str | None]) -> None:
        id, worker, _ = given
        slot = self.known.get(id)
        asked = duty(self.elastic.slot(id), worker=worker)
        serves = slot is not None and slot.worker == worker and slot.state != "draining"
        assert (asked in (Duty.WORK, Duty.PARK)) == serves

    # Always

    @invariant()
    def the_rows_are_as_they_should_be(self) -> None:
        assert self.elastic.leadership(self.name) == self.leader
        found = {
            slot.id: Known(
                slot.state, slot.epoch, slot.worker, slot.ready_at is not None, slot.fence, slot.place is not None
            )
            for slot in self.elastic.slots(self.name)
        }
        assert found == self.known


def test_any_history_of_leaders_and_workers(store: Store) -> None:
    machine = type("Machine", (Fleet,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(40),
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )
