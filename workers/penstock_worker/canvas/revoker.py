"""Celery's ``revoke`` for jobs: cancelled in SQL, for good, wherever they are.

Celery keeps what was revoked in each worker's memory, where a restart loses it. A job is cancelled instead, by the
first worker that hears of it; the others find it done. Off the hub thread, which does not wait for SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import structlog

from penstock import arguments, clock
from penstock.dispatch.background import Background
from penstock.errors import StoreUnavailable
from penstock.store import Store
from penstock.store.records import Settled
from penstock_worker.canvas import revoked

log = structlog.get_logger(__name__)

#: First and longest wait before it is tried again while the database is away, seconds.
AGAIN_FIRST_S, AGAIN_LONGEST_S = 0.5, 30.0
#: Ids that are cancelled in one transaction.
AT_ONCE = 500


class Revoker:
    """``told`` hears of rows that were changed, and which of them are Celery's too, on a thread of its own."""

    def __init__(self, store: Store, *, told: Callable[[Sequence[Settled], set[str]], None]) -> None:
        self._store = store
        self._told = told
        self._background = Background("penstock-revoke")

    def revoke(self, ids: Sequence[str], unknown: Callable[[Sequence[str]], object]) -> None:
        """Cancel them soon, and tell ``unknown`` of those that are no job's. Returns at once; while the database is
        away it is tried again."""
        for start in range(0, len(ids), AT_ONCE):
            self._background.later(
                0.0, partial(self._revoke, list(ids[start : start + AT_ONCE]), unknown, AGAIN_FIRST_S)
            )

    def stop(self) -> None:
        """End its thread. What could not be cancelled yet is lost with this worker, and told."""
        self._background.close()

    def _revoke(self, ids: list[str], unknown: Callable[[Sequence[str]], object], wait_s: float) -> None:
        # Anybody may send anything: what no database can hold is the id of no job, and must not stop the others.
        possible = [id for id in ids if arguments.storable(id)]
        try:
            changed = self._store.cancel_many(possible, now=clock.now())
            known = self._store.statuses(possible)
            celerys = self._store.in_canvas([row.id for row in changed])
        except StoreUnavailable as error:
            log.warning("jobs are revoked later", action="revoke.wait", jobs=len(ids), error=error.message)
            self._background.later(wait_s, partial(self._revoke, ids, unknown, min(wait_s * 2, AGAIN_LONGEST_S)))
            return
        revoked.settle(known)
        if changed:
            self._told(changed, celerys)
        if left := [id for id in ids if id not in known]:
            unknown(left)
