"""What was seen of the pools, added up by minute for the records: PURE bookkeeping."""

from __future__ import annotations

from msgspec.structs import replace

from penstock.policy.scaling import Decision, Fleet, Load, Terms
from penstock.store.elastic import Minute

#: The length of what one record is about, seconds.
MINUTE_S = 60.0


class Minutes:
    """``saw`` each look, ``taken`` what is to be stored."""

    def __init__(self) -> None:
        self._open: dict[str, Minute] = {}
        self._full: list[Minute] = []

    def saw(
        self,
        pool: str,
        load: Load,
        fleet: Fleet,
        terms: Terms,
        decision: Decision,
        *,
        epoch: int,
        now: float,
        elapsed_s: float,
    ) -> None:
        """One look at a pool at ``now`` (Unix seconds), ``elapsed_s`` after the one before."""
        begins = now // MINUTE_S * MINUTE_S
        one = self._open.get(pool)
        if one is None or one.at != begins or one.epoch != epoch:
            if one is not None:
                self._full.append(one)
            one = Minute(pool=pool, at=begins, epoch=epoch)
        backlog = sum(load.backlog_s.values())
        self._open[pool] = replace(
            one,
            seconds=one.seconds + elapsed_s,
            demand_s=one.demand_s + load.demand * elapsed_s,
            demand_most=max(one.demand_most, load.demand),
            backlog_s=one.backlog_s + backlog * elapsed_s,
            backlog_most=max(one.backlog_most, backlog),
            wanted_s=one.wanted_s + decision.target * elapsed_s,
            ready_s=one.ready_s + fleet.ready * elapsed_s,
            busy_s=one.busy_s + fleet.busy * elapsed_s,
            starting_s=one.starting_s + fleet.starting * elapsed_s,
            parked_s=one.parked_s + fleet.parked * elapsed_s,
            draining_s=one.draining_s + fleet.draining * elapsed_s,
            ready_in_s=terms.ready_in_s,
            wake_in_s=terms.wake_in_s,
        )

    def due(self) -> list[Minute]:
        """Minutes that have ended, and the open ones as far as they are known: those are stored again."""
        return [*self._full, *self._open.values()]

    def stored(self) -> None:
        """What ``due`` gave is stored; open minutes go on."""
        self._full = []
