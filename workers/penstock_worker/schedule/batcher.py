"""The worker's waiting room: claimed items in, batches out.

The hub thread puts items in, the device thread takes batches. Which ones is the policy's decision; this class only
gathers what the policy may know and obeys.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from penstock.clock import monotonic_s
from penstock.lane import LANES, Lane, queue_name
from penstock.model import Batching, Model
from penstock.policy.batching import BatchingPolicy, Demote, Hold, Release, Snapshot
from penstock.policy.hopeless import Hopeless
from penstock.policy.isolation import MinimumShare
from penstock.policy.latency import LatencyBook
from penstock.policy.prefetch import Lead, Queue, quotas, room
from penstock.stepwise import StepModel
from penstock_worker.item import INFINITY, Batch, Item, Run
from penstock_worker.schedule.lines import Lines

#: A batch that was claimed ahead and takes longer than this goes back when the worker stops, seconds.
LAST_S = 1.0
#: Those that were given up are answered for so long after the deadline of the first of them (seconds), and so many at a
#: time: many in one transaction.
ANSWERED_S, ANSWERED_AT_ONCE = 0.05, 500
#: Interactive batches go before background work that was claimed ahead for so long, in targets.
OVERTAKEN = 0.5


class Batcher:
    """Waiting lines (``lines``) that two threads share, bounded by the quotas that it gives to the transport."""

    def __init__(
        self,
        models: Mapping[str, type[Model]],
        policy: BatchingPolicy,
        *,
        namespace: str,
        prefetch_batches: float = 2.0,
        lead_s: float = 0.02,
        target_s: float = 0.1,
        latency: LatencyBook | None = None,
        clock: Callable[[], float] = monotonic_s,
        hungry: Callable[[], None] = lambda: None,
        weigh: Callable[[Sequence[Item]], None] = lambda _: None,
    ) -> None:
        self._models = models
        self._policy = policy
        self._clock = clock
        self._lead = Lead(lead_s)
        self._target_s = target_s
        #: Called when the device has nothing to do and quotas may have grown.
        self._hungry = hungry
        #: Finds cost and key of items whose inputs are in SQL; called by the device thread.
        self._weigh = weigh
        #: Whether one of the threads reads them now.
        self._weighing = False
        self.latency = latency or LatencyBook()
        #: From the end of a batch to the news of it, seconds, smoothed.
        self.after_s = 0.0
        #: From the choice of a batch to its start where it was not claimed ahead, seconds, smoothed.
        self.claim_s = 0.0
        lock = threading.RLock()
        #: The device thread waits for the first, the stager for the second, the expirer for the third.
        self._changed, self._stage_changed = threading.Condition(lock), threading.Condition(lock)
        self._given_up_changed = threading.Condition(lock)
        self._closed = False
        #: Their lines are not for the batching policy: see ``iteration``.
        self._steps = frozenset(name for name, cls in models.items() if issubclass(cls, StepModel))
        #: Sequences of step-wise models that have begun, by queue: claims ahead shrink by them.
        self.begun: dict[str, int] = {}
        self._limits: dict[str, Batching] = {name: cls.batching for name, cls in models.items()}
        self.lines = Lines(models, self._steps)
        #: Those that were given up, beside the lines.
        self.hopeless = Hopeless[Item](self._limits, self.latency)
        #: The model of those that the expirer has now: they may come back. Until when it waits; it does not: minus
        #: infinity.
        self._answered, self._answers_at = "", -INFINITY
        self._batches = prefetch_batches
        #: By lane, in the order of service: (queue, model, most items that may ever wait of it).
        self._quotas = {
            lane: [
                (queue_name(namespace, name, lane), name, max(1, int(cls.batching.max_size * prefetch_batches)))
                for name, cls in models.items()
            ]
            for lane in LANES
        }
        self._names = {(name, lane): queue for lane in LANES for queue, name, _ in self._quotas[lane]}
        self._busy_until = 0.0
        #: Whether a batch runs, whether something was claimed for the one behind it, and interactive items among that.
        self._running = self._fed = self._fed_urgent = False
        self._running_model = ""
        #: Since when the device has had nothing to do, if it has not.
        self._free_since = -INFINITY
        #: Whether batches are claimed ahead at all (``stager``), and behind the one that runs.
        self.staging = self._may_stage = False
        #: The batch that is being claimed ahead, then that one with its claim.
        self._claiming: Batch | None = None
        self._staged: Batch | None = None
        #: Since when it is claimed.
        self._staged_at = 0.0
        #: Whether the hub was told that it is time to claim behind the running batch, and how long that one takes.
        self._called = False
        #: Since when claims bring what will run behind it, until that is chosen, and when some of it was last given up.
        self._searching_since: float | None = None
        self._hopeless_at = -INFINITY
        self._running_s, self._running_items = 0.0, 0
        self._chosen_at = 0.0
        #: Nothing is claimed of these: they are to leave the device.
        self._draining: frozenset[str] = frozenset()
        #: Nothing is claimed of these models' lanes: other workers do them.
        self.left: frozenset[tuple[str, Lane]] = frozenset()
        self._served = dict.fromkeys(models, 0)
        #: How many items of each queue the transport was last asked for.
        self._asked: Mapping[str, int] = {}
        #: Whether quotas were cut because the device is busy.
        self._withheld = False
        self._interactive_at: float | None = None
        self._background_share, self._late_share = MinimumShare(), MinimumShare()

    # For the transport ----------------------------------------------------------------------------------------

    def quota(self) -> dict[str, int]:
        """How many more items of each queue may be claimed now, in order of service.

        Every queue is named, also with nothing wanted: one that is not would be claimed from by Celery's own prefetch
        rule.
        """
        if self._closed:
            return {queue: 0 for lane in LANES for queue, _, _ in self._quotas[lane]}
        queues = self._queues()
        found = quotas(
            queues,
            busy_s=self.busy_s() + self._staged_s(),
            lead_s=self.lead_s,
            fed=self._running and self._fed,
            fed_urgent=self._fed_urgent,
            overtaken_s=self._staged_s() if self._staged_leftover() else 0.0,
        )
        self._asked = found
        self._withheld = any(not found[queue.name] for queue in queues if not queue.closed)
        return found

    def _queues(self) -> list[Queue]:
        """Every queue as it is now, in order of service."""
        late, resident = self.lines.late(), self.lines.resident
        found = []
        for lane in LANES:
            for queue, name, batches in self._quotas[lane]:
                most = self.room(name)
                if lane is Lane.INTERACTIVE:
                    # Late ones must not stand in the way of those that can be in time.
                    most = min(batches, most + late.get(name, 0))
                ahead_s, full_s = self._ahead(name, lane)
                found.append(
                    Queue(
                        name=queue,
                        lane=lane,
                        waiting=self.lines.waiting[name, lane],
                        room=most,
                        ahead_s=ahead_s,
                        full_s=full_s,
                        begun=self.begun.get(queue, 0) if name in self._steps else None,
                        closed=name in self._draining
                        or (name, lane) in self.left
                        or (resident is not None and name not in resident),
                    )
                )
        return found

    def room(self, model: str) -> int:
        """How many items of a queue of this model may wait here."""
        size = self._limits[model].max_size
        batch_s = 0.0 if model in self._steps else self.latency.line(model).predict(size)
        return room(size, self._batches, batch_s=batch_s, least_s=self._lead.least_s)

    def busy_s(self) -> float:
        """For how long the running batch will keep the device, seconds, as far as is known."""
        until = self._busy_until
        return max(0.0, until - self._clock()) if until else 0.0

    @property
    def lead_s(self) -> float:
        """How long before the running batch ends the next one is claimed, seconds."""
        return self._lead.before(self._running_s, self._running_items)

    def claim_in_s(self) -> float | None:
        """After how long it is time to claim, seconds; ``None`` when it is already."""
        wait_s = self.busy_s() - self.lead_s
        return wait_s if wait_s > 0 else None

    def _staged_s(self) -> float:
        batch = self._staged or self._claiming
        return 0.0 if batch is None else self._duration(batch)

    def _staged_leftover(self) -> bool:
        if self._claiming is not None:
            return not _urgent(self._claiming)
        return self._staged is not None and self._may_overtake(self._staged)

    def _duration(self, batch: Batch) -> float:
        return self.latency.line(batch.model.name, batch.key).predict(sum(item.cost for item in batch.items))

    def _ahead(self, model: str, lane: Lane) -> tuple[float, float]:
        """For how long what waits here will keep the device: all of it, and the full batches in it; seconds."""
        waiting = self.lines.waiting[model, lane]
        if not waiting or model in self._steps:
            return 0.0, 0.0
        line, cost, size = self.latency.line(model), self.lines.cost[model, lane], self._limits[model].max_size
        full = waiting // size
        return line.predict(cost), line.predict(cost * full * size / waiting) if full else 0.0

    # In -------------------------------------------------------------------------------------------------------

    def put(self, items: Iterable[Item]) -> None:
        """Add items to their lines and wake the device thread."""
        items = list(items)
        with self._changed:
            hopeless = set(map(id, self._choose_hopeless(items)))
            for item in items:
                if id(item) in hopeless:
                    self._give_up(item)
                else:
                    self.lines.put(item)
                if item.lane is Lane.INTERACTIVE:
                    self._interactive_at = item.arrived_at
            # What an earlier wait brings while the batch has just begun is not yet the claim for the next one. Nor is
            # what comes with messages that were given up: what stands behind those is claimed at once, and makes a
            # fuller batch.
            if self._running and self.busy_s() <= self.lead_s:
                if not hopeless or self._full(items[0].model, items[0].lane):
                    self._fed = True
                    self._fed_urgent = self._fed_urgent or any(item.lane is Lane.INTERACTIVE for item in items)
                if self._may_stage and len(hopeless) < len(items):
                    self._stage_changed.notify()
            if hopeless:
                self._hopeless_at = self._clock()
            self._changed.notify()

    def _full(self, model: str, lane: Lane) -> bool:
        """Whether a batch of this model is here that is full."""
        late = self.lines.late().get(model, 0) if lane is Lane.INTERACTIVE else 0
        return self.lines.waiting[model, lane] - late >= self._limits[model].max_size

    def _choose_hopeless(self, items: Sequence[Item]) -> list[Item]:
        """Those of a claim that cannot be in time for their own deadlines."""
        if all(item.ends_at == INFINITY for item in items):
            return []
        candidates = [
            item
            for item in items
            if item.lane is Lane.INTERACTIVE and item.weighed and not item.suspect and item.model not in self._steps
        ]
        # Before background work that was claimed ahead they may still go, after a claim of their own.
        starts_in_s = self.busy_s() + (self.claim_s if self._staged_leftover() else self._staged_s())
        return self.hopeless.choose(
            candidates,
            now=self._clock(),
            starts_in_s=starts_in_s,
            after_s=self.after_s,
            free=not (self._running or starts_in_s),
            mates=self.lines.cost_of,
        )

    def _demote(self, decision: Demote) -> None:
        item = self.lines.demote(decision)
        hopeless = decision.ends_at is not None and item.ends_at <= decision.ends_at
        # A suspect has no mates that it could give way to.
        if hopeless and not item.suspect and self.hopeless.room(item.model):
            self._give_up(item)
        else:
            self.lines.put_late([item])

    def _give_up(self, item: Item) -> None:
        item.late = True
        self.hopeless.add(item)
        # Woken for each of them, the expirer would take as much of the processor as the device thread.
        if self.hopeless.ends_at + ANSWERED_S < self._answers_at:
            self._given_up_changed.notify()

    def revive(self) -> bool:
        """The device has nothing to do: whether there is anybody who was given up and is tried after all."""
        with self._changed:
            revived = self.hopeless.revived(
                now=self._clock(), free_since=self._free_since, after_s=self.after_s, resident=self.lines.resident
            )
            self.lines.put_late(revived)
            return bool(revived)

    def revive_in_s(self) -> float | None:
        """After how long a device that stays idle tries whoever was given up; ``None``: there is nobody."""
        with self._changed:
            return self.hopeless.revive_in_s(
                now=self._clock(), free_since=self._free_since, resident=self.lines.resident
            )

    # For the expirer ------------------------------------------------------------------------------------------

    def expired(self, *, wait: bool = True) -> list[Item] | None:
        """Blocks until deadlines of jobs that were given up have passed; these, of one model. ``None`` when closed,
        or without ``wait`` when there are none."""
        with self._changed:
            self._answered = ""
            while not self._closed:
                now, at = self._clock(), self.hopeless.ends_at + ANSWERED_S
                if at <= now and (expired := self.hopeless.expired(now, most=ANSWERED_AT_ONCE)):
                    self._answered = expired[0].model
                    return expired
                if not wait:
                    break
                self._answers_at = at
                forever = self._answers_at == INFINITY
                self._given_up_changed.wait(None if forever else max(0.0, self._answers_at - now) + 1e-6)
                self._answers_at = -INFINITY
        return None

    # Residency ------------------------------------------------------------------------------------------------

    def set_resident(self, names: Iterable[str]) -> None:
        """Claim and run only these models from now on."""
        with self._changed:
            self.lines.resident = frozenset(names)
            self._changed.notify()
        self._hungry()

    def drain(self, names: Iterable[str]) -> None:
        """Claim nothing of these models until told otherwise, and run what is here: another one needs their room."""
        names = frozenset(names)
        with self._changed:
            ended, self._draining = self._draining - names, names
        if ended:
            self._hungry()

    def leave(self, lanes: frozenset[tuple[str, Lane]]) -> None:
        """Claim nothing of these models' lanes from now on, and again of those that are not named."""
        with self._changed:
            ended, self.left = self.left - lanes, lanes
        if ended:
            self._hungry()

    def release_model(self, name: str) -> bool:
        """Have nothing more to do with a model, unless it is in use; whether that is so now."""
        with self._changed:
            if self.uses(name):
                return False
            self.lines.resident = (self.lines.resident or frozenset(self._models)) - {name}
            return True

    def uses(self, name: str) -> bool:
        """Whether items of this model wait here or run."""
        ahead = self._staged or self._claiming
        return (
            self.lines.uses(name)
            or self._answered == name
            or (self._running and self._running_model == name)
            or (ahead is not None and ahead.model.name == name)
        )

    def served(self) -> Mapping[str, int]:
        """How many items of each model were released, ever."""
        return dict(self._served)

    # Out ------------------------------------------------------------------------------------------------------

    def take(self, *, wait: bool = True, beside: bool = False) -> Batch | None:
        """The next batch; blocks until there is one. ``None`` when closed, or without ``wait`` when there is none.

        ``beside``: others are held, so that no suspect may begin; what stands behind one waits with it.

        A short one that was claimed ahead still comes when closed: its jobs are running, as far as anybody knows.
        """
        with self._changed:
            self._searched()
            self._free()
            while True:
                if self._claiming is not None:
                    self._changed.wait()
                    continue
                staged = self._staged
                if self._closed:
                    return self._start(staged) if staged is not None and self._duration(staged) <= LAST_S else None
                if staged is not None and not self._may_overtake(staged):
                    return self._start(staged)
                if self.lines.unweighed and staged is None and not self._weighing:
                    self._weigh_new()
                    continue
                now = self._clock()
                decision = self._policy.decide(self._snapshot(now, self.claim_s, beside=beside))
                if isinstance(decision, Demote):
                    self._demote(decision)
                    continue
                if staged is not None:
                    batch = self._cut(decision) if isinstance(decision, Release) else None
                    if batch is not None and _urgent(batch) and not batch.items[0].suspect:
                        return self._start(batch)
                    if batch is not None:
                        self._uncut(batch)
                    return self._start(staged)
                if isinstance(decision, Release):
                    batch = self._cut(decision)
                    batch.beside = beside
                    return self._start(batch)
                if not beside and self.hopeless.items and self.revive():
                    continue
                if not wait:
                    return None
                if self._withheld:
                    # The device is free earlier than was thought.
                    self._withheld = False
                    self._hungry()
                self._changed.wait(self._timeout(decision, now))

    def _may_overtake(self, staged: Batch) -> bool:
        """Whether interactive batches may go before it: for a while, and unless background work is owed its share."""
        waits_s = self._clock() - self._staged_at
        return waits_s < OVERTAKEN * self._target_s and not (_urgent(staged) or self._background_share.owed())

    def _start(self, batch: Batch) -> Batch:
        """The device thread has it; unless it was claimed ahead, it is claimed now."""
        now = self._clock()
        if batch is self._staged:
            self._staged = None
        self._running, self._running_model = True, batch.model.name
        self._called = False
        self._running_s, self._running_items = self._duration(batch), len(batch.items)
        self._busy_until = now + self._running_s + (0.0 if batch.ahead else self.claim_s)
        batch.taken_mono = now
        return batch

    def began(self, *, suspect: bool) -> None:
        """The jobs of the batch that was taken are claimed, and it goes onto the device: the next may be claimed now.

        Not behind a suspect: if its worker dies, it must have been alone. And behind a batch that is over before a
        claim could be made there is nothing to gain.
        """
        with self._stage_changed:
            self._busy_until = self._clock() + self._running_s
            self._may_stage = self.staging and self._running_s > self._lead.least_s and not suspect
            if self._may_stage:
                self._stage_changed.notify()

    def finished(self) -> None:
        """The batch that was taken has ended, for who does not take the next one at once."""
        with self._changed:
            self._free()

    def _free(self) -> None:
        if self._running:
            self._free_since = self._clock()
        self._busy_until = 0.0
        self._running = self._fed = self._fed_urgent = self._may_stage = False

    # For the claim ahead (see ``stager``) ---------------------------------------------------------------------

    def ahead(self, *, wait: bool = True) -> Batch | None:
        """Blocks until it is time to claim the batch behind the one that runs; that batch. ``None`` when closed, or
        without ``wait`` when it is not time.

        Whoever calls it must answer with ``staged``: until then the device thread waits for it.
        """
        with self._stage_changed:
            while not self._closed:
                left_s, lead_s = self._busy_until - self._clock(), self.lead_s
                if self._may_stage and left_s <= lead_s and not self._called:
                    # First what is at the broker: it comes through ``put``.
                    self._called = True
                    self._searching_since = self._clock()
                    self._hungry()
                    continue
                if self._may_stage and self.lines.unweighed and not self._weighing and left_s <= lead_s:
                    # The device thread would not get round to it: there is always a batch that was claimed ahead.
                    self._weigh_new()
                    continue
                if (
                    self._may_stage
                    and self._staged is None
                    and left_s <= lead_s
                    and (self._fed or left_s <= lead_s / 2)
                ):
                    self._chosen_at = self._clock()
                    self._claiming = self._choose_ahead()
                    if self._claiming is not None:
                        self._searched()
                        return self._claiming
                if not wait:
                    return None
                self._stage_changed.wait(self._ahead_in_s())
        return None

    def _searched(self) -> None:
        """What will run next is chosen: how long did claims take to get behind those that were given up?"""
        if self._searching_since is None:
            return
        took_s = max(0.0, self._hopeless_at - self._searching_since)
        # Where the time was over first, it takes longer than that.
        self._lead.searched(took_s if self._fed else 2.0 * took_s)
        if self._fed and self._claiming is not None:
            since = max(self._searching_since, self._hopeless_at)
            self._lead.fetch.took(max(0.0, self._chosen_at - since), len(self._claiming.items))
        self._searching_since = None

    def _ahead_in_s(self) -> float | None:
        """Until when the stager has nothing to do, unless it is told; seconds."""
        if not self._may_stage:
            return None
        left_s, lead_s = self._busy_until - self._clock(), self.lead_s
        if not self._called:
            return max(0.0, left_s - lead_s)
        if self._staged is None and left_s > lead_s / 2 and not self._fed:
            return left_s - lead_s / 2
        # It has looked and found nothing; what comes now tells it.
        return None

    def _choose_ahead(self) -> Batch | None:
        """What the policy would release when the running batch has ended."""
        while True:
            decision = self._policy.decide(self._snapshot(max(self._clock(), self._busy_until), 0.0))
            if isinstance(decision, Demote):
                self._demote(decision)
                continue
            if not isinstance(decision, Release):
                return None
            batch = self._cut(decision)
            if batch.items[0].suspect:
                self._may_stage = False
                self._uncut(batch)
                return None
            batch.ahead = True
            return batch

    def staged(self, batch: Batch | None) -> None:
        """The claim that ``ahead`` asked for was made; ``None``: it was given up, and its items are lost here."""
        with self._changed:
            self._claiming, self._staged, self._staged_at = None, batch, self._clock()
            if batch is not None:
                self._lead.claim.took(self._clock() - self._chosen_at, len(batch.items))
            self._changed.notify_all()

    def seize(self, wait_s: float = 0.0) -> Run | None:
        """Take what was claimed ahead away from the device thread; waits so long for a claim that is under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._claiming is None, wait_s)
            staged, self._staged = self._staged, None
            return None if staged is None else staged.claimed

    # For step-wise models (see ``iteration``) -----------------------------------------------------------------

    def waiting(self) -> list[tuple[str, Lane, int, Item]]:
        """``(model, lane, how many, the first)`` of each queue of which items wait."""
        with self._changed:
            if self.lines.unweighed:
                self._weigh_new()
            return self.lines.queues()

    def suspects(self) -> dict[tuple[str, Lane], float]:
        """The queues in which a suspect is first of its line, and when it came."""
        with self._changed:
            return self.lines.suspects()

    def waiting_in(self, lane: Lane) -> int:
        """How many wait in a lane. Takes no lock: asked after each step."""
        return sum(count for (_, of), count in self.lines.waiting.items() if of is lane)

    def admit(self, model: str, lane: Lane, count: int, reason: str) -> Batch:
        """The first items of a queue of a step-wise model, at most ``count``; fewer when they were pulled meanwhile.

        A suspect is admitted alone.
        """
        with self._changed:
            items = self.lines.cut_queue(model, lane, count)
            self._served[model] += len(items)
        return Batch(self._models[model], items, reason, taken_mono=self._clock())

    def wait(self, timeout_s: float, *, seen: int) -> None:
        """Until the number of waiting items is not ``seen`` any more, the batcher is closed, or the time is over."""
        with self._changed:
            if not self._closed and len(self.lines) == seen:
                self._changed.wait(timeout_s)

    @property
    def closed(self) -> bool:
        """Whether no new work starts."""
        return self._closed

    def _weigh_new(self) -> None:
        """Give the lock up for as long as SQL takes; what is being weighed stays in reach of ``close``."""
        new = list(self.lines.unweighed)
        self._weighing = True
        self._changed.release()
        try:
            self._weigh(new)
        finally:
            self._changed.acquire()
            self._weighing = False
            self._changed.notify_all()
            self._stage_changed.notify_all()
        self.lines.weighed(new)

    def _snapshot(self, now: float, claim_s: float, *, beside: bool = False) -> Snapshot:
        seen_at = self._interactive_at
        lines = self.lines.without_suspects() if beside else self.lines.visible
        return Snapshot(
            now,
            lines,
            self._limits,
            latency=self.latency,
            target_s=self._target_s,
            quiet_s=None if seen_at is None else now - seen_at,
            after_s=claim_s + self.after_s,
            background_owed=self._background_share.owed(),
            late_owed=self._late_share.owed(),
        )

    def _timeout(self, decision: Hold, now: float) -> float | None:
        times = [] if decision.until is None else [max(0.0, decision.until - now)]
        if self.hopeless.items and (revive_s := self.revive_in_s()) is not None:
            times.append(revive_s)
        # One microsecond more, so that the wake-up does not come just before the instant it waits for.
        return min(times) + 1e-6 if times else None

    def _cut(self, release: Release) -> Batch:
        """The released items, out of their lines."""
        items = self.lines.cut(release)
        self._served[release.model] += len(items)
        reason = "suspect" if items[0].suspect else release.reason
        return Batch(self._models[release.model], items, reason, key=release.key)

    def _uncut(self, batch: Batch) -> None:
        self._served[batch.model.name] -= len(batch.items)
        self.lines.put_back(batch.items)

    def put_back(self, items: Sequence[Item]) -> None:
        """Put items that could not be claimed back to the head of their lines; nothing once closed.

        A stopping worker leaves their messages unacknowledged, as it does with what it had not started.
        """
        with self._changed:
            if not self._closed and items:
                self.lines.put_back(items)
                self._changed.notify()

    def limit(self, model: str, batching: Batching) -> None:
        """From now on, batches of ``model`` keep within these limits."""
        with self._changed:
            self._limits[model] = batching

    # What came of it ------------------------------------------------------------------------------------------

    def learn(self, batch: Batch, *, cost: float, background: float, late: float, busy_s: float, clean: bool) -> None:
        """A batch kept the device for ``busy_s``, ``background`` and ``late`` (0..1) of it for such items.

        Only a ``clean`` one, run as it was released, tells how long such batches take.
        """
        now = self._clock()
        if clean:
            self.latency.observe(batch.model.name, cost, busy_s, batch.key)
            self.hopeless.observed(batch.model.name, now)
        self._background_share.spent(busy_s, background, now)
        self._late_share.spent(busy_s, late, now)

    def settled_after(self, seconds: float) -> None:
        """So long after its end a batch was settled and announced."""
        self.after_s += 0.1 * (seconds - self.after_s)

    def claimed_after(self, seconds: float) -> None:
        """So long after its choice a batch started that was not claimed ahead."""
        self.claim_s += 0.1 * (seconds - self.claim_s)

    def pull(self, matching: Callable[[Item], bool]) -> list[Item]:
        """Take the matching items out of their lines (a revoked or cancelled job must not run)."""
        with self._changed:
            return self.lines.pull(matching) + self.hopeless.pull(matching)

    def held(self) -> list[Item]:
        """Everything that was claimed and has not begun, what is claimed ahead in SQL included."""
        with self._changed:
            ahead = self._staged or self._claiming
            return [*(ahead.items if ahead is not None else ()), *self.lines, *self.hopeless.items]

    def begun_of(self, model: str) -> int:
        """How many interactive sequences of a step-wise model have begun."""
        return self.begun.get(self._names.get((model, Lane.INTERACTIVE), ""), 0)

    def count(self, model: str, lane: Lane) -> int:
        """How many items of a queue wait."""
        return self.lines.waiting[model, lane]

    @property
    def empty(self) -> bool:
        """Whether nothing waits, nor was claimed ahead."""
        return self._staged is None and self._claiming is None and self.lines.empty and not self.hopeless.items

    def __len__(self) -> int:
        return len(self.lines)

    def close(self) -> list[Item]:
        """Stop giving batches; returns what was still waiting, to be given back to the broker."""
        with self._changed:
            self._closed = True
            left = self.lines.clear() + self.hopeless.pull(lambda _: True)
            self._changed.notify_all()
            self._stage_changed.notify_all()
            self._given_up_changed.notify_all()
        return left


def _urgent(batch: Batch) -> bool:
    return any(item.lane is Lane.INTERACTIVE and not item.late for item in batch.items)
