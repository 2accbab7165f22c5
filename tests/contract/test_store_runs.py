"""Runs in SQL, on each database: a step begins in the transaction that ends its last parent, and never twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.errors import IllegalTransition, InvalidInput, JobNotFound
from penstock.job import JobState, NewJob, Outcome
from penstock.pipelines.fork import affected
from penstock.pipelines.graph import Graph, Step
from penstock.store import Store
from penstock.store.engine import Left, Survives
from penstock.store.records import Latency
from penstock.store.runs import maps
from penstock.transport.message import decode, encode
from tests.fixtures.runs import begin, fail, finish, graph, new_run, open_steps, out, step, steps, succeed
from tests.fixtures.store import T0, W, make_job

X = {"$in": "x"}


def tell(model: str, value: Any) -> Any:
    """What a model was given, and who it was."""
    return [model, value]


N = graph(  # A -> C, A -> D, B -> D: a canvas cannot say it
    step("a", X),
    step("b", X),
    step("c", out("a")),
    step("d", [out("a"), out("b")]),
    output={"c": out("c"), "d": out("d")},
)


def test_a_run_is_a_job_whose_steps_are_jobs(store: Store) -> None:
    run = begin(store, N, tenant="t", priority=3, deadline_at=T0 + 50, trace="00-1")
    job = store.get(run)
    assert (job.state, job.worker, job.graph, job.model) == (JobState.RUNNING, None, N.digest, "test")
    assert job.ledger.started_at == T0
    assert sorted(open_steps(store, run)) == ["a", "b"]
    for each in steps(store, run).values():
        assert (each.run_id, each.generation, each.tenant, each.priority) == (run, 0, "t", 3)
        assert (each.lane, each.deadline_at, each.trace, each.reply_to) == ("background", T0 + 50, "00-1", None)
    assert [job.id for job in store.list()] == [run], "steps are not listed with the jobs"


def test_a_step_begins_when_its_own_last_parent_is_done(store: Store) -> None:
    run = begin(store, N)
    succeed(store, [open_steps(store, run)["a"]], tell)
    assert sorted(open_steps(store, run)) == ["b", "c"], "c does not wait for b"
    succeed(store, [open_steps(store, run)["c"]], tell)
    succeed(store, [open_steps(store, run)["b"]], tell)
    assert sorted(open_steps(store, run)) == ["d"]
    rows = succeed(store, [open_steps(store, run)["d"]], tell)
    job = store.get(run)
    assert job.state is JobState.SUCCEEDED
    assert job.output == {"c": ["c", ["a", 1]], "d": ["d", [["a", 1], ["b", 1]]]}
    ended = next(row for row in rows if row.id == run)
    assert ended.state is JobState.SUCCEEDED and ended.output is not None, "whoever settled can tell the client"


def test_two_parents_in_one_batch_begin_their_child_once(store: Store) -> None:
    run = begin(store, N)
    succeed(store, list(open_steps(store, run).values()), tell)
    assert sorted(open_steps(store, run)) == ["c", "d"]
    assert finish(store, run, tell).state is JobState.SUCCEEDED
    assert len(store.list(run=run)) == 4


def test_who_publishes_is_told_after_the_commit_and_has_a_lease(store: Store) -> None:
    told: list[NewJob] = []
    store.publish_by(told.extend, lease_s=5.0)
    run = begin(store, N)
    assert sorted(job.path or "" for job in told) == ["a", "b"]
    assert store.take_due(now=T0 + 1, limit=10, lease_s=1) == []
    assert {job.id for job in store.take_due(now=T0 + 6, limit=10, lease_s=1)} == {job.id for job in told}
    a = next(job.id for job in told if job.path == "a")
    told.clear()
    succeed(store, [a], tell)
    assert [job.path for job in told] == ["c"]
    message = encode(told[0], "penstock")
    assert b'"inline":true,"step":true' in message and run.encode() in message
    assert len(message) < 2048


def test_without_a_publisher_steps_are_the_dispatchers_at_once(store: Store) -> None:
    run = begin(store, N)
    due = store.take_due(now=T0, limit=10, lease_s=1)
    assert {job.path for job in due} == {"a", "b"}
    assert all(job.run_id == run for job in due)


# Values -----------------------------------------------------------------------------------------------------------


def test_a_step_is_given_what_the_graph_says(store: Store) -> None:
    run = begin(
        store, graph(step("a", X), step("b", {"q": {"$get": [out("a"), 1]}, "n": 7}), output=out("b")), {"x": "ü"}
    )
    assert finish(store, run, tell).output == ["b", {"q": "ü", "n": 7}]


def test_an_input_without_a_value_fails_its_step(store: Store) -> None:
    run = begin(store, graph(step("a", X), step("b", {"$get": [out("a"), "score"]}), output=out("b")))
    succeed(store, [open_steps(store, run)["a"]], tell)
    b = open_steps(store, run)["b"]
    row = store.claim([b], worker=W, now=T0, need_input=[b]).claimed[b]
    assert row.input is None and row.fault == "a list has no element 'score'"
    assert store.inputs([b]) == {}


def test_a_condition_chooses_and_the_other_branch_never_starts(store: Store) -> None:
    both = graph(
        step("judge", X),
        step("good", X),
        step("bad", X),
        output={"$if": [{"$op": ["gt", out("judge"), 5]}, out("good"), out("bad")]},
    )
    run = begin(store, both, {"x": 9})
    assert sorted(open_steps(store, run)) == ["judge"]
    assert finish(store, run, lambda model, value: value).output == 9
    assert sorted(steps(store, run)) == ["good", "judge"]


def test_a_condition_that_is_none_fails_the_run(store: Store) -> None:
    run = begin(store, graph(step("a", X), step("b", X), output={"$if": [out("a"), out("b"), 0]}))
    succeed(store, [open_steps(store, run)["a"]], tell)
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None and job.error["code"] == "no_value"


# Maps -------------------------------------------------------------------------------------------------------------

MAP = graph(
    step("list", X),
    step("each", [{"$item": 0}, out("list")], maps=True, over=out("list")),
    step("join", out("each")),
    output=out("join"),
)


@pytest.mark.parametrize("size", [0, 1, 2, 257, 700])
def test_a_map_is_called_for_each_element_in_order(store: Store, size: int) -> None:
    def work(model: str, value: Any) -> Any:
        return list(range(size)) if model == "list" else value[0] * 10 if model == "each" else value

    run = begin(store, MAP)
    succeed(store, [open_steps(store, run)["list"]], work)
    children = [path for path in open_steps(store, run) if path.startswith("each")]
    assert len(children) == size
    job = finish(store, run, work)
    assert job.output == [10 * index for index in range(size)]
    assert len(store.list(run=run, limit=10_000)) == size + 2


def test_elements_that_are_left_by_who_died_are_begun_by_the_dispatcher(store: Store, monkeypatch: Any) -> None:
    size = 2 * store.bulk_rows + 3

    def work(model: str, value: Any) -> Any:
        return list(range(size)) if model == "list" else 0

    run = begin(store, MAP)
    first = open_steps(store, run)["list"]
    with monkeypatch.context() as patch:
        patch.setattr("penstock.store.runs.conclude._go_on", _die)
        with pytest.raises(KeyboardInterrupt):
            succeed(store, [first], work)
    assert len(open_steps(store, run)) == maps.FIRST
    assert store.tend_runs(now=T0 + 1, limit=100) == []
    assert len(open_steps(store, run)) == maps.FIRST, "somebody may be at it"
    assert store.tend_runs(now=T0 + 2, limit=100) == []
    assert len(open_steps(store, run)) == size
    assert finish(store, run, work, now=T0 + 2).state is JobState.SUCCEEDED


def _die(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


# Ends -------------------------------------------------------------------------------------------------------------


def test_what_a_commit_leaves_is_done_by_who_takes_it(store: Store) -> None:
    """Elements of a long map: the call that ends the step before them returns with the first ones begun."""
    size = maps.FIRST + store.bulk_rows + 1
    run = begin(store, graph(step("list", X), step("m", {"$item": 0}, maps=True, over=out("list")), output=out("m")))
    taken: list[Left] = []
    store.leave_to(taken.append)
    succeed(store, list(open_steps(store, run).values()), lambda *_: list(range(size)))
    begun = [len(open_steps(store, run))]
    while taken[0]:
        assert taken[0].step(now=T0) == []
        begun.append(len(open_steps(store, run)))
    assert begun == [maps.FIRST, size - 1, size]
    assert finish(store, run, lambda _, value: value).output == list(range(size))
    assert len(taken) == 1, "nothing is handed over where nothing is left"


def test_a_failed_step_fails_the_run_and_cancels_what_is_open(store: Store) -> None:
    run = begin(store, N, webhook="https://example.com/")
    succeed(store, [open_steps(store, run)["a"]], tell)
    waiting = open_steps(store, run)
    rows = fail(store, waiting["b"])
    job = store.get(run)
    assert job.state is JobState.FAILED
    assert job.error is not None and (job.error["code"], job.error["step"]) == ("broken", "b")
    assert {path: each.state for path, each in steps(store, run).items()} == {
        "a": JobState.SUCCEEDED,
        "b": JobState.FAILED,
        "c": JobState.CANCELLED,
    }
    assert {row.id for row in rows} == {run, waiting["b"], waiting["c"]}
    assert [delivery.job_id for delivery in store.list_deliveries()] == [run], "one event, that of the run"


def test_a_cancelled_run_ends_at_once_and_its_steps_stop(store: Store) -> None:
    run = begin(store, N)
    a, b = open_steps(store, run)["a"], open_steps(store, run)["b"]
    attempt = store.claim([a], worker=W, now=T0).claimed[a].attempt
    assert store.cancel(run, now=T0).state is JobState.CANCELLED
    assert store.get(b).state is JobState.CANCELLED
    assert store.get(a).status == "cancelling" and store.held([a], worker=W) == set()
    store.settle([Outcome(id=a, attempt=attempt, state=JobState.SUCCEEDED, output="1", step=True)], worker=W, now=T0)
    assert store.get(a).state is JobState.CANCELLED
    assert len(store.list(run=run)) == 2, "nothing begins in a run that has ended"


def test_a_step_has_no_verbs_of_its_own(store: Store) -> None:
    run = begin(store, N)
    a = open_steps(store, run)["a"]
    with pytest.raises(IllegalTransition, match=run):
        store.cancel(a, now=T0)
    assert store.cancel_many([a], now=T0) == []
    fail(store, a)
    with pytest.raises(IllegalTransition, match=run):
        store.retry(a, now=T0)
    assert store.retry_many([a], now=T0) == []


def test_a_run_has_a_deadline(store: Store) -> None:
    run = begin(store, N, deadline_at=T0 + 5)
    (a, attempt) = (open_steps(store, run)["a"], 1)
    store.claim([a], worker=W, now=T0)
    rows = store.tend_runs(now=T0 + 6, limit=10)
    assert run in {row.id for row in rows}
    assert store.get(run).state is JobState.EXPIRED
    assert store.get(a).status == "cancelling"
    assert attempt == 1


def test_a_delayed_run_begins_when_it_is_due(store: Store) -> None:
    run = begin(store, N, available_at=T0 + 10)
    assert store.get(run).state is JobState.ACCEPTED and steps(store, run) == {}
    assert store.take_due(now=T0 + 11, limit=10, lease_s=1) == [], "it is no message"
    assert store.next_due_at() is None
    assert store.tend_runs(now=T0 + 9, limit=10) == []
    assert steps(store, run) == {}
    store.tend_runs(now=T0 + 10, limit=10)
    assert sorted(open_steps(store, run)) == ["a", "b"]
    assert finish(store, run, tell, now=T0 + 11).state is JobState.SUCCEEDED


def test_an_idempotency_key_is_that_of_the_run(store: Store) -> None:
    first = begin(store, N, idempotency_key="k", digest="2:d")
    again = new_run(N, idempotency_key="k", digest="2:d")
    assert store.insert([again])[0].id == first
    assert len(store.list(run=first)) == 2 and store.list(run=again.id) == []


# Again ------------------------------------------------------------------------------------------------------------


def test_a_retry_goes_on_from_the_failed_step(store: Store) -> None:
    run = begin(store, N)
    succeed(store, [open_steps(store, run)["a"]], tell)
    fail(store, open_steps(store, run)["b"])
    job = store.retry(run, now=T0 + 1)
    assert (job.state, job.generation, job.error) == (JobState.RUNNING, 1, None)
    assert sorted(open_steps(store, run)) == ["b", "c"], "a has succeeded"
    assert finish(store, run, tell, now=T0 + 1).state is JobState.SUCCEEDED
    done = [job.path for job in store.list(run=run) if job.state is JobState.SUCCEEDED]
    assert sorted(done) == ["a", "b", "c", "d"], "each once"


def test_a_retry_waits_until_the_steps_of_the_last_try_have_stopped(store: Store) -> None:
    run = begin(store, N)
    a, b = open_steps(store, run)["a"], open_steps(store, run)["b"]
    store.claim([a], worker=W, now=T0)
    fail(store, b)
    with pytest.raises(IllegalTransition, match="not stopped"):
        store.retry(run, now=T0)
    assert store.get(run).state is JobState.FAILED
    store.settle([Outcome(id=a, attempt=1, state=JobState.SUCCEEDED, output="1", step=True)], worker=W, now=T0)
    assert store.retry(run, now=T0).state is JobState.RUNNING


def test_a_retried_map_does_only_what_had_not_succeeded(store: Store) -> None:
    size = store.bulk_rows + 5
    calls: dict[str, int] = {}

    def work(model: str, value: Any) -> Any:
        if model == "list":
            return list(range(size))
        calls[str(value)] = calls.get(str(value), 0) + 1
        return 0

    run = begin(store, MAP)
    succeed(store, [open_steps(store, run)["list"]], work)
    children = open_steps(store, run)
    good = [id for path, id in children.items() if path != "each[3]"][: size - 2]
    succeed(store, good, work)
    fail(store, children["each[3]"])
    store.retry(run, now=T0)
    assert len(open_steps(store, run)) == 2
    assert finish(store, run, work).state is JobState.SUCCEEDED
    assert set(calls.values()) == {1}


# Others -----------------------------------------------------------------------------------------------------------


def test_runs_are_nobodys_work(store: Store) -> None:
    begin(store, N)
    make = make_job()
    store.insert([make])
    assert {(row.model, row.count) for row in store.counts()} == {("a", 1), ("b", 1), ("embed", 1)}
    assert store.rescue(now=T0, max_losses=3) == [], "no worker has died"


def test_a_step_whose_worker_died_runs_again(store: Store) -> None:
    run = begin(store, N)
    a = open_steps(store, run)["a"]
    store.claim([a], worker="nobody", now=T0)
    assert [row.id for row in store.rescue(now=T0, max_losses=3)] == [a]
    assert finish(store, run, tell).state is JobState.SUCCEEDED


def test_the_last_loss_of_a_step_fails_the_run(store: Store) -> None:
    run = begin(store, N)
    a = open_steps(store, run)["a"]
    store.claim([a], worker="nobody", now=T0)
    rows = store.rescue(now=T0, max_losses=0)
    assert run in {row.id for row in rows}
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None and job.error["step"] == "a"


def test_steps_are_pruned_with_their_run_and_not_before(store: Store) -> None:
    run = begin(store, MAP, accepted_at=T0)
    finish(store, run, lambda model, _: [1, 2, 3] if model == "list" else 0, now=T0 + 1)
    other = begin(store, N, accepted_at=T0)
    succeed(store, [open_steps(store, other)["a"]], tell, now=T0 + 1)
    assert store.prune(before=T0 + 0.5, limit=100) == 0
    while store.prune(before=T0 + 2, limit=3) == 3:
        pass
    assert store.get_many([run]) == {} and store.list(run=run) == []
    assert steps(store, other)["a"].state is JobState.SUCCEEDED, "its run goes on"
    assert finish(store, other, tell, now=T0 + 1).state is JobState.SUCCEEDED


# Failures as part of the graph ------------------------------------------------------------------------------------


def test_what_stands_in_begins_when_what_it_stands_in_for_has_failed(store: Store) -> None:
    both = graph(
        step("best", X), step("quick", X), step("use", {"$else": [out("best"), out("quick")]}), output=out("use")
    )
    run = begin(store, both)
    assert sorted(open_steps(store, run)) == ["best"]
    fail(store, open_steps(store, run)["best"])
    assert sorted(open_steps(store, run)) == ["quick"] and store.get(run).state is JobState.RUNNING
    assert finish(store, run, tell).output == ["use", ["quick", 1]]


def test_a_failure_that_nothing_stands_in_for_is_the_runs(store: Store) -> None:
    both = graph(step("best", X), step("quick", X), output={"$else": [out("best"), out("quick")]})
    run = begin(store, both)
    fail(store, open_steps(store, run)["best"])
    fail(store, open_steps(store, run)["quick"])
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None and job.error["step"] == "quick"


def test_an_element_that_fails_is_the_maps_failure(store: Store) -> None:
    of = graph(
        step("each", {"$item": 0}, maps=True, over=[1, 2, 3]),
        step("quick", X),
        output={"$else": [out("each"), out("quick")]},
    )
    run = begin(store, of)
    fail(store, open_steps(store, run)["each[1]"])
    assert "quick" in open_steps(store, run)
    succeed(store, [open_steps(store, run)["quick"]], tell)
    assert store.get(run).output == ["quick", 1]
    assert open_steps(store, run) == {}, "the other elements are not wanted any more"


def test_a_step_is_tried_again_as_often_as_the_graph_says(store: Store) -> None:
    run = begin(store, graph(step("a", X, retry=2), output=out("a")))
    now = T0
    for wait_s in (1, 2):
        fail(store, open_steps(store, run)["a"], now=now)
        job = steps(store, run)["a"]
        assert (job.state, job.available_at, store.get(run).state) == (
            JobState.ACCEPTED,
            now + wait_s,
            JobState.RUNNING,
        )
        now += wait_s
    fail(store, open_steps(store, run)["a"], now=now)
    assert store.get(run).state is JobState.FAILED
    store.retry(run, now=now)
    assert finish(store, run, tell, now=now).state is JobState.SUCCEEDED


def test_a_step_has_the_timeout_of_the_graph(store: Store) -> None:
    run = begin(store, graph(step("a", X, timeout=1.5), step("b", X), output=[out("a"), out("b")]), timeout_s=9.0)
    assert {path: job.timeout_s for path, job in steps(store, run).items()} == {"a": 1.5, "b": 9.0}


# Waiting without a worker -----------------------------------------------------------------------------------------

APPROVAL = graph(
    step("draft", X),
    Step(name="approved", kind="wait", signal="approved", timeout=10.0, input=out("draft")),
    step("publish", [out("draft"), out("approved")]),
    output=out("publish"),
)


def test_a_signal_is_what_a_step_waits_for(store: Store) -> None:
    run = begin(store, APPROVAL)
    succeed(store, [open_steps(store, run)["draft"]], tell)
    assert open_steps(store, run) == {} and steps(store, run)["approved"].state is JobState.RUNNING
    assert store.counts() == [], "nobody works on a wait"
    assert store.rescue(now=T0, max_losses=3) == []
    store.signal(run, "approved", '{"by": "ann"}', id="1", now=T0 + 1)
    assert finish(store, run, tell, now=T0 + 1).output == ["publish", [["draft", 1], {"by": "ann"}]]


def test_who_has_a_webhook_is_told_that_a_run_waits(store: Store) -> None:
    run = begin(store, APPROVAL, webhook="https://example.com/")
    succeed(store, [open_steps(store, run)["draft"]], tell)
    [event] = store.list_deliveries()
    data = msgspec.json.decode(event.payload)["data"]
    assert (event.job_id, event.type, event.url) == (run, "run.waiting", "https://example.com/")
    assert (data["step"], data["signal"], data["after"]) == ("approved", "approved", ["draft", 1])
    early = begin(store, APPROVAL, webhook="https://example.com/")
    store.signal(early, "approved", "1", id="1", now=T0)
    succeed(store, [open_steps(store, early)["draft"]], tell)
    assert len(store.list_deliveries()) == 1, "it does not wait"


def test_an_early_signal_is_kept_and_the_same_twice_is_one(store: Store) -> None:
    both = graph(
        step("a", X),
        Step(name="first", kind="wait", signal="go", input=out("a")),
        Step(name="second", kind="wait", signal="go", input=out("first")),
        output=[out("first"), out("second")],
    )
    run = begin(store, both)
    store.signal(run, "go", "1", id="one", now=T0)
    store.signal(run, "go", "1", id="one", now=T0 + 1)
    succeed(store, [open_steps(store, run)["a"]], tell)
    assert steps(store, run)["second"].state is JobState.RUNNING
    store.signal(run, "go", "2", id="two", now=T0 + 2)
    assert store.get(run).output == [1, 2]


def test_who_waits_in_vain_fails(store: Store) -> None:
    run = begin(store, APPROVAL)
    succeed(store, [open_steps(store, run)["draft"]], tell)
    assert store.tend_runs(now=T0 + 9, limit=10) == []
    store.tend_runs(now=T0 + 10, limit=10)
    job = store.get(run)
    assert job.error is not None and (job.error["code"], job.error["step"]) == ("wait_timeout", "approved")
    with pytest.raises(IllegalTransition, match="has ended"):
        store.signal(run, "approved", "1", id="1", now=T0)


def test_a_cancelled_run_waits_no_more(store: Store) -> None:
    run = begin(store, APPROVAL)
    succeed(store, [open_steps(store, run)["draft"]], tell)
    store.cancel(run, now=T0)
    assert steps(store, run)["approved"].state is JobState.CANCELLED


def test_a_signal_has_a_name_that_is_waited_for(store: Store) -> None:
    run = begin(store, APPROVAL)
    with pytest.raises(InvalidInput, match="no step of run") as caught:
        store.signal(run, "aproved", "1", id="1", now=T0)
    assert "did you mean 'approved'" in caught.value.fix
    with pytest.raises(JobNotFound):
        store.signal("nothing", "approved", "1", id="1", now=T0)


def test_a_sleep_ends_by_itself(store: Store) -> None:
    nap = Step(name="sleep", kind="sleep", input=[X, out("a")])
    run = begin(store, graph(step("a", X), nap, step("b", out("sleep")), output=out("b")), {"x": 5})
    succeed(store, [open_steps(store, run)["a"]], tell)
    store.tend_runs(now=T0 + 4.9, limit=10)
    assert open_steps(store, run) == {}
    store.tend_runs(now=T0 + 5, limit=10)
    assert finish(store, run, tell, now=T0 + 5).output == ["b", None]
    no_time = begin(store, graph(nap, step("a", X), output=out("sleep")), {"x": "long"})
    succeed(store, [open_steps(store, no_time)["a"]], tell)
    assert store.get(no_time).error is not None


# Races ------------------------------------------------------------------------------------------------------------

RACE = graph(
    step("slow", X),
    step("quick", X),
    Step(name="race", kind="pick", input={"$get": [{"$first": [1, [out("slow"), out("quick")]]}, 0]}),
    step("use", out("race")),
    output=out("use"),
)


def test_the_first_of_a_race_is_kept_and_the_others_are_cancelled(store: Store) -> None:
    run = begin(store, RACE)
    slow, quick = open_steps(store, run)["slow"], open_steps(store, run)["quick"]
    rows = succeed(store, [quick], tell)
    assert slow in {row.id for row in rows} and store.get(slow).state is JobState.CANCELLED
    assert finish(store, run, tell).output == ["use", ["quick", 1]]


def test_a_loser_that_runs_is_stopped_and_its_end_is_not_the_runs(store: Store) -> None:
    run = begin(store, RACE)
    slow, quick = open_steps(store, run)["slow"], open_steps(store, run)["quick"]
    store.claim([slow], worker=W, now=T0)
    succeed(store, [quick], tell)
    assert store.get(slow).status == "cancelling"
    store.settle([Outcome(id=slow, attempt=1, state=JobState.FAILED, error={}, step=True)], worker=W, now=T0)
    assert finish(store, run, tell).output == ["use", ["quick", 1]]


def test_a_race_fails_when_all_have_failed(store: Store) -> None:
    run = begin(store, RACE)
    fail(store, open_steps(store, run)["slow"])
    assert store.get(run).state is JobState.RUNNING
    fail(store, open_steps(store, run)["quick"])
    assert store.get(run).state is JobState.FAILED


def test_a_quorum_needs_so_many(store: Store) -> None:
    names = ["a", "b", "c"]
    two = Step(name="two", kind="pick", input={"$first": [2, [out(name) for name in names]]})
    run = begin(store, graph(*(step(name, X) for name in names), two, output=out("two")))
    fail(store, open_steps(store, run)["a"])
    succeed(store, [open_steps(store, run)["c"]], tell)
    assert store.get(run).state is JobState.RUNNING
    succeed(store, [open_steps(store, run)["b"]], tell)
    assert store.get(run).output == [["b", 1], ["c", 1]]


# Steps that answer with steps -------------------------------------------------------------------------------------


def expand(store: Store, id: str, of: Graph, inputs: dict[str, Any]) -> list[Any]:
    """Claim a step and settle it with a graph."""
    attempt = store.claim([id], worker=W, now=T0).claimed[id].attempt
    outcome = Outcome(
        id=id,
        attempt=attempt,
        state=JobState.RUNNING,
        output=msgspec.json.encode(inputs).decode(),
        graph=of.to_json().decode(),
        step=True,
    )
    return store.settle([outcome], worker=W, now=T0)


OUTER = graph(step("plan", X), step("use", out("plan")), output=out("use"))


def test_a_step_goes_on_as_a_run_of_what_it_answered(store: Store) -> None:
    run = begin(store, OUTER)
    plan = open_steps(store, run)["plan"]
    assert expand(store, plan, N, {"x": 5}) == []
    job = store.get(plan)
    assert (job.state, job.worker, job.graph, job.run_id) == (JobState.RUNNING, None, N.digest, run)
    assert store.rescue(now=T0, max_losses=3) == []
    assert finish(store, plan, tell).state is JobState.SUCCEEDED
    assert list(open_steps(store, run)) == ["use"]
    assert finish(store, run, tell).output == ["use", {"c": ["c", ["a", 5]], "d": ["d", [["a", 5], ["b", 5]]]}]
    assert [job.id for job in store.list()] == [run]


def test_what_fails_within_fails_the_run_around_it(store: Store) -> None:
    run = begin(store, OUTER)
    plan = open_steps(store, run)["plan"]
    expand(store, plan, N, {"x": 5})
    fail(store, open_steps(store, plan)["a"])
    assert store.get(plan).state is JobState.FAILED
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None and job.error["code"] == "broken"
    assert open_steps(store, plan) == {}, "what was open in it is stopped"
    store.retry(run, now=T0)
    assert finish(store, run, tell).state is JobState.SUCCEEDED


def test_a_cancelled_run_stops_what_is_within(store: Store) -> None:
    run = begin(store, OUTER)
    plan = open_steps(store, run)["plan"]
    expand(store, plan, N, {"x": 5})
    store.cancel(run, now=T0)
    assert store.get(plan).state is JobState.CANCELLED
    assert {job.state for job in store.list(run=plan)} == {JobState.CANCELLED}


def test_a_graph_without_steps_is_its_output(store: Store) -> None:
    run = begin(store, OUTER)
    expand(store, open_steps(store, run)["plan"], graph(output={"$in": "x"}), {"x": 5})
    assert finish(store, run, tell).output == ["use", 5]


def test_steps_within_steps_have_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.store.runs.expand.MAX_DEPTH", 3)
    run = begin(store, OUTER)
    inner = run
    for _ in range(4):
        inner = open_steps(store, inner)["plan"]
        expand(store, inner, OUTER, {"x": 5})
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None and "3 deep" in job.error["message"]


def test_a_step_is_told_of_in_the_outermost_run(store: Store) -> None:
    """By its path from there, and under the try of that run, however deep it is."""
    store.insert([make_job(id="plain")])
    run = begin(store, graph(step("plan", X, over=[1, 2], maps=True), output=out("plan")))
    plan = open_steps(store, run)["plan[1]"]
    expand(store, plan, OUTER, {"x": 5})
    inner = open_steps(store, plan)["plan"]
    expand(store, inner, N, {"x": 5})
    deep = open_steps(store, inner)["a"]
    ids = ["plain", open_steps(store, run)["plan[0]"], deep]
    assert store.within([*ids, "nobody"]) == {ids[1]: (run, "plan[0]", 1), deep: (run, "plan[1]/plan/a", 1)}
    assert store.within([]) == {}
    fail(store, deep)
    store.retry(run, now=T0)
    again = open_steps(store, run)["plan[1]"]
    expand(store, again, N, {"x": 5})
    deep = open_steps(store, again)["a"]
    assert store.within([deep]) == {deep: (run, "plan[1]/a", 2)}


# Forks ------------------------------------------------------------------------------------------------------------


def fork(store: Store, source: str, inputs: dict[str, Any], *, from_step: str | None = None, **changed: Any) -> str:
    """A run of the same graph, of changed inputs; its id."""
    plan = store.graph_of(source)
    job = new_run(plan.graph, inputs | changed)
    store.fork(source, job, affected(plan, from_step=from_step, inputs=changed))
    return job.id


def test_a_fork_does_again_what_comes_from_a_step(store: Store) -> None:
    run = begin(store, N)
    finish(store, run, tell)
    again = fork(store, run, {"x": 1}, from_step="b")
    assert sorted(open_steps(store, again)) == ["b"], "d waits for it, and a and c are taken over"
    assert finish(store, again, tell).output == store.get(run).output
    assert steps(store, again)["a"].ledger == steps(store, run)["a"].ledger, "when it was done is what it was"
    assert len(store.list(run=run)) == len(store.list(run=again)) == 4


def test_a_fork_with_other_inputs_does_again_what_they_have_a_part_in(store: Store) -> None:
    both = step("c", [out("a"), out("b")])
    of = graph(step("a", X), step("b", {"$in": "y"}), both, output=out("c"), inputs=("x", "y"))
    run = begin(store, of, {"x": 1, "y": 2})
    finish(store, run, tell)
    again = fork(store, run, {"x": 1, "y": 2}, y=3)
    assert sorted(open_steps(store, again)) == ["b"]
    assert finish(store, again, tell).output == ["c", [["a", 1], ["b", 3]]]


def test_a_fork_takes_whole_maps_over(store: Store) -> None:
    def work(model: str, value: Any) -> Any:
        return list(range(300)) if model == "list" else value[0] if model == "each" else len(value)

    run = begin(store, MAP)
    finish(store, run, work)
    again = fork(store, run, {"x": 1}, from_step="join")
    assert sorted(open_steps(store, again)) == ["join"]
    assert finish(store, again, work).output == 300


def test_a_fork_of_a_run_that_goes_on_takes_nothing_over_without_what_it_came_of(store: Store) -> None:
    def work(model: str, value: Any) -> Any:
        return [1, 2] if model == "list" else value

    run = begin(store, MAP)
    finish(store, run, work)
    # As when the first step ends between the look at the steps and the one at the maps.
    with store._db.write(Survives.CRASH) as session:
        session.run("UPDATE penstock_job SET state = 'running' WHERE run_id = :run AND path = 'list'", {"run": run})
    again = fork(store, run, {"x": 1})
    assert sorted(open_steps(store, again)) == ["list"]
    assert finish(store, again, work).output == store.get(run).output


def test_a_fork_of_a_failed_run_goes_on_from_what_has_succeeded(store: Store) -> None:
    run = begin(store, N)
    succeed(store, [open_steps(store, run)["a"]], tell)
    fail(store, open_steps(store, run)["b"])
    again = fork(store, run, {"x": 1})
    assert sorted(open_steps(store, again)) == ["b", "c"]
    whole = begin(store, N)
    finish(store, whole, tell)
    done = fork(store, whole, {"x": 1})
    assert store.get(done).state is JobState.SUCCEEDED, "nothing is to be done again"


def test_a_fork_names_what_there_is(store: Store) -> None:
    run = begin(store, N)
    with pytest.raises(InvalidInput, match="no step 'e'"):
        fork(store, run, {"x": 1}, from_step="e")
    with pytest.raises(InvalidInput, match="no input 'y'"):
        fork(store, run, {"x": 1}, y=1)
    with pytest.raises(JobNotFound):
        store.graph_of("nothing")


# Time ------------------------------------------------------------------------------------------------------------


def learn(store: Store, **seconds: float) -> None:
    """What workers know of these models' batches of one."""
    lines = [
        Latency(model, "1", "cpu", key, {"alpha": took - 0.5, "beta": 0.5} if not key else {"alpha": 900.0, "beta": 1})
        for model, took in seconds.items()
        for key in ("", "of a kind")
    ]
    store.keep_latencies(lines, now=T0)


CHAIN = graph(step("a", X), step("b", out("a")), step("m", {"$item": 0}, over=out("b"), maps=True), output=out("m"))


def test_a_step_should_begin_when_what_is_left_still_fits_before_the_deadline(store: Store) -> None:
    learn(store, a=1.0, b=2.0, m=4.0)
    run = begin(store, CHAIN, deadline_at=T0 + 50)
    without = begin(store, CHAIN)
    finish(store, run, lambda model, value: [1, 2] if model == "b" else value)
    times = {path: (job.start_by, job.deadline_at) for path, job in steps(store, run).items()}
    end = T0 + 50
    assert times == {
        "a": (end - 7, end),
        "b": (end - 6, end),
        "m[0]": (end - 4, end),
        "m[1]": (end - 4, end),
    }
    assert {job.start_by for job in steps(store, without).values()} == {None}, "there is no deadline"
    assert store.get(run).start_by is None


def test_of_models_that_nobody_knows_nothing_is_said(store: Store) -> None:
    run = begin(store, CHAIN, deadline_at=T0 + 50)
    assert [job.start_by for job in steps(store, run).values()] == [None]


def test_who_sends_a_step_again_knows_when_it_should_begin(store: Store) -> None:
    learn(store, a=1.0)
    run = begin(store, CHAIN, deadline_at=T0 + 50)
    [job] = store.take_due(now=T0 + 10, limit=10, lease_s=1.0)
    read = decode(encode(job, "ns"))
    assert (job.run_id, job.start_by) == (run, T0 + 49)
    assert read is not None and read.start_by == T0 + 49


def test_nothing_ends_because_it_should_have_begun(store: Store) -> None:
    learn(store, a=1.0, b=200.0)
    run = begin(store, CHAIN, deadline_at=T0 + 50)
    assert steps(store, run)["a"].start_by == T0 - 151, "it was late when it was submitted"
    assert store.expire(now=T0 + 49, limit=10) == []
    succeed(store, [open_steps(store, run)["a"]], tell, now=T0 + 49)
    assert store.get(run).state is JobState.RUNNING
    store.expire(now=T0 + 51, limit=10)
    assert store.get(run).state is JobState.EXPIRED


def test_what_a_step_answers_with_is_to_be_done_before_what_comes_behind_it(store: Store) -> None:
    learn(store, use=10.0, a=1.0, c=2.0, d=4.0)
    run = begin(store, OUTER, deadline_at=T0 + 50)
    plan = open_steps(store, run)["plan"]
    expand(store, plan, N, {"x": 5})
    assert {path: job.start_by for path, job in steps(store, plan).items()} == {"a": T0 + 35, "b": T0 + 36}


def test_a_run_within_a_run_is_to_be_done_before_what_comes_behind_it(store: Store) -> None:
    learn(store, a=1.0, b=2.0, m=4.0, last=8.0)
    inner = graph(step("a", X), step("b", out("a")), output=out("b"))
    before = step("before", X, model="m")
    over = [1, 2, out("before")]
    line = Step(name="line", kind="run", graph=inner, input={"x": {"$item": 0}}, maps=True, over=over)
    run = begin(store, graph(before, line, step("last", out("line")), output=out("last")), deadline_at=T0 + 50)
    assert steps(store, run)["before"].start_by == T0 + 50 - (4 + 1 + 2 + 8), "a run takes as long as its own steps"
    succeed(store, [open_steps(store, run)["before"]], tell)
    within = [job for job in steps(store, run).values() if job.graph is not None]
    assert [job.start_by for job in within] == [T0 + 42] * 3, "by when they should have ended"
    assert [steps(store, job.id)["a"].start_by for job in within] == [T0 + 39] * 3


def test_a_run_that_is_tried_again_after_its_deadline_has_none(store: Store) -> None:
    learn(store, a=1.0)
    run = begin(store, CHAIN, deadline_at=T0 + 50)
    store.expire(now=T0 + 51, limit=10)
    store.retry(run, now=T0 + 60)
    assert [(job.start_by, job.deadline_at) for job in steps(store, run).values()] == [(None, None)]
