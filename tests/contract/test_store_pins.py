"""Runs go on with the versions that they began with, on each database."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.dispatch.unserved import EVERY_S, Unserved
from penstock.errors import NotServed, Rejected
from penstock.job import JobState, Outcome
from penstock.pipelines.fork import affected
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.task import Task
from penstock.settings import RunSettings, Settings
from penstock.store import Store
from penstock.store.engine import Survives
from penstock.store.runs import fleet
from tests.fixtures.runs import begin, claimed, fail, finish, graph, new_run, open_steps, out, step, steps, succeed
from tests.fixtures.store import T0, W, add, make_job, register

CHAIN = graph(step("a", {"$in": "x"}), step("b", out("a")), output=out("b"))
MAP = graph(step("a", {"$in": "x"}), step("b", {"$item": 0}, over=out("a"), maps=True), output=out("b"))
NO_VERSION: dict[str, str | None] = {"a": None, "b": None}


def serve(store: Store, instance: str, *, lease_until: float = T0 + 1e9, **versions: str | None) -> None:
    """A worker of these models; ``None``: they declare no version."""
    about = {name: {"version": each or "1", "declared": each is not None} for name, each in versions.items()}
    register(store, instance, lease_until=lease_until, models=about)


@pytest.fixture
def pinning(store: Store) -> Store:
    store.pin_versions(True)
    serve(store, "old", a="1", b="1")
    return store


def asked(store: Store, run: str) -> dict[str, str | None]:
    return {path: job.asked_version for path, job in steps(store, run).items()}


def tell(model: str, value: Any) -> Any:
    return [model, value]


def stored(store: Store, run: str) -> Graph:
    return store.graph_of(run).graph


def replaced(store: Store) -> None:
    """Workers of version 2 in the place of those of version 1."""
    store.unregister_worker("old")
    serve(store, "new", a="2", b="2")


def test_a_run_goes_on_with_the_versions_that_it_began_with(pinning: Store) -> None:
    run = begin(pinning, CHAIN)
    replaced(pinning)
    later = begin(pinning, CHAIN)
    for each in (run, later):
        succeed(pinning, [open_steps(pinning, each)["a"]], tell)
    assert asked(pinning, run) == {"a": "1", "b": "1"}
    assert asked(pinning, later) == {"a": "2", "b": "2"}
    assert {job.model for job in steps(pinning, run).values()} == {"a", "b"}, "they are found by the model's name"


def test_elements_of_a_map_are_of_one_version(pinning: Store) -> None:
    run = begin(pinning, MAP)
    succeed(pinning, [open_steps(pinning, run)["a"]], lambda *_: [1, 2, 3])
    assert set(asked(pinning, run).values()) == {"1"} and len(asked(pinning, run)) == 4


@pytest.mark.parametrize("how", ["not asked", "no worker", "lease over", "declares none", "an earlier release"])
def test_what_nothing_is_known_of_is_not_pinned(store: Store, how: str) -> None:
    store.pin_versions(how != "not asked")
    if how == "lease over":
        serve(store, "old", lease_until=T0 - 1, a="1", b="1")
    elif how == "declares none":
        serve(store, "old", **NO_VERSION)
    elif how == "an earlier release":
        register(store, "old", models={"a": {"version": "1"}, "b": {"version": "1"}})
    elif how == "not asked":
        serve(store, "old", a="1", b="1")
    run = begin(store, CHAIN)
    assert asked(store, run) == {"a": None}
    assert stored(store, run) == CHAIN, "and it is the same graph"


def test_a_step_that_asks_for_a_version_has_it(pinning: Store) -> None:
    run = begin(pinning, graph(step("a", 1, model="a@9"), step("b", 1), output=[out("a"), out("b")]))
    assert asked(pinning, run) == {"a": "9", "b": "1"}


def test_a_repeated_call_is_the_same_run(pinning: Store) -> None:
    job = new_run(CHAIN, idempotency_key="k", digest="d")
    assert [row.created for row in pinning.insert([job])] == [True]
    before = stored(pinning, job.id)
    replaced(pinning)
    again = new_run(CHAIN, idempotency_key="k", digest="d")
    assert [(row.id, row.created) for row in pinning.insert([again])] == [(job.id, False)]
    assert [row.created for row in pinning.insert([job])] == [True], "under its own id it is this very call"
    assert stored(pinning, job.id) == before and asked(pinning, job.id) == {"a": "1"}


def test_a_delayed_run_begins_with_what_is_served_when_it_is_due(pinning: Store) -> None:
    jobs = [new_run(CHAIN, available_at=T0 + 10) for _ in range(2)]
    pinning.insert(jobs)
    assert stored(pinning, jobs[0].id) == CHAIN
    replaced(pinning)
    pinning.tend_runs(now=T0 + 11, limit=10)
    for job in jobs:
        assert asked(pinning, job.id) == {"a": "2"}
        assert finish(pinning, job.id, tell, now=T0 + 12).state is JobState.SUCCEEDED
    assert pinning.get(jobs[0].id).graph == pinning.get(jobs[1].id).graph


def test_a_graph_that_cannot_be_read_is_its_own_runs_fault(pinning: Store) -> None:
    bad, good = (new_run(each, available_at=T0 + 10) for each in (graph(step("a", 7), output=out("a")), CHAIN))
    pinning.insert([bad, good])
    with pinning._db.write(Survives.NOTHING) as session:
        session.run(
            "UPDATE penstock_graph SET graph = '{}' WHERE digest = :digest", {"digest": pinning.get(bad.id).graph}
        )
    pinning.tend_runs(now=T0 + 11, limit=10)
    assert pinning.get(bad.id).state is JobState.FAILED
    assert asked(pinning, good.id) == {"a": "1"}


def test_graphs_that_nobody_runs_any_more_are_not_left(pinning: Store) -> None:
    job = new_run(CHAIN, available_at=T0 + 10)
    pinning.insert([job])
    pinning.tend_runs(now=T0 + 11, limit=10)
    finish(pinning, job.id, tell, now=T0 + 12)
    assert pinning.prune(before=T0 + 1e6, limit=100) == 1
    with pinning._db.read() as session:
        assert session.all("SELECT digest FROM penstock_graph") == []


def within(store: Store, run: str) -> list[str]:
    """The runs within a run, of whichever generation it is in."""
    found = {path: job for path, job in steps(store, run).items() if job.graph is not None}
    return [found[path].id for path in sorted(found)]


def test_runs_within_a_run_have_its_versions_and_move_with_it(pinning: Store) -> None:
    each = Step(name="each", kind="run", graph=CHAIN, input={"x": {"$item": 0}}, over=[1, 2], maps=True)
    run = begin(pinning, graph(each, output=out("each")))
    replaced(pinning)
    before = within(pinning, run)
    assert [asked(pinning, one) for one in before] == [{"a": "1"}] * 2
    for one in before:
        succeed(pinning, [open_steps(pinning, one)["a"]], tell)
    fail(pinning, open_steps(pinning, before[0])["b"])
    assert pinning.get(run).state is JobState.FAILED
    pinning.retry(run, now=T0 + 1)
    after = within(pinning, run)
    assert [asked(pinning, one) for one in after] == [{"a": "1", "b": "2"}] * 2, "a is not done again"
    for one in after:
        finish(pinning, one, tell, now=T0 + 2)
    assert pinning.get(run).output == [["b", ["a", 1]], ["b", ["a", 2]]]


# Tries and forks ----------------------------------------------------------------------------------------------------


def failed(store: Store) -> str:
    run = begin(store, CHAIN)
    succeed(store, [open_steps(store, run)["a"]], tell)
    fail(store, open_steps(store, run)["b"])
    assert store.get(run).state is JobState.FAILED
    return run


def test_a_retry_keeps_the_version_as_long_as_somebody_serves_it(pinning: Store) -> None:
    run = failed(pinning)
    serve(pinning, "new", a="2", b="2")
    pinning.retry(run, now=T0 + 1)
    assert asked(pinning, run) == {"a": "1", "b": "1"}


def test_a_retry_goes_on_with_what_is_served_where_its_version_is_gone(pinning: Store) -> None:
    run = failed(pinning)
    replaced(pinning)
    pinning.retry(run, now=T0 + 1)
    assert asked(pinning, run) == {"a": "1", "b": "2"}
    job = finish(pinning, run, tell, now=T0 + 2)
    assert job.state is JobState.SUCCEEDED and job.output == ["b", ["a", 1]], "what had succeeded is not done again"
    assert pinning.prune(before=T0 + 1e6, limit=100) == 1
    with pinning._db.read() as session:
        assert session.all("SELECT digest FROM penstock_graph") == []


def test_a_retry_with_nobody_there_waits_for_its_version(pinning: Store) -> None:
    run = failed(pinning)
    pinning.unregister_worker("old")
    pinning.retry(run, now=T0 + 1)
    assert asked(pinning, run)["b"] == "1"


@pytest.mark.parametrize(("gone", "version"), [(False, "1"), (True, "2")])
def test_a_fork_keeps_the_versions_that_somebody_serves(pinning: Store, gone: bool, version: str) -> None:
    source = begin(pinning, CHAIN)
    finish(pinning, source, tell)
    plan = pinning.graph_of(source)
    replaced(pinning)
    if not gone:
        serve(pinning, "old", a="1", b="1")
    job = new_run(plan.graph)
    pinning.fork(source, job, affected(plan, from_step="b", inputs=()))
    assert asked(pinning, job.id) == {"a": "1", "b": version}
    assert finish(pinning, job.id, tell).state is JobState.SUCCEEDED
    assert stored(pinning, source) == plan.graph, "the other run's is its own"


# Steps that answer with steps ----------------------------------------------------------------------------------------


def grow(store: Store, id: str, more: Graph, *, now: float = T0) -> None:
    [(attempt, _)] = claimed(store, [id], now=now).values()
    text = more.to_json().decode()
    outcome = Outcome(id=id, attempt=attempt, state=JobState.RUNNING, output='{"x":1}', graph=text, step=True)
    store.settle([outcome], worker=W, now=now)


def test_steps_of_a_step_have_the_versions_of_the_run_around_them(pinning: Store) -> None:
    inner = graph(step("a", 1), step("b", 1), step("c", 1), output=[out("a"), out("b"), out("c")])
    run = begin(pinning, graph(step("a", 1), step("b", out("a")), output=out("b")))
    replaced(pinning)
    serve(pinning, "new", a="2", b="2", c="5")
    step_id = open_steps(pinning, run)["a"]
    grow(pinning, step_id, inner)
    assert asked(pinning, step_id) == {"a": "1", "b": "1", "c": "5"}, "what the run does not call is what is served"
    deeper = open_steps(pinning, step_id)["c"]
    serve(pinning, "new", a="3", b="3", c="6", d="7")
    grow(pinning, deeper, graph(step("b", 1), step("c", 1), step("d", 1), output=[out("b"), out("c"), out("d")]))
    assert asked(pinning, deeper) == {"b": "1", "c": "5", "d": "7"}
    assert finish(pinning, deeper, tell).state is JobState.SUCCEEDED


# Nobody serves it ----------------------------------------------------------------------------------------------------

WAIT_S = 3600.0


class Clock:
    """A dispatcher's turns, every half minute."""

    def __init__(self, store: Store, settings: Settings, wait_s: float | None = WAIT_S) -> None:
        chosen = settings.model_copy(update={"run": RunSettings(unserved_wait_s=wait_s)})
        self.unserved, self.at = Unserved(chosen, store), 0.0

    def until(self, at: float) -> list[Any]:
        """The rows of what ended."""
        ended: list[Any] = []
        while self.at < at:
            self.at += EVERY_S
            ended += self.unserved.turn(now=T0 + self.at, mono=self.at)
        return ended


def test_a_version_that_is_gone_is_waited_for_and_not_for_ever(pinning: Store, settings: Settings) -> None:
    run = begin(pinning, CHAIN, reply_to="me")
    clock = Clock(pinning, settings)
    clock.until(600)
    replaced(pinning)
    assert clock.until(600 + WAIT_S - 60) == []
    ended = clock.until(600 + WAIT_S + 60)
    assert {row.id for row in ended} == {run, steps(pinning, run)["a"].id}, "who waits for the run is told"
    job = pinning.get(run)
    assert job.state is JobState.FAILED and job.error is not None
    assert (job.error["code"], job.error["step"]) == (NotServed.code, "a")
    assert "'a@1'" in job.error["message"] and "penstock job retry" in job.error["message"]
    pinning.retry(run, now=T0 + clock.at)
    assert asked(pinning, run) == {"a": "2"}
    assert clock.until(clock.at + 2 * WAIT_S) == []


def test_a_version_that_comes_back_in_time_is_waited_for_anew(pinning: Store, settings: Settings) -> None:
    begin(pinning, CHAIN)
    clock = Clock(pinning, settings)
    for _ in range(3):
        pinning.unregister_worker("old")
        assert clock.until(clock.at + WAIT_S - 60) == []
        serve(pinning, "old", a="1", b="1")
        assert clock.until(clock.at + 60) == []


def test_a_function_that_is_gone_is_as_a_version(pinning: Store, settings: Settings) -> None:
    run = begin(pinning, graph(step("removed", 1), step("b", 1), output=[out("removed"), out("b")]))
    clock = Clock(pinning, settings)
    assert clock.until(WAIT_S) == []
    clock.until(WAIT_S + 120)
    error = pinning.get(run).error
    assert error is not None and "'removed'" in error["message"]
    assert steps(pinning, run)["b"].state is JobState.CANCELLED, "it was served, and only waited"


def test_what_stands_in_for_a_failure_stands_in_for_this_one(pinning: Store, settings: Settings) -> None:
    output = {"$else": [out("removed"), out("b")]}
    run = begin(pinning, graph(step("removed", 1), step("b", 1), output=output))
    Clock(pinning, settings).until(WAIT_S + 120)
    assert list(open_steps(pinning, run)) == ["b"]


def test_tries_of_a_step_are_spent_by_and_by(pinning: Store, settings: Settings) -> None:
    run = begin(pinning, graph(step("removed", 1, retry=1), output=out("removed")))
    clock = Clock(pinning, settings)
    clock.until(WAIT_S + EVERY_S)
    assert pinning.get(run).state is JobState.RUNNING
    assert open_steps(pinning, run), "put back"
    clock.until(WAIT_S + 3 * EVERY_S)
    assert pinning.get(run).state is JobState.FAILED


def test_plain_jobs_and_new_steps_wait(pinning: Store, settings: Settings) -> None:
    [plain] = add(pinning, model="removed")
    clock = Clock(pinning, settings)
    clock.until(WAIT_S)
    run = begin(pinning, graph(step("removed", 1), output=out("removed")), accepted_at=T0 + WAIT_S)
    clock.until(2 * WAIT_S - 60)
    assert pinning.get(plain).state is JobState.ACCEPTED
    assert pinning.get(run).state is JobState.RUNNING, "its worker may be on its way"


def test_plain_tasks_are_served_by_others(pinning: Store, settings: Settings) -> None:
    task = Step(name="t", kind="task", task=Task(name="shop.t", queue="shop"), input={"args": [], "kwargs": {}})
    run = begin(pinning, graph(task, step("a", out("t")), output=out("a")))
    assert Clock(pinning, settings).until(2 * WAIT_S) == []
    assert list(open_steps(pinning, run)) == ["t"]


def test_a_dispatcher_that_was_blind_counts_anew(pinning: Store, settings: Settings) -> None:
    run = begin(pinning, CHAIN)
    clock = Clock(pinning, settings)
    clock.until(60)
    pinning.unregister_worker("old")
    clock.at += 2 * WAIT_S  # the database was away
    assert clock.until(clock.at + WAIT_S - 60) == []
    assert pinning.get(run).state is JobState.RUNNING


def test_without_a_limit_it_waits_for_ever(pinning: Store, settings: Settings) -> None:
    run = begin(pinning, graph(step("removed", 1), output=out("removed")))
    assert Clock(pinning, settings, None).until(3 * WAIT_S) == []
    assert pinning.get(run).state is JobState.RUNNING


def test_an_error_says_what_to_do_as_json(pinning: Store, settings: Settings) -> None:
    run = begin(pinning, graph(step("removed", 1), output=out("removed")))
    Clock(pinning, settings).until(WAIT_S + 120)
    assert msgspec.json.encode(pinning.get(run).error)


def register_earlier(store: Store) -> None:
    """As a release before runs writes it."""
    register(store, "earlier", lease_until=T0 - 1)  # slow, perhaps
    with store._db.write(Survives.CRASH) as session:
        session.run("UPDATE penstock_worker SET versions = NULL WHERE instance = 'earlier'")


def test_no_run_begins_beside_a_worker_that_does_not_know_runs(store: Store) -> None:
    """It would give each step an empty list, and what it answers would count."""
    register_earlier(store)
    run, plain = new_run(CHAIN), make_job()
    refused, taken = store.insert_groups([[run], [plain]])
    assert isinstance(refused, Rejected) and "worker earlier" in refused.message
    assert not isinstance(taken, Exception) and taken[0].id == plain.id
    delayed = new_run(CHAIN, available_at=T0 + 60)
    for job in (run, delayed):
        with pytest.raises(Rejected):
            store.insert([job])
        assert store.statuses([job.id]) == {}, "nothing was stored"
    store.unregister_worker("earlier")
    assert store.insert([run])[0].created and open_steps(store, run.id).keys() == {"a"}


def test_a_worker_that_does_not_know_runs_may_come_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped for longer than its lease, say: its row is gone, and it registers again."""
    monkeypatch.setattr(fleet, "HOLDS_S", 0.0)
    assert store.insert([new_run(CHAIN)])[0].created
    register_earlier(store)
    with pytest.raises(Rejected, match="earlier"):
        store.insert([new_run(CHAIN)])
