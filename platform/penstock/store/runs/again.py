"""A run that has ended otherwise than well goes on from where it was: what has succeeded is not done again."""

from __future__ import annotations

from penstock.errors import IllegalTransition
from penstock.store.engine import Database, Survives
from penstock.store.records import Settled
from penstock.store.runs import pins, slots
from penstock.store.runs.advance import advance
from penstock.store.runs.closing import close, is_closing
from penstock.store.runs.conclude import concluded
from penstock.store.runs.maps import Rest
from penstock.store.runs.run import locked
from penstock.store.runs.start import complete
from penstock.store.session import Session

# A step of an older generation that is still open would be one too many.
_AGAIN = """
    UPDATE penstock_job SET state = 'running', generation = coalesce(generation, 0) + 1, started_at = :now,
        settled_at = NULL, error = NULL, output = NULL, closing = NULL, device_s = NULL,
        canvas_done = false,
        deadline_at = CASE WHEN deadline_at > :now THEN deadline_at END
    WHERE id = :id AND graph IS NOT NULL AND run_id IS NULL AND {hidden state IN ('failed', 'cancelled', 'expired')}
        AND NOT EXISTS (SELECT 1 FROM penstock_job AS step WHERE step.run_id = :id
            AND step.state IN ('accepted', 'queued', 'running'))
    RETURNING id"""
# Those with a bound have a place of their own.
_REWIND = """
    UPDATE penstock_map SET begun = 0 WHERE run_id = :id AND pending > 0 AND path NOT IN (
        SELECT path FROM penstock_map_room WHERE run_id = :id) RETURNING run_id, path"""


def again(db: Database, id: str, *, now: float) -> list[Settled]:
    """Run it under a new generation; the rows of what ended with that. Raises ``IllegalTransition`` while its steps of
    the last one have not stopped.
    """
    ended = close(db, id, now=now)
    ended += complete(db, id, now=now)  # of a fork that was cancelled early
    begun = False

    def work(session: Session) -> list[Settled]:
        nonlocal begun
        begun = bool(session.all(_AGAIN, {"id": id, "now": now}))
        if not begun:
            return []
        session.maps += [Rest(row[0], row[1]) for row in session.all(_REWIND, {"id": id})]
        slots.rewind(session, id)
        return advance(session, pins.again(session, locked(session, [id]), now=now), now=now)

    rows, followed = concluded(db, Survives.POWER, work, now=now)
    if not begun and is_closing(db, id):
        raise IllegalTransition(
            f"run {id} has steps that have not stopped yet",
            fix="try again in a moment: each ends with the batch that it is in, and its result is dropped",
        )
    return [*ended, *rows, *followed]
