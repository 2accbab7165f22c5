"""Pools that are split between lanes while background work presses: decided each turn, and told to the workers.

What they are told lapses, so it is told again while it holds: a leader that dies leaves no split behind that nobody
looks after. What was decided, and who was told, is left to its successor, which goes on with it before that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.lane import Lane
from penstock.policy.scaling import Load
from penstock.policy.scaling.split import Pressure, Split, Verdict, chosen, split
from penstock.store.elastic import Slot

#: What the workers' command is called.
COMMAND = "lane"
#: For how long a worker is told, and how often, seconds: two words may be lost.
FOR_S, REPEAT_S = 30.0, 10.0


@dataclass(slots=True)
class _Pool:
    state: Split = field(default_factory=Split)
    #: Workers that were told to keep to interactive jobs, and when last.
    told: frozenset[str] = frozenset()
    told_at: float = float("-inf")


class Splitter:
    """``tell(lane, names, for_s)`` reaches workers by their names, or does not: nothing waits for it."""

    def __init__(self, tell: Callable[[Lane | None, Collection[str], float], object]) -> None:
        self._tell = tell
        self._pools: dict[str, _Pool] = {}

    def turn(
        self, name: str, load: Load | None, workers: Collection[str], *, on: bool, target_s: float, now: float
    ) -> Verdict | None:
        """Decide about one pool, whose ``workers`` consume now, and tell them. ``None`` where a split is not ``on``."""
        pool = self._pools.setdefault(name, _Pool())
        if not on:
            pool.state = Split()
            self._told(pool, frozenset(), now)
            return None
        pressure = None if load is None else pressure_of(load, len(workers), target_s)
        verdict = split(now, pressure, len(workers), pool.state)
        pool.state = verdict.state
        self._told(pool, frozenset(chosen(workers, verdict.alone, pool.told)), now)
        return verdict

    def alone(self, name: str) -> int:
        """How many workers of a pool do interactive jobs only."""
        return self._pools[name].state.alone if name in self._pools else 0

    def left(self, name: str, *, now: float) -> dict[str, Any] | None:
        """Plain values for a successor; ``None``: there is nothing to go on with."""
        if not self.alone(name):
            return None
        pool = self._pools[name]
        return {**pool.state.as_json(now=now), "told": sorted(pool.told)}

    def inherit(self, name: str, left: Mapping[str, Any], *, now: float) -> None:
        """Go on with what ``left`` gave. Another release may have written it."""
        told = left.get("told")
        names = frozenset(each for each in told if isinstance(each, str)) if isinstance(told, list) else frozenset()
        self._pools[name] = _Pool(Split.from_json(left, now=now), names)

    def forget(self) -> None:
        """Another leads: what was told lapses."""
        self._pools.clear()

    def _told(self, pool: _Pool, alone: frozenset[str], now: float) -> None:
        if ended := pool.told - alone:
            self._tell(None, sorted(ended), FOR_S)
        if alone and (alone != pool.told or now - pool.told_at >= REPEAT_S):
            self._tell(Lane.INTERACTIVE, sorted(alone), FOR_S)
            pool.told_at = now
        pool.told = alone


def pressure_of(load: Load, workers: int, target_s: float) -> Pressure:
    """What a look says, as the decision takes it: PURE."""
    return Pressure(
        at=load.at,
        workers=workers,
        interactive=load.interactive,
        background_s=load.backlog_s.get(Lane.BACKGROUND, 0.0),
        longest_s=load.longest_s,
        target_s=target_s,
    )


def consuming(slots: Iterable[Slot]) -> list[str]:
    """The names of the workers that consume, as remote control knows them: PURE."""
    return sorted(
        slot.worker.rsplit(":", 2)[0]
        for slot in slots
        if slot.state == "wanted" and slot.worker is not None and slot.ready_at is not None
    )


def divided(alone: int, workers: int) -> str:
    """How a pool's workers are divided between the lanes, in words: PURE."""
    if not alone:
        return f"all {workers} workers do jobs of both lanes"
    return f"{alone} of {workers} workers {'does' if alone == 1 else 'do'} interactive jobs only"
