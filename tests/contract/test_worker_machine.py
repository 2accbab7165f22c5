"""Random histories of claim, run and settle: two workers, a real database, a broker that doubles messages, any fault.

The real ``Claimer``, ``Runner``, ``Concluder`` and ``Settler`` run a small model whose faults are in its inputs.
Workers die at any point, are thought dead and come back, jobs are cancelled and expire in between. At the end
everything has ended once, for a reason that is its own.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

import penstock_migrations
from penstock import clock
from penstock.job import OPEN, TERMINAL, Job, JobState
from penstock.lane import Lane
from penstock.model import Model
from penstock.settings import RetrySettings
from penstock.store import Store
from penstock_worker.execute.outcome import Concluder
from penstock_worker.execute.runner import Runner
from penstock_worker.execute.settler import Settler
from penstock_worker.item import Batch, Item, Run
from penstock_worker.schedule.claimer import Claimer
from tests.fixtures.store import make_job

WORKERS = 2
RETRY = RetrySettings(failures=1, ooms=1, losses=2, kills=2, backoff_s=1.0, backoff_max_s=2.0)
#: What an input asks for, and the error codes with which such a job may fail by its own fault.
FAULTS: dict[str, set[str]] = {
    "ok": set(),
    "raise": {"model_raised"},
    "again": {"model_raised"},
    "item": {"model_raised"},
    "base": {"model_raised"},
    "oom": {"out_of_memory"},
    "unwritable": {"invalid_output"},
    "count": {"wrong_result_count"},
    "invalid": {"invalid_input"},
}
#: Whose fault it is not: workers died, or a mate had the model return too few results.
NOT_ITS_OWN = {"worker_lost", "quarantined", "wrong_result_count"}


class Panic(BaseException):
    """What an extension in another language may raise."""


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


class Moody(Model):
    """Does as it is told by the worst of its batch; more than three at once do not fit."""

    name = "moody"

    def __init__(self, look: Any) -> None:
        self.look = look

    def predict(self, batch: list[dict[str, str]]) -> list[Any]:
        moods = [item["fault"] for item in batch]
        self.look([item["id"] for item in batch])
        if "raise" in moods:
            raise ValueError("no")
        if "again" in moods:
            raise ConnectionError("not now")
        if "base" in moods:
            raise Panic("panicked")
        if "oom" in moods or len(batch) > 3:
            raise OutOfMemoryError("CUDA out of memory")
        if "count" in moods:
            return []
        bad = {"item": ValueError("this one"), "unwritable": object()}
        return [bad.get(item["fault"], item["id"]) for item in batch]


class Worker:
    """One worker process: what it is made of, what it holds."""

    def __init__(self, machine: Histories, name: str) -> None:
        self.machine, self.name = machine, name
        store = machine.store
        model = Moody(lambda ids: machine.looked_at(name, ids))
        self.instance = name
        self.runner = Runner(
            {"moody": model},
            claim=Claimer(store, worker=name, insist=lambda call: call(), dismiss=lambda items, _: self.ack(items)),
            concluder=Concluder(RETRY, max_output_bytes=1000, rng=random.Random(7)),
            on_started=lambda run: None,
        )
        announcer: Any = self
        self.settler = Settler(store, announcer, announcer, worker=name, busy=lambda: False, on_defect=machine.defect)
        #: Messages that it has claimed: tag -> job.
        self.held: dict[int, str] = {}
        #: A run whose outcomes are not committed yet.
        self.run: Run | None = None

    # What the settler calls of the announcer: news, then acknowledgements.

    def settled(self, rows: Sequence[Any], outputs: Any, runs: Any) -> list[Any]:
        for row in rows:
            self.machine.told[row.id, row.state, row.attempt] += 1
        return []

    def acks(self, items: Any) -> list[Item]:
        return list(items)

    def send(self, news: Any, items: Sequence[Item] = ()) -> None:
        self.ack(items)

    def ack(self, items: Sequence[Item]) -> None:
        for item in items:
            self.held.pop(item.tag, None)


class Histories(RuleBasedStateMachine):
    """The jobs, the broker, the dispatcher, and what a user may do."""

    template: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.started_at, self.ahead_s = clock.now(), 0.0
        # Time is the machine's alone: with a slow machine's own, a history would not repeat itself.
        self.clock = mock.patch.object(clock, "now", lambda: self.now)
        self.clock.start()
        # The model's own faults are logged with their traces: thousands of them here.
        self.quiet = capture_logs()
        self.quiet.__enter__()
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-machine-"))
        if Histories.template is None or not Histories.template.exists():
            Histories.template = Path(tempfile.mkdtemp(prefix="penstock-machine-")) / "template.db"
            penstock_migrations.upgrade(f"sqlite:///{Histories.template}")
        shutil.copy(Histories.template, self.folder / "penstock.db")
        self.store = Store.open(f"sqlite:///{self.folder / 'penstock.db'}")
        self.tags = itertools.count(1)
        self.generations = itertools.count(1)
        #: Messages at the broker: tag -> job.
        self.ready: dict[int, str] = {}
        self.faults: dict[str, str] = {}
        self.ended: dict[str, JobState] = {}
        #: Jobs that were cancelled or overdue before anybody claimed them.
        self.barred: set[str] = set()
        self.told: Counter[tuple[str, JobState, int]] = Counter()
        self.workers: list[Worker] = []
        self.ghosts: list[Worker] = []
        self.defects = 0

    def teardown(self) -> None:
        try:
            if self.workers:
                self.everything_ends()
        finally:
            self.clock.stop()
            self.quiet.__exit__(None, None, None)
            self.store.close()
            shutil.rmtree(self.folder)

    @property
    def now(self) -> float:
        return self.started_at + self.ahead_s

    def defect(self) -> None:
        self.defects += 1

    def jobs(self) -> dict[str, Job]:
        return self.store.get_many(list(self.faults))

    # What the model sees

    def looked_at(self, worker: str, ids: list[str]) -> None:
        assert len(set(ids)) == len(ids), "a job twice in one batch"
        assert not self.barred & set(ids), "it was cancelled or overdue before it was claimed"
        for id, job in self.store.get_many(ids).items():
            assert (job.state, job.worker) == (JobState.RUNNING, worker)
            assert self.faults[id] != "invalid"

    # Workers

    moods = st.lists(st.sampled_from(["ok", "ok", "ok", "ok", *FAULTS]), min_size=1, max_size=6)

    @initialize(faults=moods)
    def workers_start(self, faults: list[str]) -> None:
        for _ in range(WORKERS):
            self.start()
        self.submit_some(faults, None, marked=True)

    def start(self) -> None:
        worker = Worker(self, f"w{next(self.generations)}")
        self.store.register_worker(
            worker.name, name=worker.name, pool="p", lease_until=self.now + 1e6, now=self.now, info={}
        )
        self.workers.append(worker)

    sizes = st.integers(1, 6)

    @precondition(lambda self: self.ready)
    @rule(index=st.integers(0, 1), size=sizes, start=st.integers(0, 5), settled=st.booleans())
    def a_worker_runs_a_batch(self, index: int, size: int, start: int, settled: bool) -> None:
        worker = self.workers[index]
        if worker.run is None:
            order = list(self.ready)
            start %= len(order)
            self.begin(worker, order[start : start + size])
            if settled:
                self.finish(worker)

    @precondition(lambda self: self.ready)
    @rule(sizes=st.lists(sizes, min_size=1, max_size=4))
    def a_worker_runs_one_batch_after_the_other(self, sizes: list[int]) -> None:
        for size in sizes:
            self.finish(self.workers[0])
            self.begin(self.workers[0], list(self.ready)[:size])

    def begin(self, worker: Worker, tags: Sequence[int]) -> None:
        """Claim these messages and run their jobs; nothing is committed yet."""
        before = self.jobs()
        items = []
        if not tags:
            return
        for tag in tags:
            id = worker.held[tag] = self.ready.pop(tag)
            self.bar(before.get(id))
            text = None if tag % 3 == 0 else self.input(id)  # a long input is read with the claim
            items.append(
                Item(id, "moody", Lane.BACKGROUND, input=text, tag=tag, source="", arrived_at=0.0, claimed_at=self.now)
            )
        run = worker.runner.run(Batch(Moody, items, "idle"))
        for item in run.returned:
            # They wait in the worker, here for anybody's next turn.
            self.ready[item.tag] = worker.held.pop(item.tag)
        worker.run = run
        mates = [self.faults[item.id] for item in run.live]
        for item, outcome in zip(run.live, run.outcomes, strict=True):
            self.judge(self.faults[item.id], mates, outcome)

    def bar(self, job: Job | None) -> None:
        waits = job is not None and job.state in (JobState.ACCEPTED, JobState.QUEUED)
        if job is not None and waits and job.deadline_at is not None and job.deadline_at <= self.now:
            self.barred.add(job.id)

    def input(self, id: str) -> str:
        fault = self.faults[id]
        return json.dumps({"id": id, "fault": fault}) if fault != "invalid" else '"no object"'

    def judge(self, fault: str, mates: list[str], outcome: Any) -> None:
        """One attempt's outcome is the item's own doing."""
        if fault == "ok" and outcome.state is not JobState.SUCCEEDED:
            assert (outcome.state, outcome.error["code"]) == (JobState.FAILED, "wrong_result_count")
            assert "count" in mates
        if fault != "ok":
            assert outcome.state is not JobState.SUCCEEDED
            assert outcome.error["code"] in FAULTS[fault] | ({"wrong_result_count"} if "count" in mates else set())
        assert (outcome.failures, outcome.ooms) == (0, 0) or fault in ("again", "oom"), "no budget for others' faults"

    def finish(self, worker: Worker) -> None:
        run, worker.run = worker.run, None
        if run is not None and (run.live or run.unfinished):
            worker.settler.settle(run)
        assert not worker.held, "everything is answered for"

    @rule(index=st.integers(0, 1))
    def a_worker_commits(self, index: int) -> None:
        self.finish(self.workers[index])

    @rule(index=st.integers(0, 1), rescued=st.booleans())
    def a_worker_dies(self, index: int, rescued: bool) -> None:
        """What it held comes back, and its lease runs out."""
        worker = self.workers.pop(index)
        self.restore(worker)
        assert self.store.heartbeat(worker.name, lease_until=self.now, now=self.now)
        if rescued:
            self.rescue()
        self.start()

    @precondition(lambda self: any(worker.run is not None for worker in self.workers))
    @rule(taken=st.booleans())
    def a_worker_is_thought_dead(self, taken: bool) -> None:
        """It stalls: its jobs go to others, and it comes back later with its outcomes."""
        worker = next(worker for worker in self.workers if worker.run is not None)
        self.workers.remove(worker)
        self.ready |= worker.held
        assert self.store.heartbeat(worker.name, lease_until=self.now, now=self.now)
        self.rescue()
        self.ghosts.append(worker)
        self.start()
        if taken:
            # One of its jobs runs elsewhere when it comes back.
            self.finish(self.workers[0])
            self.begin(self.workers[0], [tag for tag in worker.held if tag in self.ready][:1])

    @precondition(lambda self: self.ghosts)
    @rule()
    def a_ghost_commits(self) -> None:
        ghost = self.ghosts.pop()
        before = self.jobs()
        self.finish(ghost)
        assert self.jobs() == before, "its jobs are not its own any more"

    @rule(index=st.integers(0, 1))
    def a_worker_stops(self, index: int) -> None:
        worker = self.workers.pop(index)
        self.finish(worker)
        self.store.unregister_worker(worker.name)
        self.start()

    def restore(self, worker: Worker) -> None:
        self.ready |= worker.held
        worker.held = {}
        worker.run = None

    # Users

    @rule(
        faults=moods,
        deadline=st.sampled_from([None, None, None, None, 3.0, 3.0, -1.0]),
        marked=st.booleans(),
    )
    def submit(self, faults: list[str], deadline: float | None, marked: bool) -> None:
        self.submit_some(faults, deadline, marked=marked)

    def submit_some(self, faults: list[str], deadline: float | None, *, marked: bool) -> None:
        now = self.now
        new = []
        for fault in faults:
            job = make_job(
                model="moody",
                accepted_at=now,
                available_at=now,
                deadline_at=None if deadline is None else now + deadline,
                webhook="https://example.com/",
            )
            self.faults[job.id] = fault
            job.input = self.input(job.id)
            new.append(job)
        self.store.insert(new)
        self.publish([job.id for job in new], marked=marked)

    def publish(self, ids: Sequence[str], *, marked: bool = True) -> None:
        self.ready |= {next(self.tags): id for id in ids}
        if marked:
            self.store.mark_queued(ids, now=self.now)

    @precondition(lambda self: self.faults)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        id = list(self.faults)[pick % len(self.faults)]
        if self.store.get(id).state in (JobState.ACCEPTED, JobState.QUEUED):
            self.barred.add(id)
        self.store.cancel(id, now=self.now)

    @precondition(lambda self: self.faults)
    @rule(pick=st.integers(0, 99))
    def a_message_is_doubled(self, pick: int) -> None:
        self.ready[next(self.tags)] = list(self.faults)[pick % len(self.faults)]

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.ahead_s += seconds

    # The dispatcher

    @rule()
    def relay(self) -> None:
        self.publish([job.id for job in self.store.take_due(now=self.now, limit=100, lease_s=1.0)])

    @rule()
    def expire(self) -> None:
        self.store.expire(now=self.now, limit=100)

    @rule()
    def rescue(self) -> None:
        self.store.rescue(now=self.now, max_losses=RETRY.losses, max_kills=RETRY.kills)

    # What holds after every step

    @invariant()
    def ends_are_final_and_told_once(self) -> None:
        events = Counter(event.job_id for event in self.store.list_deliveries(limit=10_000))
        for id, job in self.jobs().items():
            assert self.ended.get(id, job.state) is job.state, "an end is for ever"
            if job.state in TERMINAL:
                self.ended[id] = job.state
            assert events[id] == (job.state in TERMINAL), "the event is in the transaction of the end"
        assert not self.defects

    @invariant()
    def whatever_waits_has_a_message(self) -> None:
        """Or the relay will send one: what is acknowledged waits for nobody."""
        held = {id for worker in (*self.workers, *self.ghosts) for id in worker.held.values()}
        at_broker = {*self.ready.values(), *held}
        for id, job in self.jobs().items():
            if job.state is JobState.QUEUED:
                assert id in at_broker
            if job.state is JobState.RUNNING:
                assert id in held or job.worker not in {worker.name for worker in self.workers}

    @invariant()
    def the_innocent_pay_nothing(self) -> None:
        for id, job in self.jobs().items():
            if self.faults[id] not in ("again", "oom"):
                assert (job.failures, job.ooms) == (0, 0)
            if job.state is JobState.SUCCEEDED:
                assert self.faults[id] == "ok" and job.output == id
            if job.state is JobState.FAILED:
                assert job.error is not None
                assert job.error["code"] in FAULTS[self.faults[id]] | NOT_ITS_OWN

    def everything_ends(self) -> None:
        """With one healthy worker and a dispatcher that goes on, no job is left, and none has ended twice."""
        for ghost in self.ghosts:
            self.finish(ghost)
        for worker in self.workers:
            self.finish(worker)
        last = self.workers[0]
        for _ in range(12):
            self.ahead_s += 5.0
            self.rescue()
            self.relay()
            for tag in list(self.ready):
                self.begin(last, [tag])
                self.finish(last)
            if all(job.state in TERMINAL for job in self.jobs().values()):
                break
        self.ends_are_final_and_told_once()
        left = [job for job in self.jobs().values() if job.state in OPEN]
        assert not left, "no job is lost"
        assert not self.ready


class LongHistories(Histories):
    pass


LONG = settings(
    max_examples=1000,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Without the phase that explains a failure: it traces every line, and takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
Histories.TestCase.settings = settings(LONG, max_examples=80, stateful_step_count=30)
LongHistories.TestCase.settings = LONG
TestHistories = Histories.TestCase
TestLongHistories = pytest.mark.soak(LongHistories.TestCase)
