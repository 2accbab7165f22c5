"""Admission at enqueue: the shell around ``policy.admission``.

The decision is made from what this process knows: a picture of each model's load, read in the background about ten
times a second while interactive jobs come, and what was submitted from here since. So it costs no round trip, and a
refusal takes microseconds. A publication's own answer tells how long the queue is now, which corrects the picture
between two readings. Without a picture (no worker has said anything, the broker is away, the first tenth of a second of
a process) everything is admitted.

There is a picture per tenant that is submitted for: where tenants share a queue, each has its share of the devices
(``policy.sharing``). One reading serves them all.

A version that is asked for is watched by its full name, ``embed@2``: it has the workers of that version only. Those
serve the queue of all versions, too, so their part of it stands beside its own; and where there is only one version,
its queue stands beside that of all. (With several, nobody can say which part of one's queue the others will have.)
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from penstock import clock
from penstock.dispatch.background import Background
from penstock.errors import BrokerUnavailable, Overloaded
from penstock.job import DEFAULT_TENANT, NewJob
from penstock.jsontext import UNREADABLE
from penstock.lane import Lane, full_name, queue_name, split_name
from penstock.policy.admission import Refuse, WorkerLoad, promised
from penstock.policy.picture import STALE_S, Crowd, Picture
from penstock.policy.sharing import Shares
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.publisher import Publisher

log = logging.getLogger(__name__)

#: The picture is read again after so long, seconds, while interactive jobs come.
REFRESH_S = 0.1
#: A model is no longer watched after so long without an interactive job, seconds.
WATCH_S = 2.0
#: What a worker said so long ago is removed, seconds: it is dead, or will say it again.
FORGET_S = 600.0

_decoder = msgspec.json.Decoder(WorkerLoad)


@dataclass(slots=True)
class _Watch:
    """One model: when each tenant was last asked for, its picture, and the last reading."""

    asked_at: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    crowd: Crowd = field(default_factory=Crowd)
    read_at: float = float("-inf")
    said: Mapping[str, WorkerLoad] = field(default_factory=dict)
    #: Names whose queues are to be looked at beside its own.
    beside: Sequence[str] = ()
    shares: Shares = field(default_factory=lambda: Shares({}))

    def of(self, tenant: str, now: float) -> Picture:
        """The tenant's picture. One that is new knows what was last read."""
        self.asked_at[tenant] = now
        picture = self.pictures.get(tenant)
        if picture is None:
            picture = self.pictures[tenant] = Picture(self.crowd)
            if now - self.read_at <= STALE_S:
                self._show(tenant, ours=0, now=self.read_at)
        return picture

    def read(self, said: Mapping[str, WorkerLoad], shares: Shares, *, ours: Mapping[str, int], now: float) -> None:
        """A reading came in; see ``Picture.take``."""
        self.read_at, self.said, self.shares = now, said, shares
        self.crowd.take(said, shares.total, ours=sum(ours.values()), now=now)
        for tenant in self.pictures:
            # Of a tenant that came while it was on its way nothing is in it.
            self._show(tenant, ours=ours.get(tenant, 0), now=now)

    def _show(self, tenant: str, *, ours: int, now: float) -> None:
        share = self.shares.of(tenant)
        self.pictures[tenant].take(self.said, share.own.ready, ours=ours, now=now, share=share)

    def forget(self, before: float) -> None:
        """Tenants that were last asked for before this time."""
        for tenant in [tenant for tenant, at in self.asked_at.items() if at < before]:
            del self.asked_at[tenant], self.pictures[tenant]


class Admission:
    """Thread-safe. Refreshes on a thread of its own, which exists only while there is interactive traffic."""

    def __init__(self, settings: Settings, publisher: Publisher, *, rng: random.Random | None = None) -> None:
        self._enabled = settings.admission.enabled
        self._target_s = settings.lanes.interactive.target
        self._namespace = settings.namespace
        self._publisher = publisher
        self._rng = rng or random.Random()
        self._mutex = threading.Lock()
        self._watched: dict[str, _Watch] = {}
        #: The models by their queues, as the keys of lists name them.
        self._queues: dict[str, str] = {}
        #: Refused jobs by queue, until they are told of.
        self._refused: Counter[str] = Counter()
        # Not shared with the database's chores: a picture must not grow old while they wait for a lock.
        self._background = Background("penstock-admission")

    def check(self, job: NewJob) -> Overloaded | None:
        """The refusal of a job that is about to be stored, if it is to be refused; else it counts as submitted.

        Only an interactive job that may start now is ever refused.
        """
        if not self._enabled or job.lane != Lane.INTERACTIVE or job.available_at > job.accepted_at:
            return None
        return self.ask(
            full_name(job.model, job.asked_version),
            tenant=job.tenant,
            deadline_at=job.deadline_at,
            priority=job.priority,
            now=clock.now(),
        )

    def ask(
        self, model: str, *, tenant: str, deadline_at: float | None, priority: int, now: float
    ) -> Overloaded | None:
        """``check`` for an interactive job that is not made yet."""
        if not self._enabled:
            return None
        with self._mutex:
            picture = self._watch(model, tenant, now)
            target_s = promised(self._watched[model].said.values(), self._target_s)
            decision = picture.decide(
                now=now, target_s=target_s, deadline_at=deadline_at, priority=priority, rng=self._rng
            )
            if isinstance(decision, Refuse) and decision.reason != "deadline":  # that more workers would not help
                name, version = split_name(model)
                self._refused[queue_name(self._namespace, name, Lane.INTERACTIVE, version)] += 1
        if not isinstance(decision, Refuse):
            return None
        return refusal(model, decision, has_deadline=deadline_at is not None)

    def saw(self, lengths: Mapping[str, int]) -> None:
        """The lengths of lists just after a publication: at least so much is ahead of the tenant's next job."""
        if not self._enabled:
            return
        now = clock.now()
        with self._mutex:
            for key, length in lengths.items():
                watch = self._watched.get(self._queues.get(keys.queue_of(key), ""))
                picture = None if watch is None else watch.pictures.get(keys.tenant_of(key))
                if picture is not None:
                    picture.saw(length, priority=keys.priority_of(key), now=now)

    def look(self, models: Iterable[str]) -> None:
        """Read the pictures now: for a process that lives for one job. Silent when the broker is away."""
        if self._enabled:
            with self._mutex:
                now = clock.now()
                for model in models:
                    self._watch(model, DEFAULT_TENANT, now, later=False)
            self._refresh()

    def close(self) -> None:
        """End the thread, and tell what it has not told yet."""
        self._background.close()
        self._tell()

    def _watch(self, model: str, tenant: str, now: float, *, later: bool = True) -> Picture:
        watch = self._watched.get(model)
        if watch is None:
            watch = self._watched[model] = _Watch()
            name, version = split_name(model)
            self._queues[queue_name(self._namespace, name, Lane.INTERACTIVE, version)] = model
            if version is not None:
                watch.beside = [name]
        if later:
            self._background.later(REFRESH_S, self._turn)
        return watch.of(tenant, now)

    def _turn(self) -> None:
        self._refresh()
        with self._mutex:
            if self._watched:
                self._background.later(REFRESH_S, self._turn)

    def _tell(self) -> None:
        """Tell of what was refused: whoever decides how many workers there are does not see it otherwise."""
        with self._mutex:
            refused, self._refused = self._refused, Counter()
        if not refused:
            return
        try:
            self._publisher.refused(refused)
        except BrokerUnavailable as error:
            log.debug("refusals are not told of: %s", error.message)

    def _refresh(self) -> None:
        self._tell()
        now = clock.now()
        with self._mutex:
            for watch in self._watched.values():
                watch.forget(now - WATCH_S)
            self._watched = {model: watch for model, watch in self._watched.items() if watch.pictures}
            self._queues = {queue: model for queue, model in self._queues.items() if model in self._watched}
            ours = {
                model: {tenant: picture.submitted for tenant, picture in watch.pictures.items()}
                for model, watch in self._watched.items()
            }
            beside = {model: watch.beside for model, watch in self._watched.items() if watch.beside}
        if not ours:
            return
        try:
            found = self._publisher.loads(ours, Lane.INTERACTIVE, beside=beside)
        except BrokerUnavailable as error:
            # Jobs are accepted without it; the old picture ends by its age.
            log.debug("the load is not known: %s", error.message)
            return
        now = clock.now()
        for model, entries in found.items():
            name, version = split_name(model)
            everybody = read(entries.by_worker)
            said = {worker: load for worker, load in everybody.items() if version in (None, load.version)}
            line, versions = entries.line, {load.version for load in everybody.values() if load.alive(now)}
            part = 1.0 if version is None else len(said) / max(1, len(everybody))
            for other in entries.beside:
                line = line.beside(other, part)
            with self._mutex:
                if (seen := self._watched.get(model)) is not None:
                    seen.read(said, Shares(line.standings, busy=line.busy), ours=ours[model], now=now)
                    if version is None:
                        alone = versions.pop() if len(versions) == 1 else ""
                        seen.beside = [full_name(name, alone)] if alone else ()
            dead = [worker for worker, load in everybody.items() if now - load.at > FORGET_S]
            if dead:
                with suppress(BrokerUnavailable):
                    self._publisher.forget_load(name, dead)


def read(entries: Mapping[str, bytes]) -> dict[str, WorkerLoad]:
    """What workers said; an entry of another version is passed over."""
    said = {}
    for worker, entry in entries.items():
        with suppress(*UNREADABLE):
            said[worker] = _decoder.decode(entry)
    return said


def refusal(model: str, refuse: Refuse, *, has_deadline: bool) -> Overloaded:
    """The error, in words."""
    if refuse.reason == "deadline":
        return Overloaded(
            f"model {model!r} takes about {_s(refuse.needs_s)} by itself; the deadline is in {_s(refuse.limit_s)}",
            retry_after=refuse.retry_after_s,
            reason=refuse.reason,
            fix="give it a longer deadline, or lane='background'",
        )
    limit = "its deadline is in" if has_deadline else "an interactive job may take"
    return Overloaded(
        f"too many jobs wait for model {model!r}: this one would wait about {_s(refuse.wait_s)} and be done in "
        f"{_s(refuse.needs_s)}; {limit} {_s(refuse.limit_s)}, of which it may wait {_s(refuse.allowed_s)} at this load",
        retry_after=refuse.retry_after_s,
        reason=refuse.reason,
        fix=f"try again in {_s(refuse.retry_after_s)}, give it a longer deadline, or lane='background'",
    )


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{max(seconds, 0.0) * 1000:.0f} ms"
