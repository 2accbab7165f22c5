"""Asks the result backend of plain tasks that may have ended without a word, and gives up on those that are overdue.

A task that was revoked, that expired, or whose worker died calls nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from penstock import clock
from penstock.dispatch.tasks.results import Results
from penstock.errors import BrokerUnavailable
from penstock.job import JobState
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled

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

    def look(self) -> None:
        """One walk over the tasks that are open; then those end whose time is over and that nobody knows of."""
        try:
            self._ask()
        except BrokerUnavailable as error:
            # Its word may be what an overdue one waits for.
            log.warning("results of tasks cannot be read", action="tasks.no_results", error=error.message)
            return
        while not self._stopping.is_set():
            now = clock.now()
            lost = self._store.lose_tasks(now=now, limit=PAGE, most=self._settings.retry.losses)
            failed = [row.id for row in lost if row.state is JobState.FAILED and row.graph is None]
            if failed:
                log.warning("tasks were lost", action="tasks.lost", tasks=failed[:100])
            self._tell(lost)
            if len(failed) < PAGE:
                return

    def _ask(self) -> None:
        after = None
        while not self._stopping.is_set():
            page = self._store.open_tasks(after=after, limit=PAGE)
            ends = self._results.ends([(each.id, each.attempt) for each in page if each.open])
            if ends:
                self._tell(self._store.end_tasks(ends.values(), now=clock.now()))
            if len(page) < PAGE:
                return
            after = page[-1]
