"""Fails the steps of runs whose model, or its version, nobody has served for too long: somebody has removed it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from penstock.errors import NotServed
from penstock.lane import full_name
from penstock.policy.absence import Absence
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.views.fleet import registered

log = structlog.get_logger(__name__)

#: How often it is looked, seconds, where steps are waited with for long; and after how many such times without a look
#: nothing is known any more.
EVERY_S, BLIND = 30.0, 4
#: Rows of one statement.
CHUNK = 1000


class Unserved:
    """Called by the dispatcher's turns; looks by its own rhythm."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self._wait_s = settings.run.unserved_wait_s
        self._every_s = min(EVERY_S, (self._wait_s or EVERY_S) / 4)
        # While the workers' leases last, none of them is missed.
        self._absence = Absence(gap_s=max(BLIND * self._every_s, 2 * settings.lease.ttl_s))
        self._looked_at = float("-inf")

    def turn(self, *, now: float, mono: float) -> Sequence[Settled]:
        """``now`` is the time of day, ``mono`` a clock that is never set; the rows of what ended."""
        if self._wait_s is None or mono - self._looked_at < self._every_s:
            return []
        self._looked_at = mono
        places = registered(self._store, now=now).places
        served = ((model, place.version) for model, where in places.items() for place in where)
        self._absence.look(served, now=mono)
        before = now - self._wait_s
        ended: list[Settled] = []
        for model, version in self._store.waiting_steps(before=before):
            if self._absence.gone_s((model, version), now=mono) >= self._wait_s:
                ended += self._fail(model, version, before, now)
        return ended

    def _fail(self, model: str, version: str | None, before: float, now: float) -> list[Settled]:
        name = full_name(model, version)
        error = NotServed(
            f"no worker has served {name!r} for {self._wait_s:g} s: start one that does, and `penstock job retry` the"
            " run, which then goes on. A version that the run was put on may be another one by then"
        ).as_dict()
        ended: list[Settled] = []
        while True:
            rows = self._store.fail_steps(model, version, before=before, error=error, now=now, limit=CHUNK)
            ended += rows
            if len(rows) < CHUNK:
                break
        if ended:
            log.warning("steps failed that nobody serves", action="steps_unserved", model=name, jobs=len(ended))
        return ended
