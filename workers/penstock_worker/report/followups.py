"""Publishes the steps of runs that a settled batch let begin: at once, behind the commit that stored them."""

from __future__ import annotations

from collections.abc import Sequence

from penstock import clock
from penstock.dispatch import owed
from penstock.dispatch.background import Background
from penstock.dispatch.fastpath import FastPath
from penstock.dispatch.marks import Marks
from penstock.dispatch.notices import tell
from penstock.dispatch.tasks.sender import TaskSender
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.transport.publisher import Publisher


class FollowUps:
    """Connects with the first step; what it does not publish is the dispatcher's after a moment."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._publisher = Publisher(settings.broker, settings.namespace)
        self._background = Background()
        self._marks = Marks(store, self._background)
        tasks = TaskSender(store, self._publisher, settings, tell=self._tell)
        fast_path = FastPath(self._publisher, self._marks, tasks=tasks)
        store.limit_outputs(settings.job.max_output_bytes)
        store.pin_versions(settings.run.pin)
        store.publish_by(fast_path.publish, lease_s=settings.dispatcher.publish_grace_s)
        store.revoke_by(tasks.revoke)
        store.finish_by(owed.sender(self._publisher))

    def _tell(self, rows: Sequence[Settled]) -> None:
        tell(self._publisher, rows, now=clock.now())

    def close(self) -> None:
        """Record what was published, and close the connection."""
        self._marks.flush()
        self._background.close()
        self._publisher.close()
