"""A worker's waiting room: what it has claimed and not begun, and all that is decided about it. PURE.

No thread, no lock, no clock: whoever calls (the worker's batcher, the simulator) holds a lock where it needs one and
passes ``now``, seconds of one monotonic clock. Which batch is next is the batching policy's decision; the room gathers
what the policy may know and does as it says.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from penstock.lane import LANES, Lane
from penstock.model import Batching
from penstock.policy.ahead import Ahead
from penstock.policy.batching import BatchingPolicy, Demote, Hold, Release, Snapshot
from penstock.policy.hopeless import INFINITY, Hopeless
from penstock.policy.isolation import MinimumShare
from penstock.policy.latency import LatencyBook
from penstock.policy.lines import Lines, WaitingItem
from penstock.policy.prefetch import Lead, Queue, quotas, room

#: Interactive batches go before background work that was claimed ahead for so long, in targets.
OVERTAKEN = 0.5
#: Weight of the newest time in what it takes to claim and to settle a batch.
NEWEST = 0.1

T = TypeVar("T", bound=WaitingItem)


class Batch(Protocol):
    """What is asked of a batch that was chosen here."""

    @property
    def name(self) -> str:
        """Its model's name."""

    @property
    def key(self) -> str:
        """The key of its items."""

    @property
    def items(self) -> Sequence[WaitingItem]:
        """Those in it."""

    @property
    def ahead(self) -> bool:
        """Whether it was claimed while the one before it ran."""


B = TypeVar("B", bound=Batch)


@dataclass(slots=True)
class Chosen(Generic[T]):
    """Items of one model that the policy released together, out of their lines."""

    name: str
    items: list[T]
    reason: str
    key: str = ""
    #: Whether it is claimed while the batch before it runs.
    ahead: bool = False


class WaitingRoom(Generic[T, B]):
    """Of items ``T`` and batches ``B``.

    ``limits`` are its models', by name; ``queues`` their queues' names by model and lane, in the order of service. Of
    the ``stepwise`` models the batching policy sees nothing: their items are cut off queue by queue.
    """

    def __init__(
        self,
        limits: Mapping[str, Batching],
        policy: BatchingPolicy,
        *,
        queues: Mapping[tuple[str, Lane], str],
        stepwise: Container[str] = (),
        prefetch_batches: float = 2.0,
        lead_s: float = 0.02,
        target_s: float = 0.1,
        latency: LatencyBook | None = None,
    ) -> None:
        self.limits = dict(limits)
        self.queues = queues
        self.latency = latency or LatencyBook()
        self.lines = Lines[T](limits, stepwise)
        #: Those that cannot be in time for their own deadlines, beside the lines.
        self.hopeless = Hopeless[T](self.limits, self.latency)
        self.ahead = Ahead[B](Lead(lead_s))
        self._policy = policy
        self._stepwise = stepwise
        self._batches = prefetch_batches
        #: Most items that may ever wait of a queue of each model.
        self._most = {name: max(1, int(limit.max_size * prefetch_batches)) for name, limit in limits.items()}
        self._target_s = target_s
        #: From the end of a batch to the news of it, seconds, smoothed.
        self.after_s = 0.0
        #: From the choice of a batch to its start where it was not claimed ahead, seconds, smoothed.
        self.claim_s = 0.0
        #: The model of the batch that runs, how long that one takes, and how many items it has.
        self.running: str | None = None
        self._running_s = 0.0
        self._running_items = 0
        #: When the running batch will have ended, as far as is known; 0 where none runs.
        self.busy_until = 0.0
        #: Since when the device has had nothing to do, if it has not.
        self._free_since = -INFINITY
        #: When an interactive item last came.
        self._interactive_at: float | None = None
        #: Whether such work has had its least share of the device.
        self._background_share = MinimumShare()
        self._late_share = MinimumShare()
        #: Sequences of step-wise models that have begun, by queue: claims shrink by them.
        self.begun: Mapping[str, int] = {}
        #: Nothing is claimed of these: they are to leave the device.
        self.draining: frozenset[str] = frozenset()
        #: Nothing is claimed of these models' lanes: other workers do them.
        self.left: frozenset[tuple[str, Lane]] = frozenset()
        #: How many items of each model were released, ever.
        self.served = dict.fromkeys(limits, 0)
        #: Whether quotas were cut because the device is busy.
        self.withheld = False

    # What may be claimed --------------------------------------------------------------------------------------

    def quotas(self, now: float) -> dict[str, int]:
        """How many more items of each queue may be claimed now, in order of service. Every queue is named."""
        queues = self._queues()
        behind_s = self._behind_s()
        found = quotas(
            queues,
            busy_s=self.busy_s(now) + behind_s,
            lead_s=self.lead_s,
            fed=self.running is not None and self.ahead.fed,
            fed_urgent=self.ahead.fed_urgent,
            overtaken_s=behind_s if self._is_overtaken(now) else 0.0,
        )
        self.withheld = any(not found[queue.name] for queue in queues if not queue.closed)
        return found

    def _queues(self) -> list[Queue]:
        late, resident = self.lines.late(), self.lines.resident
        found = []
        for (name, lane), queue in self.queues.items():
            most = self.capacity(name)
            if lane is Lane.INTERACTIVE:
                # Late ones must not stand in the way of those that can be in time.
                most = min(self._most[name], most + late.get(name, 0))
            ahead_s, full_s = self._takes_s(name, lane)
            found.append(
                Queue(
                    name=queue,
                    lane=lane,
                    waiting=self.lines.waiting[name, lane],
                    room=most,
                    ahead_s=ahead_s,
                    full_s=full_s,
                    begun=self.begun.get(queue, 0) if name in self._stepwise else None,
                    closed=name in self.draining
                    or (name, lane) in self.left
                    or (resident is not None and name not in resident),
                )
            )
        return found

    def capacity(self, model: str) -> int:
        """How many items of a queue of this model may wait here."""
        size = self.limits[model].max_size
        batch_s = 0.0 if model in self._stepwise else self.latency.line(model).predict(size)
        return room(size, self._batches, batch_s=batch_s, least_s=self.ahead.lead.least_s)

    def _takes_s(self, model: str, lane: Lane) -> tuple[float, float]:
        """For how long what waits here will keep the device: all of it, and the full batches in it; seconds."""
        waiting = self.lines.waiting[model, lane]
        if not waiting or model in self._stepwise:
            return 0.0, 0.0
        line, cost, size = self.latency.line(model), self.lines.cost[model, lane], self.limits[model].max_size
        full = waiting // size
        return line.predict(cost), line.predict(cost * full * size / waiting) if full else 0.0

    # The device -----------------------------------------------------------------------------------------------

    def busy_s(self, now: float) -> float:
        """For how long the running batch will keep the device, seconds, as far as is known."""
        return max(0.0, self.busy_until - now) if self.busy_until else 0.0

    @property
    def lead_s(self) -> float:
        """How long before the running batch ends the next one is claimed, seconds."""
        return self.ahead.lead.before(self._running_s, self._running_items)

    def is_soon(self, now: float) -> bool:
        """Whether a batch runs and it is time to claim the one behind it."""
        return self.running is not None and self.busy_s(now) <= self.lead_s

    def start(self, batch: Batch, now: float) -> None:
        """The device has it; unless it was claimed ahead, it is claimed now."""
        self.ahead.started(batch)
        self.running = batch.name
        self._running_s, self._running_items = self.duration_s(batch), len(batch.items)
        self.busy_until = now + self._running_s + (0.0 if batch.ahead else self.claim_s)

    def began(self, now: float, *, stage: bool) -> None:
        """The batch that was started is claimed and goes onto the device; whether the next may be claimed behind it
        (``stage``). Behind one that is over before a claim could be made there is nothing to gain.
        """
        self.busy_until = now + self._running_s
        self.ahead.allowed = stage and self._running_s > self.ahead.lead.least_s

    def ended(self, now: float) -> None:
        """The device has nothing to do."""
        if self.running is not None:
            self._free_since = now
        self.busy_until, self.running = 0.0, None
        self.ahead.ended()

    def duration_s(self, batch: Batch) -> float:
        """How long a batch takes, seconds."""
        return self.latency.line(batch.name, batch.key).predict(sum(item.cost for item in batch.items))

    def _behind_s(self) -> float:
        batch = self.ahead.batch
        return 0.0 if batch is None else self.duration_s(batch)

    def _is_overtaken(self, now: float) -> bool:
        """Whether interactive work would go before what was claimed ahead."""
        if self.ahead.claiming is not None:
            return not is_urgent(self.ahead.claiming)
        return self.ahead.staged is not None and self.may_overtake(self.ahead.staged, now)

    def may_overtake(self, staged: Batch, now: float) -> bool:
        """Whether interactive batches may go before it: for a while, and unless background work is owed its share."""
        waits_s = now - self.ahead.staged_at
        return waits_s < OVERTAKEN * self._target_s and not (is_urgent(staged) or self._background_share.owed())

    # In -------------------------------------------------------------------------------------------------------

    def put(self, items: Sequence[T], now: float) -> int:
        """Claimed items join their lines, but for those that are abandoned; how many are."""
        hopeless = set(map(id, self._choose_hopeless(items, now)))
        for item in items:
            if id(item) in hopeless:
                self.abandon(item)
            else:
                self.lines.put(item)
            if item.lane is Lane.INTERACTIVE:
                self._interactive_at = item.arrived_at
        # What an earlier wait brings while the batch has just begun is not yet the claim for the next one. Nor is what
        # comes with items that are abandoned: what stands behind those is claimed at once, and makes a fuller batch.
        if self.is_soon(now) and (not hopeless or self._is_full(items[0].model, items[0].lane)):
            self.ahead.came(urgent=any(item.lane is Lane.INTERACTIVE for item in items))
        if hopeless:
            self.ahead.abandoned(now)
        return len(hopeless)

    def _is_full(self, model: str, lane: Lane) -> bool:
        """Whether a full batch of this model is here."""
        late = self.lines.late().get(model, 0) if lane is Lane.INTERACTIVE else 0
        return self.lines.waiting[model, lane] - late >= self.limits[model].max_size

    def _choose_hopeless(self, items: Sequence[T], now: float) -> list[T]:
        """Those of a claim that cannot be in time for their own deadlines."""
        if all(item.ends_at == INFINITY for item in items):
            return []
        candidates = [
            item
            for item in items
            if item.lane is Lane.INTERACTIVE and item.weighed and not item.suspect and item.model not in self._stepwise
        ]
        # Before background work that was claimed ahead they may still go, after a claim of their own.
        starts_in_s = self.busy_s(now) + (self.claim_s if self._is_overtaken(now) else self._behind_s())
        return self.hopeless.choose(
            candidates,
            now=now,
            starts_in_s=starts_in_s,
            after_s=self.after_s,
            free=not (self.running is not None or starts_in_s),
            mates=self.lines.cost_of,
        )

    def abandon(self, item: T) -> None:
        """Nothing is planned for this one any more; its deadline is waited for."""
        item.late = True
        self.hopeless.add(item)

    def revive(self, now: float) -> bool:
        """The device has nothing to do: whether there is anybody who was abandoned and is tried after all."""
        revived = self.hopeless.revived(
            now=now, free_since=self._free_since, after_s=self.after_s, resident=self.lines.resident
        )
        self.lines.put_late(revived)
        return bool(revived)

    def revive_in_s(self, now: float) -> float | None:
        """After how long a device that stays idle tries whoever was abandoned; ``None``: there is nobody."""
        return self.hopeless.revive_in_s(now=now, free_since=self._free_since, resident=self.lines.resident)

    # Out ------------------------------------------------------------------------------------------------------

    def decide(self, now: float, *, beside: bool = False) -> Chosen[T] | Hold:
        """The batch to run now, where the device is free, out of its lines; or until when to wait.

        ``beside``: others are held, so that no suspect may begin; what stands behind one waits with it.
        """
        return self._decide(now, self.claim_s, beside=beside)

    def decide_ahead(self, now: float) -> Chosen[T] | Hold:
        """The same for the time when the running batch will have ended: claimed by then."""
        return self._decide(max(now, self.busy_until), 0.0)

    def _decide(self, now: float, claim_s: float, *, beside: bool = False) -> Chosen[T] | Hold:
        while True:
            decision = self._policy.decide(self.snapshot(now, claim_s, beside=beside))
            if isinstance(decision, Demote):
                self.demote(decision)
            elif isinstance(decision, Release):
                return self._cut(decision)
            else:
                return decision

    def snapshot(self, now: float, claim_s: float, *, beside: bool = False) -> Snapshot:
        """What the policy decides by. ``claim_s`` is how long a batch takes until it is on the device, seconds."""
        return Snapshot(
            now,
            self.lines.without_suspects() if beside else self.lines.visible,
            self.limits,
            latency=self.latency,
            target_s=self._target_s,
            quiet_s=None if self._interactive_at is None else now - self._interactive_at,
            after_s=claim_s + self.after_s,
            background_owed=self._background_share.owed(),
            late_owed=self._late_share.owed(),
        )

    def demote(self, decision: Demote) -> None:
        """An interactive item that cannot be in time for its target joins the late ones, or is abandoned."""
        item = self.lines.demote(decision)
        hopeless = decision.ends_at is not None and item.ends_at <= decision.ends_at
        # A suspect has no mates that it could give way to.
        if hopeless and not item.suspect and self.hopeless.room(item.model):
            self.abandon(item)
        else:
            self.lines.put_late([item])

    def _cut(self, release: Release) -> Chosen[T]:
        items = self.lines.cut(release)
        self.served[release.model] += len(items)
        reason = "suspect" if items and items[0].suspect else release.reason
        return Chosen(release.model, items, reason, release.key)

    def uncut(self, chosen: Chosen[T]) -> None:
        """It does not begin after all: back to the head of its lines."""
        self.served[chosen.name] -= len(chosen.items)
        self.lines.put_back(chosen.items)

    def cut_queue(self, model: str, lane: Lane, count: int) -> list[T]:
        """The first items of a queue of a step-wise model, at most ``count``; a suspect alone."""
        items = self.lines.cut_queue(model, lane, count)
        self.served[model] += len(items)
        return items

    def pull(self, matching: Callable[[T], bool]) -> list[T]:
        """Take the matching items out of their lines."""
        return self.lines.pull(matching) + self.hopeless.pull(matching)

    def clear(self) -> list[T]:
        """Take everything out, but for what is claimed ahead."""
        return self.lines.clear() + self.hopeless.pull(lambda _: True)

    # What came of it ------------------------------------------------------------------------------------------

    def learn(
        self, batch: Batch, now: float, *, cost: float, background: float, late: float, busy_s: float, clean: bool
    ) -> None:
        """A batch kept the device for ``busy_s``, ``background`` and ``late`` (0..1) of it for such items.

        Only a ``clean`` one, run as it was released, tells how long such batches take.
        """
        if clean:
            self.latency.observe(batch.name, cost, busy_s, batch.key)
            self.hopeless.observed(batch.name, now)
        self._background_share.spent(busy_s, background, now)
        self._late_share.spent(busy_s, late, now)

    def settled_after(self, seconds: float) -> None:
        """So long after its end a batch was settled and announced."""
        self.after_s += NEWEST * (seconds - self.after_s)

    def claimed_after(self, seconds: float) -> None:
        """So long after its choice a batch started that was not claimed ahead."""
        self.claim_s += NEWEST * (seconds - self.claim_s)

    # Views ----------------------------------------------------------------------------------------------------

    def uses(self, model: str) -> bool:
        """Whether items of this model wait here, are claimed ahead, or run."""
        ahead = self.ahead.batch
        return self.lines.uses(model) or self.running == model or (ahead is not None and ahead.name == model)

    def begun_of(self, model: str) -> int:
        """How many interactive sequences of a step-wise model have begun."""
        return self.begun.get(self.queues.get((model, Lane.INTERACTIVE), ""), 0)

    @property
    def empty(self) -> bool:
        """Whether nothing waits, nor was claimed ahead."""
        return self.ahead.batch is None and self.lines.empty and not self.hopeless.items


def is_urgent(batch: Batch) -> bool:
    """Whether anybody in it can be in time for an interactive target."""
    return any(item.lane is Lane.INTERACTIVE and not item.late for item in batch.items)


def in_order(models: Iterable[str], name: Callable[[str, Lane], str]) -> dict[tuple[str, Lane], str]:
    """The queues of these models as ``WaitingRoom`` takes them, each by its ``name``."""
    return {(model, lane): name(model, lane) for lane in LANES for model in models}
