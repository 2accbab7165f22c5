"""A worker that does the jobs of one lane only, for good (``--lane``) or for a while (told by the autoscaler).

Its devices are free when a job of its lane comes. The other lane's jobs are left to others, model by model, as long as
some other live worker takes them, of the same version; where nobody does, it takes them, too, behind its own. So no
lane starves, whoever is told what, and whoever dies: that is noticed when the dead one's lease has run out.

What it was told for a while lapses by itself when it is not told again: an autoscaler that dies leaves no split behind.
What it has claimed runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping

import structlog

from penstock.clock import monotonic_s
from penstock.errors import StoreUnavailable
from penstock.lane import LANES, Lane

log = structlog.get_logger(__name__)

#: What a worker is told for a while lapses after so long at most, seconds.
LONGEST_S = 300.0


class LaneDuty:
    """``look`` at each heartbeat, after it has said which ``lane`` this worker keeps to; ``tell`` on the hub thread.

    ``versions`` are those of its models, as workers announce them; ``others(lane)`` gives those of all other live
    workers that take the lane; ``leave`` has the worker claim nothing of such (model, lane).
    """

    def __init__(
        self,
        only: Lane | None,
        versions: Mapping[str, str],
        *,
        others: Callable[[Lane], Collection[Mapping[str, str]]],
        leave: Callable[[frozenset[tuple[str, Lane]]], object],
        clock: Callable[[], float] = monotonic_s,
    ) -> None:
        self._only = only
        self._versions = versions
        self._others = others
        self._leave = leave
        self._clock = clock
        self._told: Lane | None = None
        self._told_until = 0.0
        self._left: frozenset[tuple[str, Lane]] = frozenset()
        self._away = False
        #: The heartbeat looks, the hub is told.
        self._guard = threading.Lock()

    @property
    def lane(self) -> Lane | None:
        """The lane that it is to keep to; ``None``: it does both. Others judge by it, whatever it really does."""
        if self._only is not None:
            return self._only
        return self._told if self._clock() < self._told_until else None

    def tell(self, lane: Lane | None, for_s: float) -> str:
        """Keep to a lane for so long, or do both from now on. What is so now, for a person."""
        if self._only is not None:
            return f"it was started for {self._only} jobs only"
        for_s = min(for_s, LONGEST_S)
        self._told, self._told_until = lane, self._clock() + for_s
        if lane is None:
            self._change(frozenset())
            return "it does both"
        # What can be left to others is looked up by the next heartbeat, when the others can see this one's word, too.
        return f"it does {lane} jobs only, for {for_s:g} s from its next heartbeat on, where others do the rest"

    def look(self) -> None:
        """Judge anew what can be left to others. Where the database does not say, nothing is left to anybody else
        than before."""
        only = self.lane
        if only is None:
            self._change(frozenset())
            return
        lane = next(each for each in LANES if each is not only)
        try:
            others = self._others(lane)
        except StoreUnavailable as error:
            if not self._away:
                log.warning("who takes the other lane is not known", action="lanes.wait", error=error.message)
            self._away = True
            return
        self._away = False
        self._change(frozenset((model, lane) for model in left(self._versions, others)))

    def _change(self, now: frozenset[tuple[str, Lane]]) -> None:
        with self._guard:
            if now == self._left:
                return
            self._left = now
            self._leave(now)
        log.info(
            "lanes are left to other workers" if now else "this worker takes both lanes",
            action="worker.lanes",
            left=sorted(f"{model}.{lane}" for model, lane in now),
        )


def left(mine: Mapping[str, str], others: Collection[Mapping[str, str]]) -> set[str]:
    """The models whose other lane somebody else takes: in all versions that are served here. PURE."""
    return {model for model, version in mine.items() if any(other.get(model) == version for other in others)}
