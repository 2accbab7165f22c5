"""The slot that this worker was started for: a row in SQL that says whether it is wanted.

It is taken before anything is consumed, and looked at for as long as the process lives. A worker without one ends with
0, so that nobody starts it again: a leader that was stopped, and starts workers when it goes on, starts nothing that
consumes. One whose slot drains, is removed, or is another's by now, finishes what runs and ends in the same way. While
the database is away, the worker goes on as it was.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import structlog

from penstock import clock
from penstock.errors import StoreUnavailable, Unreachable
from penstock.policy.slots import Duty, duty
from penstock.service import STOP_S, ThreadService
from penstock.store import Store
from penstock.store.elastic import Slot
from penstock.waiting import until_reachable
from penstock_worker.report.heartbeat import pulse

log = structlog.get_logger(__name__)

#: Seconds between two looks: how long a worker may go on that is wanted no longer.
LOOK_EVERY_S = 2.0


def end_at_once() -> NoReturn:
    """End this process with 0: it has begun nothing, and a model that is being loaded cannot be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class HeldSlot(ThreadService):
    """``take`` it, ``begin`` to serve, say that it is ``ready``; ``stop`` at the end. ``end`` ends the process."""

    def __init__(
        self, store: Store, id: str, *, worker: str, fence: str | None = None, end: Callable[[], object] = end_at_once
    ) -> None:
        super().__init__("slot")
        self.id = id
        self._store = store
        self._worker = worker
        self._fence = fence
        self._end = end
        self._guard = threading.Lock()
        self._soon = threading.Event()
        self._away = False
        #: When the models were ready, and whether the row says so.
        self._ready_at: float | None = None
        self._told = False
        #: What was last obeyed, and how, once this worker serves.
        self._duty: Duty | None = None
        self._drain: Callable[[], object] | None = None
        self._park: Callable[[bool], object] | None = None

    def take(self) -> Slot | None:
        """Take it and begin to look at it, or ``None``: then this process is to end with 0. Waits for the database."""

        def tell(error: Unreachable, again_s: float) -> None:
            log.warning(
                "waiting for the database", action="service.wait", again_s=again_s, error=error.message, fix=error.fix
            )

        def take() -> tuple[Slot | None, Slot | None]:
            taken = self._take()
            return taken, taken or self._store.elastic.slot(self.id)

        taken, found = until_reachable(take, tell=tell, pause=time.sleep)
        if taken is None:
            log.info("there is no slot for this worker", action="worker.no_slot", slot=self.id, why=why_not(found))
            pulse()  # the supervisor is to take the 0 that follows for meant
            return None
        self.start()
        return taken

    def begin(self, *, drain: Callable[[], object], park: Callable[[bool], object]) -> None:
        """From now on the worker serves. Ends the process where it is wanted no longer.

        ``drain`` is called, once, when it is to finish what runs and end; ``park`` with whether it is not to consume.
        Both on any thread, and at once where it is parked from its beginning.
        """
        self._look()
        with self._guard:
            self._drain, self._park = drain, park
            if self._duty is Duty.PARK:
                park(True)

    def ready(self) -> None:
        """The models are loaded and warmed: say so, now or as soon as the database hears it."""
        self._ready_at = clock.now()
        self._look()

    def wake(self) -> None:
        """Look at it now: somebody says that it has changed. From any thread; returns at once."""
        self._soon.set()

    def pause(self, seconds: float) -> bool:
        """Wait between two looks, or until ``wake``."""
        self.waiting(lambda: self._soon.wait(seconds))
        self._soon.clear()
        return self.stopping.is_set()

    def stop(self, timeout_s: float | None = STOP_S) -> bool:
        """Have it no longer. Idempotent."""
        ended = super().stop(timeout_s)
        with suppress(StoreUnavailable):  # whoever starts workers sees that this one is gone
            self._store.elastic.leave(self.id, self._worker)
        return ended

    def _take(self) -> Slot | None:
        self._told = False
        return self._store.elastic.take(self.id, self._worker, fence=self._fence)

    def run(self) -> None:
        """Look after look."""
        for _ in self.turns(LOOK_EVERY_S, at_once=False):
            try:
                self._look()
            except Exception:
                log.exception("the slot could not be looked at", action="worker.slot_look")

    def _look(self) -> None:
        with self._guard:  # in one order: what was read last is obeyed last
            self._look_alone()

    def _look_alone(self) -> None:
        try:
            if self._ready_at is not None and not self._told:
                self._told = self._store.elastic.ready(self.id, self._worker, now=self._ready_at)
            found = self._store.elastic.slot(self.id)
            asked = duty(found, worker=self._worker)
            if asked is Duty.TAKE:
                log.warning("the slot was lost; taking it again", action="worker.slot_lost", slot=self.id)
                found = self._take() or found
                asked = duty(found, worker=self._worker)
                asked = Duty.DRAIN if asked is Duty.TAKE else asked
        except StoreUnavailable as error:
            if not self._away:
                log.warning("database is away", action="slot.wait", slot=self.id, error=error.message)
            self._away = True
            return
        self._away = False
        self._obey(asked, found)

    def _obey(self, asked: Duty, found: Slot | None) -> None:
        before, self._duty = self._duty, asked
        if asked is before or before is Duty.DRAIN:
            return
        if asked is not Duty.DRAIN:
            if self._park is not None:
                log.debug("the slot has changed", action=f"slot.{asked}", slot=self.id)
                self._park(asked is Duty.PARK)
            return
        log.info(
            "the slot is this worker's no longer; draining", action="worker.drain", slot=self.id, why=why_not(found)
        )
        if self._drain is not None:
            self._drain()
            return
        with suppress(StoreUnavailable):
            self._store.elastic.leave(self.id, self._worker)
        pulse()
        self._end()


def why_not(slot: Slot | None) -> str:
    """Why a slot cannot be had, for a person."""
    if slot is None:
        return "it is there no longer"
    if slot.state == "draining":
        return f"it drains: {slot.reason}" if slot.reason else "it drains"
    return f"{slot.worker} has it" if slot.worker is not None else "another start of a process is meant"
