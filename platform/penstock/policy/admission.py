"""Whether to accept an interactive job now: a pure decision from what workers and the broker last said.

A job is refused when ``busy + work_ahead / rate + m * t`` lies beyond its limit: its deadline, or without one the
larger of its lane's target and ``PATIENCE`` full batches of its model, so that no model is refused for being slow by
nature. Where nothing waits, a job without a deadline is not refused at all, whatever runs on the devices.

How much of the limit may be spent on waiting is the *level* (Breakwater's and DAGOR's idea): workers measure how long
interactive jobs waited before their batch began. Like CoDel, they look at the wait that does not go away: even the
quietest batch of the last ``STANDING_S`` had to wait longer than ``WAIT_SHARE`` of the target (long waits count for
more time). That lowers the level, by as much as the wait was too long, once in the time that it takes to see what that
did; anything else raises it by 1 % a second. Jobs without a deadline are only
refused below level 1, when a queue has been standing, or when the burst is ``BURST`` times their limit: a short burst
on a calm system is what a queue is for. A higher priority counts only the work that is served before it, and feels
less of the level (DAGOR).

Some limits are kept under load with smaller batches only (``overload.keeping``). Below level 1, who waits for more than
the batch on the device and one of those will not be in time. A later deadline is never refused where an earlier one is
not: what is allowed grows with it, also from where smaller batches count to where full ones do.

Where tenants share a queue, what is ahead of a job is what the fair order puts before it (``policy.sharing``): its own
tenant's jobs, and of the others' as much as their weights allow meanwhile. The level is learned from everybody's waits,
mostly those of whoever floods the queue; so it does not apply to a tenant whose job would be in the next round of
batches. A tenant with a cap also waits for its own jobs to end (``docs/decisions/0061``).

Sources: Cho et al., "Overload Control for us-scale RPCs with Breakwater" (OSDI 2020); Zhou et al., "Overload Control
for Scaling WeChat Microservices" (SoCC 2018); Nichols and Jacobson, "Controlling Queue Delay" (2012).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from penstock.lane import MAX_PRIORITY
from penstock.policy.overload import fitting, keeping
from penstock.policy.sharing import Share

#: Limit of a job without a deadline, in full batches of its model: one that runs, one that waits, its own.
PATIENCE = 3.0
#: How many times its limit a job without a deadline may wait while no queue has been standing.
BURST = 10.0
#: Share of the limit that is left for what is not waiting and not the device: the commit, the broker, the way back.
RESERVE = 0.1
#: Share of the allowed wait in a queue over which the chance of admission falls from 1 to 0: producers do not see each
#: other's last jobs, and must not all turn round at the same instant.
EDGE = 0.1
#: Shortest and longest advice, seconds.
RETRY_MIN_S, RETRY_MAX_S = 0.05, 60.0
#: Batches a worker must have run before its figures count: a cold model is slow at first.
SEEN = 8
#: A worker that has said nothing for so long beyond its predicted batch is not counted, seconds. With none left,
#: nothing is known, and everything is admitted.
FRESH_S = 3.0
#: Longest wait that is predicted for, seconds: a rate of nothing must not give infinities.
_FOREVER_S = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """What one worker says of one model. Times are Unix seconds, durations seconds.

    ``busy_until`` is when its running batch should end; ``waiting`` counts its claimed interactive items, ``room``
    how many it may claim ahead, which it does at ``claims_at``; ``filled`` says that background is there to fill any
    batch. A batch of ``n`` takes ``alpha + beta * n``; ``factor`` corrects one job's own batch: the margin of a
    predictable model, far below 1 where durations vary with the input. ``size`` is a full batch, ``free`` the share
    of the device that other models' interactive work leaves, ``level`` the admission level, ``done`` counts the
    interactive items started since the worker began, ``seen`` its batches. ``version`` is the model's there, and
    ``target_s`` what its pool promises interactive jobs (``None``: an older worker's, which does not say).
    """

    at: float
    busy_until: float
    waiting: int
    room: int
    filled: bool
    alpha: float
    beta: float
    factor: float
    size: float
    free: float
    level: float
    done: int
    seen: int
    claims_at: float = 0.0
    version: str = ""
    target_s: float | None = None

    @property
    def full_s(self) -> float:
        """How long a full batch takes."""
        return self.alpha + self.beta * self.size

    def held(self, now: float) -> int:
        """The most that it may have claimed and not begun by now, if there was anything to claim."""
        return max(self.waiting, self.room) if now >= self.claims_at else self.waiting

    def alive(self, now: float) -> bool:
        """Whether it can still be believed."""
        return now <= max(self.at, self.busy_until) + FRESH_S


def promised(said: Iterable[WorkerLoad], default_s: float) -> float:
    """The interactive target of a model: what the pool of its workers promises, which may be another than the lane's.
    While it moves between pools, the more patient one counts."""
    return max((load.target_s for load in said if load.target_s is not None), default=default_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One model as the producers of one tenant see it at ``at`` (Unix seconds): its workers and the broker together.

    ``ready[k]`` are the tenant's messages that are served before or beside a job of priority step ``3 * k``.
    ``running`` is what is left of the batches on the devices, in items of full batches; ``waiting`` what workers have
    claimed and not begun: at least what they ``told``, ``room`` at most. ``slowed`` is how much longer a row of batches
    takes since other models' batches run between them. ``inflow`` is what other producers of the tenant are expected to
    add, items per second, ``come`` what they add for other tenants. ``share`` is the tenant's place among others in
    the queue, ``shared`` whether there were any lately.
    """

    at: float
    workers: int
    busy_until: float
    running: float
    waiting: float
    room: float
    ready: tuple[int, int, int, int]
    filled: bool
    alpha: float
    beta: float
    factor: float
    size: float
    level: float
    told: float = 0.0
    slowed: float = 1.0
    inflow: float = 0.0
    come: float = 0.0
    share: Share | None = None
    shared: bool = False

    def batch_s(self, items: float) -> float:
        """Expected duration of a batch."""
        return self.alpha + self.beta * min(max(items, 1.0), self.size)

    @property
    def rate(self) -> float:
        """Items per second of all workers with full batches."""
        return self.workers * self.size / max(self.round_s, 1e-9)

    @property
    def round_s(self) -> float:
        """From one full batch to the next on a worker, with what other models have of it in between."""
        return self.batch_s(self.size) * self.slowed

    def fitting(self, limit_s: float) -> float:
        """Items of the largest batches with which the model keeps this limit under load (``overload.fitting``)."""
        return fitting(self._alone(limit_s), alpha=self.alpha, beta=self.beta, size=self.size)

    def keeps(self, target_s: float) -> bool:
        """Whether it keeps this target under load, with batches of whatever size (``overload.keeping``)."""
        return keeping(self._alone(target_s), alpha=self.alpha, beta=self.beta, size=self.size) is not None

    def _alone(self, seconds: float) -> float:
        """What is left of a time if batches take longer than predicted and other models' run between them."""
        return seconds / (self.slowed * max(1.0, self.factor))

    @property
    def capacity(self) -> float:
        """Items in one round of full batches on all workers."""
        return self.size * self.workers

    def own(self, ask: Ask) -> float:
        """Messages of the tenant itself that are before this job at the broker."""
        done = self._done(ask)
        return max(0.0, self._own(ask) - (done if self.share is None else self.share.served(done, self._come(ask))))

    def queued(self, ask: Ask) -> float:
        """Everybody's messages that are before this job at the broker."""
        own = self.own(ask)
        if self.share is None:
            return own
        come = self._come(ask)
        done = self._done(ask)
        theirs = max(0.0, done - min(self.share.served(done, come), self._own(ask)))
        return own + self.share.before(own + 1.0, self.capacity, max(0.0, self.share.others + come - theirs))

    def ahead(self, ask: Ask) -> float:
        """Items before this job, the part of running batches that is still to do included."""
        if self._alone_in_queue(ask):
            return max(0.0, self._own(ask) + self.waiting - max(0.0, self._done(ask) - self.running)) + self.begun(ask)
        return self.queued(ask) + self._claimed(ask)

    def begun(self, ask: Ask) -> float:
        """Those of the items ahead that are still to do in batches on the devices."""
        left = max(0.0, self.running - self._done(ask))
        return left if self._alone_in_queue(ask) else min(left, self._claimed(ask))

    def _alone_in_queue(self, ask: Ask) -> bool:
        return self.share is None or not (self.share.others or self._come(ask))

    def _claimed(self, ask: Ask) -> float:
        """What of a shared queue is on the devices or next to them, items: beyond fairness."""
        come, done = self._come(ask), self._done(ask)
        # As long as there are messages that may be claimed, workers claim as much as they get done, and full batches
        # follow each other: once the running one is over, the next is half done for all we know.
        left = min(0.0, self._own(ask) + (self.share.loose if self.share else 0.0) + come - done)
        running = self.running - done if self.running > done else self.capacity / 2
        return max(0.0, self.waiting + running + left)

    def in_turn(self, ask: Ask) -> bool:
        """Whether other tenants share the queue, and the fair order has this job in the next round of batches."""
        return self.shared and self.queued(ask) + 1.0 <= self.capacity

    def felt(self, ask: Ask) -> float:
        """The level that a job feels: not that of a queue which its tenant does not fill."""
        return 1.0 if self.in_turn(ask) else self.level

    def at_cap_s(self, ask: Ask) -> float:
        """How long the tenant's own jobs take that are before this one, with no more than its cap at a time."""
        cap = None if self.share is None else self.share.own.cap
        if cap is None:
            return 0.0
        # From the claim to the acknowledgement: what was claimed before, and its own batch.
        return self.own(ask) / cap * (self.waiting / self.capacity * self.round_s + self.batch_s(cap) * self.slowed)

    def _own(self, ask: Ask) -> float:
        """Own messages, before anything is done."""
        return self._ready(ask.priority) + ask.added + self.inflow * max(0.0, ask.now - self.at)

    def _come(self, ask: Ask) -> float:
        """What came of others since ``at``."""
        return ask.others + self.come * max(0.0, ask.now - self.at) if self.shared else 0.0

    def _done(self, ask: Ask) -> float:
        """Everybody's items that were done since ``at``."""
        return self.rate * max(0.0, ask.now - self.at)

    def _ready(self, priority: int) -> int:
        return self.ready[min(max(priority, 0), MAX_PRIORITY) // 3]


def combine(
    loads: Iterable[WorkerLoad],
    ready: Sequence[int],
    *,
    now: float,
    inflow: float = 0.0,
    come: float = 0.0,
    share: Share | None = None,
    shared: bool = False,
) -> Load | None:
    """The picture of one model; ``None`` when no worker that knows its model is alive.

    ``ready`` are the lengths of the tenant's lists of priority step 0, 3, 6, 9.
    """
    live = [load for load in loads if load.alive(now) and load.seen >= SEEN and load.size > 0]
    if not live:
        return None
    count = len(live)
    free = [max(0.1, load.free) for load in live]
    # What is over a tenant's cap stays where it is, whatever room there is.
    left = any(ready) if share is None else share.loose > 0 or (any(ready) and share.own.cap is None)
    return Load(
        at=now,
        workers=count,
        # The next batch begins where a device is free first.
        busy_until=min(load.busy_until for load in live),
        running=sum(load.size * min(max(0.0, load.busy_until - now) / max(load.full_s, 1e-9), 1.0) for load in live),
        # While messages are left at the broker, every worker has claimed what it may; else it may have since it spoke.
        # It may be about to: a picture before this one knows better.
        waiting=sum(load.held(now) if left else load.waiting for load in live),
        told=sum(load.waiting for load in live),
        room=sum(load.held(now) for load in live),
        ready=(sum(ready), sum(ready[1:]), sum(ready[2:]), ready[3]),
        filled=all(load.filled for load in live),
        alpha=sum(load.alpha for load in live) / count,
        beta=sum(load.beta for load in live) / count,
        slowed=sum(1.0 / one for one in free) / count,
        factor=sum(load.factor for load in live) / count,
        size=sum(load.size for load in live) / count,
        level=sum(load.level for load in live) / count,
        inflow=inflow,
        come=come,
        share=share,
        shared=shared,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A job that wants in.

    ``added`` is what this producer has submitted for its tenant since the load's picture was taken, ``others`` what it
    has for other tenants.
    """

    now: float
    target_s: float
    deadline_at: float | None = None
    priority: int = 0
    added: float = 0.0
    others: float = 0.0


@dataclass(frozen=True, slots=True)
class Admit:
    """Accept it. ``wait_s`` is the expected wait before its batch."""

    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not store it. ``needs_s`` is how long it would have taken, ``limit_s`` how long it may.

    Of that it would have waited for ``wait_s``, and may for ``allowed_s``: the less, the longer queues have stood.
    ``reason`` is ``overload``, or ``deadline`` when it would be too late even on an idle system; then coming back
    with the same deadline does not help.
    """

    retry_after_s: float
    reason: str
    needs_s: float
    limit_s: float
    wait_s: float = 0.0
    allowed_s: float = 0.0


def decide(load: Load | None, ask: Ask, rng: Random) -> Admit | Refuse:
    """See the module's docstring. Nothing known: admitted."""
    if load is None:
        return Admit()
    if ask.deadline_at is not None and ask.deadline_at <= ask.now:
        return Admit()  # it has passed already: it is stored and ends as expired, as without admission
    edge = EDGE * rng.random()
    ahead, begun = load.ahead(ask), load.begun(ask)
    free_s = max(0.0, load.busy_until - ask.now)
    device_s = max(free_s, begun / load.capacity * load.round_s)
    if ahead - begun < 1.0:
        # Nothing waits: its batch is the next of the device that is free first.
        wait = free_s
        if ask.deadline_at is None:
            return Admit(wait)
    else:
        # What is left of the running batches is among the items ahead.
        wait = min(max(free_s, ahead / load.capacity * load.round_s, load.at_cap_s(ask)), _FOREVER_S)
    # Under load those who come after it fill its batch: for a deadline that counts, else half of a batch does. Never
    # fewer for more that is ahead, or a lower priority could be the better one.
    most = load.size if load.filled or ask.deadline_at is not None else (load.size + 1.0) / 2.0
    mates = load.size if load.filled else min((ahead - begun) / load.workers + 1.0, most)
    own = load.factor * load.batch_s(mates)
    if ask.deadline_at is None:
        limit = max(ask.target_s, PATIENCE * max(1.0, load.factor) * load.round_s)
    else:
        limit = ask.deadline_at - ask.now
        if (alone := load.factor * load.batch_s(1.0)) > limit:
            return Refuse(_retry_after(alone, rng), "deadline", alone, limit)
    allowed = allowed_wait(load, ask, limit, own_s=own, device_s=device_s)
    # What is on the devices is no queue of other producers' jobs.
    may_s = allowed - edge * max(0.0, allowed - device_s)
    if wait <= may_s:
        return Admit(wait)
    # Back to half of what is allowed, so that who returns finds room.
    return Refuse(_retry_after(wait - 0.5 * max(allowed, 0.0), rng), "overload", wait + own, limit, wait, may_s)


def allowed_wait(load: Load, ask: Ask, limit: float, *, own_s: float, device_s: float) -> float:
    """How much of the room between the limit and a job's own batch it may spend waiting, seconds.

    ``device_s`` of it is for the batches that run, as they were when nothing waited.
    """
    room_s = max(0.0, limit * (1.0 - RESERVE) - own_s)
    level, round_s = load.felt(ask), load.round_s
    if level >= 1.0:
        return room_s * BURST if ask.deadline_at is None else room_s
    due_s = ask.target_s if ask.deadline_at is None else limit
    items = load.fitting(due_s)
    if items < load.size and (ask.deadline_at is not None or load.keeps(due_s)):
        # What is on the device, whoever's it is, and a place in the next batch of those that are in time.
        return min(room_s, device_s + items / load.size * round_s)
    level += (1.0 - level) * min(max(ask.priority, 0), MAX_PRIORITY) / MAX_PRIORITY
    longest_s = round_s * max(1.0, load.factor)
    # Never less than the batch that is on the device: with no queue behind it, the system is not overloaded. Nor less
    # than with the shortest deadline that full batches keep.
    least_s = max(longest_s / (1.0 - EDGE), device_s, min(2.0 * longest_s - own_s, device_s + round_s))
    return min(room_s, max(level * room_s, least_s))


def _retry_after(seconds: float, rng: Random) -> float:
    """Spread, so that those who were refused together do not return together."""
    return min(max(seconds * rng.uniform(1.0, 1.5), RETRY_MIN_S), RETRY_MAX_S)
