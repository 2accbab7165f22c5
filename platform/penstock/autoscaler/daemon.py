"""The autoscaler's loop: lead, look, decide, write, realise, record.

Any number may run; of those that look after the same pool one leads, the others wait. A turn is a snapshot and what
follows from it: nothing that a crash could lose is kept between turns but what the leader's row has for its successor.
What is written is guarded by the term in its own transaction; what nothing guards (starting a process) is done only
while nobody can have taken over, and a process that was started all the same finds its slot taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from penstock import clock
from penstock.autoscaler.backends.base import Backend, BackendUnavailable, Realised
from penstock.autoscaler.fleet import busy_workers, grouped
from penstock.autoscaler.front.board import Standing
from penstock.autoscaler.front.desk import Desk
from penstock.autoscaler.observe import Observation, Observer
from penstock.autoscaler.orders import Orders
from penstock.autoscaler.pools import Found, Pools
from penstock.autoscaler.seat import Seat
from penstock.autoscaler.terms import pools_of
from penstock.errors import Deposed, StoreUnavailable
from penstock.service import STOP_S, ThreadService
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import Slot
from penstock.telemetry.probes import Probes
from penstock.telemetry.reach import Reach
from penstock.transport.url import connect

log = structlog.get_logger(__name__)

#: How long an answer of the broker is waited for, seconds: less than a lease.
BROKER_TIMEOUT_S = 2.0


class Autoscaler(ThreadService):
    """Construct, then ``start``, ``run`` or ``turn``. Installs no signal handlers.

    ``room(pools)`` is how many workers of each of these pools the place has room for. ``given`` are models that are
    known before any worker has announced them. ``only`` names the pools to look after; without it, all. ``serves`` are
    the pools that workers of this place can serve, where it is not all that there may be. ``at_once``:
    whoever leads when this one begins is known to be gone. ``tells``: what is decided is told to others as the settings
    say, and a job that comes to a pool without workers is seen at once.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        backend: Backend,
        *,
        room: Callable[[Collection[str]], Mapping[str, int]],
        given: Mapping[str, Mapping[str, Any]] | None = None,
        only: Collection[str] = (),
        serves: Collection[str] | None = None,
        at_once: bool = False,
        tells: bool = True,
    ) -> None:
        super().__init__("autoscaler")
        self._settings = settings
        self._store = store
        self._backend = backend
        self._room = room
        self._only = only
        self._serves = serves
        self._at_once = at_once
        self._client = connect(settings.broker, timeout_s=BROKER_TIMEOUT_S)
        self._orders = Orders(self._client, settings.broker)
        self._observer = Observer(settings, store, self._client, given)
        self._probes = Probes(stuck_after_s=settings.metrics.stuck_after_s)
        self.desk = (
            Desk(settings, store, only=only, wake=self.wake, given=given, probes=self._probes) if tells else None
        )
        self.seat = Seat(store.elastic, lease_s=settings.autoscaler.lease_s, only=only)
        self.pools = Pools(settings, store, backend, self._orders)
        self._realised = Realised()
        self._consumers: Mapping[str, int] = {}
        self._database = Reach("database", service="autoscaler")
        self._place = Reach("backend", service="autoscaler")
        self._woken = threading.Event()
        self._winding_up = False
        #: Set when no slot is left after ``wind_up``.
        self.empty = threading.Event()
        self._closed = False

    # Life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, in a thread, and return. Raises ``ConfigError`` when what is to be served cannot be."""
        if self.desk is not None:
            self.desk.start()
        super().start()
        self._probes.watch(self)
        log.info("autoscaler started", action="autoscaler_started", backend=self._backend.name)

    def stop(self, timeout_s: float | None = STOP_S) -> bool:
        """End after the turn at hand, and resign; workers go on, and the backend is the caller's. Idempotent."""
        self._probes.ends()
        ended = super().stop(timeout_s)
        if self._closed or not ended:
            return ended
        self._closed = True
        try:
            self.seat.resign(self._state())
        except StoreUnavailable as error:
            log.warning("could not resign", action="autoscaler.resign", error=error.message)
        if self.desk is not None:
            self.desk.stop()
        self._client.close()
        log.info("autoscaler stopped", action="autoscaler_stopped")
        return ended

    @property
    def drain_s(self) -> float:
        """How long workers may take to drain."""
        return self._settings.worker.drain_s

    @property
    def away(self) -> bool:
        """Whether the database did not answer at the last turn."""
        return not self._database.up

    def wind_up(self) -> None:
        """From now on no worker is wanted: they drain, and ``empty`` is set at the end of the last. From any thread."""
        self._winding_up = True
        self.wake()

    def wake(self) -> None:
        """Look now. From any thread."""
        self._woken.set()

    def run(self) -> None:
        """Turn after turn."""
        while not self.stopping.is_set():
            self._woken.clear()
            began = clock.monotonic_s()
            try:
                self._tell(self.turn())
                self._probes.ready()  # it has looked, whether it leads or waits
            except Exception:  # a defect: say so and go on, since somebody has to restart what dies
                log.exception("turn failed", action="autoscaler_turn_failed")
            left_s = max(0.05, self._settings.autoscaler.every_s - (clock.monotonic_s() - began))
            self.waiting(partial(self._woken.wait, left_s))

    def _tell(self, leads: bool) -> None:
        if self.desk is None:
            return
        if not leads:
            self.desk.follow()
            return
        at = clock.monotonic_s()
        self.desk.decided(
            {
                name: Standing(
                    desired=pool.decision.target,
                    fleet=pool.fleet,
                    at=at,
                    load_at=pool.load.at if pool.load is not None else None,
                    code=pool.decision.code,
                    reason=pool.decision.reason,
                )
                for name, pool in self.pools.by_name.items()
                if pool.decision is not None
            }
        )

    # One turn -------------------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """All of it, once. Whether this one leads. Never raises for a server that is away."""
        try:
            if not self.seat.turn(self._state(), at_once=self._at_once):
                self._backend.follow()
                return False
            self._at_once = False  # from now on whoever leads instead is alive
            inherited, self.seat.inherited = self.seat.inherited, ()
            self.pools.inherit(inherited, self._only)
            seen = self._look()
            slots = self._realise(self._store.elastic.slots())
            names = self._names(slots)
            self.pools.look()
            if seen is not None:
                self._consumers = seen.consumers  # of a look that is lost, the one before says best who is busy
            assert self.seat.term is not None
            found = Found(
                term=self.seat.term,
                seen=seen,
                slots=slots,
                by_pool=grouped(slots),
                busy=busy_workers(slots, self._consumers),
                served=set(self._known()),
                room=self._room(names),
                realised=self._realised,
                winding_up=self._winding_up,
            )
            changed = [self._decide(name, found) for name in names]
            if any(changed):  # at once: a worker that is wanted is wanted now
                slots = self._realise(self._store.elastic.slots())
            self.pools.turned(slots, looked=seen is not None, term=found.term)
            if self._winding_up and not slots:
                self.empty.set()
            self._database.found()
        except Deposed:
            self.seat.deposed()
            self.pools.deposed()
            return False
        except StoreUnavailable as error:
            self._database.lost(error)
            return False
        return True

    def _look(self) -> Observation | None:
        """What there is to do. A defect in the look, or in what it has found, is as one that was lost: what is decided
        already is done, and workers that die are replaced."""
        try:
            return self._observer.look()
        except Exception:
            log.exception("the look failed", action="autoscaler_look_failed")
            return None

    def _decide(self, name: str, found: Found) -> bool:
        """Whether a pool has changed. What cannot be decided of one pool keeps no other from its workers."""
        try:
            return self.pools.decide(name, found)
        except (Deposed, StoreUnavailable):
            raise
        except Exception:
            log.exception("no decision", action="autoscaler_decision_failed", pool=name)
            return False

    def _names(self, slots: Sequence[Slot]) -> list[str]:
        """The pools to decide about. One that nobody names any more, and that has slots, is brought to nothing."""
        known = self._known()
        left = {slot.pool for slot in slots if not self._only or slot.pool in self._only}
        # Before the models are known, a pool that is not named is not one that was given up.
        return sorted({*known, *(left if self._observer.knows else ())})

    def _known(self) -> list[str]:
        known = pools_of(self._settings, self._observer.pools, self._only)
        return known if self._serves is None else [pool for pool in known if pool in self._serves]

    def _realise(self, slots: Sequence[Slot]) -> list[Slot]:
        """Have the backend do what is missing; the slots without those that are gone."""
        ours = [slot for slot in slots if not self._only or slot.pool in self._only]
        assert self.seat.term is not None
        if not self.seat.may_act():
            return ours
        try:
            done = self._backend.realise(ours, term=self.seat.term)
        except BackendUnavailable as error:
            self._place.lost(error)
            done = Realised(stuck={slot.id: error.message for slot in ours if slot.ready_at is None})
        else:
            self._place.found()
        self._realised = done
        if not done.gone:
            return ours
        self._store.elastic.gone(done.gone, term=self.seat.term)
        return [slot for slot in self._store.elastic.slots() if not self._only or slot.pool in self._only]

    def _state(self) -> dict[str, Any]:
        """For the successor, and for whoever asks for the status."""
        return {"at": clock.now(), "pools": self.pools.told()}
