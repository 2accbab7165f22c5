"""The reconciler: puts right what crashed workers, lost messages and passing time have left behind.

``policy.duties`` decides what to do now, this module does it. Every duty is a guarded change in SQL, so several
reconcilers may run: one of them wins each row, the others find nothing. What a duty settles is told to whoever
waits for it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import redis
import structlog

from penstock import __version__, clock
from penstock.dispatch.lostmessages import Deficit, republish_lost
from penstock.dispatch.notices import tell
from penstock.dispatch.tasks.watch import Watch
from penstock.dispatch.tenants import push
from penstock.dispatch.unsendable import fail
from penstock.dispatch.unserved import Unserved
from penstock.errors import BrokerUnavailable, StoreUnavailable
from penstock.job import JobState
from penstock.lane import LANES, queue_name
from penstock.policy.duties import MISMATCHES, NEEDS_BROKER, NEEDS_NO_DATABASE, Diary, Duty, Rhythm, due, wake_at
from penstock.policy.liveness import Seen, judge
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.telemetry.reach import Reach
from penstock.telemetry.tally import Row
from penstock.transport import inspect, keys
from penstock.transport.claims import restore_expired
from penstock.transport.mend import mend_keys
from penstock.transport.publisher import Publisher
from penstock.transport.url import unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Rows per statement, so that no other writer waits long for the database's lock.
CHUNK = 1000

#: How often a dispatcher gives a sign of life, and how long one is believed, seconds: duties may take their time.
ALIVE_EVERY_S, ALIVE_S = 5.0, 30.0

#: Clocks of different machines differ by less, seconds; what comes from further ahead was written before ours was set
#: back.
AHEAD_S = 10.0

#: Longest time for which an unfinished canvas member is left alone after it was published again, seconds.
MAX_NUDGE_WAIT_S = 3600.0

#: How often all open runs are looked through for those that nothing moves on, seconds.
HEAL_EVERY_S = 10.0


class Reconciler:
    """One turn at a time; the loop around it is the daemon's. ``stopping`` ends long duties early."""

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        client: redis.Redis,
        settings: Settings,
        *,
        stopping: threading.Event,
        claim: Callable[[], None] = lambda: None,
        on_settled: Callable[[Sequence[Row]], None] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._client = client
        self._settings = settings
        self._stopping = stopping
        #: Raises unless the broker's namespace is ours.
        self._claim = claim
        #: Told what was ended or put back, for the metrics.
        self._on_settled = on_settled
        self._watch = watch
        self._rhythm = Rhythm(
            expire_every_s=settings.dispatcher.poll_s,
            reconcile_every_s=settings.dispatcher.reconcile_every_s,
            prune_every_s=settings.retention.prune_every_s,
        )
        self._diary = Diary(now=clock.monotonic_s())
        self._alive_at = -ALIVE_EVERY_S
        for duty in (Duty.RESCUE, Duty.RESTORE):  # the servers may have been away until just now
            self._hold(duty)
        #: The newest of the messages that were set aside, when it was last looked for.
        self._buried: bytes | None = None
        self._deficit = Deficit(store, client, settings.namespace)
        #: Workers' leases as they were first seen.
        self._leases: Mapping[str, Seen] = {}
        #: When unfinished canvas members were last published again, and how long to leave them alone now.
        self._nudged: dict[str, tuple[float, float]] = {}
        self._broker = Reach("broker", service="reconciler")
        self._database = Reach("database", service="reconciler")
        self._healed_at = float("-inf")
        self._unserved = Unserved(settings, store)
        self._duties: dict[Duty, Callable[[], None]] = {
            Duty.RESCUE: self._rescue,
            Duty.RESTORE: self._restore,
            Duty.TENANTS: self._tenants,
            Duty.REDATE: self._redate,
            Duty.EXPIRE: self._expire,
            Duty.RUNS: self._runs,
            Duty.TASKS: self._tasks,
            Duty.COMPARE: self._compare,
            Duty.REPUBLISH: self._republish,
            Duty.CANVAS: self._canvas,
            Duty.PRUNE: self._prune,
        }

    def turn(self) -> float:
        """Do what is due. Returns how long to sleep until the next turn, seconds."""
        self._look()
        for duty in due(self._diary, self._rhythm):
            if self._stopping.is_set():
                return 0.0
            if self._diary.broker_up or duty not in NEEDS_BROKER:  # it may have gone away during this turn
                self._perform(duty)
        # A duty that could not be performed is ripe at once; the rhythm of the shortest one bounds the tries.
        now = clock.monotonic_s()
        return max(wake_at(self._diary, self._rhythm) - now, 0.0)

    def _look(self) -> None:
        """Note the time, and which broker answers, if any."""
        self._diary = replace(self._diary, now=clock.monotonic_s())
        try:
            self._claim()
            mark = self._ask(lambda: inspect.mark(self._client, self._settings.namespace))
            self._show_life(self._diary.now)
        except BrokerUnavailable as error:
            self._lose_broker(error)
        except StoreUnavailable as error:  # asked once for who we are
            self._database.lost(error)
            self._diary = replace(self._diary, incarnation=None)
        else:
            self._broker.found()
            self._diary = replace(self._diary, incarnation=f"{mark.run_id}:{mark.epoch}")

    def _show_life(self, mono: float) -> None:
        """For ``penstock doctor``: without any dispatcher nothing is retried, rescued, expired or called back."""
        if mono - self._alive_at >= ALIVE_EVERY_S:
            about = {"host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
            key = keys.dispatcher(self._settings.namespace)
            self._ask(lambda: self._client.set(key, json.dumps(about), ex=int(ALIVE_S)))
            self._alive_at = mono

    def _perform(self, duty: Duty) -> None:
        try:
            self._duties[duty]()
        except BrokerUnavailable as error:
            self._lose_broker(error)
        except StoreUnavailable as error:
            self._database.lost(error)
            self._hold(Duty.RESCUE)
        except Exception:  # a defect in one duty must not end the others
            log.exception("a duty failed", action="duty_failed", duty=duty.value)
        else:
            if duty not in NEEDS_NO_DATABASE:
                self._database.found()
        self._diary = self._diary.did(duty)

    def _lose_broker(self, error: BrokerUnavailable) -> None:
        self._broker.lost(error)
        self._diary = replace(self._diary, incarnation=None)
        self._hold(Duty.RESTORE)

    def _hold(self, duty: Duty) -> None:
        """Declare nobody dead until every live worker has had the time to renew its lease."""
        self._diary = self._diary.hold(duty, clock.monotonic_s() + 2 * self._settings.lease.every_s)

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._settings.broker, error) from error

    # Duties -----------------------------------------------------------------------------------------------------

    def _rescue(self) -> None:
        self._leases, dead = judge(self._leases, self._store.workers(), now=clock.monotonic_s())
        budgets = self._settings.retry
        rescued = self._store.rescue(now=clock.now(), max_losses=budgets.losses, max_kills=budgets.kills, dead=dead)
        if not rescued:
            return
        failed = [job.id for job in rescued if job.state is JobState.FAILED]
        log.warning(
            "jobs of dead workers rescued",
            action="jobs_rescued",
            rescued=len(rescued) - len(failed),
            failed=failed[:100],
        )
        self._tell(rescued)

    def _restore(self) -> None:
        messages = self._ask(lambda: restore_expired(self._client, self._settings.namespace))
        if messages:
            log.warning("messages of dead consumers restored", action="messages_restored", messages=messages)

    def _tenants(self) -> None:
        if self._ask(lambda: push(self._settings, self._store, self._client)):
            log.info("the tenants' weights and caps were given to the broker", action="tenants_pushed")

    def _redate(self) -> None:
        while not self._stopping.is_set():
            found = self._store.redate(now=clock.now(), ahead_s=AHEAD_S, limit=CHUNK)
            if found:
                log.warning("the clock was set back: what was due is due now", action="clock_set_back", found=found)
            if found < CHUNK:
                return

    def _expire(self) -> None:
        while not self._stopping.is_set():
            expired = self._store.expire(now=clock.now(), limit=CHUNK)
            if expired:
                log.info("jobs expired", action="jobs_expired", jobs=len(expired))
                self._tell(expired)
            if len(expired) < CHUNK:
                return

    def _runs(self) -> None:
        mono = clock.monotonic_s()
        heal = mono - self._healed_at >= HEAL_EVERY_S
        ended = self._store.tend_runs(now=clock.now(), limit=CHUNK, heal=heal)
        if heal:
            self._healed_at = mono
        ended = [*ended, *self._unserved.turn(now=clock.now(), mono=mono)]
        if ended:
            self._tell(ended)

    def _tasks(self) -> None:
        if self._watch is not None:
            self._watch.look()

    def _compare(self) -> None:
        self._ask(lambda: self._mend())
        missing = self._ask(self._deficit.look)
        mismatches = self._diary.mismatches + 1 if missing else 0
        buried = self._ask(lambda: inspect.newest_buried(self._client, self._settings.namespace))
        if buried != self._buried:
            # A message was set aside as unreadable: its job may have no other.
            self._buried, mismatches = buried, max(mismatches, MISMATCHES)
        self._diary = replace(self._diary, mismatches=mismatches)

    def _mend(self) -> None:
        """What no command stumbles over, such as a lease or a counter that has no end, is looked for."""
        namespace = self._settings.namespace
        queues = {queue_name(namespace, model, lane) for model in self._store.models() for lane in LANES}
        queues |= {queue_name(namespace, row.model, row.lane, row.version) for row in self._store.asked()}
        mend_keys(self._client, namespace, keys.named(namespace, queues))

    def _republish(self) -> None:
        incarnation = self._diary.incarnation
        lost, unreadable = self._ask(
            lambda: republish_lost(self._store, self._client, self._settings.namespace, stopping=self._stopping)
        )
        # Only now: when the comparison broke off, it is made again.
        self._diary = replace(self._diary, reconciled=incarnation, mismatches=0)
        if lost:
            log.warning("jobs that the broker lost are published again", action="messages_lost", jobs=lost)
        if unreadable:
            reason = "no worker could read the messages of this job, made anew though they were"
            fail(self._store, self._publisher, dict.fromkeys(unreadable, reason), on_settled=self._on_settled)

    def _canvas(self) -> None:
        """Republish settled canvas members whose callbacks were not sent: the message makes a worker finish them."""
        now = clock.now()
        ttl_s = self._settings.lease.ttl_s
        # Those that are left alone are not asked for: stuck ones must not hide the others.
        alone = {id: nudged for id, nudged in self._nudged.items() if now < sum(nudged)}
        nudge = self._store.unfinished_canvas(older_than=now - ttl_s, limit=CHUNK, exclude=list(alone))
        if nudge:
            self._publisher.publish(nudge)
            log.warning("unfinished canvas members published again", action="canvas_nudged", jobs=len(nudge))
        # Left alone for twice as long each time: while no worker serves the model, messages must not pile up.
        waits = {job.id: min(self._nudged.get(job.id, (0.0, ttl_s))[1] * 2, MAX_NUDGE_WAIT_S) for job in nudge}
        # What was not in the answer is finished, unless the answer was cut short.
        known = self._nudged if len(nudge) == CHUNK else alone
        self._nudged = known | {id: (now, wait_s) for id, wait_s in waits.items()}

    def _prune(self) -> None:
        now, retention = clock.now(), self._settings.retention
        jobs = self._remove(self._store.prune, before=now - retention.jobs_s)
        if jobs:
            log.info("old jobs pruned", action="jobs_pruned", jobs=jobs)
        self._remove(self._store.elastic.prune, before=now - retention.scaling_s)

    def _remove(self, prune: Callable[..., int], *, before: float) -> int:
        """All of it, a part at a time; how much."""
        total = 0
        while not self._stopping.is_set() and (pruned := prune(before=before, limit=CHUNK)):
            total += pruned
        return total

    def _tell(self, changed: Sequence[Settled]) -> None:
        if self._on_settled is not None:
            self._on_settled(changed)
        tell(self._publisher, changed, now=clock.now())
