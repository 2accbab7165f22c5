"""Who leads, as one autoscaler lives it: it waits, leads, is deposed, resigns."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from typing import Any

import structlog

from penstock import clock
from penstock.policy.leadership import may_act, may_lead
from penstock.policy.liveness import Seen
from penstock.store.elastic import AUTOSCALER, Elastic

log = structlog.get_logger(__name__)


class Seat:
    """``turn`` before each action of the leader. Its name is another in each life of each process."""

    def __init__(self, elastic: Elastic, *, lease_s: float, name: str = AUTOSCALER) -> None:
        self.name = name
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        #: The epoch under which it leads; ``None``: it does not.
        self.epoch: int | None = None
        #: Who leads instead, for a person; empty while nobody is known.
        self.leader = ""
        #: What the leader before has left, when this one has just taken over.
        self.inherited: Mapping[str, Any] = {}
        self._elastic = elastic
        self._lease_s = lease_s
        self._seen: Seen | None = None
        self._beaten_at = float("-inf")

    def turn(self, state: Mapping[str, Any], *, at_once: bool = False) -> bool:
        """Whether this one leads now. A leader beats, and leaves ``state`` for a successor; a candidate takes over when
        the leader has been silent for a lease, or ``at_once``. Raises ``StoreUnavailable``.
        """
        # Read first: a beat that took long to be written is as old as when it began.
        now = clock.monotonic_s()
        if self.epoch is not None:
            if self._elastic.beat(self.name, self.holder, self.epoch, state=state):
                self._beaten_at = now
                return True
            self.deposed()
        found = self._elastic.leadership(self.name)
        self._seen, may = may_lead(self._seen, found, lease_s=self._lease_s, now=now)
        self.leader = found.holder if found is not None else ""
        if not (may or at_once):
            return False
        epoch = self._elastic.lead(self.name, self.holder, found)
        if epoch is None:
            return False
        self.epoch, self._beaten_at = epoch, now
        self.inherited = found.state if found is not None else {}
        self.leader = self.holder
        log.info("this autoscaler leads", action="autoscaler.leads", epoch=epoch, holder=self.holder)
        return True

    def may_act(self) -> bool:
        """Whether nobody can have taken over since the last beat."""
        return self.epoch is not None and may_act(self._beaten_at, lease_s=self._lease_s, now=clock.monotonic_s())

    def deposed(self) -> None:
        """Another leads: begin again as a candidate."""
        log.warning("another autoscaler leads by now", action="autoscaler.deposed", epoch=self.epoch)
        self.epoch, self._seen = None, None

    def resign(self, state: Mapping[str, Any]) -> None:
        """So that the next one need not wait for a lease. Raises ``StoreUnavailable``."""
        if self.epoch is not None:
            self._elastic.resign(self.name, self.holder, self.epoch, state=state)
            self.epoch = None
