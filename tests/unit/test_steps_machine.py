"""Random histories of the step-wise loop: the real iteration, sequences, batcher, claimer, recall and policies.

The clock is a fake one, and the models do as they are told.

Whatever is begun, joined, split, cancelled, rescued, late or given back: every claim ends exactly once, states stay
within their bound, pieces of output are numbered in order, nothing steps that is over, nobody waits for ever, and
interactive work waits for one step of background work.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from structlog.testing import capture_logs

import penstock
from penstock import clock
from penstock.job import JobState, Outcome
from penstock.lane import LANES, Lane, queue_name
from penstock.model import Batching, Model
from penstock.policy.batching import POLICIES
from penstock.policy.generation import PATIENCE
from penstock.policy.suspicion import open_lines
from penstock.settings import Lanes, LaneSettings, ProgressSettings, RetrySettings
from penstock.store.records import Claimed, ClaimResult
from penstock.testing import FakeClock
from penstock_worker.execute.outcome import Concluder
from penstock_worker.execute.runner import Runner
from penstock_worker.item import Batch, Item, Run
from penstock_worker.schedule.batcher import Batcher
from penstock_worker.schedule.claimer import Claimer
from penstock_worker.steps.groups import Group
from penstock_worker.steps.iteration import Iteration
from penstock_worker.steps.recall import Recall
from penstock_worker.steps.sequences import Sequences
from penstock_worker.steps.stepping import StepWorker

NS, ME = "ns", "w"
TARGETS_S = {Lane.INTERACTIVE: 0.1, Lane.BACKGROUND: 2.0}
#: Unix time is ahead of the monotonic clock by so much, seconds.
AHEAD_S = 1e6
BEGIN_S, ALPHA_S, BETA_S = 0.002, 0.004, 0.001
MOST_PROGRESS_BYTES = 100
#: Background batches have 5 % of the batches' time at least, and a batch takes 8 ms at most and 5 ms at least.
BATCHES_BESIDE = 40

#: What a sequence does at one of its steps, and the codes with which it may then fail.
FAULTS: dict[str, set[str]] = {
    "": set(),
    "raise": {"model_raised"},
    "again": {"model_raised"},
    "base": {"model_raised"},
    "oom": {"out_of_memory"},
    "own": {"model_raised"},
    "unwritable": {"invalid_output"},
    "huge": {"invalid_output"},
    "odd result": {"invalid_output"},
    "wrong index": {"wrong_result_count"},
    "no mapping": {"wrong_result_count"},
    "begin": {"model_raised"},
    "join": set(),
}
RAISES: dict[str, BaseException] = {
    "raise": ValueError("no"),
    "again": ConnectionError("not now"),
    "base": BaseException("panicked"),
    "oom": RuntimeError("CUDA out of memory"),
}
ANSWERS: dict[str, Any] = {
    "own": ValueError("this one"),
    "unwritable": penstock.Progress(object()),
    "huge": penstock.Progress("x" * MOST_PROGRESS_BYTES),
    "odd result": object(),
}


@dataclass(frozen=True)
class Script:
    """What one job's sequence does: its result comes with the last of its steps, progress with every ``every``-th."""

    steps: int
    every: int
    step_s: float
    fault: str
    at: int

    def answer(self, done: int, number: int) -> Any:
        """What it says after so many steps; ``None`` is nothing."""
        if done == self.at and self.fault in ANSWERS:
            return ANSWERS[self.fault]
        if done == self.steps:
            return number
        return penstock.Progress(done) if self.every and done % self.every == 0 else None


@dataclass
class State:
    """A group as the model sees it."""

    alive: dict[int, list[int]] = field(default_factory=dict)
    next: int = 0


class Told(penstock.StepModel):
    """Does what the scripts say."""

    def __init__(self, machine: Steps) -> None:
        self.machine = machine

    def begin(self, batch: list[int]) -> State:
        self.machine.clock.advance(BEGIN_S)
        if any(self.machine.scripts[number].fault == "begin" for number in batch):
            raise ValueError("no beginning")
        state = State()
        self.machine.states.append(state)
        self.add(state, batch)
        return state

    def add(self, state: State, batch: list[int]) -> None:
        for number in batch:
            state.alive[state.next] = [number, 0]
            state.next += 1

    def step(self, state: State) -> Any:
        machine = self.machine
        machine.judge_step(self, state)
        scripts = {index: machine.scripts[number] for index, (number, _) in state.alive.items()}
        machine.clock.advance(max(script.step_s for script in scripts.values()))
        machine.something_happens()
        answers: dict[int, Any] = {}
        for index, script in scripts.items():
            state.alive[index][1] += 1
            number, done = state.alive[index]
            if done == script.at:
                if script.fault in RAISES:
                    raise RAISES[script.fault]
                if script.fault in ("wrong index", "no mapping"):
                    machine.spoiled |= {number for number, _ in state.alive.values()}
                    return [] if script.fault == "no mapping" else {**answers, state.next: 1}
            answer = script.answer(done, number)
            if answer is not None:
                answers[index] = answer
        return answers

    def finish(self, state: State, index: int) -> None:
        if state.alive.pop(index, None) is None:
            self.machine.blame("finish() was called for a sequence that has left")


class Solo(Told):
    name = "solo"
    batching = Batching(max_size=2)
    parked = 2


class Joining(Told):
    name = "joining"
    batching = Batching(max_size=3)
    parked = 1

    def join(self, state: State, batch: list[int]) -> None:
        self.machine.clock.advance(BEGIN_S)
        if self.machine.joins_fail or any(self.machine.scripts[number].fault == "join" for number in batch):
            raise ValueError("not in my group")
        self.add(state, batch)


class Whole(Model):
    name = "whole"
    batching = Batching(max_size=4)

    def __init__(self, machine: Steps) -> None:
        self.machine = machine

    def predict(self, batch: list[int]) -> list[Any]:
        self.machine.clock.advance(ALPHA_S + BETA_S * len(batch))
        return [ValueError("no") if self.machine.scripts[number].fault else number for number in batch]


class Waits(Whole):
    """Its author wants it to wait for a fuller batch."""

    name = "waits"
    batching = Batching(max_size=4, max_wait_s=0.05)


CLASSES: dict[str, Any] = {cls.name: cls for cls in (Solo, Joining, Whole, Waits)}
STEPPING: tuple[str, ...] = ("solo", "joining")
WHOLE = {(name, lane) for lane in LANES for name in ("whole", "waits")}
QUEUES = {(name, lane): queue_name(NS, name, lane) for lane in LANES for name in CLASSES}

#: Who is neglected has everybody before it once at most: each line, and each group, which is one sequence at least.
MOST_BEFORE = len(QUEUES) + sum((CLASSES[name].parked + 1) * CLASSES[name].batching.max_size for name in STEPPING)


@dataclass
class Row:
    """A job as SQL knows it."""

    id: str
    model: str
    lane: Lane
    deadline_at: float | None
    timeout_s: float | None
    suspect: bool
    state: JobState = JobState.QUEUED
    attempt: int = 0
    claimed_at: float = 0.0
    cancelled: bool = False
    failures: int = 0
    ooms: int = 0


class Ledger:
    """What this worker asks of SQL, with its guards and fences."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        #: (job, attempt) of what this worker holds.
        self.open: set[tuple[str, int]] = set()

    def claim(
        self,
        ids: Sequence[str],
        *,
        worker: str,
        version: str,
        now: float,
        claimed_at: Mapping[str, float] | float,
        need_input: Sequence[str] = (),
        repeated: bool = False,
        alone: bool = True,
    ) -> ClaimResult:
        result = ClaimResult({})
        for id in ids:
            row = self.rows[id]
            at = claimed_at[id] if isinstance(claimed_at, Mapping) else claimed_at
            if repeated and row.claimed_at == at and row.state in (JobState.RUNNING, JobState.QUEUED):
                # A restart; also of a job that was rescued and that nobody has taken yet.
                self.open.discard((id, row.attempt))
            elif row.state is not JobState.QUEUED:
                result.others[id] = mock.Mock(suspect=False)
                continue
            elif row.deadline_at is not None and row.deadline_at <= now:
                row.state = JobState.EXPIRED
                result.expired.append(mock.Mock(id=id))
                continue
            elif row.suspect and (len(ids) > 1 or not alone):
                result.others[id] = mock.Mock(suspect=True)
                continue
            row.state, row.claimed_at = JobState.RUNNING, at
            row.attempt += 1
            self.open.add((id, row.attempt))
            result.claimed[id] = Claimed(
                row.attempt, row.timeout_s, row.deadline_at, row.failures, row.ooms, suspect=row.suspect
            )
        return result

    def held(self, ids: Sequence[str], *, worker: str) -> set[str]:
        return {id for id in ids if self.rows[id].state is JobState.RUNNING and not self.rows[id].cancelled}

    def settle(self, outcome: Outcome) -> bool:
        """Whether it counts, and the job is to run again."""
        row = self.rows[outcome.id]
        if row.state is not JobState.RUNNING or row.attempt != outcome.attempt:
            return False
        row.failures += outcome.failures
        row.ooms += outcome.ooms
        again = outcome.state is JobState.ACCEPTED and not row.cancelled
        row.state = JobState.QUEUED if again else JobState.CANCELLED if row.cancelled else outcome.state
        return again

    def cancel(self, id: str) -> None:
        row = self.rows[id]
        if row.state is JobState.QUEUED:
            row.state = JobState.CANCELLED
        row.cancelled = True

    def rescue(self, id: str) -> bool:
        """The worker is taken for dead; its job is for anybody, itself included."""
        row = self.rows[id]
        if row.state is JobState.RUNNING:
            row.state = JobState.CANCELLED if row.cancelled else JobState.QUEUED
        return row.state is JobState.QUEUED


class FreeBatcher(Batcher):
    """Its wait is over at once: time jumps. ``admitted`` is told the lines that newcomers begin of."""

    time: FakeClock
    admitted: Callable[[set[Any]], None]

    def admit(self, model: str, lane: Lane, count: int, reason: str) -> Batch:
        batch = super().admit(model, lane, count, reason)
        if batch.items:
            self.admitted({(model, lane)})
        return batch

    def wait(self, timeout_s: float, *, seen: int) -> None:
        if not self.closed and len(self) == seen:
            self.time.advance(timeout_s)


class Steps(RuleBasedStateMachine):
    """One worker's device thread, the broker before it, users, and the threads beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(1000.0)
        self.around = ExitStack()
        self.around.enter_context(capture_logs())
        self.around.enter_context(mock.patch.object(clock, "monotonic_s", self.clock))
        self.around.enter_context(mock.patch.object(clock, "now", self.now))
        self.ledger = Ledger()
        store: Any = self.ledger
        self.batcher = FreeBatcher(
            CLASSES,
            POLICIES["adaptive"](),
            namespace=NS,
            prefetch_batches=1.5,
            target_s=TARGETS_S[Lane.INTERACTIVE],
            clock=self.clock,
        )
        self.batcher.time, self.batcher.admitted = self.clock, self.serve
        self.models = {name: cls(self) for name, cls in CLASSES.items()}
        concluder = Concluder(RetrySettings(failures=1, ooms=1), max_output_bytes=1000, rng=random.Random(7))
        self.runner = Runner(
            self.models,
            claim=Claimer(store, worker=ME, insist=lambda call: call(), dismiss=lambda items, _: self.send([], items)),
            concluder=concluder,
            on_started=lambda run: None,
        )
        announcer: Any = self
        self.sequences = Sequences(
            {name: self.models[name] for name in STEPPING},
            runner=self.runner,
            concluder=concluder,
            worker=StepWorker(
                store,
                announcer,
                worker=ME,
                settle=self.settle,
                insist=lambda call: call(),
                wake=lambda: None,
                put_back=self.batcher.put_back,
                kept=ProgressSettings(),
                took=lambda items: None,
            ),
            max_progress_bytes=MOST_PROGRESS_BYTES,
        )
        self.iteration = Iteration(
            {name: self.models[name] for name in STEPPING},
            sequences=self.sequences,
            batcher=self.batcher,
            lanes=Lanes(**{lane.value: LaneSettings(target=s) for lane, s in TARGETS_S.items()}),
            namespace=NS,
            latency=self.batcher.room.latency,
            run_batch=self.run_batch,
        )
        self.recall = Recall(store, worker=ME, members=lambda: self.sequences.held)
        self.tags = itertools.count(1)
        self.scripts: list[Script] = []
        self.numbers: dict[str, int] = {}
        #: Messages at the broker by queue, and those that this worker holds: tag -> job.
        self.ready: dict[str, deque[str]] = defaultdict(deque)
        self.unacked: dict[int, str] = {}
        self.states: list[State] = []
        self.joins_fail = False
        #: Numbers of jobs of a group whose model answered wrongly.
        self.spoiled: set[int] = set()
        #: (job, attempt) -> pieces told; those that are over.
        self.told: Counter[tuple[str, int]] = Counter()
        self.over: set[tuple[str, int]] = set()
        self.meanwhile: list[tuple[int, Callable[[], None]]] = []
        self.draining = False
        #: What the model, or whoever else is called from within the loop, has seen go wrong.
        self.faults: list[str] = []
        # This turn: steps by group, whether whoever came meanwhile ends it, and whether counts are no measure of that.
        self.stepped: Counter[int] = Counter()
        self.noticed = self.blurred = False
        #: What is neglected: a group or a line -> device actions that others have had since.
        self.passed_over: dict[object, int] = {}
        #: Batches without anything of a lane that waits.
        self.batches_beside: Counter[Lane] = Counter()
        self.served: set[object] = set()
        self.batches = 0
        #: When each line was last served, as the loop counts.
        self.served_at: dict[object, float] = {}

    def now(self) -> float:
        return self.clock() + AHEAD_S

    def blame(self, what: str) -> None:
        self.faults.append(what)

    # What the loop calls ------------------------------------------------------------------------------------------

    def run_batch(self, batch: Batch) -> Run:
        """As the engine does."""
        run = self.runner.run(batch)
        self.batcher.put_back(run.returned)
        cost = float(len(run.live))
        background = sum(item.lane is Lane.BACKGROUND for item in run.live) / (cost or 1.0)
        late = sum(item.late for item in run.live) / (cost or 1.0)
        clean = len(run.live) == len(batch.items) and bool(cost)
        self.batcher.learn(batch, cost=cost, background=background, late=late, busy_s=run.compute_s, clean=clean)
        if run.live:
            self.settle(run)
        self.batcher.finished()
        self.batches += 1
        self.serve({(item.model, item.lane) for item in batch.items} | {"batch"})
        return run

    def serve(self, lines: set[Any]) -> None:
        self.served |= lines
        self.served_at |= dict.fromkeys(lines, self.clock())

    def settle(self, run: Run) -> None:
        for item, outcome in zip(run.live, run.outcomes, strict=True):
            self.ends(item, outcome.attempt)
            self.judge_outcome(item, outcome)
            if self.ledger.settle(outcome):
                self.publish(item.id)
        self.send([], run.live)

    def ends(self, item: Item, attempt: int) -> None:
        if (item.id, attempt) not in self.ledger.open:
            self.blame(f"{item.id} ended twice, or has not begun")
        self.ledger.open.discard((item.id, attempt))
        self.over.add((item.id, attempt))

    def acks(self, items: Any) -> list[Item]:
        """Of a restart: what is not this worker's any more, and ends without an outcome."""
        gone = list(items)
        for item in gone:
            self.ends(item, item.attempt)
        return gone

    def send(self, news: Any, items: Sequence[Item] = ()) -> None:
        for item in items:
            if self.unacked.pop(item.tag, None) is None:
                self.blame("a message was acknowledged twice")

    def started(self, run: Run) -> None:
        for item in run.live:
            if (item.id, item.attempt) not in self.ledger.open:
                self.blame("a restart has no attempt of its own")

    def progress(self, model: str, entries: Sequence[tuple[Item, int, str]], kept: Any) -> None:
        for item, index, _ in entries:
            key = item.id, item.attempt
            if index != self.told[key]:
                self.blame(f"piece {index} came behind {self.told[key]} others")
            if key not in self.ledger.open:
                self.blame("a piece came behind the end")
            self.told[key] += 1

    def judge_outcome(self, item: Item, outcome: Outcome) -> None:
        """Everybody's end is their own doing."""
        row, number = self.ledger.rows[item.id], self.numbers[item.id]
        fault = self.scripts[number].fault
        code = (outcome.error or {}).get("code")
        late_s = float("inf") if item.deadline_at is None else item.deadline_at - self.now()
        match outcome.state:
            case JobState.SUCCEEDED:
                right = fault in ("", "join", "begin") and outcome.output == str(number)
            case JobState.FAILED:
                right = (
                    (code == "attempt_timeout" and item.timeout_s is not None)
                    or code in FAULTS[fault]
                    or (code == "wrong_result_count" and number in self.spoiled)
                    or (item.model not in STEPPING and bool(fault))
                )
            case JobState.CANCELLED:
                right = row.cancelled or (row.state, row.attempt) != (JobState.RUNNING, outcome.attempt)
            case JobState.EXPIRED:
                right = late_s <= 0
            case _:
                right = self.draining or fault in ("again", "oom")
        if not right:
            self.blame(f"{item.id} ({fault or 'no fault'}) {outcome.state}: {outcome.error}")

    def judge_step(self, model: Told, state: State) -> None:
        """Before a step: everybody in the state is to be stepped, and it is this group's turn."""
        group = next((g for g in self.sequences.groups.values() if g._state is state), None)
        if group is None or group.members.keys() != state.alive.keys() or not state.alive:
            return self.blame("a state was stepped that is no group's, or whose members are others")
        mono, now = self.clock(), self.now()
        for member in group.members.values():
            item = member.item
            if (item.id, item.attempt) not in self.ledger.open:
                self.blame("stepped after its end")
            if member.recalled or (item.deadline_at is not None and item.deadline_at <= now):
                self.blame("stepped although it is cancelled or overdue")
            if item.timeout_s is not None and mono - member.started_mono > item.timeout_s:
                self.blame("stepped although its time is over")
        if self.noticed and not self.blurred:
            self.blame("stepped on although somebody came whose turn it is")
        self.stepped[group.id] += 1
        self.served.add(group.id)
        return None

    # The loop -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.ended)
    @rule(count=st.sampled_from([1, 2, 4, 12, 40]), brings=st.booleans())
    def turns(self, count: int, brings: bool) -> None:
        for _ in range(count):
            if brings:
                self.the_transport_brings()
            if not self.turn() or not (self.sequences.groups or len(self.batcher)):
                break

    ended = False

    def turn(self) -> bool:
        self.stepped.clear()
        self.served.clear()
        self.noticed = self.blurred = False
        at, batches = self.clock(), self.batches
        groups = {g.id: g for g in self.sequences.groups.values()}
        neglected = {g.id for g in groups.values() if self.is_neglected(g.ran_at, g.lane)}
        lines = {(model, lane): head for model, lane, _, head in self.batcher.waiting()}
        # Others may have to wait so that a suspect is alone, and it waits until it can be: see ``test_suspicion``.
        held = [member.item.suspect for member in self.sequences.held.values()]
        may_begin = open_lines(
            lines, self.batcher.suspects(), held=len(held), holds_suspect=any(held), now=self.clock()
        )
        promised = {key for key in may_begin if self.is_promised(*key)}
        neglected |= {
            key for key in promised if self.is_neglected(max(lines[key].arrived_at, self.turn_at(key)), key[1])
        }
        self.ended = not self.iteration.turn()
        if self.ended:
            return False
        interactive = {key for key in promised if key[1] is Lane.INTERACTIVE}
        for id, steps in self.stepped.items():
            if interactive and id in groups and groups[id].lane is Lane.BACKGROUND:
                assert id in neglected, "interactive work waits, and can run"
                assert steps == 1
        self.judge_neglect(neglected, busy=self.clock() > at, batches=self.batches - batches)
        return True

    def turn_at(self, key: tuple[str, Lane]) -> float:
        """When it last had a turn. A batch is everybody's turn: the batching policy decides who is in it."""
        return self.served_at.get(key if key[0] in STEPPING else "batch", 0.0)

    def is_neglected(self, since: float, lane: Lane) -> bool:
        return self.clock() - since > TARGETS_S[lane] * PATIENCE

    def is_promised(self, model: str, lane: Lane) -> bool:
        """Whether something of this line may run now, whatever else has begun."""
        if model not in STEPPING:
            return model == "whole"  # the other one may be held back
        groups = [g for g in self.sequences.groups.values() if g.model.name == model]
        if lane is Lane.INTERACTIVE and CLASSES[model].parked:
            groups = [g for g in groups if g.lane is lane]
        return not groups

    def judge_neglect(self, neglected: set[Any], *, busy: bool, batches: int) -> None:
        """Whoever is neglected is next but for those who are, too."""
        if "batch" in self.served:
            neglected = {key for key in neglected if key not in WHOLE}
        for key in self.passed_over.keys() - (neglected - self.served):
            del self.passed_over[key]
        for key in neglected - self.served:
            self.passed_over[key] = self.passed_over.get(key, 0) + busy
            assert self.passed_over[key] <= MOST_BEFORE, f"{key} is passed over"
        for lane in LANES:
            key = "whole", lane
            waits = self.batcher.count(*key) and key not in self.served
            self.batches_beside[lane] = self.batches_beside[lane] + batches if waits else 0
            assert self.batches_beside[lane] <= BATCHES_BESIDE, "the lane has its share of the batches"

    # Users, the broker, other threads -------------------------------------------------------------------------------

    scripts_drawn = st.builds(
        Script,
        steps=st.sampled_from([1, 2, 5, 9, 50, 10**6]),
        every=st.sampled_from([0, 1, 1, 2]),
        step_s=st.sampled_from([0.001, 0.02, 0.02, 0.2]),
        fault=st.sampled_from([*[""] * 16, *FAULTS]),
        at=st.integers(1, 5),
    ).map(lambda script: script if script.at <= script.steps else replace(script, at=script.steps))
    queues = st.sampled_from(sorted(QUEUES))

    @rule(
        queue=queues,
        scripts=st.lists(scripts_drawn, min_size=1, max_size=6),
        deadline_s=st.sampled_from([None, None, None, None, None, 0.0, 0.05, 1.0]),
        timeout_s=st.sampled_from([None, None, None, None, None, 0.01, 0.1, 1.0]),
        suspect=st.sampled_from([False] * 6 + [True]),
        brings=st.sampled_from(["", "transport", "transport", "celery"]),
    )
    def submit(
        self,
        queue: tuple[str, Lane],
        scripts: list[Script],
        deadline_s: float | None,
        timeout_s: float | None,
        suspect: bool,
        brings: str,
    ) -> None:
        """A message that comes through Celery does not ask for a quota."""
        model, lane = queue
        for script in scripts:
            id = f"j{len(self.scripts)}"
            self.numbers[id] = len(self.scripts)
            self.scripts.append(script)
            deadline_at = None if deadline_s is None else self.now() + deadline_s
            self.ledger.rows[id] = Row(id, model, lane, deadline_at, timeout_s, suspect)
            self.publish(id)
        if brings == "transport":
            self.the_transport_brings()
        elif brings == "celery" and not self.batcher.closed:
            self.bring(QUEUES[queue], 2)

    @rule(model=st.sampled_from(STEPPING), lane=st.sampled_from(LANES), step_s=st.sampled_from([0.001, 0.02, 0.2]))
    def a_long_generation_comes(self, model: str, lane: Lane, step_s: float) -> None:
        """Without these, nobody would ever have to wait for long."""
        self.submit((model, lane), [Script(10**6, 1, step_s, "", 0)], None, None, False, "transport")

    @rule(model=st.sampled_from(STEPPING), lane=st.sampled_from(LANES), fault=st.sampled_from(["raise", "oom", "own"]))
    def a_faulty_one_comes_among_long_ones(self, model: str, lane: Lane, fault: str) -> None:
        long, faulty = Script(10**6, 1, 0.02, "", 0), Script(10**6, 1, 0.02, fault, 2)
        self.submit((model, lane), [long, faulty, long], None, None, False, "transport")

    @rule(lane=st.sampled_from(LANES), count=st.integers(1, 3))
    def short_work_comes(self, lane: Lane, count: int) -> None:
        self.submit(("whole", lane), [Script(1, 0, 0.0, "", 0)] * count, None, None, False, "transport")

    def publish(self, id: str) -> None:
        row = self.ledger.rows[id]
        self.ready[QUEUES[row.model, row.lane]].append(id)

    def the_transport_brings(self) -> None:
        """No more of each queue than the quota asks for."""
        if not self.batcher.closed:
            for queue, most in self.batcher.quota().items():
                self.bring(queue, most)

    def bring(self, queue: str, most: int) -> None:
        # No two claims of a message are of the same time.
        items, now = [], self.clock.advance(1e-5)
        while self.ready[queue] and len(items) < most:
            row = self.ledger.rows[self.ready[queue].popleft()]
            tag = next(self.tags)
            self.unacked[tag] = row.id
            item = Item(
                row.id, row.model, row.lane, input=str(self.numbers[row.id]), tag=tag, source="",
                arrived_at=now, claimed_at=self.now(),
            )  # fmt: skip
            if row.lane is Lane.INTERACTIVE:
                item.due_at = now + TARGETS_S[row.lane]
                item.rank = (0, item.due_at)
            items.append(item)
        if items:
            self.noticed = self.noticed or items[0].lane is Lane.INTERACTIVE
            self.batcher.put(items)

    @precondition(lambda self: self.scripts)
    @rule(
        what=st.sampled_from(["cancel", "cancel", "pull", "rescue", "recall", "joins", "time", "time"]),
        pick=st.integers(0, 99),
        seen=st.booleans(),
        seconds=st.sampled_from([0.001, 0.03, 0.6, 3.0]),
    )
    def something_happens_beside_it(self, what: str, pick: int, seen: bool, seconds: float) -> None:
        match what:
            case "cancel":
                self.cancel(pick)
            case "pull":
                self.pull(2 + pick % 4)
            case "rescue":
                self.rescue(pick, back=not seen)
            case "joins":
                self.joins_fail = not self.joins_fail
            case "time":
                self.clock.advance(seconds)
        if seen or what == "recall":
            self.recall.look()
            wanted = self.ledger.held(list(self.sequences.held), worker=ME)
            assert {id for id, member in self.sequences.held.items() if not member.recalled} <= wanted

    def cancel(self, pick: int) -> None:
        """The newest are the ones that run."""
        self.ledger.cancel(f"j{len(self.scripts) - 1 - pick % min(12, len(self.scripts))}")

    def pull(self, modulus: int) -> None:
        """Some are revoked by Celery's remote control while they wait."""
        pulled = self.batcher.pull(lambda item: self.numbers[item.id] % modulus == 0)
        self.blurred = self.blurred or bool(pulled)
        self.send([], pulled)
        for item in pulled:
            self.ledger.cancel(item.id)

    def rescue(self, pick: int, *, back: bool) -> None:
        """The lease ran out for a moment; the job may come back to this very worker, perhaps at once."""
        held = sorted(self.sequences.held)
        if held and self.ledger.rescue(id := held[pick % len(held)]):
            self.publish(id)
            if back and not self.batcher.closed:
                row = self.ledger.rows[id]
                self.bring(QUEUES[row.model, row.lane], 9)

    @rule(
        steps=st.integers(1, 6),
        what=st.sampled_from(["urgent", "urgent", "background", "cancel", "recall", "pull", "close"]),
        script=scripts_drawn,
        pick=st.integers(0, 99),
        model=st.sampled_from(sorted(CLASSES)),
    )
    def something_will_happen_during_a_step(self, steps: int, what: str, script: Script, pick: int, model: str) -> None:
        def come(lane: Lane) -> None:
            if not self.batcher.closed:
                self.submit((model, lane), [script], None, None, False, "")
                self.bring(QUEUES[model, lane], 1)

        acts: dict[str, Callable[[], None]] = {
            "urgent": lambda: come(Lane.INTERACTIVE),
            "background": lambda: come(Lane.BACKGROUND),
            "cancel": lambda: self.cancel(pick),
            "recall": self.recall.look,
            "pull": lambda: self.pull(2),
            "close": self.close,
        }
        # Not at every chance: most histories should be long.
        if what != "close" or len(self.scripts) > 40:
            self.meanwhile.append((steps, acts[what]))

    def something_happens(self) -> None:
        due = [act for steps, act in self.meanwhile if steps <= 1]
        self.meanwhile = [(steps - 1, act) for steps, act in self.meanwhile if steps > 1]
        for act in due:
            act()

    # The end --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.scripts) > 40)
    @rule(drain_s=st.sampled_from([None, 0.0, 0.5]))
    def the_worker_stops(self, drain_s: float | None) -> None:
        self.close()
        if drain_s is not None:
            self.drain(drain_s)

    def close(self) -> None:
        """What had not begun goes back to the broker."""
        self.noticed = True
        for item in self.batcher.close():
            assert self.unacked.pop(item.tag) == item.id

    def drain(self, seconds: float) -> None:
        self.draining = True
        self.iteration.drain_until(self.clock() + seconds)

    def teardown(self) -> None:
        try:
            self.close()
            for _ in range(30):
                if self.ended or not self.turn():
                    break
            else:
                self.drain(0.0)
                assert not self.turn(), "what cannot end is given back at the next boundary"
            assert not self.faults, self.faults
            assert not self.ledger.open, "every claim has ended"
            assert not self.sequences.groups and not self.sequences.held and not self.sequences.active
            assert not any(state.alive for state in self.states), "every sequence has left the model's state"
            # Suspects that came back when nothing starts any more are the broker's to give out again.
            assert all(self.ledger.rows[id].suspect for id in self.unacked.values())
            assert len(self.batcher) == 0
        finally:
            self.around.close()

    # What holds after every rule ------------------------------------------------------------------------------------

    @invariant()
    def nobody_has_seen_a_fault(self) -> None:
        assert not self.faults, self.faults

    @invariant()
    def states_are_bounded(self) -> None:
        for name in STEPPING:
            cls = CLASSES[name]
            groups = self.of(name)
            sizes = [len(group.members) for group in groups]
            assert max(sizes, default=0) <= cls.batching.max_size
            assert sum(sizes) <= (cls.parked + 1) * cls.batching.max_size, "so many have memory at most"
            background = sum(len(group.members) for group in groups if group.lane is Lane.BACKGROUND)
            assert background <= max(1, cls.parked) * cls.batching.max_size, "a place is kept for interactive ones"
            assert all(member.item.lane is group.lane for group in groups for member in group.members.values())

    @invariant()
    def between_two_turns_no_batch_runs(self) -> None:
        """Else claims would wait for its end."""
        assert self.batcher.busy_s() == 0.0

    @invariant()
    def a_suspect_is_held_by_itself(self) -> None:
        rows = [self.ledger.rows[id] for id, _ in self.ledger.open]
        assert len(rows) <= 1 or not any(row.suspect for row in rows)

    def of(self, model: str) -> list[Group]:
        return [group for group in self.sequences.groups.values() if group.model.name == model]

    @invariant()
    def whatever_has_begun_is_in_one_group(self) -> None:
        members = [m for group in self.sequences.groups.values() for m in group.members.values()]
        claims = [(m.item.id, m.item.attempt) for m in members]
        wanted = [m.item.id for m in members if not m.recalled]
        assert len(set(wanted)) == len(wanted), "a job that came back runs once"
        assert set(wanted) <= self.sequences.held.keys() <= {id for id, _ in claims}, "others can find it"
        assert sorted(claims) == sorted(self.ledger.open), "each claim is one sequence"
        alive = sum(len(state.alive) for state in self.states)
        assert alive == len(members), "and has one place in a state"


class LongSteps(Steps):
    pass


LONG = settings(
    max_examples=1500,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Without the phase that explains a failure: it traces every line, and takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
Steps.TestCase.settings = settings(LONG, max_examples=180, stateful_step_count=45)
LongSteps.TestCase.settings = LONG
TestSteps = Steps.TestCase
TestLongSteps = pytest.mark.soak(LongSteps.TestCase)


# What the machine has found, told as stories -----------------------------------------------------------------------

FOREVER = Script(10**6, 1, 0.02, "", 0)


@pytest.fixture
def worker() -> Iterator[Steps]:
    """The machine, driven by hand."""
    machine = Steps()
    yield machine
    machine.teardown()


def begin(worker: Steps, model: str, lane: Lane, *scripts: Script) -> None:
    worker.submit((model, lane), list(scripts), None, None, False, "transport")
    worker.turns(2, False)


def test_a_job_that_was_taken_and_comes_back_runs_once(worker: Steps) -> None:
    """Its first attempt leaves at the next boundary, though no look at SQL tells of it any more."""
    begin(worker, "solo", Lane.INTERACTIVE, FOREVER)
    worker.rescue(0, back=True)
    worker.turns(4, False)
    (group,) = worker.of("solo")
    assert [member.item.attempt for member in group.members.values()] == [2]


def test_newcomers_that_cannot_join_share_the_groups_place(worker: Steps) -> None:
    """However many come: of the model, no more have state than fit into its groups, and the rest waits."""
    worker.joins_fail = True
    for _ in range(8):
        begin(worker, "joining", Lane.BACKGROUND, FOREVER)
    assert sum(len(group.members) for group in worker.of("joining")) == Joining.batching.max_size
    begin(worker, "joining", Lane.INTERACTIVE, FOREVER)
    assert [group.lane for group in worker.of("joining")].count(Lane.INTERACTIVE) == 1


def test_a_split_of_background_groups_leaves_the_place_for_interactive_ones(worker: Steps) -> None:
    for _ in range(Solo.parked):
        begin(worker, "solo", Lane.BACKGROUND, FOREVER, replace(FOREVER, fault="oom", at=1))
    assert len({group.slot for group in worker.of("solo")}) == Solo.parked
    begin(worker, "solo", Lane.INTERACTIVE, FOREVER)
    assert [group.lane for group in worker.of("solo")].count(Lane.INTERACTIVE) == 1


def test_an_idle_device_tries_whoever_was_abandoned(worker: Steps) -> None:
    """Not beside sequences: there the device has something to do."""
    worker.submit(("whole", Lane.INTERACTIVE), [Script(1, 0, 0.0, "", 0)], None, None, False, "transport")
    (item,) = worker.batcher.pull(lambda item: True)
    item.ends_at = worker.clock() + 1e6
    worker.batcher.room.hopeless.add(item)
    begin(worker, "solo", Lane.INTERACTIVE, FOREVER)
    worker.turns(4, False)
    assert worker.batcher.room.hopeless.items == [item] and not item.attempt
    (group,) = worker.of("solo")
    for member in group.members.values():
        worker.ledger.rows[member.item.id].cancelled = member.recalled = True
    for _ in range(4):
        worker.turn()
    assert worker.batcher.room.hopeless.items == [] and item.attempt == 1
