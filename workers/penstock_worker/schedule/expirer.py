"""Answers for the jobs that were abandoned, once their deadlines have passed: beside the device, whatever it does.

They end as ``expired`` in SQL, their clients hear of it, and their messages are acknowledged. A deadline that has not
passed is nobody's to judge: a job that was abandoned stays where it is until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from penstock.model import Model
from penstock.service import ThreadService
from penstock_worker.item import Batch, Item, Run
from penstock_worker.schedule.batcher import Batcher

log = structlog.get_logger(__name__)


class Expirer(ThreadService):
    """A thread beside the device, until the batcher is closed: then ``join`` waits for an answer that is under way.

    ``answer`` asks SQL, and may raise ``given_up`` while the worker stops; ``settle`` takes what Celery's canvases
    still need."""

    def __init__(
        self,
        batcher: Batcher,
        models: Mapping[str, type[Model]],
        answer: Callable[[Batch], Run],
        *,
        settle: Callable[[Run], None],
        given_up: type[Exception],
        on_defect: Callable[[], None],
    ) -> None:
        super().__init__("expirer")
        self._batcher = batcher
        self._models = models
        self._answer = answer
        self._settle = settle
        self._given_up = given_up
        self._on_defect = on_defect

    def run(self) -> None:
        """Those that were abandoned, as their time comes."""
        while (items := self.waiting(self._batcher.expired)) is not None:
            try:
                self._expire(items)
            except self._given_up:
                # Their messages are not acknowledged: whoever gets them next finds them expired.
                log.info("expired jobs left while the database is away", action="expire.stopped", size=len(items))
            except BaseException:
                log.exception("expiry failed", action="expire.error", model=items[0].model)
                self._on_defect()

    def _expire(self, items: Sequence[Item]) -> None:
        run = self._answer(Batch(self._models[items[0].model], list(items), "expired"))
        self._batcher.put_back(run.returned)
        if run.unfinished:
            self._settle(run)
