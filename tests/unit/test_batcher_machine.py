"""Random histories of the device loop: the real batcher, policies, learned times and minimum share, on a fake clock.

Whatever is put in, taken, put back, pulled, evicted or closed: every item is in exactly one place, a batch never mixes
what must not mix, nobody who can be in time waits for somebody who cannot, and the quotas keep their bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import penstock
from penstock.lane import LANES, Lane, queue_name
from penstock.model import Batching, Model
from penstock.policy.batching import GUARD_S, POLICIES
from penstock.policy.hopeless import HOPELESS_BATCHES
from penstock.policy.isolation import MinimumShare
from penstock.policy.waitingroom import OVERTAKEN
from penstock.testing import FakeClock
from penstock_worker.item import Batch, Item, Run
from penstock_worker.schedule.batcher import ANSWERED_S, Batcher
from tests.fixtures.examples import examples

NS, TARGET_S, PREFETCH = "ns", 0.1, 1.5
WAIT_S = 0.05


class _Never:
    """None of them runs here."""

    def predict(self, batch: list[int]) -> list[int]:
        return batch


class Plain(_Never, Model):
    name = "plain"
    batching = Batching(max_size=4)


class Keyed(_Never, Model):
    name = "keyed"
    batching = Batching(max_size=5, max_cost=6.0, cost=float, key=str)


class Pinned(_Never, Model):
    name = "pinned"
    batching = Batching(max_size=3, max_wait_s=WAIT_S)


class Steps(penstock.StepModel):
    name = "steps"
    batching = Batching(max_size=3)

    def begin(self, batch: list[int]) -> None:
        return None

    def step(self, state: None) -> dict[int, int]:
        return {}


MODELS: dict[str, type[Model]] = {cls.name: cls for cls in (Plain, Keyed, Pinned, Steps)}
WHOLE = ("plain", "keyed", "pinned")
MOST = {name: max(1, int(cls.batching.max_size * PREFETCH)) for name, cls in MODELS.items()}
QUEUES = [(queue_name(NS, name, lane), name, lane) for lane in LANES for name in MODELS]


class Device(RuleBasedStateMachine):
    """One worker's device thread and hub, turn by turn."""

    policy = "adaptive"

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(1000.0)
        self.hungry = 0
        self.batcher = Batcher(
            MODELS,
            POLICIES[self.policy](),
            namespace=NS,
            prefetch_batches=PREFETCH,
            lead_s=0.003,
            target_s=TARGET_S,
            clock=self.clock,
            hungry=lambda: None,
            weigh=self.weigh,
        )
        self.batcher.staging = True
        self.room = self.batcher.room
        self.made = 0
        #: By id: what waits, and what is on the device.
        self.waiting: dict[str, Item] = {}
        self.batch: Batch | None = None
        #: By id: what was abandoned, and waits for its deadline to pass.
        self.hopeless: dict[str, Item] = {}
        #: How many there were: a limit that is learned later does not bring them back.
        self.most_hopeless = 0
        #: The model of the last batch, which counts as running until the next one is asked for.
        self.running = ""
        self.done: set[str] = set()
        #: What is in SQL of items whose input is not in their message: cost and key.
        self.hidden: dict[str, tuple[float, str]] = {}
        #: What is cancelled while the next inputs are read from SQL: every so many.
        self.meanwhile = 0
        self.limits = {name: cls.batching for name, cls in MODELS.items()}
        self.resident = set(MODELS)
        #: Of background and of late work.
        self.shares = MinimumShare(), MinimumShare()
        #: What was claimed ahead, and when.
        self.staged: Batch | None = None
        self.staged_at = 0.0
        #: Lines to whose head something was put back: they are not in order of rank any more.
        self.disordered: set[tuple[str, str]] = set()
        self.closed = False

    # Helpers

    def weigh(self, items: Sequence[Item]) -> None:
        for item in items:
            item.cost, item.key = self.hidden.pop(item.id)
        if self.meanwhile:
            modulus, self.meanwhile = self.meanwhile, 0
            self.cancel(modulus)

    def make(
        self,
        model: str,
        lane: Lane,
        *,
        due_in: float,
        own: bool,
        priority: int,
        cost: float,
        key: str,
        suspect: bool,
        hidden: bool,
    ) -> Item:
        self.made += 1
        id = f"j{self.made}"
        now = self.clock()
        item = Item(id, model, lane, input="1", tag=id, source="", arrived_at=now, claimed_at=now)
        item.suspect = suspect
        if lane is Lane.INTERACTIVE:
            item.due_at = now + due_in
            if own:
                item.ends_at = item.due_at
        item.rank = (-priority, item.due_at)
        if model == "keyed":
            if hidden:
                item.weighed, item.input = False, None
                self.hidden[id] = cost, key
            else:
                item.cost, item.key = cost, key
        return item

    def of(self, model: str, lane: Lane) -> list[Item]:
        return [item for item in self.waiting.values() if (item.model, item.lane) == (model, lane)]

    def urgent(self) -> list[Item]:
        """What waits, can run, and is not late; a pinned wait is its model's own wish."""
        return [
            item
            for item in self.waiting.values()
            if item.lane is Lane.INTERACTIVE and not item.late and item.model in self.resident & {"plain", "keyed"}
        ]

    # In

    @initialize(seconds=st.floats(0.001, 0.2), known=st.booleans())
    def the_worker_has_run_before_or_not(self, seconds: float, known: bool) -> None:
        if known:
            for name in WHOLE:
                for size in (1, 2, 3):
                    self.room.latency.observe(name, size, seconds * (1 + size) / 2)

    items = st.fixed_dictionaries(
        {
            "due_in": st.sampled_from([-0.1, 0.005, 0.05, 0.1, 0.5, 10.0]),
            "own": st.booleans(),
            "priority": st.sampled_from([0, 0, 3, 9]),
            "cost": st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.5, 7.0]),
            "key": st.sampled_from(["", "a", "b"]),
            "suspect": st.sampled_from([False, False, False, True]),
            "hidden": st.booleans(),
        }
    )

    @precondition(lambda self: not self.closed)
    @rule(wanted=st.lists(st.tuples(st.sampled_from(QUEUES), items), min_size=1, max_size=8))
    def the_transport_brings(self, wanted: list) -> None:
        """No more of each queue than the quota asked for, in one call per queue, as the transport does."""
        quota = self.batcher.quota()
        for queue, model, lane in QUEUES:
            room = [fields for (other, _, _), fields in wanted if other == queue][: quota[queue]]
            new = [self.make(model, lane, **fields) for fields in room]
            if new:
                self.bring(new)

    @precondition(lambda self: not self.closed)
    @rule(which=st.sampled_from(QUEUES), fields=items)
    def celery_brings(self, which: tuple[str, str, Lane], fields: dict) -> None:
        """A message that came through Celery does not ask for a quota."""
        _, model, lane = which
        self.bring([self.make(model, lane, **fields)])

    def bring(self, new: list[Item]) -> None:
        """Who cannot be in time for a deadline of its own is not planned with, unless nobody else is there."""
        before, alone = set(self.hopeless), self.room.empty and not self.running
        self.batcher.put(new)
        ids = {item.id for item in new}
        gone = {item.id: item for item in self.room.hopeless.items if item.id in ids}
        self.hopeless |= gone
        self.waiting |= {item.id: item for item in new if item.id not in gone}
        assert set(self.hopeless) - before == set(gone) and not (alone and len(new) == 1 and gone)
        starts_at = self.clock() + self.batcher.busy_s() + self.before_it_s()
        for item in gone.values():
            mates = [
                one.cost
                for one in (*self.waiting.values(), *new)
                if (one.model, one.key, one.lane) == (item.model, item.key, item.lane)
            ]
            latest_s = self.room.latency.line(item.model, item.key).bound(sum(mates)) + self.room.after_s
            assert item.ends_at <= starts_at + latest_s + GUARD_S + 1e-9
            assert not item.suspect and item.weighed and item.lane is Lane.INTERACTIVE and item.model in WHOLE
        for model in WHOLE:
            many = sum(item.model == model for item in self.hopeless.values())
            assert not gone or many <= max(HOPELESS_BATCHES * self.limits[model].max_size, self.most_hopeless)
        self.most_hopeless = len(self.hopeless)

    def before_it_s(self) -> float:
        """How long the batch that is claimed ahead takes, where nobody who comes now may overtake it."""
        if self.staged is None:
            return 0.0
        urgent = any(item.lane is Lane.INTERACTIVE and not item.late for item in self.staged.items)
        kept = self.shares[0].owed() or self.clock() - self.staged_at >= OVERTAKEN * TARGET_S
        line = self.room.latency.line(self.staged.model.name, self.staged.key)
        return line.predict(sum(item.cost for item in self.staged.items)) if urgent or kept else 0.0

    # Out

    @precondition(lambda self: self.batch is None)
    @rule()
    def take(self) -> None:
        now, owed = self.clock(), any(share.owed() for share in self.shares)
        in_time = {item.id for item in self.waiting.values() if not item.late}
        held = dict(self.waiting)
        batch = self.batcher.take(wait=False)
        self.notice_abandoned(held, now)
        self.notice_revived(now, batch)
        self.running = "" if batch is None else batch.model.name
        if self.staged is not None and batch is self.staged:
            self.begin(batch)
            return
        if self.closed:
            assert batch is None
            return
        for id in in_time:
            if (item := self.waiting.get(id)) is not None and item.late:
                self.judge_demotion(item, now, held)
        if batch is None:
            assert self.staged is None, "it is ready"
            self.judge_hold(now)
            for item in self.hopeless.values():
                if item.model in self.resident:
                    mates = [
                        one.cost for one in self.hopeless.values() if (one.model, one.key) == (item.model, item.key)
                    ]
                    latest_s = self.room.latency.line(item.model, item.key).bound(sum(mates)) + self.room.after_s
                    assert item.ends_at <= now + latest_s + GUARD_S + 1e-9, "the device has nothing else to do"
            return
        if self.staged is not None:
            assert any(item.lane is Lane.INTERACTIVE and not item.late for item in batch.items)
            assert not batch.items[0].suspect and not self.shares[0].owed()
            assert now - self.staged_at < OVERTAKEN * TARGET_S
            assert all(item.lane is not Lane.INTERACTIVE or item.late for item in self.staged.items)
        for item in batch.items:
            assert self.waiting.pop(item.id) is item
        self.judge(batch, owed)
        self.begin(batch)

    def notice_revived(self, now: float, batch: Batch | None) -> None:
        """A device with nothing else to do tries who could be in time after all."""
        left = {item.id for item in self.room.hopeless.items}
        revived = [item for id, item in self.hopeless.items() if id not in left]
        for item in revived:
            assert item.late and item.ends_at > now and item.model in self.resident
            self.waiting[item.id] = self.hopeless.pop(item.id)
        if revived and batch is not None:
            assert all(item.id in {one.id for one in revived} or item.model == "pinned" for item in batch.items)

    def notice_abandoned(self, held: dict[str, Item], now: float) -> None:
        """Nobody is abandoned whose deadline does not pass while the batch before it runs, nor for nothing."""
        for item in list(self.room.hopeless.items):
            if item.id in self.waiting:
                mates = [one.cost for one in held.values() if (one.model, one.key) == (item.model, item.key)]
                assert len(mates) > 1 and item.late
                expected_s = self.room.latency.line(item.model, item.key).predict(sum(mates))
                assert item.ends_at <= now + expected_s + 1e-9
                self.judge_demotion(item, now, held)
                self.hopeless[item.id] = self.waiting.pop(item.id)

    @rule(longer=st.sets(st.integers(0, 4), max_size=1))
    def the_expired_are_answered_for(self, longer: set[int]) -> None:
        """By SQL, which may know of a longer deadline."""
        now = self.clock()
        due = [item for item in self.hopeless.values() if item.ends_at <= now - ANSWERED_S]
        items = self.batcher.expired(wait=False)
        assert bool(items) == bool(due) or self.closed
        for n, item in enumerate(items or ()):
            assert self.hopeless.pop(item.id) is item and item.model == (items or [])[0].model
            assert item.ends_at <= now
            if n in longer:
                item.ends_at = float("inf")
                assert not self.batcher.release_model(item.model)
                self.batcher.put_back([item])
                self.disordered.add((item.model, item.key))
                self.waiting[item.id] = item
            else:
                self.done.add(item.id)
        if items:
            self.most_hopeless = len(self.hopeless)
            self.the_expired_are_answered_for(set())

    def begin(self, batch: Batch) -> None:
        """It is claimed, and goes onto the device."""
        self.batch = batch
        if batch is self.staged:
            self.staged = None
        self.batcher.began(suspect=batch.items[0].suspect)

    @precondition(lambda self: self.batch is not None and self.staged is None and not self.closed)
    @rule(comes=st.lists(st.tuples(st.sampled_from(QUEUES), items), max_size=3), given_up=st.integers(0, 5))
    def the_next_batch_is_claimed_ahead(self, comes: list, given_up: int) -> None:
        """Shortly before the end of the one that runs, if that is long enough."""
        assert self.batch is not None
        self.clock.advance(max(0.0, self.batcher.busy_s() - 0.001))
        self.the_transport_brings(comes)
        in_time = {item.id for item in self.waiting.values() if not item.late}
        held = dict(self.waiting)
        batch = self.batcher.ahead(wait=False)
        self.notice_abandoned(held, self.clock() + 0.001)
        for id in in_time - {item.id for item in (batch.items if batch else ())}:
            # One may be cancelled while the inputs are read.
            if id in self.waiting and self.waiting[id].late:
                self.judge_demotion(self.waiting[id], self.clock() + 0.001, held)
        if batch is None:
            return
        assert batch.ahead and not any(item.suspect for item in (*batch.items, *self.batch.items))
        for item in batch.items:
            assert self.waiting.pop(item.id) is item
        self.judge(batch, owed=True)
        if not given_up:
            self.batcher.staged(None)
            self.done |= {item.id for item in batch.items}
            return
        batch.claimed = Run(batch, live=list(batch.items))
        self.batcher.staged(batch)
        self.staged, self.staged_at = batch, self.clock()

    @precondition(lambda self: self.staged is not None)
    @rule()
    def what_was_claimed_ahead_is_taken_away(self) -> None:
        """The model does not return, or the worker ends."""
        run, staged = self.batcher.seize(), self.staged
        assert run is not None and staged is not None and run is staged.claimed
        self.done |= {item.id for item in run.live}
        self.staged = None

    def judge(self, batch: Batch, owed: bool) -> None:
        items, model = batch.items, batch.model.name
        limit = self.limits[model]
        assert {(item.model, item.key) for item in items} == {(model, batch.key)}
        assert model in self.resident and model in WHOLE
        assert all(item.weighed for item in items)
        assert len(items) <= limit.max_size
        if len(items) > 1:
            assert limit.max_cost is None or sum(item.cost for item in items) <= limit.max_cost
            assert not any(item.suspect for item in items)
        assert (batch.reason == "suspect") == items[0].suspect
        timely = [item for item in items if item.lane is Lane.INTERACTIVE and not item.late]
        # Background that has not had its share goes first; else nobody who can be in time stands behind one who cannot.
        if not timely and not (owed and self.policy == "adaptive"):
            assert not self.urgent()
        assert items[: len(timely)] == timely, "in time, then the late, then background"
        if timely and (model, batch.key) not in self.disordered:
            # Before a batch that was claimed ahead, inputs that are in SQL are not read: nobody knows what they are.
            known = [item for item in self.urgent() if item.weighed or self.staged is None]
            left = [item.rank for item in known if (item.model, item.key) == (model, batch.key)]
            assert max(item.rank for item in timely) <= min(left, default=(1, 0.0))

    def judge_hold(self, now: float) -> None:
        """Work-conserving: the device idles only for a pinned wait that is not over."""
        lines: dict[tuple[str, bool, str], list[Item]] = {}
        for item in self.waiting.values():
            if item.model in self.resident and item.model in WHOLE:
                assert item.model == "pinned", "nothing else may be held back"
                lines.setdefault((item.lane, item.late, item.key), []).append(item)
        for line in lines.values():
            assert any(item.arrived_at + WAIT_S > now for item in line)

    def judge_demotion(self, item: Item, now: float, held: dict[str, Item]) -> None:
        """Late is only who could not have been in time with the others of its line."""
        mates = [one.cost for one in held.values() if (one.model, one.key) == (item.model, item.key)]
        assert self.policy == "adaptive" and item.lane is Lane.INTERACTIVE
        bound_s = self.room.latency.line(item.model, item.key).bound(sum(mates))
        assert item.due_at < now + bound_s + self.room.after_s + GUARD_S + 1e-9

    @precondition(lambda self: self.batch is not None)
    @rule(
        seconds=st.sampled_from([0.001, 0.01, 0.05, 0.3, 2.0]),
        clean=st.booleans(),
        suspects=st.sets(st.integers(0, 4), max_size=2),
        ahead=st.booleans(),
        comes=st.lists(st.tuples(st.sampled_from(QUEUES), items), max_size=4),
    )
    def the_batch_ends(self, seconds: float, clean: bool, suspects: set[int], ahead: bool, comes: list) -> None:
        """Its members have run, but for those that SQL gives away alone only."""
        if ahead and self.staged is None and not self.closed:
            self.the_next_batch_is_claimed_ahead([], 1)
            self.the_transport_brings(comes)
        batch, self.batch = self.batch, None
        assert batch is not None
        self.clock.advance(seconds)
        back = [item for n, item in enumerate(batch.items) if n in suspects and len(batch.items) > 1]
        for item in back:
            item.suspect = True
            self.disordered.add((item.model, item.key))
        self.batcher.put_back(back)
        if self.closed:
            # Their messages stay unacknowledged: the broker gives them out again.
            self.done |= {item.id for item in back}
        else:
            self.waiting |= {item.id: item for item in back}
        ran = [item for item in batch.items if item not in back]
        self.done |= {item.id for item in ran}
        cost = sum(item.cost for item in ran)
        shares = [
            sum(i.cost for i in ran if i.lane is not Lane.INTERACTIVE) / (cost or 1.0),
            sum(i.cost for i in ran if i.late) / (cost or 1.0),
        ]
        self.batcher.learn(
            batch, cost=cost, background=shares[0], late=shares[1], busy_s=seconds, clean=clean and not back
        )
        for share, own in zip(self.shares, shares, strict=True):
            share.spent(seconds, own, self.clock())
        self.room.settled_after(0.001)

    @precondition(lambda self: self.batch is None and not self.closed)
    @rule(
        wanted=st.lists(st.tuples(st.sampled_from(QUEUES), items), min_size=2, max_size=8),
        seconds=st.sampled_from([0.001, 0.01, 0.05, 0.3]),
        comes=st.lists(st.tuples(st.sampled_from(QUEUES), items), min_size=1, max_size=4),
    )
    def a_whole_turn(self, wanted: list, seconds: float, comes: list) -> None:
        """The usual course, which single steps seldom make up."""
        self.the_transport_brings(wanted)
        self.take()
        if self.batch is not None:
            self.the_batch_ends(seconds, True, set(), True, comes)

    @precondition(lambda self: not self.closed)
    @rule(lane=st.sampled_from(LANES), count=st.integers(1, 4))
    def newcomers_of_the_step_model_begin(self, lane: Lane, count: int) -> None:
        before = self.of("steps", lane)
        items = self.batcher.admit("steps", lane, count, "begin").items
        assert len(items) <= count and bool(items) == bool(before)
        assert len(items) == 1 or not any(item.suspect for item in items)
        for item in items:
            assert self.waiting.pop(item.id).model == "steps"
            self.done.add(item.id)

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.06, 0.5, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # Cancellation, limits, residency, the end

    @rule(modulus=st.integers(1, 4), later=st.booleans())
    def some_are_cancelled(self, modulus: int, later: bool) -> None:
        """Now, or by the hub's thread while the device's reads inputs."""
        if later:
            self.meanwhile = modulus
        else:
            self.cancel(modulus)

    def cancel(self, modulus: int) -> None:
        matching = {id for id in (*self.waiting, *self.hopeless) if int(id[1:]) % modulus == 0}
        self.leave(self.batcher.pull(lambda item: int(item.id[1:]) % modulus == 0), matching)

    def leave(self, items: Iterable[Item], expected: set[str]) -> None:
        ids = [item.id for item in items]
        assert sorted(ids) == sorted(expected), "each exactly once"
        for id in ids:
            del (self.waiting if id in self.waiting else self.hopeless)[id]
            self.done.add(id)

    @rule(size=st.integers(1, 4))
    def a_ceiling_is_learned(self, size: int) -> None:
        limits = Batching(max_size=size, max_cost=6.0, cost=float, key=str)
        self.limits["keyed"] = limits
        self.batcher.limit("keyed", limits)

    @rule(names=st.one_of(st.just(set(WHOLE)), st.sets(st.sampled_from(WHOLE))))
    def models_are_loaded(self, names: set[str]) -> None:
        # What waits or runs stays, and step-wise models do always.
        self.resident = names | {"steps"} | {name for name in WHOLE if name in self.resident and self.in_use(name)}
        self.batcher.set_resident(self.resident)

    @rule(name=st.sampled_from(WHOLE))
    def a_model_is_evicted(self, name: str) -> None:
        left = self.batcher.release_model(name)
        assert left != self.in_use(name)
        if left:
            self.resident.discard(name)

    def in_use(self, name: str) -> bool:
        ahead = self.staged is not None and self.staged.model.name == name
        return ahead or self.running == name or any(item.model == name for item in self.waiting.values())

    @precondition(lambda self: self.made > 20)
    @rule()
    def the_worker_stops(self) -> None:
        self.leave(self.batcher.close(), {*self.waiting, *self.hopeless})
        self.closed = True

    def teardown(self) -> None:
        self.leave(self.batcher.close(), {*self.waiting, *self.hopeless})
        if self.staged is not None:
            last = self.batcher.take()
            assert last in (None, self.staged), "a short one still runs"
            assert last is not None or self.batcher.seize() is self.staged.claimed
            self.done |= {item.id for item in self.staged.items}
        assert self.room.empty and self.batcher.take() is None
        on_device = {item.id for item in self.batch.items} if self.batch else set()
        assert self.done | on_device == {f"j{n}" for n in range(1, self.made + 1)}, "nothing is lost"

    # What holds after every step

    @invariant()
    def everything_is_in_one_place(self) -> None:
        on_device = {item.id for batch in (self.batch, self.staged) if batch for item in batch.items}
        places = (self.waiting.keys(), on_device, self.hopeless.keys(), self.done)
        assert sum(map(len, places)) == len(set().union(*places)) == self.made
        assert len(self.batcher) == len(self.waiting)
        for _, model, lane in QUEUES:
            items = self.of(model, lane)
            assert self.batcher.count(model, lane) == len(items)
            # What is claimed ahead goes by it.
            assert self.room.lines.cost[model, lane] == pytest.approx(sum(item.cost for item in items), abs=1e-6)

    @invariant()
    def quotas_keep_their_bound(self) -> None:
        quota = self.batcher.quota()
        assert list(quota) == [queue for queue, _, _ in QUEUES], "a queue that is not named is claimed without end"
        for queue, model, lane in QUEUES:
            assert quota[queue] >= 0
            if quota[queue]:
                assert not self.closed and model in self.resident
                assert len(self.of(model, lane)) + quota[queue] <= MOST[model]


class GreedyDevice(Device):
    policy = "greedy"


class LongDevice(Device):
    pass


class LongGreedyDevice(GreedyDevice):
    pass


# Without the phase that explains a failure: it traces every line, and takes minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
LONG = settings(
    max_examples=2000,
    stateful_step_count=120,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=PHASES,
)
QUICK = settings(LONG, max_examples=100, stateful_step_count=50)
Device.TestCase.settings = GreedyDevice.TestCase.settings = QUICK
LongDevice.TestCase.settings = LongGreedyDevice.TestCase.settings = LONG
TestAdaptive = Device.TestCase
TestGreedy = GreedyDevice.TestCase
TestAdaptiveLong = pytest.mark.soak(LongDevice.TestCase)
TestGreedyLong = pytest.mark.soak(LongGreedyDevice.TestCase)


@settings(max_examples=examples(40), deadline=None)
@given(
    interactive_s=st.lists(st.floats(0.001, 0.5), min_size=1, max_size=6),
    background_s=st.lists(st.floats(0.001, 0.5), min_size=1, max_size=6),
    due_in=st.sampled_from([0.0, 0.05, 1.0, 100.0]),
)
def test_background_has_its_least_share_beside_a_flood(
    interactive_s: list[float], background_s: list[float], due_in: float
) -> None:
    """However long the batches are: with both lanes always waiting, background never has less than its share."""
    clock = FakeClock(1000.0)
    batcher = Batcher({"plain": Plain}, POLICIES["adaptive"](), namespace=NS, target_s=TARGET_S, clock=clock)
    had = {True: 0.0, False: 0.0}
    longest = max(interactive_s)
    for turn in range(300):
        now = clock()
        new = []
        for lane in LANES:
            for n in range(8 - batcher.count("plain", lane)):
                item = Item(
                    f"{turn}-{lane}-{n}", "plain", lane, input="1", tag=1, source="", arrived_at=now, claimed_at=0
                )
                if lane is Lane.INTERACTIVE:
                    item.due_at = now + due_in
                    item.rank = (0, item.due_at)
                new.append(item)
        batcher.put(new)
        batch = batcher.take(wait=False)
        assert batch is not None, "work waits"
        others, late = (
            sum(item.lane is Lane.BACKGROUND for item in batch.items) / len(batch.items),
            sum(item.late for item in batch.items) / len(batch.items),
        )
        times = interactive_s if others < 1 else background_s
        seconds = times[turn % len(times)]
        clock.advance(seconds)
        batcher.learn(batch, cost=float(len(batch.items)), background=others, late=late, busy_s=seconds, clean=True)
        had[True] += seconds * others
        had[False] += seconds
        # One batch in time and one of late work, which is owed its share as well, may go before it.
        assert had[True] >= MinimumShare.SHARE * (had[False] - 2 * longest) * 0.9 - 1e-9
