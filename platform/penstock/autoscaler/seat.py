"""Who leads, as one autoscaler lives it: it waits, leads, is deposed, resigns."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import structlog

from penstock import clock
from penstock.autoscaler.observe import said
from penstock.policy.leadership import may_act, may_lead, name_of, rivals
from penstock.policy.liveness import Seen
from penstock.store.elastic import Elastic, Leadership, Term

log = structlog.get_logger(__name__)


class Seat:
    """``turn`` before each action of the leader. Its holder is another in each life of each process.

    It is of all pools, or of ``only`` these: whoever leads any of them is waited for.
    """

    def __init__(self, elastic: Elastic, *, lease_s: float, only: Collection[str] = ()) -> None:
        self.name = name_of(only)
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        #: Under which it leads; ``None``: it does not.
        self.term: Term | None = None
        #: Who leads instead, for a person; empty while nobody is known.
        self.leader = ""
        #: What the leaders before have left, the latest last, when this one has just taken over.
        self.inherited: Sequence[Mapping[str, Any]] = ()
        self._elastic = elastic
        self._lease_s = lease_s
        self._seen: Mapping[str, Seen] = {}
        self._beaten_at = float("-inf")
        self._told_at = float("-inf")

    def turn(self, state: Mapping[str, Any], *, at_once: bool = False) -> bool:
        """Whether this one leads now. A leader beats, and leaves ``state`` for a successor; a candidate takes over when
        all who lead any of its pools have been silent for a lease, or ``at_once``. Raises ``StoreUnavailable``.
        """
        # Read first: a beat that took long to be written is as old as when it began.
        now = clock.monotonic_s()
        if self.term is not None:
            if self._elastic.beat(self.term, state=state):
                self._beaten_at = now
                return True
            self.deposed()
        leaders = self._elastic.leaderships()
        concerned = {name: leaders[name] for name in rivals(self.name, leaders)}
        self._seen, may = may_lead(self._seen, concerned.values(), lease_s=self._lease_s, now=now)
        if not (may or at_once):
            self._wait(concerned, now)
            return False
        self.term = self._elastic.lead(self.name, self.holder, leaders)
        if self.term is None:
            return False
        self._beaten_at = now
        self.inherited = sorted((each.state for each in concerned.values()), key=_said_at)
        self.leader = self.holder
        log.info("this autoscaler leads", action="autoscaler.leads", epoch=self.term.epoch, holder=self.holder)
        return True

    def _wait(self, concerned: Mapping[str, Leadership], now: float) -> None:
        """Say for whom: in the log when it is another one, and for the status, where nobody leads under this name."""
        held = {name: each.holder for name, each in concerned.items() if each.holder}
        leader, before = ", ".join(held.values()), self.leader
        self.leader = leader
        if leader != before:
            log.info(
                "another autoscaler has pools of this one: it waits",
                action="autoscaler.waits",
                leader=leader,
                leads=list(held),
            )
        if self.name not in held and (leader != before or now - self._told_at >= self._lease_s):
            own = concerned.get(self.name)
            waits = {"holder": self.holder, "for": leader, "at": clock.now()}
            self._elastic.wait(self.name, own, {**said(own.state if own is not None else None), "waits": waits})
            self._told_at = now

    @property
    def waits(self) -> bool:
        """Whether another is known to lead."""
        return self.term is None and self.leader not in ("", self.holder)

    def may_act(self) -> bool:
        """Whether nobody can have taken over since the last beat."""
        return self.term is not None and may_act(self._beaten_at, lease_s=self._lease_s, now=clock.monotonic_s())

    def deposed(self) -> None:
        """Another leads: begin again as a candidate."""
        log.warning("another autoscaler leads by now", action="autoscaler.deposed", epoch=self.term and self.term.epoch)
        self.term, self._seen, self.leader = None, {}, ""

    def resign(self, state: Mapping[str, Any]) -> None:
        """So that the next one need not wait for a lease. Raises ``StoreUnavailable``."""
        if self.term is not None:
            self._elastic.resign(self.term, state=state)
            self.term = None


def _said_at(state: Mapping[str, Any]) -> float:
    at = said(state).get("at")
    return float(at) if isinstance(at, int | float) else 0.0
