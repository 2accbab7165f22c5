"""Claimed jobs whose own deadlines will have passed when what goes before them has run.

They stand beside the lines: they are not counted, and nothing is planned for them. When their deadlines have passed the
``expirer`` answers for them; a device that has nothing else to do tries those that could be in time after all. Who is
given up is ``policy.batching``'s decision. Not thread-safe: whoever calls holds the batcher's lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from penstock.lane import Lane
from penstock.model import Batching
from penstock.policy.batching import HOPELESS_BATCHES, STALE_S, full_cost, given_up
from penstock.policy.latency import LatencyBook
from penstock_worker.item import INFINITY, Item

#: They are answered for so long after the deadline of the first of them (seconds), and so many at a time: many in one
#: transaction.
ANSWERED_S, ANSWERED_AT_ONCE = 0.05, 500

_Line = tuple[str, str]


class Hopeless:
    """``limits`` are the models' at any time; of the ``stepwise`` ones nobody is given up before a step."""

    def __init__(self, limits: Mapping[str, Batching], latency: LatencyBook, *, stepwise: Collection[str]) -> None:
        self._limits = limits
        self._latency = latency
        self._stepwise = stepwise
        self.items: list[Item] = []
        self._count: Counter[str] = Counter()
        #: When it is time to answer for the first; infinity when nobody is here.
        self.answer_at = INFINITY
        #: When a batch of each model was last observed.
        self._observed_at: dict[str, float] = {}

    # In -------------------------------------------------------------------------------------------------------

    def choose(
        self,
        items: Iterable[Item],
        *,
        now: float,
        starts_in_s: float,
        after_s: float,
        free: bool,
        mates: Callable[[str, str], tuple[float, float]],
    ) -> list[Item]:
        """Those of a claim to be given up; they are not added. Batches of it would begin in ``starts_in_s``.

        ``mates`` tells the cost of what waits of a model and a key: in time, and late.
        """
        found: list[Item] = []
        items = list(items)
        if all(item.ends_at == INFINITY for item in items):
            return found
        candidates = (
            item
            for item in items
            if item.lane is Lane.INTERACTIVE and item.weighed and not item.suspect and item.model not in self._stepwise
        )
        room: dict[str, int] = {}
        for (model, key), line in _lines(candidates).items():
            if any(item.ends_at < INFINITY for item in line):
                try_one = free or now - self._observed_at.get(model, -INFINITY) > STALE_S
                most, left = full_cost(self._limits[model], line), room.setdefault(model, self.room(model))
                places = self._places(line, now + starts_in_s, mates(model, key), after_s, most=most, try_one=try_one)
                given = [line[place] for place in places[:left]]
                room[model] -= len(given)
                found += given
        return found

    def add(self, item: Item) -> None:
        """One that is in no line."""
        item.late = True
        self.items.append(item)
        self._count[item.model] += 1
        self.answer_at = min(self.answer_at, item.ends_at + ANSWERED_S)

    def room(self, model: str) -> int:
        """How many more of a model may be given up."""
        return max(0, HOPELESS_BATCHES * self._limits[model].max_size - self._count[model])

    def observed(self, model: str, now: float) -> None:
        """A batch of this model has told how long it took."""
        self._observed_at[model] = now

    # Out ------------------------------------------------------------------------------------------------------

    def revived(self, *, now: float, after_s: float, resident: Collection[str] | None, any_one: bool) -> list[Item]:
        """Of one (model, key), those who could be in time in a batch that began now, as many as one holds.

        For a device that has nothing else to do. ``any_one``: where the predictions say nobody, one all the same.
        """
        for line in _lines(self._revivable(now, resident)).values():
            # Nobody stands behind them: what should be in time is worth it.
            places = set(self._places(line, now, (0.0, 0.0), after_s, most=INFINITY, try_one=any_one))
            found = [item for place, item in enumerate(line) if place not in places]
            if found:
                found = found[: self._limits[found[0].model].max_size]
                self._remove(found)
                return found
        return []

    def may_revive(self, *, now: float, resident: Collection[str] | None) -> bool:
        """Whether there is anybody whose deadline has not passed, of a model that is loaded."""
        return any(True for _ in self._revivable(now, resident))

    def _revivable(self, now: float, resident: Collection[str] | None) -> Iterator[Item]:
        return (item for item in self.items if item.ends_at > now and (resident is None or item.model in resident))

    def expired(self, now: float) -> list[Item]:
        """When it is time to answer for the first: those of one model whose deadlines have passed."""
        if self.answer_at > now:
            return []
        found = [item for item in self.items if item.ends_at <= now]
        found = [item for item in found if item.model == found[0].model][:ANSWERED_AT_ONCE]
        self._remove(found)
        return found

    def pull(self, matching: Callable[[Item], bool]) -> list[Item]:
        """The matching ones."""
        found = [item for item in self.items if matching(item)]
        self._remove(found)
        return found

    # Views ----------------------------------------------------------------------------------------------------

    def _places(
        self,
        line: Sequence[Item],
        starts_at: float,
        mates: tuple[float, float],
        after_s: float,
        *,
        most: float,
        try_one: bool,
    ) -> list[int]:
        model, key = line[0].model, line[0].key
        return given_up(
            line,
            self._latency.line(model, key),
            starts_at=starts_at,
            mates=mates[0],
            late=mates[1],
            most=most,
            after_s=after_s,
            try_one=try_one,
        )

    def _remove(self, items: Iterable[Item]) -> None:
        gone = set(map(id, items))
        if gone:
            self.items = [item for item in self.items if id(item) not in gone]
            self._count = Counter(item.model for item in self.items)
            self.answer_at = min((item.ends_at for item in self.items), default=INFINITY) + ANSWERED_S


def _lines(items: Iterable[Item]) -> dict[_Line, list[Item]]:
    found: dict[_Line, list[Item]] = {}
    for item in items:
        found.setdefault((item.model, item.key), []).append(item)
    return found
