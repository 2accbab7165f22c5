"""Whether every worker knows runs: one of an earlier release would give a step an empty list, and answer for it."""

from __future__ import annotations

from penstock.clock import monotonic_s
from penstock.errors import Rejected
from penstock.store.engine import Database

#: How long an answer holds, seconds. One that could not start on these tables any more may come back: it has been
#: stopped for longer than its lease, or was cut off, and registers again.
HOLDS_S = 30.0
# Whoever knows runs says which versions it serves. Also one whose lease is over: it may only have been slow.
_EARLIER = "SELECT name FROM penstock_worker WHERE versions IS NULL ORDER BY name LIMIT 1"


def refusal(db: Database) -> Rejected | None:
    """Why no run can begin yet. Asked now and then: none can start on these tables."""
    if monotonic_s() >= db.knows_runs_until:
        with db.read() as session:
            earlier = session.one(_EARLIER)
        if earlier is not None:
            return Rejected(
                f"no run can begin while the worker {earlier[0]} is there, whose release does not know runs",
                fix="replace it first (docs/operations.md, Upgrade); plain jobs are accepted meanwhile",
            )
        db.knows_runs_until = monotonic_s() + HOLDS_S
    return None
