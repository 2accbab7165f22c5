"""Random histories of a few jobs, told to the store and to a model of it in plain Python."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import penstock_migrations
from penstock.errors import IllegalTransition
from penstock.job import OPEN, TERMINAL, JobState, Outcome, can
from penstock.policy.suspicion import Evidence, Sentence, after_loss, runs_alone
from penstock.store import ClaimResult, Store
from tests.fixtures.examples import examples
from tests.fixtures.store import T0, make_job

WORKERS = ("w1", "w2")
MAX_LOSSES = 2
MAX_KILLS = 2
INNOCENT = Evidence()


@dataclass(frozen=True)
class Known:
    """What the model knows of one job."""

    state: JobState
    attempt: int = 0
    worker: str | None = None
    cancel: bool = False
    deadline_at: float | None = None
    available_at: float = T0
    leased: bool = True
    losses: int = 0
    evidence: Evidence = INNOCENT
    output: int | None = None


class LifeCycle(RuleBasedStateMachine):
    """Every verb on every job at any time, with the right and with wrong attempt numbers and workers."""

    jobs = Bundle("jobs")
    template: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-machine-"))
        path = self.folder / "penstock.db"
        if LifeCycle.template is None or not LifeCycle.template.exists():
            LifeCycle.template = Path(tempfile.mkdtemp(prefix="penstock-machine-")) / "template.db"
            penstock_migrations.upgrade(f"sqlite:///{LifeCycle.template}")
        shutil.copy(LifeCycle.template, path)
        self.store = Store.open(f"sqlite:///{path}")
        self.now = T0
        self.known: dict[str, Known] = {}
        self.ends: dict[str, int] = {}
        self.alive: set[str] = set()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    # Helpers

    def change(self, id: str, state: JobState, **changes: object) -> None:
        before = self.known[id]
        assert can(before.state, state), f"{before.state} -> {state}"
        if state in TERMINAL:
            self.ends[id] = self.ends.get(id, 0) + 1
        self.known[id] = replace(before, state=state, **changes)  # type: ignore[arg-type]

    def overdue(self, job: Known) -> bool:
        return job.deadline_at is not None and job.deadline_at <= self.now

    def beat(self) -> None:
        """Living workers have a lease that reaches beyond now."""
        for worker in self.alive:
            assert self.store.heartbeat(worker, lease_until=self.now + 1000, now=self.now)

    # Rules

    @initialize()
    def workers_start(self) -> None:
        for worker in WORKERS:
            self.revive(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def revive(self, worker: str) -> None:
        self.store.register_worker(worker, name=worker, pool="p", lease_until=self.now + 1000, now=self.now, info={})
        self.alive.add(worker)

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.beat()

    @rule(target=jobs, delay=st.sampled_from([0, 0, 20]), deadline=st.sampled_from([None, None, 30]))
    def insert(self, delay: int, deadline: int | None) -> str:
        job = make_job(
            accepted_at=self.now,
            available_at=self.now + delay,
            deadline_at=None if deadline is None else self.now + deadline,
            webhook="https://example.com/",
        )
        assert self.store.insert([job])[0].created
        self.known[job.id] = Known(
            JobState.ACCEPTED, deadline_at=job.deadline_at, available_at=job.available_at, leased=delay == 0
        )
        return job.id

    @rule(id=jobs)
    def mark_queued(self, id: str) -> None:
        job = self.known[id]
        expected = job.state is JobState.ACCEPTED and job.leased
        assert self.store.mark_queued([id], now=self.now) == expected
        if expected:
            self.change(id, JobState.QUEUED, leased=False)

    @rule(lease=st.integers(1, 10))
    def take_due(self, lease: int) -> None:
        taken = {job.id for job in self.store.take_due(now=self.now, limit=100, lease_s=lease)}
        for id in taken:
            job = self.known[id]
            assert job.state is JobState.ACCEPTED and job.available_at <= self.now
            self.known[id] = replace(job, leased=True)
        for id, job in self.known.items():
            if job.state is JobState.ACCEPTED and job.available_at <= self.now and not job.leased:
                assert id in taken

    @rule(id=jobs)
    def requeue(self, id: str) -> None:
        expected = self.known[id].state is JobState.QUEUED
        assert self.store.requeue([id], now=self.now) == expected
        if expected:
            self.change(id, JobState.ACCEPTED, leased=False, available_at=self.now)

    @rule(id=jobs, worker=st.sampled_from(WORKERS))
    def claim(self, id: str, worker: str) -> None:
        self.judge_claim(id, worker, self.store.claim([id], worker=worker, now=self.now), alone=True)

    @rule(one=jobs, other=jobs, worker=st.sampled_from(WORKERS))
    def claim_together(self, one: str, other: str, worker: str) -> None:
        if one != other:
            result = self.store.claim([one, other], worker=worker, now=self.now)
            self.judge_claim(one, worker, result, alone=False)
            self.judge_claim(other, worker, result, alone=False)

    def judge_claim(self, id: str, worker: str, result: ClaimResult, *, alone: bool) -> None:
        job = self.known[id]
        ripe = job.state is JobState.QUEUED or job.available_at <= self.now or job.leased
        if job.state not in (JobState.ACCEPTED, JobState.QUEUED):
            assert result.others[id].state is job.state
        elif self.overdue(job):
            assert id in [row.id for row in result.expired]
            self.change(id, JobState.EXPIRED)
        elif ripe and runs_alone(job.evidence) and not alone:
            assert result.others[id].suspect
        elif ripe:
            assert result.claimed[id].attempt == job.attempt + 1
            self.change(id, JobState.RUNNING, attempt=job.attempt + 1, worker=worker)
        else:
            assert result.others[id].state is JobState.ACCEPTED
            assert not result.others[id].suspect

    @rule(
        id=jobs,
        worker=st.sampled_from(WORKERS),
        late=st.sampled_from([0, 0, 0, 1]),
        wanted=st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.ACCEPTED, JobState.QUEUED]),
        value=st.integers(0, 9),
    )
    def settle(self, id: str, worker: str, late: int, wanted: JobState, value: int) -> None:
        job = self.known[id]
        outcome = Outcome(
            id=id,
            attempt=job.attempt - late,
            state=wanted,
            output=str(value) if wanted is JobState.SUCCEEDED else None,
            available_at=self.now + 5 if wanted is JobState.ACCEPTED else None,
        )
        settled = self.store.settle([outcome], worker=worker, now=self.now)
        if job.state is not JobState.RUNNING or late or job.worker != worker:
            # A repetition of the outcome that ended the job is answered with what it is.
            assert all(row.state is job.state for row in settled)
            return
        final = JobState.CANCELLED if job.cancel else JobState.EXPIRED if self.overdue(job) else wanted
        assert [row.state for row in settled] == [final]
        self.change(
            id,
            final,
            worker=worker if final in TERMINAL else None,
            output=value if final is JobState.SUCCEEDED else None,
            leased=False,
            available_at=self.now + 5 if wanted is JobState.ACCEPTED else job.available_at,
        )

    @rule(id=jobs, worker=st.sampled_from(WORKERS))
    def release(self, id: str, worker: str) -> None:
        job = self.known[id]
        mine = job.state is JobState.RUNNING and job.worker == worker
        assert self.store.release([(id, job.attempt)], worker=worker, now=self.now) == mine
        if mine:
            self.change(id, JobState.CANCELLED if job.cancel else JobState.QUEUED, worker=None)

    @rule(id=jobs)
    def cancel(self, id: str) -> None:
        job = self.known[id]
        found = self.store.cancel(id, now=self.now)
        if job.state is JobState.RUNNING:
            assert found.status == "cancelling"
            self.known[id] = replace(job, cancel=True)
        elif job.state in OPEN:
            self.change(id, JobState.CANCELLED, cancel=True)

    @rule(id=jobs)
    def retry(self, id: str) -> None:
        job = self.known[id]
        if job.state is JobState.SUCCEEDED:
            try:
                self.store.retry(id, now=self.now)
            except IllegalTransition:
                return
            raise AssertionError("a success was replayed")
        self.store.retry(id, now=self.now)
        if job.state in TERMINAL:
            self.change(
                id,
                JobState.ACCEPTED,
                cancel=False,
                losses=0,
                evidence=replace(job.evidence, kills=0),
                leased=True,
                available_at=self.now,
                worker=None,
                deadline_at=None if self.overdue(job) else job.deadline_at,
            )

    @rule()
    def expire(self) -> None:
        expired = {row.id for row in self.store.expire(now=self.now, limit=100)}
        for id, job in self.known.items():
            if job.state in (JobState.ACCEPTED, JobState.QUEUED) and self.overdue(job):
                assert id in expired
                self.change(id, JobState.EXPIRED)
            else:
                assert id not in expired

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_is_killed_and_its_jobs_are_rescued(self, worker: str) -> None:
        died = self.alive & {worker}
        if died:
            assert self.store.heartbeat(worker, lease_until=self.now, now=self.now)
        self.alive.discard(worker)
        self.judge_rescue(died)

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_stops_and_its_jobs_are_rescued(self, worker: str) -> None:
        self.store.unregister_worker(worker)
        self.alive.discard(worker)
        self.rescue()

    @rule()
    def rescue(self) -> None:
        self.judge_rescue(set())

    def judge_rescue(self, died: set[str]) -> None:
        rows = self.store.rescue(now=self.now, max_losses=MAX_LOSSES, max_kills=MAX_KILLS)
        rescued = {row.id: row for row in rows}
        held = Counter(job.worker for job in self.known.values() if job.state is JobState.RUNNING)
        for id, job in self.known.items():
            if job.state is not JobState.RUNNING or job.worker in self.alive:
                assert id not in rescued
                continue
            evidence, sentence = after_loss(
                job.evidence, died=job.worker in died, held=held[job.worker], max_kills=MAX_KILLS
            )
            if job.cancel:
                final = JobState.CANCELLED
            elif self.overdue(job):
                final = JobState.EXPIRED
            elif sentence is Sentence.QUARANTINE or job.losses >= MAX_LOSSES:
                final = JobState.FAILED
            else:
                final = JobState.ACCEPTED
            assert rescued[id].state is final
            self.change(
                id,
                final,
                worker=None,
                losses=job.losses + 1,
                evidence=evidence,
                leased=False,
                available_at=self.now,
            )

    # What holds after every step

    @invariant()
    def the_store_agrees(self) -> None:
        found = self.store.get_many(list(self.known))
        assert found.keys() == self.known.keys()
        for id, job in self.known.items():
            row = found[id]
            assert (row.state, row.attempt, row.worker, row.losses) == (job.state, job.attempt, job.worker, job.losses)
            assert Evidence(row.suspicions, row.kills) == job.evidence
            assert row.cancel_requested == job.cancel
            assert row.output == job.output
            assert (row.ledger.settled_at is not None) == (row.state in TERMINAL)

    @invariant()
    def every_end_has_its_event(self) -> None:
        events: dict[str, int] = {}
        for event in self.store.list_deliveries(limit=10_000):
            events[event.job_id] = events.get(event.job_id, 0) + 1
        assert events == self.ends

    @invariant()
    def counts_are_of_the_open(self) -> None:
        assert sum(row.count for row in self.store.counts()) == sum(job.state in OPEN for job in self.known.values())


LifeCycle.TestCase.settings = settings(
    max_examples=examples(60), stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLifeCycle = LifeCycle.TestCase
