"""Asks SQL, a few times a second, which of the running sequences are still wanted.

A thread of its own, so that a slow database delays cancellation and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
from celery.worker import state as worker_state

from penstock import clock
from penstock.errors import StoreUnavailable
from penstock.service import ThreadService
from penstock.store import Store
from penstock_worker.canvas import revoked
from penstock_worker.steps.groups import Member

log = structlog.get_logger(__name__)

#: How soon a cancelled sequence is told, seconds; it then stops at its next step.
EVERY_S = 0.25


class Recall(ThreadService):
    """``members`` gives the running ones by job id, from any thread."""

    def __init__(self, store: Store, *, worker: str, members: Callable[[], Mapping[str, Member]]) -> None:
        super().__init__("recall")
        self._store = store
        self._worker = worker
        self._members = members

    def run(self) -> None:
        """Look after look."""
        for _ in self.turns(EVERY_S, at_once=False):
            try:
                self.look()
            except StoreUnavailable as error:
                log.debug("nobody can be recalled now", action="recall.wait", error=error.message)
            except Exception:
                log.exception("recall failed", action="recall.error")

    def look(self) -> None:
        """One look: marks the members that are to stop."""
        members = dict(self._members())
        if not members:
            return
        if worker_state.revoked and (ids := list(filter(revoked.is_open, members))):
            # Revoked through Celery's remote control: the row has to agree.
            self._store.cancel_many(ids, now=clock.now())
            revoked.settle(ids)
        for id in members.keys() - self._store.held(list(members), worker=self._worker):
            # Marked on the member, not by id: the job may have ended meanwhile and may run here again.
            members[id].recalled = True
