"""Which jobs were revoked through Celery and are not cancelled in SQL yet.

Celery's own set of revoked ids only grows, and ``inspect revoked`` shows it. Once SQL knows of a revocation, SQL
decides: a job that somebody runs again afterwards must not be cancelled again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from celery.utils.collections import LimitedSet
from celery.worker import state as worker_state

_lock = threading.Lock()
_in_sql: Any = LimitedSet(maxlen=worker_state.REVOKES_MAX, expires=worker_state.REVOKE_EXPIRES)


def add(ids: Iterable[str]) -> None:
    """These were revoked just now."""
    with _lock:
        for id in ids:
            _in_sql.discard(id)
            worker_state.revoked.add(id)


def settle(ids: Iterable[str]) -> None:
    """SQL knows of it."""
    with _lock:
        for id in ids:
            _in_sql.add(id)


def is_open(id: str) -> bool:
    """Whether the id was revoked and SQL does not know yet."""
    return id in worker_state.revoked and id not in _in_sql
