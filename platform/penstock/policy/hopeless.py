"""Claimed jobs whose own deadlines will have passed when what goes before them has run: who is abandoned. PURE.

They stand beside the waiting lines: they are not counted, and nothing is planned for them. When their deadlines have
passed they are answered for; a device that has nothing else to do tries those that could be in time after all. A result
that comes after its deadline is thrown away, so they are of no use to anybody: see ``docs/decisions/0055``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from penstock.model import Batching
from penstock.policy.batching import GUARD_S
from penstock.policy.latency import LatencyBook, LatencyModel

INFINITY = float("inf")
#: So many full batches of a model may wait to expire. Beyond it nobody is abandoned any more: a worker that has time
#: for it could not reach it.
HOPELESS_BATCHES = 8
#: When no batch of a model has told for so long how long they take (seconds), one job is tried that seems hopeless.
STALE_S = 1.0
#: A device that was idle for so long (seconds) tries one job that seems hopeless: the prediction may be wrong. Not at
#: once: while many come, the next one is on its way.
TRIED_S = 0.02


class Claimed(Protocol):
    """What is asked of an interactive item."""

    @property
    def model(self) -> str:
        """Its model's name."""

    @property
    def key(self) -> str:
        """Items whose keys differ never share a batch."""

    @property
    def cost(self) -> float:
        """Its cost in the model's unit; 1 where the model has no cost function."""

    @property
    def ends_at(self) -> float:
        """When its own deadline is (the clock of ``now``); else infinity."""


T = TypeVar("T", bound=Claimed)


def abandoned(
    items: Sequence[Claimed],
    line: LatencyModel,
    *,
    starts_at: float,
    mates: float,
    late: float,
    most: float,
    after_s: float,
    try_one: bool,
) -> list[int]:
    """Which items of one line cannot be in time for their own deadlines: their places.

    They would be in a batch that begins at ``starts_at``, with those in time that wait already (their cost: ``mates``),
    of a cost of ``most`` at most. Each abandoned one, the earliest deadline first, makes it shorter for the others.
    ``try_one``: where all would be abandoned and nobody is in the line, the last one is not, since the prediction may
    be wrong: the device is free, or it is long ago that a batch has told how long they take.

    Under overload the oldest messages come first, and they are those whose time is over: a worker that took them for
    work would never get to those behind them. Where they fill a batch, with the ``late`` ones that wait (their cost),
    more stand behind them. Then room is for those that will be in time in a batch that late ones fill up, with the
    margin and ``after_s``, how long results take to their client; else only who should be late is abandoned.
    """
    if not line.seen:
        return []
    cost, found = mates + sum(item.cost for item in items), list[int]()
    if cost + late >= most:
        cost, factor, after_s = cost + late, line.margin, after_s + GUARD_S
    else:
        factor, after_s = 1.0, 0.0
    for place in sorted(range(len(items)), key=lambda place: items[place].ends_at):
        if starts_at + factor * line.predict(min(cost, most)) + after_s < items[place].ends_at:
            break
        found.append(place)
        cost -= items[place].cost
    return found[:-1] if try_one and len(found) == len(items) and not mates else found


def full_cost(limit: Batching, items: Sequence[Claimed]) -> float:
    """What a full batch of items like these costs."""
    mean = sum(item.cost for item in items) / len(items) if items else 1.0
    return min(limit.max_size * mean, INFINITY if limit.max_cost is None else limit.max_cost)


class Hopeless(Generic[T]):
    """Those that one worker has abandoned. ``limits`` and ``latency`` are its models' at any time."""

    def __init__(self, limits: Mapping[str, Batching], latency: LatencyBook) -> None:
        self._limits = limits
        self._latency = latency
        self.items: list[T] = []
        self._count: Counter[str] = Counter()
        #: When the first of their deadlines passes; infinity when nobody is here.
        self.ends_at = INFINITY
        #: When a batch of each model was last observed.
        self._observed_at: dict[str, float] = {}

    # In -------------------------------------------------------------------------------------------------------

    def choose(
        self,
        items: Iterable[T],
        *,
        now: float,
        starts_in_s: float,
        after_s: float,
        free: bool,
        mates: Callable[[str, str], tuple[float, float]],
    ) -> list[T]:
        """Those of a claim to be abandoned; they are not added. Batches of it would begin in ``starts_in_s``.

        ``mates`` tells the cost of what waits of a model and a key: in time, and late. ``after_s`` is how long results
        take to their client; ``free``: the device has nothing to do.
        """
        found: list[T] = []
        room: dict[str, int] = {}
        for (model, key), line in _lines(items).items():
            if any(item.ends_at < INFINITY for item in line):
                try_one = free or now - self._observed_at.get(model, -INFINITY) > STALE_S
                most, left = full_cost(self._limits[model], line), room.setdefault(model, self.room(model))
                places = self._places(line, now + starts_in_s, mates(model, key), after_s, most=most, try_one=try_one)
                given = [line[place] for place in places[:left]]
                room[model] -= len(given)
                found += given
        return found

    def add(self, item: T) -> None:
        """One that is in no line."""
        self.items.append(item)
        self._count[item.model] += 1
        self.ends_at = min(self.ends_at, item.ends_at)

    def room(self, model: str) -> int:
        """How many more of a model may be abandoned."""
        return max(0, HOPELESS_BATCHES * self._limits[model].max_size - self._count[model])

    def observed(self, model: str, now: float) -> None:
        """A batch of this model has told how long it took."""
        self._observed_at[model] = now

    # Out ------------------------------------------------------------------------------------------------------

    def revived(
        self, *, now: float, free_since: float, after_s: float = 0.0, resident: Collection[str] | None = None
    ) -> list[T]:
        """Of one (model, key), those who could be in time in a batch that began now, as many as one holds.

        For a device that has had nothing else to do since ``free_since``; after ``TRIED_S``, where the predictions say
        nobody, one all the same. ``resident`` are the models that are loaded; ``None``: all.
        """
        for line in _lines(self._revivable(now, resident)).values():
            # Nobody stands behind them: what should be in time is worth it.
            try_one = now - free_since >= TRIED_S
            places = set(self._places(line, now, (0.0, 0.0), after_s, most=INFINITY, try_one=try_one))
            found = [item for place, item in enumerate(line) if place not in places]
            if found:
                found = found[: self._limits[found[0].model].max_size]
                self._remove(found)
                return found
        return []

    def revive_in_s(self, *, now: float, free_since: float, resident: Collection[str] | None = None) -> float | None:
        """After how long a device that stays idle tries whoever is here; ``None``: there is nobody."""
        return max(0.0, free_since + TRIED_S - now) if any(True for _ in self._revivable(now, resident)) else None

    def _revivable(self, now: float, resident: Collection[str] | None) -> Iterator[T]:
        return (item for item in self.items if item.ends_at > now and (resident is None or item.model in resident))

    def expired(self, now: float, *, most: int) -> list[T]:
        """Those of one model whose deadlines have passed, at most so many."""
        if self.ends_at > now:
            return []
        found = [item for item in self.items if item.ends_at <= now]
        found = [item for item in found if item.model == found[0].model][:most]
        self._remove(found)
        return found

    def pull(self, matching: Callable[[T], bool]) -> list[T]:
        """The matching ones."""
        found = [item for item in self.items if matching(item)]
        self._remove(found)
        return found

    # Views ----------------------------------------------------------------------------------------------------

    def _places(
        self,
        line: Sequence[T],
        starts_at: float,
        mates: tuple[float, float],
        after_s: float,
        *,
        most: float,
        try_one: bool,
    ) -> list[int]:
        model, key = line[0].model, line[0].key
        return abandoned(
            line,
            self._latency.line(model, key),
            starts_at=starts_at,
            mates=mates[0],
            late=mates[1],
            most=most,
            after_s=after_s,
            try_one=try_one,
        )

    def _remove(self, items: Iterable[T]) -> None:
        gone = set(map(id, items))
        if gone:
            self.items = [item for item in self.items if id(item) not in gone]
            self._count = Counter(item.model for item in self.items)
            self.ends_at = min((item.ends_at for item in self.items), default=INFINITY)


def _lines(items: Iterable[T]) -> dict[tuple[str, str], list[T]]:
    found: dict[tuple[str, str], list[T]] = {}
    for item in items:
        found.setdefault((item.model, item.key), []).append(item)
    return found
