"""Admission at enqueue: the shell around ``policy.admission``.

The decision is made from what this process knows: a picture of each model's load, read in the background about ten
times a second while interactive jobs come, and what was submitted from here since. So it costs no round trip, and a
refusal takes microseconds. A publication's own answer tells how long the queue is now, which corrects the picture
between two readings. Without a picture (no worker has said anything, the broker is away, the first tenth of a second of
a process) everything is admitted.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

from penstock import clock
from penstock.dispatch.background import Background
from penstock.errors import BrokerUnavailable, Overloaded
from penstock.job import NewJob
from penstock.lane import Lane, queue_name
from penstock.policy.admission import Refuse, WorkerLoad
from penstock.policy.picture import Picture
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


class Admission:
    """Thread-safe. Refreshes on a thread of its own, which exists only while there is interactive traffic."""

    def __init__(self, settings: Settings, publisher: Publisher, *, rng: random.Random | None = None) -> None:
        self._enabled = settings.admission.enabled
        self._target_s = settings.lanes.interactive.target
        self._namespace = settings.namespace
        self._publisher = publisher
        self._rng = rng or random.Random()
        self._mutex = threading.Lock()
        #: When a model was last asked for, and its picture.
        self._watched: dict[str, tuple[float, Picture]] = {}
        self._lists: dict[str, tuple[str, int]] = {}
        # Not shared with the database's chores: a picture must not grow old while they wait for a lock.
        self._background = Background("penstock-admission")

    def check(self, job: NewJob) -> Overloaded | None:
        """The refusal of a job that is about to be stored, if it is to be refused; else it counts as submitted.

        Only an interactive job that may start now is ever refused.
        """
        if not self._enabled or job.lane != Lane.INTERACTIVE or job.available_at > job.accepted_at:
            return None
        return self.ask(job.model, deadline_at=job.deadline_at, priority=job.priority, now=clock.now())

    def ask(self, model: str, *, deadline_at: float | None, priority: int, now: float) -> Overloaded | None:
        """``check`` for an interactive job that is not made yet."""
        if not self._enabled:
            return None
        with self._mutex:
            decision = self._watch(model, now).decide(
                now=now, target_s=self._target_s, deadline_at=deadline_at, priority=priority, rng=self._rng
            )
        if not isinstance(decision, Refuse):
            return None
        return refusal(model, decision, has_deadline=deadline_at is not None)

    def saw(self, lengths: Mapping[str, int]) -> None:
        """The lengths of lists just after a publication: at least so much is ahead of the next job."""
        if not self._enabled:
            return
        now = clock.now()
        with self._mutex:
            for key, length in lengths.items():
                model, priority = self._lists.get(key, ("", 0))
                if model in self._watched:
                    self._watched[model][1].saw(length, priority=priority, now=now)

    def look(self, models: Iterable[str]) -> None:
        """Read the pictures now: for a process that lives for one job. Silent when the broker is away."""
        if self._enabled:
            with self._mutex:
                now = clock.now()
                for model in models:
                    self._watch(model, now, later=False)
            self._refresh()

    def close(self) -> None:
        """End the thread."""
        self._background.close()

    def _watch(self, model: str, now: float, *, later: bool = True) -> Picture:
        _, picture = self._watched.get(model) or (now, Picture())
        self._watched[model] = (now, picture)
        queue = queue_name(self._namespace, model, Lane.INTERACTIVE)
        if queue not in self._lists:
            self._lists |= {keys.list_key(queue, step): (model, step) for step in keys.PRIORITY_STEPS}
        if later:
            self._background.later(REFRESH_S, self._turn)
        return picture

    def _turn(self) -> None:
        self._refresh()
        with self._mutex:
            if self._watched:
                self._background.later(REFRESH_S, self._turn)

    def _refresh(self) -> None:
        now = clock.now()
        with self._mutex:
            self._watched = {name: w for name, w in self._watched.items() if now - w[0] <= WATCH_S}
            models = list(self._watched)
            submitted = {name: picture.submitted for name, (_, picture) in self._watched.items()}
        if not models:
            return
        try:
            found = self._publisher.loads(models, Lane.INTERACTIVE)
        except BrokerUnavailable as error:
            # Jobs are accepted without it; the old picture ends by its age.
            log.debug("the load is not known: %s", error.message)
            return
        now = clock.now()
        for model, entries in found.items():
            said = read(entries.by_worker)
            with self._mutex:
                if model in self._watched:
                    self._watched[model][1].take(said, entries.ready, ours=submitted[model], now=now)
            dead = [worker for worker, load in said.items() if now - load.at > FORGET_S]
            if dead:
                with suppress(BrokerUnavailable):
                    self._publisher.forget_load(model, dead)


def read(entries: Mapping[str, bytes]) -> dict[str, WorkerLoad]:
    """What workers said; an entry of another version is passed over."""
    said = {}
    for worker, entry in entries.items():
        with suppress(msgspec.MsgspecError):
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
        f"too many jobs wait for model {model!r}: "
        f"this one would take about {_s(refuse.needs_s)}, {limit} {_s(refuse.limit_s)}",
        retry_after=refuse.retry_after_s,
        reason=refuse.reason,
        fix=f"try again in {_s(refuse.retry_after_s)}, give it a longer deadline, or lane='background'",
    )


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{max(seconds, 0.0) * 1000:.0f} ms"
