"""The batcher's quotas: what it lets the transport claim."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

import penstock
from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.batching import Adaptive, Greedy
from penstock.policy.hopeless import HOPELESS_BATCHES, TRIED_S
from penstock_worker.item import Batch, Item
from penstock_worker.schedule.batcher import ANSWERED_S, Batcher
from tests.fixtures.patience import PATIENCE_S


@penstock.model(name="echo", max_size=4)
def echo(batch: list[int]) -> list[int]:
    """Itself."""
    return batch


FAST, BULK = "penstock.echo.interactive", "penstock.echo.background"


def make_batcher() -> Batcher:
    return Batcher({"echo": echo}, Greedy(), namespace="penstock", prefetch_batches=2.0)


def make_item(id: str, lane: Lane = Lane.BACKGROUND) -> Item:
    return Item(id, "echo", lane, input="1", tag=None, source="", arrived_at=0.0, claimed_at=0.0)


def test_quotas_are_independent_and_in_order_of_service() -> None:
    batcher = make_batcher()
    assert list(batcher.quota().items()) == [(FAST, 8), (BULK, 8)]
    batcher.put(make_item(str(n)) for n in range(5))
    assert batcher.quota() == {FAST: 8, BULK: 3}


def test_a_full_queue_is_named_with_nothing_wanted() -> None:
    """Left out, Celery's own prefetch rule would claim from it without end."""
    batcher = make_batcher()
    batcher.put(make_item(str(n)) for n in range(10))
    assert batcher.quota() == {FAST: 8, BULK: 0}
    assert batcher.take() is not None
    assert batcher.quota() == {FAST: 8, BULK: 2}


def test_a_stopping_worker_wants_nothing_and_returns_what_waits() -> None:
    batcher = make_batcher()
    batcher.put([make_item("a"), make_item("b", Lane.INTERACTIVE)])
    assert {item.id for item in batcher.close()} == {"a", "b"}
    assert batcher.quota() == {FAST: 0, BULK: 0}
    assert batcher.take() is None


@penstock.model(name="slow", batching=penstock.Batching(max_size=4, key=lambda value: "odd" if value % 2 else "even"))
def slow(batch: list[int]) -> list[int]:
    """Itself."""
    return batch


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_slow(clock: FakeClock, hungry: list[str]) -> Batcher:
    """A device that needs 0.1 s + 0.1 s per item, and knows it."""
    batcher = Batcher(
        {"slow": slow},
        Adaptive(),
        namespace="penstock",
        lead_s=0.02,
        target_s=2.0,
        clock=clock,
        hungry=lambda: hungry.append("hungry"),
    )
    for size in (1, 2, 3, 4) * 10:
        batcher.room.latency.observe("slow", size, 0.1 + 0.1 * size)
    batcher.room.hopeless.observed("slow", clock())
    return batcher


def slow_item(id: str, *, due: float = 200.0, lane: Lane = Lane.INTERACTIVE, key: str = "", priority: int = 0) -> Item:
    item = Item(id, "slow", lane, input="1", tag=id, source="", arrived_at=100.0, claimed_at=0.0)
    item.due_at, item.key, item.rank = due, key, (-priority, due)
    return item


S_FAST, S_BULK = "penstock.slow.interactive", "penstock.slow.background"


def test_nothing_is_claimed_that_cannot_start_soon() -> None:
    """What waits at the broker can still be taken by an idle worker."""
    clock, hungry = FakeClock(), list[str]()
    batcher = make_slow(clock, hungry)
    assert batcher.quota() == {S_FAST: 4, S_BULK: 4}, "one batch: the next claim can be made while it runs"
    batcher.put([slow_item("a"), slow_item("b")])
    assert batcher.quota() == {S_FAST: 2, S_BULK: 0}, "more may join their batch; background would start in 0.3 s"
    batch = batcher.take()
    assert batch is not None
    assert batcher.quota() == {S_FAST: 0, S_BULK: 0}
    assert batcher.claim_in_s() == pytest.approx(0.28)
    clock.now += 0.281
    assert batcher.quota() == {S_FAST: 4, S_BULK: 4}, "it will be free in 19 ms"
    assert batcher.claim_in_s() is None


def test_a_device_that_is_free_too_early_says_so() -> None:
    clock, hungry = FakeClock(), list[str]()
    batcher = make_slow(clock, hungry)
    batcher.put([slow_item("a")])
    assert batcher.take() is not None
    assert batcher.quota() == {S_FAST: 0, S_BULK: 0}, "it is thought to be busy for 0.2 s"
    assert hungry == []
    told = threading.Event()
    batcher._hungry = lambda: told.set()
    taken: list[object] = []
    thread = threading.Thread(target=lambda: taken.append(batcher.take()))
    thread.start()
    assert told.wait(PATIENCE_S), "the quotas have grown, and nobody else would notice"
    assert batcher.quota() == {S_FAST: 4, S_BULK: 4}
    batcher.close()
    thread.join(PATIENCE_S)
    assert taken == [None]
    assert batcher.quota() == {S_FAST: 0, S_BULK: 0}


def test_interactive_items_stand_by_priority_and_then_by_when_they_are_due() -> None:
    batcher = make_slow(FakeClock(), [])
    batcher.put(
        [
            slow_item("c", due=150.0),
            slow_item("b", due=140.0),
            slow_item("d", due=160.0),
            slow_item("a", due=190.0, priority=9),
        ]
    )
    batch = batcher.take()
    assert batch is not None
    assert [item.id for item in batch.items] == ["a", "b", "c", "d"]


def test_keys_never_share_a_batch_and_their_lines_do_not_pile_up() -> None:
    batcher = make_slow(FakeClock(), [])
    batcher.put(slow_item(str(n), lane=Lane.BACKGROUND, key=str(n % 3)) for n in range(9))
    seen = []
    while not batcher.room.empty:
        batch = batcher.take()
        assert batch is not None
        assert {item.key for item in batch.items} == {batch.key}
        seen += [item.id for item in batch.items]
    assert sorted(seen) == [str(n) for n in range(9)]
    assert not batcher.room.lines.keys()


def test_the_late_are_served_and_marked() -> None:
    batcher = make_slow(FakeClock(), [])
    batcher.put([slow_item("late", due=100.01), slow_item("good", due=101.0)])
    first, second = batcher.take(), batcher.take()
    assert first is not None and second is not None
    assert [(item.id, item.late) for item in first.items + second.items] == [("good", False), ("late", True)]


def step_of_run(id: str, *, start_by: float, lane: Lane = Lane.BACKGROUND, priority: int = 0) -> Item:
    """Claimed at 0 by Unix time, which is 100 here."""
    item = slow_item(id, lane=lane, due=float("inf") if lane is Lane.BACKGROUND else 200.0, priority=priority)
    item.start_by, item.rank = start_by, (-priority, min(item.due_at, 100.0 + start_by))
    return item


def ids_of(batcher: Batcher) -> list[str]:
    found: list[str] = []
    while not batcher.room.empty:
        batch = batcher.take()
        assert batch is not None
        found += [item.id for item in batch.items]
    return found


@pytest.mark.parametrize("lane", [Lane.INTERACTIVE, Lane.BACKGROUND])
def test_steps_of_late_runs_stand_before_what_is_due_later(lane: Lane) -> None:
    batcher = make_slow(FakeClock(), [])
    due = 200.0 if lane is Lane.INTERACTIVE else float("inf")
    batcher.put([slow_item(id, lane=lane, due=due) for id in "bcd"])
    batcher.put([slow_item("a", lane=lane, due=due, priority=9)] if lane is Lane.INTERACTIVE else [])
    batcher.put([step_of_run(id, lane=lane, start_by=at) for id, at in (("late", -1.0), ("later", -5.0))])
    batcher.put([step_of_run("in time", lane=lane, start_by=500.0)])
    first = ["a"] if lane is Lane.INTERACTIVE else []
    assert ids_of(batcher) == [*first, "later", "late", "b", "c", "d", "in time"]


def test_among_those_that_are_late_for_their_target_late_runs_come_first() -> None:
    """To be late for a target is to give way; to be late for a run's deadline is not."""
    batcher = make_slow(FakeClock(), [])
    late = [slow_item(id, due=100.0 + at / 1000) for at, id in enumerate("abcde")]
    steps = [step_of_run("early", lane=Lane.INTERACTIVE, start_by=500.0)]
    steps += [step_of_run("late", lane=Lane.INTERACTIVE, start_by=-3.0)]
    for item in steps:
        item.due_at = 100.004
        item.rank = (0, min(100.004, item.rank[1]))
    batcher.room.lines.put_late(late)
    batcher.room.lines.put_late(steps)
    assert ids_of(batcher) == ["late", "a", "b", "c", "d", "e", "early"]


def hopeless_item(id: str, *, ends: float) -> Item:
    """Its own deadline is before its lane's target."""
    item = slow_item(id, due=ends)
    item.ends_at = ends
    return item


def begin(batcher: Batcher) -> None:
    """A batch of one: it takes until 100.2."""
    batcher.put([slow_item("runs")])
    assert batcher.take() is not None
    batcher.began(suspect=False)


def test_no_device_time_is_spent_on_what_would_be_too_late_for_anybody() -> None:
    """Its deadline passes while the batch before it runs: it is in nobody's place, and then it is answered for."""
    clock = FakeClock()
    batcher = make_slow(clock, [])
    batcher.put([hopeless_item("gone", ends=100.01), *(slow_item(str(n)) for n in range(8))])
    assert batcher.count("slow", Lane.INTERACTIVE) == 8, "nothing is planned for it"
    first = batcher.take()
    assert first is not None and [item.id for item in first.items] == ["0", "1", "2", "3"]
    assert batcher.expired(wait=False) is None, "its deadline has not passed: it waits, as far as anybody knows"
    assert not batcher.room.empty
    clock.now = 100.01 + ANSWERED_S
    assert [item.id for item in batcher.expired(wait=False) or ()] == ["gone"]
    second = batcher.take()
    assert second is not None and [item.id for item in second.items] == ["4", "5", "6", "7"]
    assert batcher.room.empty


def test_a_model_is_kept_while_somebody_who_may_come_back_is_answered_for() -> None:
    clock = FakeClock()
    batcher = make_slow(clock, [])
    batcher.put([slow_item("a"), hopeless_item("gone", ends=100.01)])
    assert batcher.take() is not None
    clock.now += 0.5
    batcher.finished()
    assert batcher.expired(wait=False) and not batcher.release_model("slow")
    assert batcher.expired(wait=False) is None and batcher.release_model("slow")


def test_a_free_device_tries_what_it_expects_to_fail() -> None:
    """The prediction may be wrong, and nobody else wants the device."""
    batcher = make_slow(FakeClock(), [])
    batcher.put([hopeless_item("tight", ends=100.01)])
    batch = batcher.take()
    assert batch is not None and [item.id for item in batch.items] == ["tight"] and batch.items[0].late


def test_a_device_that_is_free_earlier_tries_those_that_can_be_in_time_after_all() -> None:
    """The one that would be too late even now is not worth it."""
    clock = FakeClock()
    batcher = make_slow(clock, [])
    batcher.put([slow_item("first")])
    assert batcher.take() is not None
    batcher.put([hopeless_item("never", ends=100.1), hopeless_item("now", ends=100.35)])
    assert [item.id for item in batcher.room.hopeless.items] == ["never", "now"]
    assert batcher.count("slow", Lane.INTERACTIVE) == 0
    clock.now += 0.05
    second = batcher.take()
    assert second is not None and [item.id for item in second.items] == ["now"] and second.items[0].late
    assert batcher.take(wait=False) is None
    assert [item.id for item in batcher.room.hopeless.items] == ["never"]


def test_a_line_that_is_wrong_is_put_right_although_another_model_keeps_the_device_busy() -> None:
    """Nobody would ever find out that its batches are short, if all its jobs were abandoned."""
    clock = FakeClock()
    batcher = Batcher({"slow": slow, "other": slow}, Adaptive(), namespace="penstock", target_s=2.0, clock=clock)
    for size in (1, 2, 3, 4) * 10:
        batcher.room.latency.observe("slow", size, 10.0 * size)
    other = slow_item("a")
    other.model = "other"
    batcher.put([other])
    assert batcher.take() is not None
    batcher.put([hopeless_item("one", ends=101.0), hopeless_item("two", ends=102.0)])
    assert [item.id for item in batcher.room.hopeless.items] == ["one"]
    batch = batcher.take()
    assert batch is not None and [item.id for item in batch.items] == ["two"]
    batcher.learn(batch, cost=1.0, background=0.0, late=1.0, busy_s=10.0, clean=True)
    batcher.put([hopeless_item("three", ends=103.0)])
    assert [item.id for item in batcher.room.hopeless.items] == ["one", "three"], "it is known now"


def test_nobody_is_abandoned_for_background_work_that_can_be_overtaken() -> None:
    batcher = make_slow(FakeClock(), [])
    begin(batcher)
    batcher.staging = True
    staged = Batch(slow, [slow_item(str(n), lane=Lane.BACKGROUND) for n in range(4)], "idle", ahead=True)
    batcher.staged(staged)
    # Behind what runs (0.2 s) and by itself (0.2 s), but not behind the other batch (0.5 s).
    batcher.put([hopeless_item("quick", ends=100.45)])
    assert batcher.room.hopeless.items == []


def test_who_is_abandoned_depends_on_those_of_the_same_key_that_can_be_in_time() -> None:
    batcher = make_slow(FakeClock(), [])
    for size in (1, 2, 3, 4) * 10:
        batcher.room.latency.observe("slow", size, 0.1 + 0.1 * size, "a")
    batcher.put([slow_item("runs")])
    assert batcher.take() is not None
    waiting = [slow_item(str(n), key="b") for n in range(3)]
    late = [slow_item(str(n), key="a") for n in range(3, 5)]
    batcher.put(waiting)
    batcher.room.lines.put_late(late)
    item = hopeless_item("in time", ends=100.45)
    item.key = "a"
    batcher.put([item])
    assert batcher.room.hopeless.items == []
    batcher.put([slow_item("mate", key="a")])
    item = hopeless_item("not in time", ends=100.45)
    item.key = "a"
    batcher.put([item])
    assert batcher.room.hopeless.items == [item], "with two more it takes 0.4 s behind the one that runs"


def test_of_a_long_queue_without_hope_most_stays_within_reach_of_others() -> None:
    """A worker that has time could still run it."""
    batcher = make_slow(FakeClock(), [])
    batcher.put([slow_item("first")])
    assert batcher.take() is not None
    batcher.put(hopeless_item(str(n), ends=100.1) for n in range(100))
    assert len(batcher.room.hopeless.items) == HOPELESS_BATCHES * 4
    assert batcher.count("slow", Lane.INTERACTIVE) == 100 - HOPELESS_BATCHES * 4
    assert batcher.quota()[S_FAST] == 0


def test_the_stager_hears_of_what_came_with_messages_that_were_abandoned() -> None:
    """Once it has looked and found nothing, it waits until it is told."""
    clock = FakeClock()
    waits = threading.Event()
    batcher = make_slow(clock, [])
    batcher._hungry = waits.set
    batcher.staging = True
    begin(batcher)
    clock.now = 100.195
    chosen: list[Batch | None] = []
    thread = threading.Thread(target=lambda: chosen.append(batcher.ahead()), daemon=True)
    thread.start()
    # It has asked for more and found nothing when it gives the lock up.
    assert waits.wait(PATIENCE_S)
    batcher.put([hopeless_item("gone", ends=100.2), slow_item("next")])
    thread.join(PATIENCE_S)
    assert [[item.id for item in batch.items] for batch in chosen if batch is not None] == [["next"]]


def test_the_limit_of_those_abandoned_is_for_all_keys_of_a_model() -> None:
    batcher = make_slow(FakeClock(), [])
    for key in "abcde":
        for size in (1, 2, 3, 4) * 10:
            batcher.room.latency.observe("slow", size, 0.1 + 0.1 * size, key)
    batcher.put([slow_item("first")])
    assert batcher.take() is not None
    items = [hopeless_item(f"{key}{n}", ends=100.1) for key in "abcde" for n in range(HOPELESS_BATCHES)]
    for item in items:
        item.key = item.id[0]
    batcher.put(items)
    assert len(batcher.room.hopeless.items) == HOPELESS_BATCHES * 4 < len(items)


def test_a_suspect_gives_way_to_nobody() -> None:
    """It runs alone: there are no mates whom it holds up."""
    batcher = make_slow(FakeClock(), [])
    suspect = hopeless_item("suspect", ends=100.3)
    suspect.suspect = True
    batcher.put([suspect, *(slow_item(str(n)) for n in range(3))])
    assert batcher.take() is not None
    assert batcher.room.hopeless.items == []


def test_a_device_that_is_free_early_takes_no_more_than_a_batch_of_those_abandoned() -> None:
    """Others come meanwhile. That many wait whose time is over says nothing of who stands behind."""
    clock = FakeClock()
    batcher = make_slow(clock, [])
    batcher.put([slow_item("first")])
    assert batcher.take() is not None
    batcher.put(hopeless_item(str(n), ends=100.05) for n in range(8))
    batcher.put(hopeless_item(f"now {n}", ends=100.65) for n in range(8))
    assert len(batcher.room.hopeless.items) >= 12
    clock.now += 0.1
    for item in batcher.pull(lambda item: item not in batcher.room.hopeless.items):
        assert item.id.startswith("now"), "these might be in time behind the first"
    left = sum(item.id.startswith("now") for item in batcher.room.hopeless.items)
    batch = batcher.take()
    assert batch is not None and {item.id[:3] for item in batch.items} == {"now"} and len(batch.items) <= 4
    assert sum(item.id.startswith("now") for item in batcher.room.hopeless.items) == left - len(batch.items) > 0


def test_a_device_that_stays_idle_tries_one_that_seems_hopeless() -> None:
    """The prediction may be wrong, and only a batch can tell."""
    clock = FakeClock()
    batcher = make_slow(clock, [])
    batcher.put([slow_item("first")])
    assert batcher.take() is not None
    batcher.put([hopeless_item("a", ends=100.15), hopeless_item("b", ends=100.16)])
    assert [item.id for item in batcher.room.hopeless.items] == ["a", "b"]
    clock.now = 100.1
    assert batcher.take(wait=False) is None
    assert batcher.revive_in_s() == pytest.approx(TRIED_S)
    assert not batcher.revive()
    clock.now += 1.01 * TRIED_S
    batch = batcher.take(wait=False)
    assert batch is not None and [item.id for item in batch.items] == ["b"]
    clock.now += 0.01
    assert batcher.take(wait=False) is None, "it is not idle for long enough again"
    clock.now = 100.2
    assert batcher.revive_in_s() is None and not batcher.revive(), "its time is over"


def test_claims_go_on_behind_messages_that_were_abandoned() -> None:
    clock = FakeClock()
    batcher = make_slow(clock, [])
    batcher.staging = True
    begin(batcher)
    clock.now = 100.195
    batcher.put([hopeless_item("gone", ends=100.2), slow_item("next")])
    assert batcher.quota()[S_FAST] > 0
    batcher.put([slow_item("last")])
    assert batcher.quota()[S_FAST] == 0, "that claim found nobody to abandon"


def test_who_cannot_be_in_time_behind_a_batch_is_abandoned_as_far_as_there_is_room() -> None:
    batcher = make_slow(FakeClock(), [])
    batcher.put([slow_item("first")])
    assert batcher.take() is not None
    batcher.put(hopeless_item(str(n), ends=100.1) for n in range(HOPELESS_BATCHES * 4))
    assert batcher.count("slow", Lane.INTERACTIVE) == 0
    batcher.put([hopeless_item("tight", ends=100.65), *(slow_item(f"mate {n}", due=101.0) for n in range(2))])
    assert batcher.count("slow", Lane.INTERACTIVE) == 3, "it may be in time"
    batcher.put([slow_item("one more", due=101.0)])
    clock = batcher._clock
    assert isinstance(clock, FakeClock)
    clock.now += 0.3  # the batch took longer than was thought
    batch = batcher.take()
    assert batch is not None and len(batch.items) == 3
    assert len(batcher.room.hopeless.items) == HOPELESS_BATCHES * 4 and batcher.room.lines.late() == {"slow": 1}


def test_what_was_abandoned_of_a_model_that_has_left_the_device_is_not_tried() -> None:
    batcher = make_slow(FakeClock(), [])
    batcher.put([slow_item("first")])
    assert batcher.take() is not None
    batcher.put([hopeless_item("now", ends=100.35), hopeless_item("gone", ends=100.1)])
    batcher.set_resident([])
    assert batcher.take(wait=False) is None
    assert [item.id for item in batcher.room.hopeless.items] == ["now", "gone"]


def test_what_was_abandoned_can_be_cancelled_and_given_back() -> None:
    clock = FakeClock()
    batcher = make_slow(clock, [])
    batcher.put([hopeless_item("x", ends=100.01), hopeless_item("y", ends=100.02), slow_item("a"), slow_item("b")])
    assert batcher.take() is not None
    assert [item.id for item in batcher.pull(lambda item: item.id == "x")] == ["x"]
    assert [item.id for item in batcher.close()] == ["y"]
    assert batcher.room.empty


def test_pulled_items_are_not_counted_any_more() -> None:
    clock = FakeClock()
    batcher = make_slow(clock, [])
    batcher.put([slow_item("a"), slow_item("b", lane=Lane.BACKGROUND)])
    assert [item.id for item in batcher.pull(lambda item: item.id == "a")] == ["a"]
    assert len(batcher) == 1
    assert [item.id for item in batcher.close()] == ["b"]
    assert batcher.room.empty


def test_items_whose_input_is_in_sql_are_weighed_before_they_are_planned_with() -> None:
    """By the device thread; they never share a batch with another key meanwhile."""

    def weigh(items: Sequence[Item]) -> None:
        for item in items:
            item.key, item.cost = f"key of {item.id}", 3.0

    batcher = Batcher({"slow": slow}, Adaptive(), namespace="penstock", weigh=weigh)
    unweighed = slow_item("large")
    unweighed.weighed = False
    batcher.put([unweighed, slow_item("small")])
    batches = [batcher.take(), batcher.take()]
    assert sorted((batch.key, [item.id for item in batch.items]) for batch in batches if batch) == [
        ("", ["small"]),
        ("key of large", ["large"]),
    ]
    assert batcher.room.empty


def test_items_that_are_being_weighed_are_given_back_by_a_stop() -> None:
    given_back: list[Item] = []
    batcher = Batcher(
        {"slow": slow}, Adaptive(), namespace="penstock", weigh=lambda items: given_back.extend(batcher.close())
    )
    item = slow_item("large")
    item.weighed = False
    batcher.put([item])
    assert batcher.take() is None
    assert given_back == [item]
    assert batcher.room.empty


def suspect(id: str) -> Item:
    item = make_item(id)
    item.suspect = True
    return item


def taken(batcher: Batcher) -> list[tuple[list[str], str]]:
    """All batches until nothing waits."""
    batches = []
    while not batcher.room.empty:
        batch = batcher.take()
        assert batch is not None
        batches.append(([item.id for item in batch.items], batch.reason))
    return batches


def test_a_suspect_leaves_alone_and_in_its_turn() -> None:
    """Whatever the policy releases; the others keep their order and their lanes."""
    batcher = make_batcher()
    batcher.put([make_item("a"), suspect("b"), make_item("c"), make_item("d"), suspect("e"), suspect("f")])
    batcher.put([make_item("x", Lane.INTERACTIVE)])
    assert taken(batcher) == [
        (["x", "a"], "full"),
        (["b"], "suspect"),
        (["c", "d"], "full"),
        (["e"], "suspect"),
        (["f"], "suspect"),
    ]


def test_what_was_not_claimed_goes_back_to_the_head() -> None:
    batcher = make_batcher()
    batcher.put([make_item("c")])
    batcher.put_back([suspect("a"), suspect("b")])
    assert [ids for ids, _ in taken(batcher)] == [["a"], ["b"], ["c"]]
    batcher.close()
    batcher.put_back([suspect("a")])
    assert batcher.room.empty


def test_a_lowered_limit_bounds_the_next_batches() -> None:
    batcher = make_batcher()
    batcher.put(make_item(str(n)) for n in range(5))
    batcher.limit("echo", Batching(max_size=2))
    assert [len(ids) for ids, _ in taken(batcher)] == [2, 2, 1]
    assert batcher.quota()[BULK] == 4, "two batches ahead, as large as they are now"


# Step-wise models ---------------------------------------------------------------------------------------------------


class Steps(penstock.StepModel):
    """Never run here."""

    name = "steps"
    batching = penstock.Batching(max_size=4)

    def begin(self, batch: list[int]) -> None:
        """Nothing."""

    def step(self, state: None) -> dict[int, int]:
        return {}


SLOW = "penstock.steps.background"


def step_item(id: str) -> Item:
    return Item(id, "steps", Lane.BACKGROUND, input="1", tag=None, source="", arrived_at=0.0, claimed_at=0.0)


def test_claims_shrink_by_what_has_begun_but_one_may_always_wait() -> None:
    batcher = Batcher({"echo": echo, "steps": Steps}, Greedy(), namespace="penstock", prefetch_batches=2.0)
    assert batcher.quota()[SLOW] == 8
    batcher.room.begun = {SLOW: 5}
    assert batcher.quota()[SLOW] == 3
    batcher.room.begun = {SLOW: 12}
    assert batcher.quota()[SLOW] == 1
    batcher.put([step_item("a")])
    assert batcher.quota()[SLOW] == 0
    assert batcher.quota()[BULK] == 8, "others are not concerned"


def test_the_batching_policy_does_not_see_step_wise_models() -> None:
    batcher = Batcher({"echo": echo, "steps": Steps}, Greedy(), namespace="penstock")
    batcher.put([step_item("a"), step_item("b")])
    assert batcher.take(wait=False) is None
    ((name, lane, size, head),) = batcher.waiting()
    assert (name, lane, size, head.id) == ("steps", Lane.BACKGROUND, 2, "a")
    assert [item.id for item in batcher.admit(name, lane, 5, "begin").items] == ["a", "b"]
    assert batcher.room.empty
    batcher.put([make_item("c", Lane.INTERACTIVE)])
    assert (batcher.waiting_in(Lane.INTERACTIVE), batcher.waiting_in(Lane.BACKGROUND)) == (1, 0)
    batch = batcher.take(wait=False)
    assert batch is not None
    assert [item.id for item in batch.items] == ["c"]
