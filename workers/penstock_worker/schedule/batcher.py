"""The worker's waiting room between its threads: claimed items in, batches out.

The hub puts items in, the device thread takes batches, the stager claims the next one meanwhile, the expirer answers
for those whose time is over. What is decided is ``policy/waitingroom``'s; this class has its lock, its clock, and who
waits for what.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from penstock.clock import monotonic_s
from penstock.lane import Lane, queue_name
from penstock.model import Batching, Model
from penstock.policy.ahead import Turn
from penstock.policy.batching import BatchingPolicy, Hold
from penstock.policy.latency import LatencyBook
from penstock.policy.waitingroom import Chosen, WaitingRoom, in_order, is_urgent
from penstock.stepwise import StepModel
from penstock_worker.item import INFINITY, Batch, Item, Run

#: A batch that was claimed ahead and takes longer than this goes back when the worker stops, seconds.
LAST_S = 1.0
#: Those that were abandoned are answered for so long after the deadline of the first of them, seconds.
ANSWERED_S = 0.05
#: So many are answered for at a time: many in one transaction.
ANSWERED_AT_ONCE = 500


class Batcher:
    """A waiting room that threads share, bounded by the quotas that it gives to the transport."""

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
        self._clock = clock
        #: Called when the device has nothing to do and quotas may have grown.
        self._hungry = hungry
        #: Finds cost and key of items whose inputs are in SQL; called by the device thread.
        self._weigh = weigh
        #: Whether one of the threads reads them now.
        self._weighing = False
        self.room = WaitingRoom[Item, Batch](
            {name: cls.batching for name, cls in models.items()},
            policy,
            queues=in_order(models, partial(queue_name, namespace)),
            # Their lines are not for the batching policy: see ``iteration``.
            stepwise=frozenset(name for name, cls in models.items() if issubclass(cls, StepModel)),
            prefetch_batches=prefetch_batches,
            lead_s=lead_s,
            target_s=target_s,
            latency=latency,
        )
        lock = threading.RLock()
        #: The device thread waits for the first, the stager for the second, the expirer for the third.
        self._changed = threading.Condition(lock)
        self._stage_changed = threading.Condition(lock)
        self._abandoned_changed = threading.Condition(lock)
        self._closed = False
        #: The model of those that the expirer has now: they may come back.
        self._answered = ""
        #: Until when the expirer waits; it does not: minus infinity.
        self._answers_at = -INFINITY
        #: Whether batches are claimed ahead at all (``stager``).
        self.staging = False

    # For the transport ----------------------------------------------------------------------------------------

    def quota(self) -> dict[str, int]:
        """How many more items of each queue may be claimed now, in order of service.

        Every queue is named, also with nothing wanted: one that is not would be claimed from by Celery's own prefetch
        rule.
        """
        if self._closed:
            return dict.fromkeys(self.room.queues.values(), 0)
        return self.room.quotas(self._clock())

    def busy_s(self) -> float:
        """For how long the running batch will keep the device, seconds, as far as is known."""
        return self.room.busy_s(self._clock())

    def claim_in_s(self) -> float | None:
        """After how long it is time to claim, seconds; ``None`` when it is already."""
        wait_s = self.busy_s() - self.room.lead_s
        return wait_s if wait_s > 0 else None

    # In -------------------------------------------------------------------------------------------------------

    def put(self, items: Iterable[Item]) -> None:
        """Add items to their lines and wake the device thread."""
        items = list(items)
        with self._changed:
            now = self._clock()
            abandoned = self.room.put(items, now)
            self._tell_expirer()
            if abandoned < len(items) and self.room.ahead.allowed and self.room.is_soon(now):
                self._stage_changed.notify()
            self._changed.notify()

    def put_back(self, items: Sequence[Item]) -> None:
        """Put items that could not be claimed back to the head of their lines; nothing once closed.

        A stopping worker leaves their messages unacknowledged, as it does with what it had not started.
        """
        with self._changed:
            if not self._closed and items:
                self.room.lines.put_back(items)
                self._changed.notify()

    def limit(self, model: str, batching: Batching) -> None:
        """From now on, batches of ``model`` keep within these limits."""
        with self._changed:
            self.room.limits[model] = batching

    # For the expirer ------------------------------------------------------------------------------------------

    def expired(self, *, wait: bool = True) -> list[Item] | None:
        """Blocks until deadlines of jobs that were abandoned have passed; these, of one model. ``None`` when closed,
        or without ``wait`` when there are none."""
        with self._changed:
            self._answered = ""
            while not self._closed:
                now, at = self._clock(), self.room.hopeless.ends_at + ANSWERED_S
                if at <= now and (expired := self.room.hopeless.expired(now, most=ANSWERED_AT_ONCE)):
                    self._answered = expired[0].model
                    return expired
                if not wait:
                    break
                self._answers_at = at
                forever = self._answers_at == INFINITY
                self._abandoned_changed.wait(None if forever else max(0.0, self._answers_at - now) + 1e-6)
                self._answers_at = -INFINITY
        return None

    def _tell_expirer(self) -> None:
        # Woken for each that is abandoned, it would take as much of the processor as the device thread.
        if self.room.hopeless.ends_at + ANSWERED_S < self._answers_at:
            self._abandoned_changed.notify()

    def revive(self) -> bool:
        """The device has nothing to do: whether there is anybody who was abandoned and is tried after all."""
        with self._changed:
            return self.room.revive(self._clock())

    def revive_in_s(self) -> float | None:
        """After how long a device that stays idle tries whoever was abandoned; ``None``: there is nobody."""
        with self._changed:
            return self.room.revive_in_s(self._clock())

    # Residency ------------------------------------------------------------------------------------------------

    def set_resident(self, names: Iterable[str]) -> None:
        """Claim and run only these models from now on."""
        with self._changed:
            self.room.lines.resident = frozenset(names)
            self._changed.notify()
        self._hungry()

    def drain(self, names: Iterable[str]) -> None:
        """Claim nothing of these models until told otherwise, and run what is here: another one needs their room."""
        names = frozenset(names)
        with self._changed:
            ended, self.room.draining = self.room.draining - names, names
        if ended:
            self._hungry()

    def leave(self, lanes: frozenset[tuple[str, Lane]]) -> None:
        """Claim nothing of these models' lanes from now on, and again of those that are not named."""
        with self._changed:
            ended, self.room.left = self.room.left - lanes, lanes
        if ended:
            self._hungry()

    def release_model(self, name: str) -> bool:
        """Have nothing more to do with a model, unless it is in use; whether that is so now."""
        with self._changed:
            if self.uses(name):
                return False
            self.room.lines.resident = (self.room.lines.resident or frozenset(self._models)) - {name}
            return True

    def uses(self, name: str) -> bool:
        """Whether items of this model wait here or run."""
        return self.room.uses(name) or self._answered == name

    def served(self) -> Mapping[str, int]:
        """How many items of each model were released, ever."""
        return dict(self.room.served)

    # Out ------------------------------------------------------------------------------------------------------

    def take(self, *, wait: bool = True, beside: bool = False) -> Batch | None:
        """The next batch; blocks until there is one. ``None`` when closed, or without ``wait`` when there is none.

        ``beside``: others are held, so that no suspect may begin; what stands behind one waits with it.

        A short one that was claimed ahead still comes when closed: its jobs are running, as far as anybody knows.
        """
        with self._changed:
            room, ahead = self.room, self.room.ahead
            ahead.searched()
            room.ended(self._clock())
            while True:
                if ahead.claiming is not None:
                    self._changed.wait()
                    continue
                staged = ahead.staged
                if self._closed:
                    return self._start(staged) if staged is not None and room.duration_s(staged) <= LAST_S else None
                now = self._clock()
                if staged is not None and not room.may_overtake(staged, now):
                    return self._start(staged)
                if room.lines.unweighed and staged is None and not self._weighing:
                    self._weigh_new()
                    continue
                chosen = room.decide(now, beside=beside)
                self._tell_expirer()
                if staged is not None:
                    if isinstance(chosen, Chosen):
                        if is_urgent(chosen) and not chosen.items[0].suspect:
                            return self._start(self._batch(chosen))
                        room.uncut(chosen)
                    return self._start(staged)
                if isinstance(chosen, Chosen):
                    batch = self._batch(chosen)
                    batch.beside = beside
                    return self._start(batch)
                if not beside and self.revive():
                    continue
                if not wait:
                    return None
                if room.withheld:
                    # The device is free earlier than was thought.
                    room.withheld = False
                    self._hungry()
                self._changed.wait(self._timeout(chosen, now))

    def _batch(self, chosen: Chosen[Item]) -> Batch:
        return Batch(self._models[chosen.name], chosen.items, chosen.reason, key=chosen.key)

    def _start(self, batch: Batch) -> Batch:
        batch.taken_mono = now = self._clock()
        self.room.start(batch, now)
        return batch

    def _timeout(self, decision: Hold, now: float) -> float | None:
        times = [] if decision.until is None else [max(0.0, decision.until - now)]
        if (revive_s := self.revive_in_s()) is not None:
            times.append(revive_s)
        # One microsecond more, so that the wake-up does not come just before the instant it waits for.
        return min(times) + 1e-6 if times else None

    def began(self, *, suspect: bool) -> None:
        """The jobs of the batch that was taken are claimed, and it goes onto the device: the next may be claimed now.

        Not behind a suspect: if its worker dies, it must have been alone.
        """
        with self._stage_changed:
            self.room.began(self._clock(), stage=self.staging and not suspect)
            if self.room.ahead.allowed:
                self._stage_changed.notify()

    def finished(self) -> None:
        """The batch that was taken has ended, for who does not take the next one at once."""
        with self._changed:
            self.room.ended(self._clock())

    def _weigh_new(self) -> None:
        """Give the lock up for as long as SQL takes; what is being weighed stays in reach of ``close``."""
        new = list(self.room.lines.unweighed)
        self._weighing = True
        self._changed.release()
        try:
            self._weigh(new)
        finally:
            self._changed.acquire()
            self._weighing = False
            self._changed.notify_all()
            self._stage_changed.notify_all()
        self.room.lines.weighed(new)

    # For the claim ahead (see ``stager``) ---------------------------------------------------------------------

    def ahead(self, *, wait: bool = True) -> Batch | None:
        """Blocks until it is time to claim the batch behind the one that runs; that batch. ``None`` when closed, or
        without ``wait`` when it is not time.

        Whoever calls it must answer with ``staged``: until then the device thread waits for it.
        """
        with self._stage_changed:
            room = self.room
            while not self._closed:
                now, lead_s = self._clock(), room.lead_s
                left_s = room.busy_until - now
                turn = room.ahead.turn(left_s, lead_s)
                if turn is Turn.CALL:
                    # First what is at the broker: it comes through ``put``.
                    room.ahead.called(now)
                    self._hungry()
                    continue
                if room.ahead.allowed and room.lines.unweighed and not self._weighing and left_s <= lead_s:
                    # The device thread would not get round to it: there is always a batch that was claimed ahead.
                    self._weigh_new()
                    continue
                if turn is Turn.CHOOSE:
                    room.ahead.looks(now)
                    batch = self._choose_ahead()
                    room.ahead.chose(batch)
                    if batch is not None:
                        return batch
                    turn = None  # what comes now tells
                if not wait:
                    return None
                assert not isinstance(turn, Turn)
                self._stage_changed.wait(turn)
        return None

    def _choose_ahead(self) -> Batch | None:
        """What the policy would release when the running batch has ended."""
        chosen = self.room.decide_ahead(self._clock())
        self._tell_expirer()
        if not isinstance(chosen, Chosen):
            return None
        if chosen.items[0].suspect:
            self.room.ahead.allowed = False
            self.room.uncut(chosen)
            return None
        batch = self._batch(chosen)
        batch.ahead = True
        return batch

    def staged(self, batch: Batch | None) -> None:
        """The claim that ``ahead`` asked for was made; ``None``: it was given up, and its items are lost here."""
        with self._changed:
            self.room.ahead.claimed(batch, self._clock())
            self._changed.notify_all()

    def seize(self, wait_s: float = 0.0) -> Run | None:
        """Take what was claimed ahead away from the device thread; waits so long for a claim that is under way."""
        with self._changed:
            self._changed.wait_for(lambda: self.room.ahead.claiming is None, wait_s)
            staged = self.room.ahead.seize()
            return None if staged is None else staged.claimed

    # For step-wise models (see ``iteration``) -----------------------------------------------------------------

    def waiting(self) -> list[tuple[str, Lane, int, Item]]:
        """``(model, lane, how many, the first)`` of each queue of which items wait."""
        with self._changed:
            if self.room.lines.unweighed:
                self._weigh_new()
            return self.room.lines.queues()

    def suspects(self) -> dict[tuple[str, Lane], float]:
        """The queues in which a suspect is first of its line, and when it came."""
        with self._changed:
            return self.room.lines.suspects()

    def waiting_in(self, lane: Lane) -> int:
        """How many wait in a lane. Takes no lock: asked after each step."""
        return sum(count for (_, of), count in self.room.lines.waiting.items() if of is lane)

    def admit(self, model: str, lane: Lane, count: int, reason: str) -> Batch:
        """The first items of a queue of a step-wise model, at most ``count``; fewer when they were pulled meanwhile.

        A suspect is admitted alone.
        """
        with self._changed:
            items = self.room.cut_queue(model, lane, count)
        return Batch(self._models[model], items, reason, taken_mono=self._clock())

    def wait(self, timeout_s: float, *, seen: int) -> None:
        """Until the number of waiting items is not ``seen`` any more, the batcher is closed, or the time is over."""
        with self._changed:
            if not self._closed and len(self) == seen:
                self._changed.wait(timeout_s)

    # What came of it ------------------------------------------------------------------------------------------

    def learn(self, batch: Batch, *, cost: float, background: float, late: float, busy_s: float, clean: bool) -> None:
        """See ``WaitingRoom.learn``."""
        self.room.learn(batch, self._clock(), cost=cost, background=background, late=late, busy_s=busy_s, clean=clean)

    def pull(self, matching: Callable[[Item], bool]) -> list[Item]:
        """Take the matching items out of their lines (a revoked or cancelled job must not run)."""
        with self._changed:
            return self.room.pull(matching)

    def held(self) -> list[Item]:
        """Everything that was claimed and has not begun, what is claimed ahead in SQL included."""
        with self._changed:
            ahead = self.room.ahead.batch
            return [*(ahead.items if ahead is not None else ()), *self.room.lines, *self.room.hopeless.items]

    def count(self, model: str, lane: Lane) -> int:
        """How many items of a queue wait."""
        return self.room.lines.waiting[model, lane]

    @property
    def closed(self) -> bool:
        """Whether no new work starts."""
        return self._closed

    def __len__(self) -> int:
        return len(self.room.lines)

    def close(self) -> list[Item]:
        """Stop giving batches; returns what was still waiting, to be given back to the broker."""
        with self._changed:
            self._closed = True
            left = self.room.clear()
            self._changed.notify_all()
            self._stage_changed.notify_all()
            self._abandoned_changed.notify_all()
        return left
