"""Columns: their types, which are the same in every table, for the bulk statements that cast values to them.

``tables`` has the whole schema, and needs SQLModel, which is slow to import: only migrations do.
"""

from __future__ import annotations

#: Every column that is no text.
_NUMBERS = {
    "float": (
        "accepted_at", "at", "attempted_at", "available_at", "backlog_most", "backlog_s", "batch_wait_s", "begun_at",
        "busy_s", "changed_at", "claimed_at", "compute_s", "created_at", "deadline_at", "demand_most", "demand_s",
        "device_s", "draining_s", "lease_until", "load_s", "made_at", "next_at", "parked_s", "proven_at",
        "publish_lease_until", "queued_at", "ready_at", "ready_in_s", "ready_s", "seconds", "seen_at", "sent_at",
        "settled_at", "share", "since", "start_by", "started_at", "starting_s", "timeout_s", "transfer_s", "until",
        "updated_at", "wake_in_s", "wanted_s", "weight",
    ),
    "int": (
        "after", "attempt", "attempts", "batch_size", "beat", "before", "begun", "cap", "chunk", "copied", "epoch",
        "failed", "failures", "generation", "in_flight", "kills", "losses", "ooms", "parked", "pending", "priority",
        "retries", "size", "status_code", "surge", "suspicions",
    ),
    "bool": ("cancel_requested", "canvas_done", "closing", "followed", "paused", "watched"),
}  # fmt: skip
#: What the row of every step of a run is stored with, whatever kind of step it is.
STEP = (
    "id", "model", "version", "input", "lane", "accepted_at", "available_at", "tenant", "priority", "timeout_s",
    "trace", "run_id", "path", "generation",
)  # fmt: skip

_TYPES = {column: kind for kind, columns in _NUMBERS.items() for column in columns}


def type_of(column: str) -> str:
    """``text``, ``float``, ``int`` or ``bool``, as ``sql`` writes them."""
    return _TYPES.get(column, "text")
