"""What this worker's device has memory for, learned per model: the shell of `policy.memory`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from penstock.model import Batching, Model
from penstock.policy.memory import Ceiling
from penstock_worker.item import Run

log = structlog.get_logger(__name__)


class Ceilings:
    """``limit`` tells the batcher a model's effective limits. Only the device thread calls."""

    def __init__(self, models: Mapping[str, type[Model]], *, limit: Callable[[str, Batching], None]) -> None:
        self._models = models
        self._limit = limit
        self._known: dict[str, Ceiling] = {}

    def learn(self, run: Run) -> None:
        """Take in how the calls of one run went. Costs nothing while no batch was ever too large."""
        name = run.batch.model.name
        known = self._known.get(name)
        if known is None:
            if not any(call.oom for call in run.calls):
                return
            known = Ceiling()
        own = self._models[name].batching
        now = known.after(run.calls, by_cost=own.cost is not None)
        if now.limit != known.limit:
            log.warning("the ceiling of a model's batches moved", action="memory.ceiling", model=name, limit=now.limit)
            self._limit(name, now.apply(own))
        self._known[name] = now
