"""What a worker holds of plain jobs, as Celery's ``inspect`` shows tasks.

Canvas members and messages of other programs are Celery's own requests; it lists those itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from penstock.lane import queue_name, task_name
from penstock_worker.item import Item
from penstock_worker.report.celeryevents import shown_args

#: Most jobs in one answer: it is one message, and a claim can hold thousands.
MOST = 1000


class Holdings:
    """``running`` and ``waiting`` give the items of that moment, from the hub thread."""

    def __init__(self, engine: Any, *, namespace: str, hostname: str, pid: int) -> None:
        self._engine = engine
        self._namespace = namespace
        self._hostname = hostname
        self._pid = pid

    def active(self) -> list[dict[str, Any]]:
        """What is on the device, or has begun there."""
        return [self._info(item, begun=True) for item in islice(_plain(self._engine.running()), MOST)]

    def reserved(self) -> list[dict[str, Any]]:
        """What was claimed and waits for the device."""
        return [self._info(item, begun=False) for item in islice(_plain(self._engine.waiting()), MOST)]

    def query(self, ids: Iterable[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """State and description of those of the ids that are here."""
        wanted = set(ids)
        found = {}
        for state, begun, items in (
            ("reserved", False, self._engine.waiting()),
            ("active", True, self._engine.running()),
        ):
            found.update({i.id: (state, self._info(i, begun=begun)) for i in _plain(items) if i.id in wanted})
        return found

    def counts(self) -> dict[str, Any]:
        """How many jobs of each model are here, canvas members included."""
        counts: dict[str, dict[str, int]] = {}
        for word, items in (("running", self._engine.running()), ("waiting", self._engine.waiting())):
            for item in items:
                model = counts.setdefault(item.model, {"running": 0, "waiting": 0})
                model[word] += 1
        return counts

    @property
    def running(self) -> int:
        """How many plain jobs are on the device."""
        return sum(1 for _ in _plain(self._engine.running()))

    def _info(self, item: Item, *, begun: bool) -> dict[str, Any]:
        queue = queue_name(self._namespace, item.model, item.lane)
        args = shown_args(item.input)
        return {
            "id": item.id,
            "name": task_name(self._namespace, item.model),
            "args": args,
            "kwargs": "{}",
            "type": task_name(self._namespace, item.model),
            "hostname": self._hostname,
            "time_start": self._engine.started_at if begun else None,
            "acknowledged": False,
            "delivery_info": {"exchange": "", "routing_key": queue, "priority": -item.rank[0], "redelivered": False},
            "worker_pid": self._pid if begun else None,
        }


def _plain(items: Iterable[Item]) -> Iterable[Item]:
    return (item for item in items if item.request is None)
