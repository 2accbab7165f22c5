"""How long workers take to come up, as it was seen: PURE bookkeeping, on the observer's own clock.

A row says when its slot was made and when its worker was ready. Between the two may lie hours (a worker that died and
was started again for the same slot) or less than nothing (another machine has said it, by another clock). So what a row
says is believed as far as it agrees with what was seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median

from penstock.store.elastic import Slot

#: So many of the last ones of a pool count.
LAST = 9
#: Less is not believed: nobody loads a model in no time, seconds.
LEAST_S = 0.1
#: Waiting for a machine is a part of starting; for anything else that keeps a worker away, it is not.
WAITS = "Unschedulable"


class Starts:
    """``ordered`` what is new, ``saw`` each look; ``ready_in_s`` is what a pool's workers take."""

    def __init__(self) -> None:
        #: Since when a slot has had no ready worker; ``None``: it took its time for another reason than starting.
        self._since: dict[str, float | None] = {}
        self._took: dict[str, deque[float]] = {}

    def ordered(self, ids: Iterable[str], *, now: float) -> None:
        """These slots are new."""
        self._since |= dict.fromkeys(ids, now)

    def saw(
        self,
        pool: str,
        slots: Sequence[Slot],
        *,
        stuck: Mapping[str, str],
        late: Collection[str],
        every_s: float,
        now: float,
    ) -> None:
        """A pool's slots as they are. Those that are ``late`` or ``stuck`` say nothing of how long a start takes."""
        for slot in slots:
            if slot.state == "draining":
                self._since.pop(slot.id, None)
            elif slot.ready_at is None:
                why = stuck.get(slot.id, "")
                if slot.id in late or (why and not why.startswith(WAITS)):
                    self._since[slot.id] = None
                else:
                    self._since.setdefault(slot.id, now)
            # One that somebody has started before it was wanted (see ``external``) has taken no time to start.
            elif (since := self._since.pop(slot.id, None)) is not None and not (slot.place or {}).get("found"):
                seen_s = now - since
                said_s = min(max(slot.ready_at - slot.made_at, seen_s - 2 * every_s), seen_s + 2 * every_s)
                self._took.setdefault(pool, deque(maxlen=LAST)).append(max(said_s, LEAST_S))

    def only(self, ids: Collection[str], pools: Collection[str]) -> None:
        """There are no others any more."""
        self._since = {id: since for id, since in self._since.items() if id in ids}
        self._took = {pool: took for pool, took in self._took.items() if pool in pools}

    def ready_in_s(self, pool: str) -> float | None:
        """What a start takes, mostly; ``None``: none was seen."""
        took = self._took.get(pool)
        return median(took) if took else None

    def inherit(self, pool: str, ready_in_s: object) -> None:
        """What a predecessor has seen, until there is news."""
        if isinstance(ready_in_s, int | float) and not isinstance(ready_in_s, bool) and ready_in_s > 0:
            self._took[pool] = deque([float(ready_in_s)], maxlen=LAST)
