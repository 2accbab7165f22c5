"""The waiting lines of a worker: claimed items by model, lane and key, and how many there are of each queue. PURE.

Interactive items stand in the order of their priority and of when they are due, the others in the order of their
arrival, but for steps of late runs, which go before what is due later. Not thread-safe: whoever calls holds a lock,
except where a method says otherwise.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from penstock.lane import LANES, Lane
from penstock.policy.batching import LATE, Demote, Line, Release, Waiting
from penstock.policy.hopeless import Claimed
from penstock.policy.suspicion import first_group

#: Order within an interactive line.
_rank = attrgetter("rank")
_arrived = attrgetter("arrived_at")

_LineId = tuple[str, str, str]


class WaitingItem(Waiting, Claimed, Protocol):
    """What is asked of an item in a line. Times are of the clock of ``now``, but for the two in Unix seconds."""

    @property
    def lane(self) -> Lane:
        """The lane of its queue."""

    @property
    def claimed_at(self) -> float:
        """When this worker took it over, Unix seconds."""

    @property
    def start_by(self) -> float | None:
        """When a step should begin for its run to be in time, Unix seconds."""

    @property
    def rank(self) -> tuple[int, float]:
        """Its place among the interactive items: by priority, then by when it is due."""

    @property
    def suspect(self) -> bool:
        """Whether it may have taken a worker down: it runs alone."""

    # What the lines change: of one whose place is another one by now.
    key: str
    due_at: float
    #: Whether cost and key are known.
    weighed: bool
    #: Whether it was too late for its target when its turn came.
    late: bool


T = TypeVar("T", bound=WaitingItem)


class Lines(Generic[T]):
    """``models`` are the worker's; of the ``stepwise`` ones, the batching policy sees nothing."""

    def __init__(self, models: Iterable[str], stepwise: Container[str]) -> None:
        self._stepwise = stepwise
        self._lines: dict[_LineId, list[T]] = {}
        #: The models that are loaded; ``None``: all.
        self._resident: frozenset[str] | None = None
        #: What the batching policy sees: the lines of models that are loaded.
        self.visible: list[Line] = []
        #: Items whose cost and key are not known yet.
        self.unweighed: list[T] = []
        #: What waits per queue, the unweighed included: items, and their cost.
        self.waiting: dict[tuple[str, Lane], int] = {(name, lane): 0 for lane in LANES for name in models}
        self.cost: dict[tuple[str, Lane], float] = dict.fromkeys(self.waiting, 0.0)

    # In -------------------------------------------------------------------------------------------------------

    def put(self, item: T) -> None:
        """A new one, behind those that are there."""
        if item.model in self._stepwise:
            item.key = ""  # what joins a group is the model's own affair
        if item.weighed:
            self._add(item, item.lane)
        else:
            self.unweighed.append(item)
        self._count(item, 1)

    def put_late(self, items: Iterable[T]) -> None:
        """Interactive ones that are too late for their target: behind the others."""
        for item in items:
            item.late = True
            if item.start_by is not None:
                item.due_at = item.rank[1]
            self._add(item, LATE)
            self._count(item, 1)

    def weighed(self, items: Iterable[T]) -> None:
        """Cost and key of these were found: those that are still here join their lines."""
        for item in items:
            item.weighed = True
            if item in self.unweighed:  # else it was given back meanwhile
                self.cost[item.model, item.lane] += item.cost - 1.0
                self._add(item, item.lane)
        self.unweighed = [item for item in self.unweighed if not item.weighed]

    def put_back(self, items: Sequence[T]) -> None:
        """These were cut off and did not begin: to the head of their lines."""
        for item in items:
            self._count(item, 1)
        for item in reversed(items):
            self._return(item)

    def _add(self, item: T, lane: str) -> None:
        line = self._lines.get((item.model, lane, item.key))
        if line is None:
            line = self._lines[item.model, lane, item.key] = []
            self._show()
        if lane == Lane.INTERACTIVE:
            if not line or line[-1].rank <= item.rank:
                line.append(item)
            else:
                insort(line, item, key=_rank)
            return
        place = len(line)
        if item.start_by is not None and item.start_by <= item.claimed_at:
            # Its run is late already. These lines are in no order of rank, so it is compared with one after the other.
            while place and line[place - 1].rank > item.rank:
                place -= 1
        line.insert(place, item)

    def _return(self, item: T) -> None:
        lane = LATE if item.late else item.lane
        line = self._lines.get((item.model, lane, item.key))
        if line is None:
            self._add(item, lane)
        else:
            line.insert(0, item)

    def _count(self, item: T, sign: int) -> None:
        self.waiting[item.model, item.lane] += sign
        self.cost[item.model, item.lane] += sign * item.cost

    # Out ------------------------------------------------------------------------------------------------------

    def cut(self, release: Release) -> list[T]:
        """The released items. Whatever the policy says, a suspect is alone: the store would not give it otherwise."""
        items: list[T] = []
        for lane, count in release.take.items():
            line = self._lines[release.model, lane, release.key]
            items += line[:count]
            del line[:count]
        count = first_group(items)
        for item in reversed(items[count:]):
            self._return(item)
        del items[count:]
        if release.key:
            self._forget_empty(release.model, release.key)
        for item in items:
            self._count(item, -1)
        return items

    def cut_queue(self, model: str, lane: Lane, count: int) -> list[T]:
        """The first items of a queue of a step-wise model, at most ``count``; a suspect alone."""
        line = self._lines.get((model, lane, ""), [])
        items = line[: first_group(line[:count])]
        del line[: len(items)]
        for item in items:
            self._count(item, -1)
        return items

    def demote(self, decision: Demote) -> T:
        """An interactive item that cannot be in time any more, out of its line: see ``put_late``."""
        item = self._lines[decision.model, Lane.INTERACTIVE, decision.key].pop(decision.place)
        self._count(item, -1)
        return item

    def pull(self, matching: Callable[[T], bool]) -> list[T]:
        """The matching items, wherever they stand."""
        out = []
        for line in (*self._lines.values(), self.unweighed):
            if any(matching(item) for item in line):
                out += [item for item in line if matching(item)]
                line[:] = [item for item in line if not matching(item)]
        for item in out:
            self.waiting[item.model, item.lane] -= 1
            # Of one that is being weighed the cost may have been found, and is not in the sum yet.
            self.cost[item.model, item.lane] -= item.cost if item.weighed else 1.0
        return out

    def clear(self) -> list[T]:
        """Everything."""
        left = [item for line in (*self._lines.values(), self.unweighed) for item in line]
        self.unweighed = []
        self._lines.clear()
        self.visible = []
        for which in self.waiting:
            self.waiting[which], self.cost[which] = 0, 0.0
        return left

    # Views ----------------------------------------------------------------------------------------------------

    @property
    def resident(self) -> frozenset[str] | None:
        """The models that are loaded; ``None``: all, for good."""
        return self._resident

    @resident.setter
    def resident(self, names: frozenset[str]) -> None:
        self._resident = names
        self._show()

    def __iter__(self) -> Iterator[T]:
        return iter([item for line in (*self._lines.values(), self.unweighed) for item in line])

    def late(self) -> Mapping[str, int]:
        """How many late ones wait of each model. Takes no lock."""
        found: dict[str, int] = {}
        for (name, rank, _), line in list(self._lines.items()):
            if rank == LATE:
                found[name] = found.get(name, 0) + len(line)
        return found

    def without_suspects(self) -> list[Line]:
        """What the policy may see while no suspect may begin: what stands behind one waits with it."""
        suspects = {name for name, line in self._lines.items() if line and line[0].suspect}
        return [line for line in self.visible if (line.model, line.lane, line.key) not in suspects]

    def suspects(self) -> dict[tuple[str, Lane], float]:
        """The queues in which a suspect is first of its line, and when it came."""
        heads = [line[0] for line in self._lines.values() if line and line[0].suspect]
        return {(head.model, head.lane): head.arrived_at for head in sorted(heads, key=_arrived, reverse=True)}

    def queues(self) -> list[tuple[str, Lane, int, T]]:
        """``(model, lane, how many, the first)`` of each queue of which items wait."""
        found: dict[tuple[str, Lane], tuple[int, T]] = {}
        for line in self._lines.values():
            if line:
                head = line[0]
                size, first = found.get((head.model, head.lane), (0, head))
                if head.arrived_at < first.arrived_at:
                    first = head
                found[head.model, head.lane] = size + len(line), first
        return [(model, lane, size, first) for (model, lane), (size, first) in found.items()]

    def keys(self) -> list[_LineId]:
        """(model, lane, key) of every line, the empty ones included."""
        return list(self._lines)

    def cost_of(self, model: str, key: str) -> tuple[float, float]:
        """The cost of the interactive items of (model, key): of those in time, and of the late."""
        in_time, late = (self._lines.get((model, rank, key), ()) for rank in (Lane.INTERACTIVE, LATE))
        return sum(item.cost for item in in_time), sum(item.cost for item in late)

    def uses(self, model: str) -> bool:
        """Whether anything of this model is here."""
        return any(self.waiting[model, lane] for lane in LANES)

    @property
    def empty(self) -> bool:
        """Whether nothing is here."""
        return not any(self.waiting.values())

    def __len__(self) -> int:
        return sum(self.waiting.values())

    def _show(self) -> None:
        resident = self._resident
        self.visible = [
            Line(model, lane, line, key)
            for (model, lane, key), line in self._lines.items()
            if (resident is None or model in resident) and model not in self._stepwise
        ]

    def _forget_empty(self, model: str, key: str) -> None:
        """Keys come and go without bound; their lines must not stay."""
        for lane in (Lane.INTERACTIVE, LATE, Lane.BACKGROUND):
            if self._lines.get((model, lane, key)) == []:
                del self._lines[model, lane, key]
        self._show()
