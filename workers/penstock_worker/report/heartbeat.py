"""Keeps this worker's lease in SQL, and tells its supervisor that the process is alive.

A thread of its own, so that neither a slow database nor a long batch makes a live worker look dead. It needs the
interpreter lock: a model that holds the lock for longer than the lease is dead to the others, rightly, since the
worker can then not even acknowledge.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog

from penstock import clock
from penstock.errors import StoreUnavailable
from penstock.processes.agreed import PULSE_FD
from penstock.service import STOP_S, ThreadService, turned
from penstock.settings import LeaseSettings
from penstock.store import Store

log = structlog.get_logger(__name__)


class Heartbeat(ThreadService):
    """``start`` registers the worker; ``stop`` removes it, which frees its lease at once."""

    def __init__(
        self,
        store: Store,
        *,
        worker: str,
        name: str,
        pool: str,
        info: dict[str, Any],
        lease: LeaseSettings,
        lane: Callable[[], str | None] = lambda: None,
        also: Sequence[Callable[[], object]] = (),
    ) -> None:
        super().__init__("heartbeat")
        self._store = store
        self._worker = worker
        self._name = name
        self._pool = pool
        self._info = info
        self._lease = lease
        #: The lane that this worker keeps to now.
        self._lane = lane
        #: Done at each beat: what was kept while the broker was away is sent again, what was learned is stored.
        self._also = also
        self._away = False
        #: Whether the row says what ``info`` does; held while that changes, and while the row goes.
        self._told = False
        self._guard = threading.Lock()

    def start(self) -> None:
        """Register and begin to beat. Raises ``StoreUnavailable``."""
        self._register()
        super().start()

    def stop(self, timeout_s: float | None = STOP_S) -> bool:
        """End the thread and unregister."""
        ended = super().stop(timeout_s)
        with self._guard:
            try:
                self._store.unregister_worker(self._worker)
            except StoreUnavailable as error:
                log.warning("could not unregister", action="worker.unregister", error=error.message)
        return ended

    def park(self, parked: bool) -> None:
        """Have others see it: at once, or at the first beat that reaches the database."""
        with self._guard:
            self._info, told, self._told = {**self._info, "parked": parked}, self._told, False
        if told:  # it is registered
            try:
                self._register_again()
            except StoreUnavailable as error:
                log.debug("others will see it later", action="worker.parked_wait", error=error.message)

    def _register_again(self) -> None:
        with self._guard:
            if not self.stopping.is_set():
                self._register()

    def _register(self) -> None:
        now = clock.now()
        self._store.register_worker(
            self._worker,
            name=self._name,
            pool=self._pool,
            lease_until=now + self._lease.ttl_s,
            now=now,
            info=self._info,
            lane=self._lane(),
        )
        self._told = True

    def run(self) -> None:
        """Beat after beat."""
        for _ in self.turns(self._lease.every_s):
            pulse()
            self._beat()
            for call in self._also:
                turned()
                try:
                    call()
                except Exception:
                    # A chore that fails must not end the heartbeat: without it, running jobs are taken for dead.
                    log.exception("a chore of the heartbeat failed", action="heartbeat.chore")

    def _beat(self) -> None:
        now = clock.now()
        try:
            lease_until = now + self._lease.ttl_s
            if not self._store.heartbeat(self._worker, lease_until=lease_until, now=now, lane=self._lane()):
                log.warning("lease was lost; registering again", action="worker.lease_lost", worker=self._worker)
                self._told = False
            if not self._told:
                self._register_again()
        except StoreUnavailable as error:
            if not self._away:
                log.warning("database is away", action="heartbeat.wait", error=error.message)
            self._away = True
        else:
            self._away = False


def pulse() -> None:
    """Tell the supervisor, if there is one, that this process lives."""
    fd = os.environ.get(PULSE_FD)
    if fd:
        # An error means that the supervisor is gone, or that its pipe is full: it has seen enough.
        with suppress(OSError):
            os.write(int(fd), b".")
