"""The batch behind the running one is claimed ahead, and what becomes of it when something else happens first."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from penstock import Batching, Model
from penstock.lane import Lane
from penstock.policy.batching import Adaptive
from penstock.policy.prefetch import Lead
from penstock_worker.item import Batch, Item, Run
from penstock_worker.schedule.batcher import Batcher
from penstock_worker.schedule.stager import Stager
from tests.fixtures.patience import PATIENCE_S

LEAD_S = 0.02
FAST, BULK = "t.slow.interactive", "t.slow.background"


class Slow(Model):
    """0.1 s, and 0.1 s per item."""

    name = "slow"
    batching = Batching(max_size=4)

    def predict(self, batch: list[int]) -> list[int]:
        return batch


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Room:
    """A batcher whose device runs "first" until 100.2, and the thread that asks for the batch behind it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.called = threading.Event()
        self.batcher = Batcher(
            {"slow": Slow},
            Adaptive(),
            namespace="t",
            lead_s=LEAD_S,
            target_s=2.0,
            clock=self.clock,
            hungry=self.called.set,
        )
        for size in (1, 2, 3, 4) * 10:
            self.batcher.room.latency.observe("slow", size, 0.1 + 0.1 * size)
        self.batcher.staging = True
        self.chosen: list[Batch | None] = []
        self._thread: threading.Thread | None = None

    def begin(self, item: Item | None = None) -> None:
        """The device begins with an item that takes 0.2 s."""
        self.batcher.put([item or make("first")])
        batch = self.batcher.take()
        assert batch is not None and batch.claimed is None
        self.batcher.began(suspect=batch.items[0].suspect)

    def near_the_end(self) -> None:
        """It is time to claim."""
        self.clock.now = 100.2 - LEAD_S / 2

    def ask(self) -> Batch | None:
        """What ``ahead`` gives for what waits now."""
        self._thread = threading.Thread(target=lambda: self.chosen.append(self.batcher.ahead()), daemon=True)
        self._thread.start()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.chosen[-1]

    def stage(self, *items: Item) -> Batch:
        """Put items at the right time, and claim what is chosen."""
        self.near_the_end()
        self.batcher.put(items)
        batch = self.ask()
        assert batch is not None
        batch.claimed = Run(batch, live=list(batch.items))
        self.batcher.staged(batch)
        return batch

    def end(self) -> None:
        """The running batch is over."""
        self.clock.now = 100.2


def make(id: str, lane: Lane = Lane.INTERACTIVE, *, suspect: bool = False) -> Item:
    item = Item(id, "slow", lane, input="1", tag=id, source="", arrived_at=100.0, claimed_at=0.0)
    item.suspect = suspect
    if lane is Lane.INTERACTIVE:
        item.due_at, item.rank = 110.0, (0, 110.0)
    return item


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.batcher.close()


def ids(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [item.id for item in batch.items]


def test_what_comes_shortly_before_the_end_is_claimed_ahead_and_runs_next(room: Room) -> None:
    room.begin()
    staged = room.stage(make("second"))
    assert room.called.is_set(), "the hub was told to claim first"
    assert ids(staged) == ["second"]
    assert not room.batcher.room.empty and room.batcher.uses("slow")
    assert room.batcher.count("slow", Lane.INTERACTIVE) == 0
    room.end()
    assert room.batcher.take() is staged
    assert room.batcher.busy_s() == pytest.approx(0.2)


def test_an_interactive_job_overtakes_background_work_that_was_claimed_ahead(room: Room) -> None:
    room.begin()
    staged = room.stage(make("bulk", Lane.BACKGROUND))
    assert room.batcher.quota()[FAST] == 4, "it is still asked for"
    assert room.batcher.quota()[BULK] == 0
    room.batcher.put([make("urgent")])
    room.end()
    assert ids(room.batcher.take()) == ["urgent"]
    assert room.batcher.take() is staged


def test_nothing_overtakes_an_interactive_batch_that_was_claimed_ahead(room: Room) -> None:
    room.begin()
    staged = room.stage(make("second"))
    assert set(room.batcher.quota().values()) == {0}, "one claim per batch"
    room.batcher.put([make("third")])
    room.end()
    assert room.batcher.take() is staged
    assert ids(room.batcher.take()) == ["third"]


def test_a_suspect_is_not_claimed_while_another_batch_runs(room: Room) -> None:
    """If the worker died, both would look guilty."""
    room.begin()
    room.near_the_end()
    room.batcher.put([make("suspect", suspect=True)])
    assert room.batcher.ahead(wait=False) is None
    room.end()
    batch = room.batcher.take()
    assert ids(batch) == ["suspect"] and batch is not None and batch.claimed is None


def test_nothing_is_claimed_behind_a_suspect(room: Room) -> None:
    room.begin(make("suspect", suspect=True))
    room.near_the_end()
    room.batcher.put([make("second")])
    assert room.batcher.ahead(wait=False) is None
    room.end()
    batch = room.batcher.take()
    assert ids(batch) == ["second"] and batch is not None and batch.claimed is None


def test_the_device_waits_for_a_claim_that_is_under_way(room: Room) -> None:
    room.begin()
    room.near_the_end()
    room.batcher.put([make("second")])
    batch = room.ask()
    room.end()
    taken: list[Batch | None] = []
    device = threading.Thread(target=lambda: taken.append(room.batcher.take()), daemon=True)
    device.start()
    device.join(0.05)
    assert taken == [], "it has the items, and nobody else may run them"
    room.batcher.staged(batch)
    device.join(PATIENCE_S)
    assert taken == [batch]


def test_a_claim_that_was_given_up_leaves_the_device_free(room: Room) -> None:
    room.begin()
    room.near_the_end()
    room.batcher.put([make("second")])
    assert room.ask() is not None
    room.batcher.staged(None)
    room.end()
    room.batcher.put([make("third")])
    assert ids(room.batcher.take()) == ["third"]


def test_what_was_claimed_ahead_still_runs_when_the_worker_stops(room: Room) -> None:
    room.begin()
    staged = room.stage(make("second"))
    room.batcher.put([make("third")])
    assert [item.id for item in room.batcher.close()] == ["third"], "what is not claimed goes back"
    assert room.batcher.take() is staged
    assert room.batcher.take() is None


def test_a_long_batch_that_was_claimed_ahead_does_not_delay_the_end(room: Room) -> None:
    room.begin()
    room.stage(*(make(str(number)) for number in range(4)))
    for size in (1, 2, 3, 4) * 200:
        room.batcher.room.latency.observe("slow", size, 0.35 * size)
    room.batcher.close()
    assert room.batcher.take() is None
    left = room.batcher.seize()
    assert left is not None and [item.id for item in left.live] == ["0", "1", "2", "3"]


def test_a_device_that_does_not_return_loses_what_was_claimed_ahead(room: Room) -> None:
    room.begin()
    room.stage(make("second"))
    left = room.batcher.seize()
    assert left is not None and [item.id for item in left.live] == ["second"]
    assert room.batcher.seize() is None
    assert room.batcher.room.empty


def test_whoever_takes_it_away_waits_for_a_claim_that_is_under_way(room: Room) -> None:
    room.begin()
    room.near_the_end()
    room.batcher.put([make("second")])
    batch = room.ask()
    assert batch is not None
    batch.claimed = Run(batch, live=list(batch.items))
    seized: list[Run | None] = []
    thread = threading.Thread(target=lambda: seized.append(room.batcher.seize(10.0)), daemon=True)
    thread.start()
    room.batcher.staged(batch)
    thread.join(PATIENCE_S)
    assert seized == [batch.claimed]


def test_background_work_that_was_claimed_ahead_is_not_overtaken_for_ever(room: Room) -> None:
    room.begin()
    staged = room.stage(make("bulk", Lane.BACKGROUND))
    room.batcher.put([make("urgent")])
    room.end()
    assert ids(room.batcher.take()) == ["urgent"]
    room.batcher.put([make("another")])
    room.clock.now += 0.5
    assert ids(room.batcher.take()) == ["another"]
    room.batcher.put([make("one more")])
    room.clock.now += 0.5
    assert room.batcher.take() is staged, "half of the target is over"


def test_background_work_that_is_owed_its_share_is_not_overtaken(room: Room) -> None:
    room.begin()
    staged = room.stage(make("bulk", Lane.BACKGROUND))
    room.batcher.learn(staged, cost=1.0, background=0.0, late=0.0, busy_s=60.0, clean=False)
    room.batcher.put([make("urgent")])
    room.end()
    assert room.batcher.take() is staged


def test_the_hub_is_told_to_claim_also_behind_a_batch_that_has_overtaken(room: Room) -> None:
    room.begin()
    room.stage(make("bulk", Lane.BACKGROUND))
    room.batcher.put([make("urgent")])
    room.end()
    room.batcher.take()
    room.batcher.began(suspect=False)
    room.called.clear()
    asked = threading.Thread(target=room.ask, daemon=True)
    room.clock.now += 0.2 - LEAD_S / 2
    asked.start()
    assert room.called.wait(PATIENCE_S)
    room.batcher.close()
    asked.join(PATIENCE_S)


def test_a_suspect_does_not_overtake_what_was_claimed_ahead(room: Room) -> None:
    """It has to be alone in its worker."""
    room.begin()
    staged = room.stage(make("bulk", Lane.BACKGROUND))
    room.batcher.put([make("suspect", suspect=True)])
    room.end()
    assert room.batcher.take() is staged
    assert ids(room.batcher.take()) == ["suspect"]


def test_a_suspect_of_which_only_sql_knew_has_nothing_claimed_behind_it(room: Room) -> None:
    room.batcher.put([make("first")])
    room.batcher.take()
    room.batcher.began(suspect=True)
    room.near_the_end()
    room.batcher.put([make("second")])
    assert room.batcher.ahead(wait=False) is None
    room.end()
    batch = room.batcher.take()
    assert ids(batch) == ["second"] and batch is not None and not batch.ahead


@pytest.mark.parametrize(
    ("claims_s", "batch_s", "expected_s"),
    [
        ((), 0.02, 0.003),
        ((0.001,) * 50, 0.02, 0.0032),
        ((0.004,) * 50, 0.02, 0.0068),
        ((0.004,) * 50, 0.008, 0.004),
        ((1.0,) * 50, 1.0, 0.012),
        ((1.0,) * 50 + (0.0,) * 200, 1.0, 0.003),
    ],
)
def test_the_lead_follows_what_claims_take(claims_s: tuple[float, ...], batch_s: float, expected_s: float) -> None:
    lead = Lead(0.003)
    for seconds in claims_s:
        lead.claim.took(seconds, 8)
    assert lead.before(batch_s, 100) == pytest.approx(expected_s, rel=0.05), (
        "of a size that there never was: the average"
    )


def test_the_lead_knows_that_large_claims_take_longer() -> None:
    lead = Lead(0.003)
    for _ in range(50):
        lead.claim.took(0.001, 1)
        lead.fetch.took(0.001, 1)
    for _ in range(2):
        lead.claim.took(0.004, 64)
        lead.fetch.took(0.003, 64)
    assert lead.before(0.024, 1) == 0.003, "the least"
    assert lead.before(0.024, 64) == lead.before(0.024, 100) == pytest.approx(0.003 + 1.2 * 0.004)
    for _ in range(20):
        lead.claim.took(0.001, 64)
    assert lead.before(0.024, 64) < 0.006, "it is learned anew"


def test_the_lead_has_time_to_get_behind_messages_that_are_abandoned() -> None:
    lead = Lead(0.003)
    for seconds in (0.004,) * 50:
        lead.claim.took(0.001, 8)
        lead.searched(seconds)
    assert lead.before(0.02, 8) == pytest.approx(0.0032 + 0.004, rel=0.05)
    assert lead.before(0.01, 8) == 0.005, "half of the batch, as ever"
    for _ in range(50):
        lead.searched(0.0)
    assert lead.before(0.02, 8) == pytest.approx(0.0032, rel=0.05)


@pytest.mark.parametrize(
    ("found", "searched_s", "fetched_s"),
    [
        pytest.param(("next",), 0.0, 0.001, id="the next one was at the head"),
        pytest.param(("gone", "next"), 0.004, 0.001, id="one stood before it"),
        pytest.param(("gone", "gone", "next"), 0.008, 0.001, id="two, one after the other"),
        pytest.param(("gone next",), 0.008, None, id="it came with one, and nothing else did: as if more were to come"),
        pytest.param(("gone next next next next",), 0.004, 0.0, id="a full batch came with one"),
        pytest.param(
            ("gone",), 0.008, None, id="nobody was found until the device was free: it takes longer than that"
        ),
    ],
)
def test_how_long_it_takes_to_get_behind_those_that_are_abandoned(
    room: Room, found: tuple[str, ...], searched_s: float, fetched_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[float] = []
    fetched: list[float] = []
    monkeypatch.setattr(room.batcher.room.ahead.lead, "searched", searched.append)
    monkeypatch.setattr(room.batcher.room.ahead.lead.fetch, "took", lambda seconds, _: fetched.append(seconds))
    room.batcher.room.hopeless.observed("slow", 100.0)
    room.begin()
    room.near_the_end()
    assert room.batcher.ahead(wait=False) is None and room.called.is_set()
    for ids in found:
        room.clock.now += 0.004 if "gone" in ids else 0.001
        items = [make(id) for id in ids.split()]
        for item in items:
            if item.id == "gone":
                item.ends_at = 100.201
        room.batcher.put(items)
    if room.batcher.ahead(wait=False) is None:
        room.end()
        room.batcher.take(wait=False)
    came = [] if fetched_s is None else [pytest.approx(fetched_s)]
    assert fetched == came, "since the last one that was abandoned, where what came was enough"
    assert searched == [pytest.approx(searched_s)]


def test_the_stager_answers_whatever_its_claim_raises(room: Room) -> None:
    class GivenUp(Exception):
        pass

    defects: list[str] = []
    faults: Iterator[Exception] = iter([GivenUp(), RuntimeError("a defect")])

    def stage(batch: Batch) -> Run:
        raise next(faults)

    stager = Stager(room.batcher, stage, given_up=GivenUp, on_defect=lambda: defects.append("defect"))
    stager.start()
    for expected in ([], ["defect"]):
        room.clock.now = 100.0
        room.begin()
        room.called.clear()
        room.near_the_end()
        room.batcher.put([make("second")])
        assert room.called.wait(PATIENCE_S)
        room.end()
        room.batcher.put([make("third")])
        assert ids(room.batcher.take()) == ["third"], "the device goes on"
        assert defects == expected
    assert stager.alive
    room.batcher.close()


def test_long_inputs_are_weighed_beside_a_device_that_is_never_free() -> None:
    """The device thread always finds a batch that was claimed ahead: it would never get round to it."""
    weighed: list[str] = []
    room = Room()
    room.batcher._weigh = lambda items: weighed.extend(item.id for item in items)
    room.begin()
    long = make("long")
    long.weighed = False
    staged = room.stage(long)
    assert weighed == ["long"]
    assert ids(staged) == ["long"]
    room.batcher.close()


def test_of_a_model_that_has_to_leave_nothing_is_claimed_until_another_has_come() -> None:
    room = Room()
    room.batcher.put([make("here")])
    room.batcher.drain(["slow"])
    assert set(room.batcher.quota().values()) == {0}
    assert ids(room.batcher.take()) == ["here"], "what is here runs"
    room.end()
    room.batcher.finished()
    room.called.clear()
    room.batcher.drain(())
    assert room.called.is_set()
    assert room.batcher.quota()[FAST] > 0
    room.batcher.close()
