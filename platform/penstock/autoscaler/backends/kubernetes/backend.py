"""Rows in, Jobs out: look, plan, make sure that nobody newer leads, act.

``realise`` is level-triggered: it may be called again after any failure, and where nothing is to be done it asks the
cluster for nothing. It does not wait for what it has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod

from penstock.autoscaler.backends.base import UNBOUNDED, Realised
from penstock.autoscaler.backends.kubernetes.api import Api, ClusterUnavailable, Refused
from penstock.autoscaler.backends.kubernetes.manifest import Owner, Template, job, job_name
from penstock.autoscaler.backends.kubernetes.mirror import Mirror
from penstock.autoscaler.backends.kubernetes.plan import Create, Plan, Situation, pause_s, plan
from penstock.clock import monotonic_s
from penstock.errors import Deposed
from penstock.store.elastic import Slot, Term

#: How long the first call waits for the first lists, seconds.
FIRST_S = 5.0
#: What was seen longer ago is not acted upon: nothing is gone, and nothing is deleted, seconds.
STALE_S = 150.0
#: Calls that one pass makes of a kind, at most: the next pass goes on.
CALLS = 50
#: And no more are begun after so long, seconds: a leader that waits for a slow cluster does not say that it lives.
PASS_S = 3.0
#: A Job or pod that does not exist is asked for no more often, seconds.
ABSENT_S = 30.0
#: Events are asked for no more often, seconds.
EVENTS_EVERY_S = 5.0
#: First and longest pause after a failed call, seconds.
AWAY_FIRST_S, AWAY_LONGEST_S = 1.0, 30.0

T = TypeVar("T")


class Places(Protocol):
    """The verb of ``Elastic`` that is needed: announces a start, unless the slot drains or another leads."""

    def place(self, id: str, place: Mapping[str, Any], *, term: Term, fence: str | None = None) -> bool: ...


class KubernetesBackend:
    """One Job per slot."""

    name = "kubernetes"

    def __init__(
        self,
        api: Api,
        mirror: Mirror,
        templates: Mapping[str, Template],
        *,
        elastic: Places,
        fleet: str,
        ttl_s: int,
        clock: Callable[[], float] = monotonic_s,
    ) -> None:
        self._api = api
        self._mirror = mirror
        self._templates = templates
        self._elastic = elastic
        self._fleet = fleet
        self._ttl_s = ttl_s
        self._clock = clock
        self._since: dict[str, float] = {}
        #: Names of Jobs and pods that were asked for and do not exist, and until when that is believed.
        self._absent: dict[str, float] = {}
        #: Why the cluster refuses Jobs of a pool, how often in a row, and until when that is believed.
        self._refused: dict[str, tuple[str, int, float]] = {}
        self._events: dict[str, str] = {}
        self._events_at: float | None = None
        self._failures = 0
        self._resume_at = 0.0
        self._away: ClusterUnavailable | None = None

    def follow(self) -> None:
        """Nothing here has ended: workers are somebody else's processes."""

    def room(self, pool: str, slots: Sequence[Slot]) -> int:
        """See ``Backend.room``."""
        return UNBOUNDED

    def close(self) -> None:
        """Stop watching. Workers go on. Can be called again."""
        self._mirror.stop()
        self._api.close()

    def realise(self, slots: Sequence[Slot], *, term: Term) -> Realised:
        """Bring the cluster's Jobs closer to ``slots``, which are all that there are, as the leader of ``term``.

        Raises ``Deposed`` when a newer leader's mark or Job is there, and ``BackendUnavailable`` while the cluster is
        away, behind or busy; nothing was changed then, and nothing counts as gone.
        """
        if self._away is not None and self._clock() < self._resume_at:
            raise self._away
        if not self._mirror.alive:
            self._mirror.start()
        try:
            seen, age_s = self._mirror.seen(FIRST_S)
            if age_s > STALE_S:
                raise self._mirror.problem() or ClusterUnavailable(f"Kubernetes was not heard of for {age_s:.0f} s")
            now = self._clock()
            self._absent = {name: until for name, until in self._absent.items() if now < until}
            situation = Situation(
                rows=slots,
                seen=seen,
                now=now,
                epoch=term.epoch,
                templates=self._templates,
                since=self._since,
                absent=self._absent.keys(),
                events=self._events,
            )
            planned = self._sure(situation)
            if planned.deposed_by is not None:
                raise Deposed(f"epoch {term.epoch} is over: there are Jobs of epoch {planned.deposed_by}")
            self._since = planned.since
            self._act(planned, term)
            for id, place in planned.placed.items():
                self._elastic.place(id, place, term=term)
        except ClusterUnavailable as error:
            self._leave_alone(error)
            raise
        self._failures, self._away = 0, None
        by_id = {slot.id: slot for slot in slots}
        return Realised(
            gone=[by_id[id] for id in planned.gone],
            stuck=planned.stuck | self._refusals(planned.create),
            outdated=frozenset(planned.outdated),
        )

    def _sure(self, situation: Situation) -> Plan:
        """A plan that rests on no list alone: what is missing was asked for by name."""
        planned = plan(situation)
        asks: list[tuple[str, Callable[[str], Job | Pod | None]]] = [
            *((name, self._api.job) for name in planned.ask),
            *((name, self._api.pod) for name in planned.ask_pods),
        ]
        if asks:
            for name, ask in self._some(asks):
                if (found := ask(name)) is not None:
                    self._mirror.note(found)
                else:
                    self._absent[name] = situation.now + ABSENT_S
            seen, _ = self._mirror.seen()
            situation = replace(situation, seen=seen, absent=self._absent.keys())
            planned = plan(situation)
        if planned.podless and self._events_due(situation.now):
            self._events, self._events_at = self._api.failed_creates(), situation.now
            planned = plan(replace(situation, events=self._events))
        return planned

    def _some(self, calls: Sequence[T]) -> Iterator[T]:
        """What is called for in this pass: one at least, and the others as long as there is time."""
        until = self._clock() + PASS_S
        for call in calls[:CALLS]:
            yield call
            if self._clock() >= until:
                return

    def _events_due(self, now: float) -> bool:
        return self._events_at is None or now - self._events_at >= EVENTS_EVERY_S

    def _act(self, planned: Plan, term: Term) -> None:
        if not planned.create and not planned.delete:
            return
        newest, holder, owner = self._api.claim(term.epoch, term.holder)
        if (newest, holder) != (term.epoch, term.holder):
            raise Deposed(f"epoch {term.epoch} is over: a leader of epoch {newest} has been here")
        for name in self._some(planned.delete):
            self._api.delete(name)
        refused = {pool for pool, (_, _, until) in self._refused.items() if self._clock() < until}
        for create in self._some([each for each in planned.create if each.pool not in refused]):
            if create.pool not in refused and not self._create(create, term, owner):
                refused.add(create.pool)

    def _create(self, create: Create, term: Term, owner: Owner) -> bool:
        """Make one Job; ``False`` if the cluster refuses it, and so all of the pool for a while."""
        name = job_name(create.slot, create.attempt)
        # The Job's name is the word without which no worker takes the slot: all pods of the Job bring the same.
        place = {"job": name, "attempt": create.attempt}
        if not self._elastic.place(create.slot, place, term=term, fence=name):
            return True  # it drains by now, or another leads
        manifest = job(
            self._templates[create.pool],
            slot=create.slot,
            attempt=create.attempt,
            spec=create.spec,
            epoch=term.epoch,
            fleet=self._fleet,
            ttl_s=self._ttl_s,
            owner=owner,
        )
        try:
            # One that exists was made by a call whose answer was lost, or the list lacks it: then it is to be known.
            made = self._api.create(manifest) or self._api.job(name)
        except Refused as error:
            _, times, _ = self._refused.get(create.pool, ("", 0, 0.0))
            self._refused[create.pool] = (str(error), times + 1, self._clock() + pause_s(times + 1))
            return False
        self._refused.pop(create.pool, None)
        self._absent.pop(name, None)
        if made is not None:
            self._mirror.note(made)
        return True

    def _refusals(self, creates: Sequence[Create]) -> dict[str, str]:
        return {each.slot: self._refused[each.pool][0] for each in creates if each.pool in self._refused}

    def _leave_alone(self, error: ClusterUnavailable) -> None:
        """Ask nothing of the cluster for as long as it wants."""
        self._failures += 1
        wait_s = min(AWAY_LONGEST_S, AWAY_FIRST_S * 2 ** min(self._failures - 1, 10))
        self._resume_at = self._clock() + (error.retry_after or wait_s)
        self._away = error
