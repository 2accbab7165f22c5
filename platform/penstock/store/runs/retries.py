"""A step that has failed for good is tried again, as often as the graph says: a new job in all but its id."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.job import JobState
from penstock.store.records import Settled
from penstock.store.runs.paths import place
from penstock.store.runs.plans import readable
from penstock.store.session import Session

#: Wait before the first such try, seconds, how often it doubles, and how long it is from then on.
FIRST_S, DOUBLINGS, LONGEST_S = 1.0, 6, 60.0

_GRAPHS = "SELECT id, graph FROM penstock_job WHERE id {in ids} AND {hidden state = 'running'} AND graph IS NOT NULL"
_AGAIN = """
    UPDATE penstock_job SET state = 'accepted', retries = coalesce(retries, 0) + 1, worker = NULL, settled_at = NULL,
        available_at = :now + CASE WHEN coalesce(retries, 0) >= :doublings THEN :longest
            ELSE :first * (1 << coalesce(retries, 0)) END,
        publish_lease_until = 0, queued_at = NULL, failures = 0, losses = 0, ooms = 0, kills = 0
    WHERE penstock_job.id {in ids} AND {hidden state = 'failed'} AND coalesce(retries, 0) < :most
    RETURNING penstock_job.id"""


def put_back(session: Session, failed: Sequence[Settled], *, now: float) -> set[str]:
    """Put back those of these steps that may be tried once more; their ids.

    Their runs are not locked: one that ends meanwhile cancels what it finds open, these among it.
    """
    failed = [row for row in failed if row.state is JobState.FAILED]
    if not failed:
        return set()
    graphs = dict(session.all(_GRAPHS, {"ids": session.ids({row.run_id or "" for row in failed})}))
    by_most: dict[int, list[str]] = {}
    for row in failed:
        plan = readable(session, graphs[row.run_id]) if row.run_id in graphs else None
        most = 0 if plan is None else plan.steps[place(row.path or "")[0]].retry
        if most:
            by_most.setdefault(most, []).append(row.id)
    back: set[str] = set()
    for most, ids in sorted(by_most.items()):
        values = {"ids": session.ids(sorted(ids)), "most": most, "now": now, "first": FIRST_S}
        values |= {"doublings": DOUBLINGS, "longest": LONGEST_S}
        back |= {row[0] for row in session.all(_AGAIN, values)}
    return back
