"""Rows and what the cluster has of them -> what to do and what to tell. Pure: a crash between two plans costs nothing.

===================  ===============================  ===========================================================
the row says         the cluster has                  then
===================  ===============================  ===========================================================
wanted, parked       nothing                          a Job is made, named after the slot and its attempt
wanted, parked       a Job that is open               it is placed; stuck, if it does not come up
wanted, parked       a Job that has ended             it is gone (a drained node is missing capacity); then the next
                                                      attempt, later each time if they end soon
draining             a pod that runs                  nothing: the worker reads its row, drains and exits 0; its Job
                                                      is deleted (SIGTERM, grace) if it does not
draining             no pod that runs                 its Job is deleted
draining             nothing, or a Job that has ended gone
no row               a Job                            as draining, if it is not of a newer leader's
===================  ===============================  ===========================================================

What is missing from a list may be missing because the list is old. So what a row names and no list has is asked for by
name before it counts as gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.autoscaler.backends.kubernetes.manifest import Template, job_name
from penstock.autoscaler.backends.kubernetes.seen import Made, Pod, Seen, crash_loop
from penstock.processes.agreed import HEALTHY_AFTER_S

#: A worker that is still there so long after its grace does not drain by itself, seconds.
OVERDUE_S = 30.0
#: First and longest pause before the next attempt when workers end soon, seconds.
PAUSE_FIRST_S, PAUSE_LONGEST_S = 5.0, 300.0
#: A Job has no pod for so long: why is asked for, seconds.
PODLESS_S = 2.0


class Row(Protocol):
    """What is read of a slot."""

    @property
    def id(self) -> str: ...
    @property
    def pool(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def worker(self) -> str | None: ...
    @property
    def place(self) -> Mapping[str, Any] | None: ...
    @property
    def spec(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a plan is made of."""

    rows: Sequence[Row]
    seen: Seen
    now: float
    #: The epoch of the leader for whom the plan is made.
    epoch: int
    templates: Mapping[str, Template]
    #: The plan before this one: since when things are as they are, by the same clock as ``now``.
    since: Mapping[str, float] = field(default_factory=dict)
    #: Names of Jobs and pods that were asked for and do not exist.
    absent: AbstractSet[str] = frozenset()
    #: Why Jobs have no pod, by name of the Job, where it was asked for.
    events: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Create:
    """A Job to make."""

    slot: str
    pool: str
    attempt: int
    #: What its worker is to be, beyond what the template says.
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Plan:
    """What to do, and what to tell whoever keeps the rows."""

    create: list[Create] = field(default_factory=list)
    #: Names of Jobs to delete; each is a SIGTERM, and the grace of its template.
    delete: list[str] = field(default_factory=list)
    #: Slots that nothing realises any more.
    gone: list[str] = field(default_factory=list)
    placed: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Why slots do not come up, for a person.
    stuck: dict[str, str] = field(default_factory=dict)
    #: Slots whose Job is of an older template.
    outdated: set[str] = field(default_factory=set)
    #: Names of Jobs that are to be asked for before another plan is made.
    ask: list[str] = field(default_factory=list)
    #: Names of pods, likewise.
    ask_pods: list[str] = field(default_factory=list)
    #: A Job has had no pod for a while: the cluster's events say why.
    podless: bool = False
    since: dict[str, float] = field(default_factory=dict)
    #: The epoch of a newer leader, whose Jobs are there: nothing is planned.
    deposed_by: int | None = None


def plan(at: Situation) -> Plan:
    """Decide."""
    out = Plan()
    newest = max((job.epoch for job in at.seen.jobs.values()), default=0)
    if newest > at.epoch:
        out.deposed_by = newest
        return out
    jobs: dict[str, list[Made]] = {}
    for job in sorted(at.seen.jobs.values(), key=lambda job: job.attempt):
        jobs.setdefault(job.slot, []).append(job)
    pods: dict[str, list[Pod]] = {}
    for pod in at.seen.pods.values():
        pods.setdefault(pod.slot, []).append(pod)
    for row in at.rows:
        _Slot(at, out, row, jobs.pop(row.id, []), pods.pop(row.id, [])).decide()
    for slot, left in jobs.items():
        _stop(at, out, slot, _open(left), pods.get(slot, []))
    return out


def pause_s(deaths: int) -> float:
    """How long to wait after so many workers of a slot that ended soon."""
    return 0.0 if deaths < 1 else float(min(PAUSE_LONGEST_S, PAUSE_FIRST_S * 2 ** min(deaths - 1, 10)))


class _Slot:
    """One row, beside what the cluster has of it."""

    def __init__(self, at: Situation, out: Plan, row: Row, jobs: list[Made], pods: list[Pod]) -> None:
        self.at, self.out, self.row, self.jobs, self.pods = at, out, row, jobs, pods
        self.place = row.place or {}
        self.job = _open(jobs)
        self.live = [pod for pod in pods if pod.phase != "ended"]

    def decide(self) -> None:
        if self._unsure():
            return
        if self.row.state == "draining":
            if self.job is None and not self.live:
                self.out.gone.append(self.row.id)
            else:
                _stop(self.at, self.out, self.row.id, self.job, self.pods)
        elif self.job is not None and not self.job.leaving:
            self._tell(self.job)
        elif self.job is None and not self.live:
            self._replace()
        # Else its last pod is on its way out: a slot never has two.

    def _unsure(self) -> bool:
        """Whether the row knows of a Job or a pod that the lists lack, and that was not asked for.

        They are two lists, of two moments: that the one is fresh says nothing of the other.
        """
        pod, made = self.place.get("pod"), self.at.seen.jobs.get(self.place.get("job", ""))
        job_unsure = self._job_unsure()
        if pod is None or pod in self.at.absent or any(each.name == pod for each in self.pods):
            return job_unsure
        if made is not None and made.state != "open":
            return job_unsure
        self.out.ask_pods.append(pod)
        return True

    def _job_unsure(self) -> bool:
        named = self.place.get("job") or (job_name(self.row.id, 1) if self.row.worker and not self.jobs else None)
        if named is None or named in self.at.seen.jobs or named in self.at.absent or self.live:
            return False
        self.out.ask.append(named)
        return True

    def _tell(self, job: Made) -> None:
        """Where it runs, or why it does not."""
        if (pod := self.place.get("pod")) is not None and pod not in {each.name for each in self.live}:
            self.out.gone.append(self.row.id)  # its node went, or it died: what comes in its place must load first
            return
        own = self.live[-1] if self.live else None
        place = {"job": job.name, "attempt": job.attempt}
        if own is not None:
            place |= {"pod": own.name, "node": own.node}
        if place != self.place:
            self.out.placed[self.row.id] = place
        current = self.at.templates.get(job.pool)
        if current is not None and current.digest != job.template:
            self.out.outdated.add(self.row.id)
        if (why := self._stuck(job, own)) != "":
            self.out.stuck[self.row.id] = why

    def _stuck(self, job: Made, own: Pod | None) -> str:
        if own is not None and (own.phase == "running" or own.trouble):
            return own.trouble
        if own is None and _since(self.at, self.out, f"podless:{job.name}") >= PODLESS_S:
            self.out.podless = True
            return self.at.events.get(job.name, "")
        return ""

    def _replace(self) -> None:
        """Nothing realises it: say so if somebody believes otherwise, else make the next Job."""
        if self.row.worker or self.place.get("job") in self.at.seen.jobs:
            self.out.gone.append(self.row.id)
            return
        if self.row.pool not in self.at.templates:
            self.out.stuck[self.row.id] = f"NoTemplate: there is no template {self.row.pool}.json"
            return
        wait_s = 0.0
        if (deaths := self._deaths()) > 0:
            last = self.jobs[-1]
            wait_s = pause_s(deaths) - _since(self.at, self.out, f"ended:{last.name}")
            self.out.stuck[self.row.id] = crash_loop(deaths, self.pods)
        if wait_s <= 0:
            # What was announced and not made, because something came between, is made now.
            attempt = max([self.place.get("attempt", 1), *(job.attempt + 1 for job in self.jobs)])
            self.out.create.append(Create(self.row.id, self.row.pool, attempt, self.row.spec))

    def _deaths(self) -> int:
        """How many Jobs of it, the last ones in a row, ended soon."""
        count = 0
        for job in reversed(self.jobs):
            if job.lived_s is None or job.lived_s >= HEALTHY_AFTER_S:
                break
            count += 1
        return count


def _open(jobs: Sequence[Made]) -> Made | None:
    """The newest that has not ended."""
    return next((job for job in reversed(jobs) if job.state == "open"), None)


def _stop(at: Situation, out: Plan, slot: str, job: Made | None, pods: Sequence[Pod]) -> None:
    """End what has not begun; what runs ends itself, and is ended when it does not."""
    if job is None or job.leaving:
        return
    template = at.templates.get(job.pool)
    patience_s = (template.grace_s if template else 0.0) + OVERDUE_S
    running = any(pod.phase == "running" for pod in pods)
    if _since(at, out, f"stopping:{slot}") >= patience_s or not running:
        out.delete.append(job.name)


def _since(at: Situation, out: Plan, key: str) -> float:
    """For how long this is so."""
    began = out.since[key] = at.since.get(key, at.now)
    return at.now - began
