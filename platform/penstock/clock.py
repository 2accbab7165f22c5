"""Two clocks, never mixed.

``monotonic_s()`` measures durations inside one process. ``now()`` is Unix time in seconds (UTC): what is stored
and compared between processes. Names end in ``_s`` for durations and ``_at`` for points in Unix time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

#: Seconds from an arbitrary start; for durations only.
monotonic_s = time.monotonic
#: Unix time, seconds; for what is stored.
now = time.time


def as_datetime(at: float | None) -> datetime | None:
    """Unix seconds as an aware UTC datetime (``None`` stays ``None``)."""
    return None if at is None else datetime.fromtimestamp(at, UTC)


def isoformat(at: float | None) -> str | None:
    """Unix seconds as RFC 3339 text in UTC, with milliseconds; ``None`` stays ``None``, and is what times
    become that no calendar has: a wait without an end is over in the year 31690708.
    """
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None
