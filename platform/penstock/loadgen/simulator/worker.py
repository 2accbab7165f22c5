"""An imagined worker: its lines, its policy, what is on its device. The rules of the worker's batcher. PURE."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Sequence

from penstock.lane import LANES, Lane
from penstock.loadgen.simulator.world import Item, World, make_policy
from penstock.policy.batching import LATE, RANKS, Demote, Line, Release, Snapshot
from penstock.policy.hopeless import Hopeless
from penstock.policy.isolation import MinimumShare
from penstock.policy.latency import LatencyBook
from penstock.policy.prefetch import room, wanted
from penstock.policy.workload import Stock, Workload

#: A job's expected device time before the first batch of its model, seconds, and the weight of the newest one after it
#: (``penstock_worker.schedule.charges``).
UNKNOWN_S, NEWEST = 0.01, 0.1


class Worker:
    """One worker that serves some models. Knows no broker: what it wants is asked, what it gets is put."""

    def __init__(self, world: World, names: Collection[str]) -> None:
        self.names = [name for name in world.kinds if name in names]
        self.book = LatencyBook()
        self.policy = make_policy(world.policy)
        self.limits = {name: world.kinds[name].batching for name in self.names}
        self.load = Workload(
            self.limits.items(),
            target_s=world.targets_s[Lane.INTERACTIVE],
        )
        self.background_share, self.late_share = MinimumShare(), MinimumShare()
        self.busy = False
        self.busy_until = 0.0
        self.wakes_at: float | None = None
        self.free_since = float("-inf")
        #: Those that were given up, beside the lines.
        self.hopeless = Hopeless[Item](self.limits, self.book)
        self._world = world
        self._lines: dict[tuple[str, str], list[Item]] = {(name, rank): [] for name in self.names for rank in RANKS}
        self._shown = [Line(name, rank, line) for (name, rank), line in self._lines.items()]
        self._most = {name: max(1, int(self.limits[name].max_size * world.prefetch_batches)) for name in self.names}
        self._expected: dict[tuple[str, Lane], float] = {}
        self._interactive_at: float | None = None

    # Claims ---------------------------------------------------------------------------------------------------

    def wanted(self, now: float) -> dict[tuple[str, Lane], int]:
        """How many more items of each (model, lane) to claim now, in the order of service; none is left out."""
        before_s = max(0.0, self.busy_until - now) if self.busy else 0.0
        if before_s > self._world.lead_s:
            return {}
        found = {}
        for lane in LANES:
            ahead = {name: self._ahead(name, lane) for name in self.names}
            all_s = sum(whole_s for whole_s, _ in ahead.values())
            for name, (whole_s, full_s) in ahead.items():
                # What is claimed now joins the next batch of its model, unless that is full already.
                starts_in_s = before_s + all_s - whole_s + full_s
                most = self.room(name)
                if lane is Lane.INTERACTIVE:
                    # Late ones must not stand in the way of those that can be in time.
                    most = min(self._most[name], most + len(self._lines[name, LATE]))
                more = wanted(
                    most=most,
                    waiting=self.waiting(name, lane),
                    starts_in_s=starts_in_s,
                    lead_s=self._world.lead_s,
                )
                if more:
                    found[name, lane] = more
            before_s += all_s
        return found

    def room(self, name: str) -> int:
        """How many claimed items of a model's lane may wait."""
        size, world = self.limits[name].max_size, self._world
        return room(size, world.prefetch_batches, batch_s=self.book.line(name).predict(size), least_s=world.lead_s)

    def stock(self, name: str) -> Stock:
        """What is claimed of a model and not begun."""
        return Stock(
            waiting=self.waiting(name, Lane.INTERACTIVE),
            filled=self.waiting(name, Lane.BACKGROUND) > 0,
            room=self.room(name),
            lead_s=self._world.lead_s,
        )

    def waiting(self, name: str, lane: Lane) -> int:
        """How many claimed items of a model's lane have not begun."""
        late = len(self._lines[name, LATE]) if lane is Lane.INTERACTIVE else 0
        return len(self._lines[name, lane]) + late

    def put(self, name: str, items: Sequence[Item], now: float) -> bool:
        """Claimed items join their line, but for those that are given up; whether there are any."""
        fast = [item for item in items if item.lane is Lane.INTERACTIVE]
        ahead_s = max(0.0, self.busy_until - now) if self.busy else 0.0
        given = self.hopeless.choose(
            fast, now=now, starts_in_s=ahead_s, after_s=0.0, free=not self.busy, mates=lambda name, _: self._costs(name)
        )
        gone = set(map(id, given))
        for item in items:
            if id(item) in gone:
                self.hopeless.add(item)
                continue
            item.arrived_at = now
            line = self._lines[name, item.lane]
            if item.lane is Lane.INTERACTIVE:
                self._interactive_at = now
                insort(line, item, key=_due_at)
            else:
                line.append(item)
        return bool(gone)

    def revive(self, now: float) -> bool:
        """The device has nothing to do: whether there is anybody who was given up and is tried after all."""
        revived = self.hopeless.revived(now=now, free_since=self.free_since)
        for item in revived:
            self._lines[item.model, LATE].append(item)
        return bool(revived)

    def observed(self, name: str, cost: float, took_s: float, now: float) -> None:
        """A batch of this model has ended, and with it what the device had to do."""
        self.busy, self.free_since = False, now
        self.book.observe(name, cost, took_s)
        self.hopeless.observed(name, now)

    def _costs(self, name: str) -> tuple[float, float]:
        """Of the interactive items that wait: of those in time, and of the late."""
        in_time, late = (sum(item.cost for item in self._lines[name, rank]) for rank in (Lane.INTERACTIVE, LATE))
        return in_time, late

    def left(self) -> int:
        """How many items wait here."""
        return sum(map(len, self._lines.values()))

    def _ahead(self, name: str, lane: Lane) -> tuple[float, float]:
        """For how long what waits here will keep the device: all of it, and the full batches in it; seconds."""
        waiting = self.waiting(name, lane)
        if not waiting:
            return 0.0, 0.0
        ranks = (lane, LATE) if lane is Lane.INTERACTIVE else (lane,)
        cost = sum(item.cost for rank in ranks for item in self._lines[name, rank])
        line, size = self.book.line(name), self.limits[name].max_size
        full = waiting // size
        return line.predict(cost), line.predict(cost * full * size / waiting) if full else 0.0

    # Batches --------------------------------------------------------------------------------------------------

    def snapshot(self, now: float) -> Snapshot:
        """What its policy decides by."""
        return Snapshot(
            now,
            self._shown,
            self.limits,
            latency=self.book,
            target_s=self._world.targets_s[Lane.INTERACTIVE],
            quiet_s=None if self._interactive_at is None else now - self._interactive_at,
            background_owed=self.background_share.owed(),
            late_owed=self.late_share.owed(),
        )

    def demote(self, decision: Demote) -> None:
        """An item that cannot be in time goes to the late line, or is given up."""
        item = self._lines[decision.model, Lane.INTERACTIVE].pop(decision.place)
        hopeless = decision.ends_at is not None and item.ends_at <= decision.ends_at
        if hopeless and self.hopeless.room(decision.model):
            self.hopeless.add(item)
        else:
            self._lines[decision.model, LATE].append(item)

    def release(self, decision: Release) -> list[tuple[str, Item]]:
        """The items of a batch, each with the line that it stood in."""
        items = []
        for rank, count in decision.take.items():
            line = self._lines[decision.model, rank]
            items += [(rank, item) for item in line[:count]]
            del line[:count]
        return items

    def expected(self, name: str, lane: Lane) -> float:
        """Device seconds that one job is expected to take."""
        return self._expected.get((name, lane), UNKNOWN_S)

    def took(self, name: str, lane: Lane, mean_s: float) -> None:
        """The jobs of this lane in a batch took so much of the device each."""
        old = self._expected.get((name, lane), mean_s)
        self._expected[name, lane] = old + NEWEST * (mean_s - old)


def _due_at(item: Item) -> float:
    return item.due_at
