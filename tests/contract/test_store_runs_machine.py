"""Random histories of runs on each database: kills, duplicates, cancels, retries and deaths in the middle of anything.

The model is the pure evaluator: what has begun is what ``frontier`` says, what a step is given is what ``input_of``
says, and what comes out is what ``memory.run`` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from penstock.errors import IllegalTransition
from penstock.job import OPEN, Job, JobState, Outcome
from penstock.pipelines import memory
from penstock.pipelines.expression import missing
from penstock.pipelines.frontier import Frontier, Outline, frontier
from penstock.pipelines.graph import Graph, Step, in_order, input_of, items_of, parents
from penstock.store import Store
from penstock.store.runs import conclude, moves
from penstock.store.runs.paths import place
from penstock.store.session import Session
from tests.fixtures.examples import examples
from tests.fixtures.runs import graph, new_run, out, step
from tests.fixtures.store import T0, register

X = {"$in": "x"}
WORKERS = ("w1", "w2")
#: Elements that one transaction begins, and those of one counter: small, so that every map is long.
PIECE, CHUNK = 2, 3


def call(value: Any) -> Any:
    return (value * 7 + 3) % 31


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Plain steps are given and give whole numbers; maps give lists of them, of a length that is known here only."""
    plain: list[str] = []
    maps: dict[str, int] = {}
    steps: list[Step] = []

    def value(depth: int = 2) -> Any:
        leaves: list[Any] = [draw(st.integers(0, 9)), X, *map(out, plain)]
        leaves += [{"$get": [out(name), size - 1]} for name, size in maps.items() if size]
        if not depth or draw(st.booleans()):
            return draw(st.sampled_from(leaves))
        left, right = value(depth - 1), value(depth - 1)
        kind = draw(st.integers(0, 3))
        if kind == 0 and plain:
            return {"$else": [{"$op": ["add", out(draw(st.sampled_from(plain))), left]}, right]}
        if kind < 2:
            return {"$op": ["add", left, right]}
        return {"$if": [{"$op": ["gt", value(depth - 1), draw(st.integers(0, 30))]}, left, right]}

    for n in range(draw(st.integers(1, 6))):
        name = f"s{n}"
        if draw(st.integers(0, 2)):
            steps.append(step(name, value()))
            plain.append(name)
        else:
            before = draw(st.sampled_from([None, *maps]))
            size = draw(st.integers(0, 7)) if before is None else maps[before]
            over = out(before) if before is not None else [value(1) for _ in range(size)]
            most = draw(st.sampled_from([None, None, 1, 2, 3]))
            given = {"$op": ["add", {"$item": 0}, value(1)]}
            steps.append(step(name, given, maps=True, over=over, max_parallel=most))
            maps[name] = size
    return graph(*steps, output=[value(2), *map(out, maps)])


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Maps of maps, which follow each other element by element: some beginning later than what they follow."""
    plain = [f"s{n}" for n in range(draw(st.integers(0, 2)))]
    steps = [step(name, [X, out("s0")][draw(st.booleans()) and name != "s0"]) for name in plain]
    values = st.sampled_from([X, *map(out, plain)])
    maps = {"m0": [draw(values) for _ in range(draw(st.integers(0, 7)))]}
    most = draw(st.sampled_from([None, None, 1, 3]))
    steps.append(step("m0", {"$item": 0}, maps=True, over=maps["m0"], max_parallel=most))
    for n in range(1, draw(st.integers(2, 4))):
        given = {"$op": ["add", {"$item": 0}, draw(values)]}
        before = draw(st.sampled_from([f"m{n - 1}", "m0"]))
        most = draw(st.sampled_from([None, None, None, 1, 2]))
        steps.append(step(f"m{n}", given, maps=True, over=out(before), max_parallel=most))
        maps[f"m{n}"] = maps["m0"]
    last = draw(st.sampled_from(sorted(maps)))
    steps.append(step("join", {"$op": ["add", X, {"$get": [out(last), 0]}]} if maps["m0"] else X))
    return graph(*draw(st.permutations(steps)), output=[*map(out, plain), *map(out, maps), out("join")])


@dataclass
class Known:
    """What the model knows of a run."""

    graph: Graph
    inputs: dict[str, Any]
    state: JobState = JobState.RUNNING
    generation: int = 0
    #: By path; what has come out is never computed again.
    done: dict[str, Any] = field(default_factory=dict)
    #: Whether something stood in for a failed step, so that another output is right.
    stood_in: bool = False
    #: Paths that have failed in this generation.
    failed: set[str] = field(default_factory=set)
    #: Most steps in flight at a time.
    most: int | None = None
    #: Device seconds that they may take, and those that they have taken in this generation.
    budget: float | None = None
    spent: float = 0.0

    def room(self, paths: set[str]) -> int:
        """How many of these that can begin have begun."""
        count = 0
        for name in {place(path)[0] for path in paths}:
            mine = sum(place(path)[0] == name for path in paths)
            count += min(mine, self.graph.step(name).max_parallel or mine)
        return min(count, self.most or count)

    def frontier(self) -> Frontier:
        names = {place(path)[0] for path in self.failed}
        return frontier(self.graph, inputs=self.inputs, outputs=self.outputs(), failed=names)

    def outputs(self) -> dict[str, Any]:
        """By step: of maps, those that are whole."""
        found = {path: value for path, value in self.done.items() if place(path)[1] is None}
        for each in map(self.graph.step, in_order(self.graph)):
            if each.maps and (items := self.items(each, found)) is not None:
                paths = [f"{each.name}[{index}]" for index in range(len(items))]
                # One of nothing ends when it could begin.
                waits = not items and missing(each.input, inputs=self.inputs, outputs=found)
                if all(path in self.done for path in paths) and not waits:
                    found[each.name] = [self.done[path] for path in paths]
        return found

    def items(self, each: Step, outputs: dict[str, Any]) -> list[Any] | None:
        try:
            return items_of(each, inputs=self.inputs, outputs=outputs)
        except KeyError:
            return None

    def begun(self) -> set[str]:
        """The paths that have begun and not ended, if nobody has died."""
        outputs = self.outputs()
        paths = set()
        for name in self.frontier().ready:
            each = self.graph.step(name)
            if each.maps:
                count = len(items_of(each, inputs=self.inputs, outputs=outputs))
                paths |= {f"{name}[{index}]" for index in range(count)}
            else:
                paths.add(name)
        follows = Outline(self.graph).elementwise.source if self.most is None else {}
        for name, source in follows.items():
            if all(parent in outputs for parent in parents(self.graph.step(name)) if parent != source):
                ended = [place(path)[1] for path in self.done if place(path)[0] == source]
                paths |= {f"{name}[{index}]" for index in ended}
        return paths - set(self.done) - self.failed

    def again(self) -> None:
        self.state, self.generation, self.failed, self.spent = JobState.RUNNING, self.generation + 1, set(), 0.0

    def given(self, path: str) -> Any:
        name, index = place(path)
        each, outputs = self.graph.step(name), self.outputs()
        if source := Outline(self.graph).elementwise.source.get(name):
            items = (self.done[f"{source}[{index}]"],)
        else:
            items = () if index is None else (items_of(each, inputs=self.inputs, outputs=outputs)[index],)
        return input_of(each, inputs=self.inputs, outputs=outputs, items=items)


class Died(Exception):
    """A process ends between two of its transactions."""


class Histories(RuleBasedStateMachine):
    """Every verb at any time. ``died`` is whether somebody has left something undone."""

    store: Store
    graphs: st.SearchStrategy[Graph]

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.runs: dict[str, Known] = {}
        self.held: dict[str, tuple[str, str, int]] = {}  # job: run, worker, attempt
        self.past: list[tuple[Outcome, str]] = []
        self.ends: dict[str, int] = {}
        self.took: dict[str, float] = {}  # by job: device seconds
        self.died = self.dies = False
        for worker in WORKERS:
            register(self.store, worker)
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(conclude.maps, "CHUNK", CHUNK)
        for name in ("_go_on", "close"):
            self.patches.setattr(conclude, name, self.mortal(getattr(conclude, name)))

    def mortal(self, function: Any) -> Any:
        def call(*args: Any, **given: Any) -> Any:
            if self.dies:
                self.died = True
                raise Died
            return function(*args, **given)

        return call

    def teardown(self) -> None:
        try:
            self.everything_comes_to_an_end()
        finally:
            self.patches.undo()
            with self.store._db.write(conclude.Survives.NOTHING) as session:
                for name in ("job", "map", "map_chunk", "map_room", "todo", "delivery"):
                    session.run(f"DELETE FROM penstock_{name}")  # noqa: S608 - constants only

    # Helpers

    def jobs(self, run: str) -> list[Job]:
        return self.store.list(run=run, limit=10_000)

    def waiting(self) -> list[Job]:
        return [
            job
            for run in sorted(self.runs)
            for job in sorted(self.jobs(run), key=lambda job: job.id)
            if job.state in (JobState.ACCEPTED, JobState.QUEUED)
        ]

    def do(self, verb: Any, *args: Any, **given: Any) -> Any:
        try:
            return verb(*args, **given)
        except Died:
            return None
        finally:
            self.dies = False

    def ended(self, run: str, state: JobState) -> None:
        self.runs[run].state = state
        self.ends[run] = self.ends.get(run, 0) + 1

    def conclude(self, run: str) -> None:
        """The model's own end of a run, if it has come."""
        known = self.runs[run]
        if known.state is JobState.RUNNING:
            now_is = known.frontier()
            over = known.budget is not None and known.spent > known.budget
            if now_is.done or now_is.failed is not None or over:
                self.ended(run, JobState.SUCCEEDED if now_is.done else JobState.FAILED)

    # Rules

    @rule()
    def somebody_will_die(self) -> None:
        self.dies = True

    @precondition(lambda self: len(self.runs) < 3)
    @rule(
        data=st.data(),
        x=st.integers(0, 9),
        most=st.sampled_from([None, None, 1, 2, 4]),
        budget=st.sampled_from([None, None, 2, 5]),
    )
    def submit(self, data: st.DataObject, x: int, most: int | None, budget: float | None) -> None:
        graph = data.draw(self.graphs)
        bounds: dict[str, Any] = {"max_parallel": most, "budget_s": budget}
        job = new_run(graph, {"x": x}, accepted_at=self.now, webhook="https://example.com/", **bounds)
        self.runs[job.id] = Known(graph, {"x": x}, most=most, budget=budget)
        self.do(self.store.insert, [job])
        self.conclude(job.id)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def claim(self, data: st.DataObject, worker: str) -> None:
        waiting = self.waiting()
        if not waiting:
            return
        chosen = data.draw(st.lists(st.sampled_from(waiting), min_size=1, max_size=6, unique_by=lambda job: job.id))
        ids = [job.id for job in chosen]
        result = self.store.claim(ids, worker=worker, now=self.now, need_input=ids)
        for job in chosen:
            if job.suspicions and len(ids) > 1:
                assert result.others[job.id].suspect
                continue
            row = result.claimed[job.id]
            known = self.runs[job.run_id or ""]
            assert row.run_id == job.run_id and row.input is not None
            if known.state is not JobState.SUCCEEDED:
                assert Session.rows(None, known.given(job.path or "")) == row.input  # type: ignore[arg-type]
            self.held[job.id] = (job.run_id or "", worker, row.attempt)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), wanted=st.sampled_from(["ok", "ok", "ok", "ok", "fail", "again"]))
    def settle(self, data: st.DataObject, wanted: str) -> None:
        worker = data.draw(st.sampled_from(sorted({worker for _, worker, _ in self.held.values()})))
        mine = sorted(id for id, (_, who, _) in self.held.items() if who == worker)
        chosen = data.draw(st.lists(st.sampled_from(mine), min_size=1, max_size=6, unique=True))
        self.settle_these(chosen, worker, wanted)

    def settle_these(self, ids: list[str], worker: str, wanted: str) -> None:
        jobs = self.store.get_many(ids)
        outcomes = []
        for id in ids:
            job, (run, _, attempt) = jobs[id], self.held.pop(id)
            known = self.runs[run]
            path = job.path or ""
            if wanted == "ok":
                value = 0 if job.cancel_requested else call(known.given(path))
                outcomes.append(Outcome(id=id, attempt=attempt, state=JobState.SUCCEEDED, output=str(value), step=True))
                if not job.cancel_requested:  # also in a run that has ended: a retry will not do it again
                    known.done[path] = value
            elif wanted == "fail":
                outcomes.append(Outcome(id=id, attempt=attempt, state=JobState.FAILED, error={"code": "x"}, step=True))
            else:
                outcomes.append(Outcome(id=id, attempt=attempt, state=JobState.ACCEPTED, failures=1, step=True))
        for outcome in outcomes:
            outcome.device_s = 1.0
            self.took[outcome.id] = self.took.get(outcome.id, 0.0) + 1.0
            known = self.runs[jobs[outcome.id].run_id or ""]
            if known.state is JobState.RUNNING and (outcome.state.is_terminal or jobs[outcome.id].cancel_requested):
                known.spent += self.took[outcome.id]
        self.past += [(outcome, worker) for outcome in outcomes]
        runs = {jobs[id].run_id or "" for id in ids}
        for id in ids:
            known = self.runs[jobs[id].run_id or ""]
            if wanted == "fail" and not jobs[id].cancel_requested and known.state is JobState.RUNNING:
                known.failed.add(jobs[id].path or "")
                known.stood_in = True
        self.do(self.store.settle, outcomes, worker=worker, now=self.now)
        for run in runs:
            self.conclude(run)

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def settle_once_more(self, data: st.DataObject) -> None:
        """A commit arrived whose answer did not; or a zombie comes late."""
        outcome, worker = data.draw(st.sampled_from(self.past))
        self.do(self.store.settle, [outcome], worker=worker, now=self.now)

    @rule(worker=st.sampled_from(WORKERS))
    def kill(self, worker: str) -> None:
        leases = {each.instance: each.lease_until for each in self.store.workers()}
        lost = [id for id, (_, who, _) in self.held.items() if who == worker]
        rows = self.do(self.store.rescue, now=self.now, max_losses=99, max_kills=99, dead=[(worker, leases[worker])])
        for id in lost:
            del self.held[id]
        assert rows is None or {row.id for row in rows} >= set(lost)
        register(self.store, worker)

    @rule()
    def tend(self) -> None:
        self.dies = False
        self.now += 2  # nobody is taken to be at it any more
        self.store.tend_runs(now=self.now, limit=100)
        self.died = False

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.runs)))
        self.do(self.store.cancel, run, now=self.now)
        if self.runs[run].state is JobState.RUNNING:
            self.ended(run, JobState.CANCELLED)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.runs)))
        known = self.runs[run]
        if known.state not in (JobState.FAILED, JobState.CANCELLED):
            return
        self.dies = False
        running = any(job.state is JobState.RUNNING for job in self.jobs(run))
        if running:
            with pytest.raises(IllegalTransition):
                self.store.retry(run, now=self.now)
            return
        self.store.retry(run, now=self.now)
        known.again()
        self.conclude(run)

    # What holds after every step

    @invariant()
    def the_runs_are_what_the_model_says(self) -> None:
        for id, known in self.runs.items():
            job = self.store.get(id)
            assert (job.state, job.generation or 0) == (known.state, known.generation)
            if known.state is JobState.SUCCEEDED and not known.stood_in:
                assert job.output == memory.run(known.graph, known.inputs, lambda _, each: list(map(call, each)))

    @invariant()
    def what_has_begun_is_what_can(self) -> None:
        for id, known in self.runs.items():
            jobs = self.jobs(id)
            open = {job.path for job in jobs if job.state in OPEN and not job.cancel_requested}
            if known.state is not JobState.RUNNING:
                assert not open or self.died, "the steps of an ended run are stopped"
            else:
                possible = known.begun()
                assert open <= possible
                assert known.room(open) == len(open), "no bound is passed"
                assert self.died or len(open) == known.room(possible), "and none is kept back"

    @invariant()
    def nothing_is_done_twice(self) -> None:
        for id, known in self.runs.items():
            jobs = self.jobs(id)
            good = [job for job in jobs if job.state is JobState.SUCCEEDED]
            assert len({job.path for job in good}) == len(good)
            assert {job.path: job.output for job in good if job.path in known.done} == known.done
            assert len({(job.path, job.generation) for job in jobs}) == len(jobs)

    @invariant()
    def nothing_is_left_to_do(self) -> None:
        with self.store._db.read() as session:
            assert self.died or not session.all("SELECT * FROM penstock_todo")

    @invariant()
    def what_steps_took_is_counted_once(self) -> None:
        for run in self.runs:
            mine = {job.id for job in self.jobs(run)}
            assert self.store.run_cost(run).device_s == sum(took for id, took in self.took.items() if id in mine)

    @invariant()
    def every_end_has_its_event(self) -> None:
        events: dict[str, int] = {}
        for event in self.store.list_deliveries(limit=10_000):
            events[event.job_id] = events.get(event.job_id, 0) + 1
        assert events == self.ends

    def everything_comes_to_an_end(self) -> None:
        """Whatever has happened: when nobody dies any more, each run gives what it should."""
        self.tend()
        for worker in WORKERS:
            self.kill(worker)
        for run, known in self.runs.items():
            if known.state in (JobState.FAILED, JobState.CANCELLED):
                self.store.retry(run, now=self.now)
                known.again()
                self.conclude(run)
            while waiting := [job for job in self.waiting() if job.run_id == run]:
                # Suspects run alone.
                attempt = self.store.claim([waiting[0].id], worker="w1", now=self.now).claimed[waiting[0].id].attempt
                self.held[waiting[0].id] = (run, "w1", attempt)
                self.settle_these([waiting[0].id], "w1", "ok")
                if known.state is JobState.FAILED:  # over its budget
                    self.store.retry(run, now=self.now)
                    known.again()
                    self.conclude(run)
            assert known.state is JobState.SUCCEEDED, f"{known.begun()} are left"
        self.the_runs_are_what_the_model_says()
        self.nothing_is_done_twice()


@pytest.fixture(params=[graphs, chains])
def histories(
    request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Histories]]:
    monkeypatch.setattr(type(store._db), "bulk_rows", PIECE)
    yield type("Histories", (Histories,), {"store": store, "graphs": request.param()})


@pytest.mark.parametrize("transactions", ["long", "short"])
def test_any_history(histories: type[Histories], transactions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``short``: what begins or is decided on is left to the next one, as much as possible."""
    if transactions == "short":
        monkeypatch.setattr(moves, "DECIDING", 1)
        monkeypatch.setattr(moves, "BEGINNING", 1)
    run_state_machine_as_test(
        histories,
        settings=settings(
            max_examples=examples(25 if transactions == "long" else 10),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
