"""Leaders and slots in SQL, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from msgspec.structs import replace

from penstock.errors import Deposed
from penstock.policy.leadership import name_of
from penstock.store import Store
from penstock.store.elastic import AUTOSCALER, Elastic, Leadership, NewSlot, Slot, Term
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import T0, lead, register

T = TypeVar("T")


@pytest.fixture
def elastic(store: Store) -> Elastic:
    return store.elastic


def add(elastic: Elastic, term: Term, count: int = 1, *, pool: str = "gpu", state: str = "wanted") -> list[Slot]:
    new = [NewSlot(pool=pool, state=state) for _ in range(count)]
    elastic.change(term, add=new, now=T0)
    by_id = {slot.id: slot for slot in elastic.slots(pool)}
    return [by_id[each.id] for each in new]


def only(elastic: Elastic) -> Slot:
    [slot] = elastic.slots()
    return slot


# Leaders ------------------------------------------------------------------------------------------------------------


def test_the_first_leads_and_each_next_one_has_a_higher_epoch(elastic: Elastic) -> None:
    assert elastic.leadership() is None
    assert elastic.lead(AUTOSCALER, "a", {}) == Term(AUTOSCALER, "a", 1)
    assert elastic.leadership() == Leadership("a", 1, 0)
    assert elastic.lead(AUTOSCALER, "b", {AUTOSCALER: Leadership("a", 1, 0)}) == Term(AUTOSCALER, "b", 2)
    assert elastic.leadership() == Leadership("b", 2, 1)
    assert elastic.leadership("another") is None


def test_who_has_beaten_since_the_look_is_not_deposed(elastic: Elastic) -> None:
    term = lead(elastic)
    seen = elastic.leaderships()
    assert elastic.beat(term)
    assert elastic.lead(AUTOSCALER, "b", seen) is None
    assert elastic.lead(AUTOSCALER, "b", {}) is None, "there has been one since that look"


def test_a_deposed_leader_is_told_so_at_its_beat(elastic: Elastic) -> None:
    old = lead(elastic, "a")
    lead(elastic, "b")
    assert not elastic.beat(old)
    assert not elastic.resign(old)
    leadership = elastic.leadership()
    assert leadership is not None and leadership.holder == "b"


def test_a_takeover_whose_answer_got_lost_may_be_repeated(elastic: Elastic) -> None:
    first = Term(AUTOSCALER, "a", 1)
    assert elastic.lead(AUTOSCALER, "a", {}) == elastic.lead(AUTOSCALER, "a", {}) == first
    seen = elastic.leaderships()
    second = Term(AUTOSCALER, "b", 2)
    assert elastic.lead(AUTOSCALER, "b", seen) == elastic.lead(AUTOSCALER, "b", seen) == second


def test_of_many_candidates_one_wins(elastic: Elastic) -> None:
    for expected in (1, 2):
        seen = elastic.leaderships()
        answers = together(8, lambda n, seen=seen: elastic.lead(AUTOSCALER, f"candidate-{n}", seen))
        assert [answer.epoch for answer in answers if answer is not None] == [expected]


def test_what_a_leader_leaves_is_its_successors(elastic: Elastic) -> None:
    term = lead(elastic, "a")
    assert elastic.beat(term, state={"gpu": {"target": 3}})
    assert elastic.beat(term), "a beat without one leaves it as it was"
    assert not elastic.beat(replace(term, holder="nobody"), state={})
    lead(elastic, "b")
    leadership = elastic.leadership()
    assert leadership is not None and leadership.state == {"gpu": {"target": 3}}


def test_a_leader_that_has_resigned_changes_nothing_more(elastic: Elastic) -> None:
    term = lead(elastic)
    assert elastic.resign(term, state={"x": 1})
    assert elastic.leadership() == Leadership("", 1, 1, {"x": 1})
    with pytest.raises(Deposed):
        elastic.change(term, add=[NewSlot(pool="gpu")], now=T0)
    assert elastic.slots() == []


# Several leaderships ------------------------------------------------------------------------------------------------

ALL, CPU, GPU, BOTH = AUTOSCALER, name_of(["cpu"]), name_of(["gpu"]), name_of(["cpu", "gpu"])


def test_who_looks_after_other_pools_leads_beside(elastic: Elastic) -> None:
    cpu, gpu = lead(elastic, name=CPU), lead(elastic, name=GPU)
    assert elastic.beat(cpu) and elastic.beat(gpu)
    add(elastic, cpu, pool="cpu")
    add(elastic, gpu, pool="gpu")


@pytest.mark.parametrize(
    ("first", "second"), [(ALL, GPU), (GPU, ALL), (BOTH, GPU), (GPU, BOTH), (ALL, BOTH), (BOTH, CPU)]
)
def test_who_takes_over_one_pool_takes_over_from_its_leader(elastic: Elastic, first: str, second: str) -> None:
    """Whatever else that one looked after: it writes nothing more, under no name, and has a higher epoch before it."""
    old = lead(elastic, "a", first)
    [slot] = add(elastic, old)
    new = lead(elastic, "b", second)
    assert new.epoch == old.epoch + 1
    assert not elastic.beat(old) and not elastic.resign(old)
    assert not elastic.place(slot.id, {"pid": 1}, term=old, fence="f")
    for call in (
        lambda: elastic.change(old, add=[NewSlot(pool="gpu")], set={slot.id: "draining"}, now=T0),
        lambda: elastic.gone([slot], term=old),
    ):
        with pytest.raises(Deposed):
            call()
    assert only(elastic) == slot
    assert elastic.beat(new)
    assert [name for name, leader in elastic.leaderships().items() if leader.holder] == [second]


def test_a_rival_that_has_beaten_since_the_look_is_not_deposed(elastic: Elastic) -> None:
    term = lead(elastic, name=GPU)
    seen = elastic.leaderships()
    assert elastic.beat(term)
    assert elastic.lead(ALL, "b", seen) is None
    assert elastic.lead(ALL, "b", {}) is None, "nor is one that was not seen"
    assert elastic.beat(term)


def test_of_many_rivals_one_wins(elastic: Elastic) -> None:
    """Names that had no row before are among them: nothing of theirs can be locked."""
    names = [ALL, GPU, BOTH, name_of(["gpu", "other"])]
    for turn in range(5):
        seen = elastic.leaderships()
        answers = together(8, lambda n, seen=seen, turn=turn: elastic.lead(names[n % 4], f"candidate-{turn}-{n}", seen))
        [term] = [answer for answer in answers if answer is not None]
        held = {name: leader.holder for name, leader in elastic.leaderships().items() if leader.holder}
        assert held == {term.name: term.holder} and term.epoch == turn + 1


def test_who_waits_for_a_rival_says_so_in_its_own_row(elastic: Elastic) -> None:
    assert elastic.wait(GPU, None, {"waits": 1})
    assert elastic.leadership(GPU) == Leadership("", 0, 0, {"waits": 1})
    assert lead(elastic, name=GPU).epoch == 1
    seen = elastic.leadership(GPU)
    assert not elastic.wait(GPU, seen, {"waits": 2}), "somebody leads under this name"
    lead(elastic, "b", ALL)
    assert not elastic.wait(GPU, seen, {"waits": 2}), "it was another row then"
    now = elastic.leadership(GPU)
    assert elastic.wait(GPU, now, {"waits": 3})
    assert now is not None and elastic.leadership(GPU) == replace(now, state={"waits": 3})


def test_of_two_with_one_number_the_one_that_the_row_names_leads(elastic: Elastic) -> None:
    """The database was restored from a backup of the first epoch, when there had been a second one: it comes again."""
    lead(elastic, "a")
    backup = elastic.leaderships()
    lost = Term(AUTOSCALER, "b", 2)
    assert elastic.lead(AUTOSCALER, "c", backup) == Term(AUTOSCALER, "c", 2)
    [slot] = add(elastic, Term(AUTOSCALER, "c", 2))
    before = (elastic.leaderships(), elastic.slots())
    assert not elastic.beat(lost) and not elastic.resign(lost)
    assert not elastic.place(slot.id, {"pid": 1}, term=lost) and not elastic.place(slot.id, {}, term=lost, fence="f")
    with pytest.raises(Deposed):
        elastic.change(lost, add=[NewSlot(pool="gpu")], set={slot.id: "draining"}, now=T0)
    with pytest.raises(Deposed):
        elastic.gone([slot], term=lost)
    assert (elastic.leaderships(), elastic.slots()) == before


# The leader's side --------------------------------------------------------------------------------------------------


def test_slots_are_added_and_changed_under_the_epoch(elastic: Elastic) -> None:
    term = lead(elastic)
    new = NewSlot(pool="gpu", spec={"lanes": ["interactive"]})
    elastic.change(term, add=[new], reason="two are needed", now=T0)
    elastic.change(term, add=[new], reason="again", now=T0 + 1)
    assert only(elastic) == Slot(
        new.id, "gpu", "wanted", 1, T0, T0, spec={"lanes": ["interactive"]}, reason="two are needed"
    )
    second = lead(elastic, "b")
    elastic.change(second, set={new.id: "parked", "none": "parked"}, reason="night", now=T0 + 2)
    slot = only(elastic)
    assert (slot.state, slot.epoch, slot.made_at, slot.changed_at, slot.reason) == ("parked", 2, T0, T0 + 2, "night")
    elastic.change(second, set={new.id: "parked"}, reason="still", now=T0 + 3)
    assert only(elastic) == slot, "the same state again is no change"


def test_slots_are_told_the_oldest_first_all_or_those_of_a_pool(elastic: Elastic) -> None:
    term = lead(elastic)
    gpu, cpu = add(elastic, term, 2, pool="gpu"), add(elastic, term, pool="cpu")
    assert elastic.slots() == gpu + cpu
    assert elastic.slots("cpu") == cpu
    assert elastic.slots("none") == []
    assert elastic.slot(gpu[0].id) == gpu[0]
    assert elastic.slot("none") is None
    assert elastic.states([cpu[0].id, "none"]) == {cpu[0].id: "wanted"}


def test_a_deposed_leader_changes_nothing(elastic: Elastic) -> None:
    old = lead(elastic, "a")
    [slot, other] = add(elastic, old, 2)
    new = lead(elastic, "b")
    before = elastic.slots()
    with pytest.raises(Deposed):
        elastic.change(old, add=[NewSlot(pool="gpu")], set={slot.id: "draining"}, now=T0)
    with pytest.raises(Deposed):
        elastic.gone([slot], term=old)
    assert not elastic.place(slot.id, {"pid": 1}, term=old)
    assert not elastic.place(slot.id, {"pid": 1}, term=old, fence="f")
    with pytest.raises(Deposed):
        elastic.change(replace(new, name="another"), add=[NewSlot(pool="gpu")], now=T0)
    assert elastic.slots() == before
    elastic.change(new, set={slot.id: "draining"}, now=T0)
    assert elastic.states([slot.id, other.id]) == {slot.id: "draining", other.id: "wanted"}


def test_a_change_and_a_takeover_at_once_are_one_after_the_other(elastic: Elastic) -> None:
    """However they meet: a change is in the fleet as the successor finds it behind its takeover, or it was refused."""
    for turn in range(10):
        old = lead(elastic, f"a{turn}")
        seen = elastic.leaderships()
        new = NewSlot(pool="gpu")
        found: list[set[str]] = []

        def act(n: int) -> bool:
            if n == 0:
                assert elastic.lead(AUTOSCALER, f"b{turn}", seen)  # noqa: B023
                found.append({slot.id for slot in elastic.slots()})  # noqa: B023
                return True
            try:
                elastic.change(old, add=[new], now=T0)  # noqa: B023
            except Deposed:
                return False
            return True

        _, done = together(2, act)
        assert ((new.id in found[0]), elastic.slot(new.id) is not None) == (done, done)


def test_what_drains_goes_on_draining(elastic: Elastic) -> None:
    term = lead(elastic)
    [slot] = add(elastic, term)
    elastic.change(term, set={slot.id: "draining"}, now=T0 + 1)
    elastic.change(term, set={slot.id: "wanted"}, now=T0 + 2)
    assert (only(elastic).state, only(elastic).changed_at) == ("draining", T0 + 1)


def test_a_state_that_there_is_not_is_refused(elastic: Elastic) -> None:
    term = lead(elastic)
    with pytest.raises(ValueError, match="asleep"):
        elastic.change(term, set={"x": "asleep"}, now=T0)


# Places -------------------------------------------------------------------------------------------------------------


def test_a_place_is_noted_and_told(elastic: Elastic) -> None:
    term = lead(elastic)
    [slot] = add(elastic, term)
    assert elastic.place(slot.id, {"job": "penstock-x"}, term=term)
    assert only(elastic).place == {"job": "penstock-x"}
    assert not elastic.place("none", {}, term=term)


def test_only_the_start_that_the_row_names_takes_the_slot(elastic: Elastic) -> None:
    """A leader is stopped between the note and the start of its process: its successor starts another."""
    term = lead(elastic)
    [slot] = add(elastic, term)
    assert elastic.place(slot.id, {"pid": None}, term=term, fence="first")
    second = lead(elastic, "b")
    assert elastic.place(slot.id, {"pid": None}, term=second, fence="second")
    assert elastic.take(slot.id, "w-first", fence="first") is None
    assert elastic.take(slot.id, "w-anybody") is None
    taken = elastic.take(slot.id, "w-second", fence="second")
    assert taken is not None and (taken.worker, taken.fence) == ("w-second", "second")


def test_a_new_start_takes_the_slot_from_who_has_it(elastic: Elastic) -> None:
    term = lead(elastic)
    [slot] = add(elastic, term)
    assert elastic.place(slot.id, {"pid": 1}, term=term, fence="f")
    assert elastic.take(slot.id, "w", fence="f")
    assert elastic.ready(slot.id, "w", now=T0)
    assert elastic.place(slot.id, {"pid": 2}, term=term, fence="f")
    assert (only(elastic).worker, only(elastic).ready_at) == ("w", T0), "the same start, told again"
    assert elastic.place(slot.id, {"pid": 3}, term=term, fence="g")
    assert (only(elastic).worker, only(elastic).ready_at, only(elastic).place) == (None, None, {"pid": 3})
    assert not elastic.ready(slot.id, "w", now=T0)


def test_nothing_is_started_for_what_drains(elastic: Elastic) -> None:
    term = lead(elastic)
    [slot] = add(elastic, term)
    elastic.change(term, set={slot.id: "draining"}, now=T0)
    assert not elastic.place(slot.id, {}, term=term, fence="f")
    assert elastic.place(slot.id, {"note": 1}, term=term), "what is there may still be noted"


# The worker's side --------------------------------------------------------------------------------------------------


def test_a_worker_takes_its_slot_says_that_it_is_ready_and_leaves(elastic: Elastic) -> None:
    term = lead(elastic)
    [slot] = add(elastic, term)
    assert elastic.take(slot.id, "w") == replace(slot, worker="w")
    assert elastic.ready(slot.id, "w", now=T0 + 5)
    assert elastic.ready(slot.id, "w", now=T0 + 6)
    assert elastic.take(slot.id, "w") == replace(slot, worker="w", ready_at=T0 + 5), "once more is the same"
    assert not elastic.leave(slot.id, "other")
    assert elastic.leave(slot.id, "w")
    assert only(elastic) == slot


@pytest.mark.parametrize("case", ["none", "draining", "taken"])
def test_a_slot_that_cannot_be_had(elastic: Elastic, case: str) -> None:
    term = lead(elastic)
    [slot] = add(elastic, term)
    if case == "draining":
        elastic.change(term, set={slot.id: "draining"}, now=T0)
    if case == "taken":
        assert elastic.take(slot.id, "first", fence="f")
    before = only(elastic)
    assert elastic.take("none" if case == "none" else slot.id, "w") is None
    assert elastic.take("none" if case == "none" else slot.id, "w", fence="g") is None
    assert not elastic.ready(slot.id, "w", now=T0)
    assert only(elastic) == before


def test_a_parked_slot_is_taken_too(elastic: Elastic) -> None:
    [slot] = add(elastic, lead(elastic), state="parked")
    taken = elastic.take(slot.id, "w")
    assert taken is not None and taken.state == "parked"


def test_of_two_workers_one_takes_the_slot(elastic: Elastic) -> None:
    term = lead(elastic)
    for slot in add(elastic, term, 5):
        answers = together(4, lambda n, slot=slot: elastic.take(slot.id, f"w{n}"))
        [taken] = [answer for answer in answers if answer is not None]
        holder = elastic.slot(slot.id)
        assert holder is not None and holder.worker == taken.worker


def test_the_next_life_of_the_same_process_takes_over(elastic: Elastic) -> None:
    """A supervisor starts its worker again: the slot was not waited for."""
    [slot] = add(elastic, lead(elastic))
    assert elastic.take(slot.id, "life-1", fence="supervisor")
    assert elastic.ready(slot.id, "life-1", now=T0)
    taken = elastic.take(slot.id, "life-2", fence="supervisor")
    assert taken is not None and (taken.worker, taken.ready_at) == ("life-2", None)
    assert elastic.take(slot.id, "stranger", fence="another") is None
    assert not elastic.leave(slot.id, "life-1"), "what the one before still says is not heard"
    assert elastic.leave(slot.id, "life-2")
    assert elastic.take(slot.id, "stranger", fence="another") is not None


# What is gone -------------------------------------------------------------------------------------------------------


def test_what_is_gone_leaves_a_slot_for_another(elastic: Elastic) -> None:
    term = lead(elastic)
    [slot] = add(elastic, term)
    assert elastic.place(slot.id, {"pid": 1}, term=term, fence="f")
    assert elastic.take(slot.id, "w", fence="f")
    assert elastic.ready(slot.id, "w", now=T0)
    assert elastic.gone([only(elastic)], term=term) == [slot.id]
    assert only(elastic) == slot
    assert elastic.gone([], term=term) == []


def test_what_has_drained_and_is_gone_is_removed(elastic: Elastic) -> None:
    term = lead(elastic)
    kept, ended = add(elastic, term, 2)
    assert elastic.place(ended.id, {"pid": 1}, term=term, fence="f")
    assert elastic.take(ended.id, "w", fence="f")
    elastic.change(term, set={ended.id: "draining"}, now=T0)
    seen = elastic.slot(ended.id)
    assert seen is not None
    assert elastic.leave(ended.id, "w")
    assert elastic.gone([seen], term=term) == [ended.id]
    assert only(elastic) == kept


def test_what_has_another_worker_or_start_by_now_is_not_gone(elastic: Elastic) -> None:
    term = lead(elastic)
    one, two = add(elastic, term, 2)
    assert elastic.take(one.id, "came-since")
    assert elastic.place(two.id, {"pid": 2}, term=term, fence="since")
    before = elastic.slots()
    assert elastic.gone([replace(one, worker="dead"), two], term=term) == []
    assert elastic.slots() == before


def test_a_dead_workers_slot_is_freed_with_its_jobs(store: Store, elastic: Elastic) -> None:
    """Nobody realises it, or its backend is away: the dispatcher has found its worker dead."""
    term = lead(elastic)
    mine, placed, other = add(elastic, term, 3)
    register(store, "dead", lease_until=T0)
    assert elastic.take(mine.id, "dead", fence="own")
    assert elastic.place(placed.id, {"pid": 1}, term=term, fence="given")
    assert elastic.take(placed.id, "dead", fence="given")
    assert elastic.take(other.id, "alive")
    store.rescue(now=T0 + 1, max_losses=3)
    found = {slot.id: (slot.worker, slot.fence) for slot in elastic.slots()}
    assert found == {mine.id: (None, None), placed.id: (None, "given"), other.id: ("alive", None)}


def together(count: int, call: Callable[[int], T]) -> list[T]:
    """The answers of so many calls that begin at once."""
    barrier = threading.Barrier(count)

    def run(n: int) -> T:
        barrier.wait(PATIENCE_S)
        return call(n)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
