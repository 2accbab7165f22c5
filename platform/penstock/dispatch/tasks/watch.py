"""Asks the result backend of plain tasks that may have ended without a word, and gives up on those that are overdue.

A task that was revoked, that expired, or whose worker died calls nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from penstock import clock
from penstock.dispatch.tasks.results import ROUND_S, Results
from penstock.errors import Unreachable
from penstock.job import JobState
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.store.runs.tasks import OpenTask

log = structlog.get_logger(__name__)

#: Tasks that are asked for together.
PAGE = 1000


class Watch:
    """``look`` is a duty of the reconciler. ``tell`` hears of all that has ended."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        results: Results,
        *,
        stopping: threading.Event,
        tell: Callable[[Sequence[Settled]], Any],
    ) -> None:
        self._store = store
        self._settings = settings
        self._results = results
        self._stopping = stopping
        self._tell = tell
        #: Where the walk goes on: asked for one by one, many tasks take many rounds.
        self._after: OpenTask | None = None

    def look(self) -> None:
        """Go on with the walk over the tasks that are open, for a second. Who was asked for and is not known of ends
        when its time is over; while nobody can be asked, none does: that word may be what it waits for."""
        ends_at = clock.monotonic_s() + ROUND_S
        while not self._stopping.is_set():
            page = self._store.open_tasks(after=self._after, limit=PAGE)
            tasks = [each for each in page if each.open]
            count = self._ask(tasks)
            if count is None:
                return
            if count < len(tasks):
                self._after = tasks[count - 1]
                return
            self._after = page[-1] if len(page) == PAGE else None
            if self._after is None or clock.monotonic_s() > ends_at:
                return

    def _ask(self, tasks: Sequence[OpenTask]) -> int | None:
        """For how many of these, the first ones, there was time; ``None`` while the backend is away."""
        try:
            ends, count = self._results.ends([(each.id, each.attempt) for each in tasks])
        except Unreachable:  # it was said
            return None
        if ends:
            self._tell(self._store.end_tasks(ends.values(), now=clock.now()))
        now = clock.now()
        self._lose([each.id for each in tasks[:count] if each.until <= now], now)
        return count

    def _lose(self, ids: Sequence[str], now: float) -> None:
        lost = self._store.lose_tasks(ids, now=now, most=self._settings.retry.losses)
        failed = [row.id for row in lost if row.state is JobState.FAILED and row.graph is None]
        if failed:
            log.warning("tasks were lost", action="tasks.lost", tasks=failed[:100])
        if lost:
            self._tell(lost)
