"""Flower's states of jobs, corrected from SQL.

Flower knows what events say. That somebody cancelled a job, that it expired, or that its worker died, nobody may have
told it, and an event that was lost is lost. So what it takes for unfinished is looked up, some of it at a time.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import structlog
from celery import states
from celery.events.state import State

from penstock.errors import PenstockError
from penstock.job import JobState
from penstock.store import Store

log = structlog.get_logger(__name__)

#: How often it is looked, seconds; how old an unfinished task has to be; and how many are looked up at once.
EVERY_S, AGE_S, AT_ONCE = 2.0, 2.0, 200

_EVENTS: dict[JobState, dict[str, Any]] = {
    JobState.SUCCEEDED: {"type": "task-succeeded"},
    JobState.FAILED: {"type": "task-failed"},
    JobState.CANCELLED: {"type": "task-revoked", "terminated": False, "signum": None, "expired": False},
    JobState.EXPIRED: {"type": "task-revoked", "terminated": False, "signum": None, "expired": True},
}


class Truth:
    """``look`` runs on Flower's loop; the database is asked on a thread of it."""

    def __init__(self, flower: Any, store: Store, namespace: str) -> None:
        self._flower = flower
        self._store = store
        self._prefix = f"{namespace}."
        #: Up to where the last look came, so that the next one goes on behind it.
        self._seen = 0
        self._looking = False

    async def look(self) -> None:
        """Correct some of the unfinished tasks."""
        if self._looking:
            return
        self._looking = True
        try:
            ids = self._unfinished()
            if ids:
                found = await self._flower.io_loop.run_in_executor(None, self._store.ends, ids)
                for id, (state, at) in found.items():
                    self._correct(id, state, at)
        except PenstockError as error:
            log.debug("the database cannot be asked", action="dashboard.truth", error=error.message)
        finally:
            self._looking = False

    def _unfinished(self) -> list[str]:
        before = time.time() - AGE_S
        every = [
            id
            for id, task in self._flower.events.state.tasks.items()
            if task.state not in states.READY_STATES
            and (task.name or self._prefix).startswith(self._prefix)
            and (task.timestamp or 0) < before
        ]
        start = self._seen if self._seen < len(every) else 0
        some = list(islice(every, start, start + AT_ONCE))
        self._seen = start + len(some)
        return some

    def _correct(self, id: str, state: JobState, at: float) -> None:
        flower_state = self._flower.events.state
        task = flower_state.tasks.get(id)
        if task is None or task.state in states.READY_STATES or task.worker is None:
            return
        event = _EVENTS[state] | {
            "uuid": id,
            "hostname": task.worker.hostname,
            "timestamp": max(at, task.timestamp or 0.0),
            "local_received": time.time(),
            "clock": task.clock or 0,
            "utcoffset": time.timezone // 3600,
            "pid": 0,
        }
        # Celery's, not Flower's: an event that nobody sent is not counted.
        State.event(flower_state, event)
        flower_state.search_engine.upsert(flower_state.tasks[id])
