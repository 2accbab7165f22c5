"""The autoscaler's loop: lead, look, decide, write, realise, record.

Any number may run; of those that look after the same pool one leads, the others wait. A turn is a snapshot and what
follows from it: nothing that a crash could lose is kept between turns but what the leader's row has for its successor.
What is written is guarded by the term in its own transaction; what nothing guards (starting a process) is done only
while nobody can have taken over, and a process that was started all the same finds its slot taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from penstock import clock
from penstock.autoscaler.backends.base import Backend, BackendUnavailable, Realised
from penstock.autoscaler.fleet import busy_workers, change, fleet_of, grouped, late_ones
from penstock.autoscaler.front.board import Standing
from penstock.autoscaler.front.desk import Desk
from penstock.autoscaler.observe import Observer, Seen, said
from penstock.autoscaler.orders import Orders
from penstock.autoscaler.pool import Pool, told
from penstock.autoscaler.records import LOST, Records
from penstock.autoscaler.rolling import Rollouts
from penstock.autoscaler.seat import Seat
from penstock.autoscaler.split import Splitter, consuming
from penstock.autoscaler.starts import Starts
from penstock.autoscaler.terms import pools_of, target_of, terms_of
from penstock.errors import Deposed, StoreUnavailable
from penstock.lane import Lane
from penstock.policy.scaling import Context, Decision, State, decide
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a turn has found, for all pools."""

    seen: Seen | None
    slots: Sequence[Slot]
    by_pool: Mapping[str, Sequence[Slot]]
    #: Slots whose workers hold messages.
    busy: Collection[str]
    #: Pools that serve a model, or are named.
    served: Collection[str]
    room: Mapping[str, int]


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
        #: By name; of a pool whose last slot has gone nothing is kept.
        self.pools: dict[str, Pool] = {}
        self._splitter = Splitter(self._orders.keep_to)
        self._stuck: Mapping[str, str] = {}
        self._outdated: Collection[str] = ()
        self._rollouts = Rollouts(store)
        self._unready: dict[str, float] = {}
        self._consumers: Mapping[str, int] = {}
        self._starts = Starts()
        self._records = Records(store.elastic)
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
                for name, pool in self.pools.items()
                if pool.decision is not None
            }
        )

    # One turn -------------------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """All of it, once. Whether this one leads. Never raises for a server that is away."""
        try:
            if not self.seat.turn(self._state(), at_once=self._at_once):
                return False
            self._at_once = False  # from now on whoever leads instead is alive
            if self.seat.inherited:
                self._inherit()
            seen = self._look()
            slots = self._realise(self._store.elastic.slots())
            names = self._names(slots)
            self._rollouts.look()
            if seen is not None:
                self._consumers = seen.consumers  # of a look that is lost, the one before says best who is busy
            found = Found(
                seen=seen,
                slots=slots,
                by_pool=grouped(slots),
                busy=busy_workers(slots, self._consumers),
                served=set(self._known()),
                room=self._room(names),
            )
            changed = [self._decided(name, found) for name in names]
            if any(changed):  # at once: a worker that is wanted is wanted now
                slots = self._realise(self._store.elastic.slots())
            self._starts.only({slot.id for slot in slots}, self.pools)
            self._records.turned(looked=seen is not None)
            self._split(slots)
            if self._winding_up and not slots:
                self.empty.set()
            self._database.found()
        except Deposed:
            self.seat.deposed()
            self._splitter.forget()
            return False
        except StoreUnavailable as error:
            self._database.lost(error)
            return False
        return True

    def _look(self) -> Seen | None:
        """What there is to do. A defect in the look, or in what it has found, is as one that was lost: what is decided
        already is done, and workers that die are replaced."""
        try:
            return self._observer.look()
        except Exception:
            log.exception("the look failed", action="autoscaler_look_failed")
            return None

    def _decided(self, name: str, found: Found) -> bool:
        """See ``_decide``. What cannot be decided of one pool keeps no other from its workers."""
        try:
            return self._decide(name, found)
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
        self._stuck, self._outdated = done.stuck, done.outdated
        if not done.gone:
            return ours
        self._store.elastic.gone(done.gone, term=self.seat.term)
        return [slot for slot in self._store.elastic.slots() if not self._only or slot.pool in self._only]

    def _decide(self, name: str, found: Found) -> bool:
        """Decide about one pool, and write it. Whether anything changed."""
        assert self.seat.term is not None
        own, seen = found.by_pool.get(name, ()), found.seen
        pool = self.pools.setdefault(name, Pool())
        now = clock.monotonic_s()
        fresh = seen.loads.get(name) if seen is not None else None
        pool.load = fresh or pool.load
        self._unready, late = late_ones(own, self._unready, start_s=self._settings.autoscaler.start_s, now=now)
        pool.fleet = fleet_of(own, busy=found.busy, stuck=self._stuck, late=late)
        every_s = self._settings.autoscaler.every_s
        self._starts.saw(name, own, stuck=self._stuck, late=late, every_s=every_s, now=now)
        room = found.room.get(name, 1)
        terms = terms_of(self._settings, name, room=room, ready_in_s=self._starts.ready_in_s(name))
        before = sum(slot.state == "wanted" for slot in own)
        goes_on = False
        if self._winding_up:
            why = "the autoscaler is being stopped, and its workers with it"
            # Whoever comes next begins with none, and not with what there was.
            state = replace(pool.state, target=0)
            decision = Decision(target=0, parked=0, state=state, code="stop", reason=why)
        elif name in found.served:
            decision = decide(Context(now=now, terms=terms, load=pool.load, fleet=pool.fleet, state=pool.state))
            goes_on = self._backend.name != "external"  # who starts them rolls them, too
        else:
            why = "no model is served by this pool any more, of those that are known here"
            decision = Decision(target=0, parked=0, state=State(), code="pool.gone", reason=why)
        lost = decision.code == LOST and (pool.decision is None or pool.decision.code != LOST)
        pool.decision, pool.state, pool.decided_at = decision, decision.state, clock.now()
        pool.step = None
        if goes_on:
            change_, pool.step = self._rollouts.change(
                decision,
                own,
                pool=name,
                busy=found.busy,
                room=self._backend.room(name, found.slots),
                surge=self._settings.pool(name).surge,
                outdated=self._outdated,
                stuck=pool.fleet.stuck,
            )
        else:
            change_ = change(decision, own, pool=name, busy=found.busy)
        if fresh is not None:
            self._records.saw(name, fresh, pool.fleet, terms, decision, epoch=self.seat.term.epoch, now=now)
        code, reason = decision.code, decision.reason
        if pool.step is not None:
            code, reason = f"rollout.{pool.step.code}", pool.step.reason
        if change_:
            self._store.elastic.change(self.seat.term, add=change_.add, set=change_.set, reason=reason, now=clock.now())
            self._starts.ordered((slot.id for slot in change_.add), now=now)
            self._orders.look(slot for slot in own if slot.id in change_.set)
        if pool.step is None and pool.fleet.stuck:  # the rest of it is for those who may read SQL
            reason = f"{reason}: {pool.fleet.stuck}"
        if change_ or lost:  # that nothing changes for want of signals is told once
            said = {} if change_ else {"said": "the pool is to stay as it is"}
            self._records.changed(
                name, decision, epoch=self.seat.term.epoch, before=before, code=code, reason=reason, **said
            )
        return bool(change_)

    # What is left to others -----------------------------------------------------------------------------------------

    def _split(self, slots: Sequence[Slot]) -> None:
        """Have some workers keep to interactive jobs for a while, where the settings and the work are so."""
        assert self.seat.term is not None
        now, by_pool = clock.monotonic_s(), grouped(slots)
        for name, pool in self.pools.items():
            workers, before = consuming(by_pool.get(name, ())), self._splitter.alone(name)
            verdict = self._splitter.turn(
                name,
                pool.load,
                workers,
                on=self._settings.pool(name).split,
                target_s=target_of(self._settings, name, Lane.INTERACTIVE),
                now=now,
            )
            if verdict is not None and verdict.alone != before and pool.decision is not None:
                self._records.divided(name, pool.decision, verdict, workers=len(workers), epoch=self.seat.term.epoch)

    def _state(self) -> dict[str, Any]:
        """For the successor, and for whoever asks for the status."""
        now = clock.monotonic_s()
        return {
            "at": clock.now(),
            "pools": {
                name: told(pool, ready_in_s=self._starts.ready_in_s(name), split=self._splitter.left(name, now=now))
                for name, pool in self.pools.items()
            },
        }

    def _inherit(self) -> None:
        inherited, self.seat.inherited = self.seat.inherited, ()
        now = clock.monotonic_s()
        for name, left in (each for state in inherited for each in said(said(state).get("pools")).items()):
            if self._only and name not in self._only:
                continue  # its leader had more than these
            kept = said(left)
            self.pools[name] = Pool(state=State.from_json(said(kept.get("state")), now=now))
            self._starts.inherit(name, kept.get("ready_in_s"))
            self._splitter.inherit(name, said(kept.get("split")), now=now)
