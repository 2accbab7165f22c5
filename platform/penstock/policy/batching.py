"""What to run next, and how much of it: the decision behind the worker's batcher.

The worker keeps waiting lines and asks the policy whenever its device is free. A line holds items that may share a
batch: of one model and, where the model says so, of one key. Interactive items stand in the order of their priority and
of when they are due, the others in the order of their arrival.

``Adaptive`` is *dropfit* (``docs/decisions/0055``): work-conserving, sized by the learned batch time and the items' due
times, with background work held to its isolation budget. ``Greedy`` takes what is there; it is what a user gets who
pins sizes and waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.isolation import blocking_s, filling_s
from penstock.policy.latency import LatencyBook, LatencyModel

#: The line of interactive items that cannot be in time any more: they run when those that can are served.
LATE = "late"
#: Lines in the order of service within one batch.
RANKS: tuple[str, ...] = (Lane.INTERACTIVE, LATE, Lane.BACKGROUND)
#: What a result still needs when its batch has ended, beyond what was measured (``Snapshot.after_s``), seconds.
GUARD_S = 0.002
#: A background batch is at most so many times as costly as any seen before, while its time matters.
EXPLORE = 2.0


class Waiting(Protocol):
    """What a policy may know of one waiting item."""

    @property
    def arrived_at(self) -> float:
        """When this worker took it over (the clock of ``now``, seconds)."""

    @property
    def due_at(self) -> float:
        """When its result is due: by its lane's target or its own deadline (the clock of ``now``); else infinity."""

    @property
    def cost(self) -> float:
        """Its cost in the model's unit; 1 where the model has no cost function."""


@dataclass(frozen=True, slots=True)
class Line:
    """The items that wait in this worker for one (model, key) in one lane, or there as ``LATE``."""

    model: str
    lane: str
    items: Sequence[Waiting]
    key: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a decision may depend on. ``draining`` means that nothing more will arrive.

    ``quiet_s`` is how long ago the last interactive job arrived, ``after_s`` how long results take from the end of
    their batch to their client, ``background_owed`` and ``late_owed`` whether such work has not had its least share.
    """

    now: float
    lines: Sequence[Line]
    limits: Mapping[str, Batching]
    draining: bool = False
    latency: LatencyBook = field(default_factory=LatencyBook)
    target_s: float = 0.1
    quiet_s: float | None = None
    after_s: float = 0.0
    background_owed: bool = False
    late_owed: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Run one batch now: the first ``take[lane]`` items of the lines of (``model``, ``key``).

    ``reason`` says what ended the batch: ``full`` (the model's own limit), ``idle`` (the device is free and this is
    all there is), ``deadline`` (more would make it late), ``budget`` (more would take background work beyond its
    isolation budget) or ``wait`` (the pinned wait is over). It is stored with each job.
    """

    model: str
    take: Mapping[str, int]
    reason: str
    key: str = ""

    @property
    def size(self) -> int:
        """Items in the batch."""
        return sum(self.take.values())


@dataclass(frozen=True, slots=True)
class Hold:
    """Run nothing yet; ask again at ``until`` (clock of ``now``), or when something arrives."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Demote:
    """Move the item at ``place`` of the interactive line of (``model``, ``key``) to the late one, and ask again.

    It gives way to a batch that should end at ``ends_at`` (clock of ``now``). An item whose own deadline has passed by
    then is of no use to anybody: no device time may be spent on it. ``None``: it gives way to nobody.
    """

    model: str
    key: str
    place: int
    ends_at: float | None = None


Decision = Release | Hold | Demote


class BatchingPolicy(Protocol):
    """Decides what a free device does next."""

    def decide(self, snapshot: Snapshot) -> Decision:
        """The next batch, or how long to wait for one."""


class Greedy:
    """Take what is there, interactive first, at most ``max_size`` items and ``max_cost``.

    Across models, the one whose head has waited longest within the better lane. It never waits for a fuller batch,
    except as long as a model pins ``max_wait_s``.
    """

    def decide(self, snapshot: Snapshot) -> Decision:
        """See the class's docstring."""
        until: float | None = None
        for head in sorted(waiting(snapshot.lines), key=lambda line: (_rank(line), line.items[0].arrived_at)):
            release, ripe_at = _pinned(fill(head.model, snapshot, key=head.key), head, snapshot)
            if release is not None:
                return release
            until = _earlier(until, ripe_at)
        return Hold(until)


class Adaptive:
    """Dropfit with lanes: see the module's docstring.

    1. Interactive items that can be in time go first, the earliest due head across all models. The batch is what is
       there, as large as the model allows. An item that such a batch would make late is demoted rather than the batch
       shrunk: under overload, shrinking makes everybody late (Symphony, Shepherd). If its own deadline will have passed
       when the batch ends, it is abandoned.
    2. Late and background items fill it, as far as everybody stays in time and the isolation budget lasts.
    3. With nothing in time, late items run; then background, in batches within the isolation budget. Late work and
       background work that have not had their least share go before all.
    """

    def decide(self, snapshot: Snapshot) -> Decision:
        """See the class's docstring."""
        lines = waiting(snapshot.lines)
        lanes = {Lane.BACKGROUND: snapshot.background_owed, LATE: snapshot.late_owed}
        if owed := [line for line in lines if lanes.get(line.lane)]:
            # First all that are late are found out: the one found first would be owed a batch of its own.
            for head in lines:
                if head.lane == Lane.INTERACTIVE and isinstance(late := self._interactive(head, snapshot), Demote):
                    return late
            return self._leftover(min(owed, key=lambda line: line.items[0].arrived_at), snapshot)
        until: float | None = None
        for head in sorted(lines, key=_urgency):
            if head.lane == Lane.INTERACTIVE:
                decision = self._interactive(head, snapshot)
            else:
                decision = self._leftover(head, snapshot)
            if isinstance(decision, Demote):
                return decision
            release, ripe_at = _pinned(decision, head, snapshot)
            if release is not None:
                return release
            until = _earlier(until, ripe_at)
        return Hold(until)

    def _interactive(self, head: Line, snapshot: Snapshot) -> Release | Demote:
        line = snapshot.latency.line(head.model, head.key)
        release = fill(head.model, snapshot, key=head.key, lanes=(Lane.INTERACTIVE,))
        items = head.items[: release.size]
        cost = sum([item.cost for item in items])
        dues = [item.due_at for item in items]
        due_at = min(dues)
        ends_at = snapshot.now + line.bound(cost) + snapshot.after_s + GUARD_S
        if ends_at > due_at:
            # As it should be, not as it may be at worst: what is abandoned must be hopeless.
            expected_at = snapshot.now + line.predict(cost) if release.size > 1 and line.seen else None
            return Demote(head.model, head.key, dues.index(due_at), expected_at)
        if release.reason == "full":
            return release
        room_s = (
            min(due_at - ends_at, filling_s(snapshot.target_s)) if snapshot.quiet_s is not None else due_at - ends_at
        )
        most = line.within(line.bound(cost) + room_s)
        return fill(head.model, snapshot, key=head.key, budget=most, why="deadline")

    def _leftover(self, head: Line, snapshot: Snapshot) -> Release:
        if head.lane == LATE:
            # They are interactive: nobody's budget holds them back.
            return fill(head.model, snapshot, key=head.key, lanes=(LATE,))
        return fill(head.model, snapshot, key=head.key, lanes=(Lane.BACKGROUND,), budget=_budget(head, snapshot))


def _budget(head: Line, snapshot: Snapshot) -> float:
    """The most cost of a batch of background items."""
    line: LatencyModel = snapshot.latency.line(head.model, head.key)
    longest_s = blocking_s(snapshot.target_s, snapshot.quiet_s)
    if longest_s == float("inf"):
        return longest_s
    return min(line.within(longest_s), EXPLORE * line.largest) if line.seen else 1.0


def fill(
    model: str,
    snapshot: Snapshot,
    *,
    key: str = "",
    lanes: Sequence[str] = RANKS,
    budget: float = float("inf"),
    why: str = "budget",
) -> Release:
    """The largest batch of (``model``, ``key``) from these lines, in their order; at least one item.

    It keeps the model's limits. The cost of items behind those of the first non-empty line's lane is bounded by
    ``budget``, too, and so are background items wherever they stand.
    """
    limit = snapshot.limits[model]
    take: dict[str, int] = {}
    size, cost, reason = 0, 0.0, "idle"
    for lane in lanes:
        for line in snapshot.lines:
            if line.model != model or line.lane != lane or line.key != key or reason != "idle" or not line.items:
                continue
            most = float("inf") if lane == Lane.INTERACTIVE else budget
            count, cost, reason = _take(line.items, limit, size, cost, most, why)
            if count:
                take[lane] = count
                size += count
    return Release(model, take, reason, key)


def _take(
    items: Sequence[Waiting], limit: Batching, size: int, cost: float, budget: float, why: str
) -> tuple[int, float, str]:
    """How many of ``items`` still fit, the cost then, and what ended it (``idle``: nothing did)."""
    room = limit.max_size - size
    if limit.cost is None:
        # Each costs 1. At least one item, whatever the budget says: a batch of none would never end.
        count = min(room, len(items), max(int(budget - cost), 0 if size else 1) if budget < room + cost else room)
        reason = "full" if count == room else why if count < len(items) else "idle"
        return count, cost + count, reason
    count = 0
    most = limit.max_cost if limit.max_cost is not None else float("inf")
    for item in items:
        if count == room:
            return count, cost, "full"
        if size + count > 0:
            if cost + item.cost > most:
                return count, cost, "full"
            if cost + item.cost > budget:
                return count, cost, why
        cost += item.cost
        count += 1
    return count, cost, "full" if count == room or cost >= most else "idle"


def waiting(lines: Iterable[Line]) -> list[Line]:
    """Those that are not empty."""
    return [line for line in lines if line.items]


def _rank(line: Line) -> int:
    return RANKS.index(line.lane)


def _urgency(line: Line) -> tuple[int, float, float]:
    head = line.items[0]
    return _rank(line), head.due_at, head.arrived_at


def _pinned(release: Release, head: Line, snapshot: Snapshot) -> tuple[Release | None, float | None]:
    """The release, unless the model pins a wait that is not over; then when it is."""
    wait_s = snapshot.limits[head.model].max_wait_s
    if release.reason == "full" or wait_s is None or snapshot.draining:
        return release, None
    ripe_at = head.items[0].arrived_at + wait_s
    if snapshot.now >= ripe_at:
        return Release(release.model, release.take, "wait", release.key), None
    return None, ripe_at


def _earlier(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


#: By the names that the setting ``worker.batching`` takes.
POLICIES: Mapping[str, type[BatchingPolicy]] = {"adaptive": Adaptive, "greedy": Greedy}
