"""Runs under attack, on each database: graphs and values that nobody meant, transactions that meet at bad moments."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from penstock.errors import PenstockError
from penstock.job import JobState, NewJob, Outcome
from penstock.pipelines.graph import Step
from penstock.store import Store, claims
from penstock.store.engine import Survives
from penstock.store.runs import again, closing, conclude, maps, plans, tend, waits
from penstock.store.runs import start as starts
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.runs import begin, claimed, fail, finish, graph, new_run, open_steps, out, step, steps, succeed
from tests.fixtures.store import T0, W, register

X = {"$in": "x"}


def tell(model: str, value: Any) -> Any:
    """What a model was given, and who it was."""
    return [model, value]


# What stands in for what fails --------------------------------------------------------------------------------------


def test_something_stands_in_for_a_choice(store: Store) -> None:
    """The branch that is not chosen has no output and has not failed either."""
    chosen = {"$if": [{"$op": ["eq", X, 1]}, out("a"), out("b")]}
    of = graph(step("a", X), step("b", X), step("q", X), step("use", {"$else": [chosen, out("q")]}), output=out("use"))
    assert finish(store, begin(store, of), tell).output == ["use", ["a", 1]]
    run = begin(store, of)
    fail(store, open_steps(store, run)["a"])
    assert finish(store, run, tell).output == ["use", ["q", 1]]


@pytest.mark.parametrize(("fails", "wanted"), [("", "a"), ("a", "b"), ("ab", "c")])
def test_something_stands_in_for_what_stands_in(store: Store, fails: str, wanted: str) -> None:
    either = {"$else": [{"$else": [out("a"), out("b")]}, out("c")]}
    run = begin(store, graph(step("a", X), step("b", X), step("c", X), output=either))
    for name in fails:
        fail(store, open_steps(store, run)[name])
    assert finish(store, run, tell).output == [wanted, 1]


def test_a_long_map_is_over_what_stands_in(store: Store) -> None:
    size = store.bulk_rows + 1
    of = graph(
        step("best", X),
        step("quick", X),
        step("each", {"$item": 0}, maps=True, over={"$else": [out("best"), out("quick")]}),
        output=out("each"),
    )
    run = begin(store, of)
    fail(store, open_steps(store, run)["best"])
    job = finish(store, run, lambda model, value: list(range(size)) if model == "quick" else value)
    assert job.output == list(range(size))


def test_a_choice_that_is_not_needed_is_not_looked_at_when_something_fails(store: Store) -> None:
    """``c`` would have no value, but only the other branch needs it."""
    score = {"$op": ["gt", {"$get": [out("a"), "score"]}, 0]}
    of = graph(
        step("a", X),
        step("best", X),
        step("quick", X),
        step("c", {"$if": [score, 1, 2]}),
        output=[{"$if": [{"$op": ["eq", X, 1]}, out("a"), out("c")]}, {"$else": [out("best"), out("quick")]}],
    )
    run = begin(store, of)
    succeed(store, [open_steps(store, run)["a"]], tell)
    fail(store, open_steps(store, run)["best"])
    assert finish(store, run, tell).output == [["a", 1], ["quick", 1]]


# Values -------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def wrapped(expression: Any, depth: int = 60) -> Any:
    for _ in range(depth):
        expression = [expression]
    return expression


#: As deep as a model may answer, nearly.
DEEP = 900


def test_a_step_that_would_be_given_too_deep_a_value_fails(store: Store) -> None:
    run = begin(store, graph(step("a", X), step("b", wrapped(out("a"))), output=out("b")))
    succeed(store, [open_steps(store, run)["a"]], lambda *_: nested(DEEP))
    b = open_steps(store, run)["b"]
    row = store.claim([b], worker=W, now=T0, need_input=[b]).claimed[b]
    assert row.input is None and row.fault is not None and "inside each other" in row.fault


def test_a_run_whose_output_would_be_too_deep_fails(store: Store) -> None:
    run = begin(store, graph(step("a", X), output=wrapped(out("a"))))
    succeed(store, [open_steps(store, run)["a"]], lambda *_: nested(DEEP))
    job = store.get(run)
    assert job.error is not None and job.error["code"] == "no_value"


@pytest.mark.parametrize("seconds", [10**400, -(10**400), 1e300])
def test_nobody_sleeps_for_a_number_that_no_float_holds(store: Store, seconds: float) -> None:
    run = begin(store, graph(Step(name="nap", kind="sleep", input=[X, None]), output=out("nap")), {"x": seconds})
    assert store.get(run).state is (JobState.SUCCEEDED if seconds < 0 else JobState.FAILED)


def test_a_sleep_with_a_timeout_is_a_sleep(store: Store) -> None:
    run = begin(store, graph(Step(name="nap", kind="sleep", input=[5], timeout=1.0), output=out("nap")))
    store.tend_runs(now=T0 + 5, limit=10)
    job = store.get(run)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)


# Transactions that meet ---------------------------------------------------------------------------------------------


class Meeting:
    """Threads that stop inside of their transactions until somebody lets them go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def stop(self, module: Any, name: str, *, behind: bool = True) -> tuple[threading.Event, threading.Event]:
        """The first call of this function stops, behind or before what it does; events of its arrival and its leave."""
        original, arrived, go = getattr(module, name), threading.Event(), threading.Event()
        first = threading.Lock()

        def call(*args: Any, **given: Any) -> Any:
            mine = first.acquire(blocking=False)
            if mine and not behind:
                arrived.set()
                go.wait(PATIENCE_S)
            result = original(*args, **given)
            if mine and behind:
                arrived.set()
                go.wait(PATIENCE_S)
            return result

        self._patch.setattr(module, name, call)
        return arrived, go

    def start(self, call: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                call()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)
        return thread

    def end(self) -> None:
        """Everybody comes to an end, and nobody with an error."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "somebody waits for ever"
        assert self.errors == []


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Meeting:
    return Meeting(monkeypatch)


@pytest.fixture
def shared(postgres_url: str) -> Iterator[Store]:
    """A store where several write at a time."""
    store = Store.open(postgres_url)
    register(store, W)
    yield store
    store.close()


def blocked(store: Store) -> bool:
    with store._db.read() as session:
        return bool(session.all("SELECT 1 FROM pg_locks WHERE NOT granted"))


def until_blocked(store: Store) -> None:
    """Until a transaction waits for another one."""
    ends = time.monotonic() + PATIENCE_S
    while not blocked(store):
        assert time.monotonic() < ends, "nobody waits"


@pytest.fixture
def retried(shared: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Errors for which a transaction was run again."""
    found: list[str] = []
    original = shared._db._driver.should_retry

    def should_retry(error: BaseException) -> bool:
        retries = original(error)
        if retries:
            found.append(type(error).__name__)
        return retries

    monkeypatch.setattr(shared._db._driver, "should_retry", should_retry)
    return found


def good(id: str, attempt: int, output: str = "1") -> Outcome:
    return Outcome(id=id, attempt=attempt, state=JobState.SUCCEEDED, output=output, step=True)


def bad(id: str, attempt: int) -> Outcome:
    return Outcome(id=id, attempt=attempt, state=JobState.FAILED, error={"code": "broken"}, step=True)


JOIN = graph(step("a", X), step("b", X), step("c", [out("a"), out("b")]), output=out("c"))


def test_of_two_last_parents_the_second_sees_the_first(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    run = begin(shared, JOIN)
    ids = open_steps(shared, run)
    attempts = claimed(shared, list(ids.values()))
    both = threading.Barrier(2)
    original = conclude.follow

    def follow(session: Any, rows: Any, *, now: float) -> Any:
        if any(row.run_id == run for row in rows):
            both.wait(PATIENCE_S)  # each has changed its own row, and nobody has committed
        return original(session, rows, now=now)

    meeting._patch.setattr(conclude, "follow", follow)
    for id in ids.values():
        meeting.start(lambda id=id: shared.settle([good(id, attempts[id][0])], worker=W, now=T0))
    meeting.end()
    assert sorted(open_steps(shared, run)) == ["c"] and retried == []


WAITS = graph(step("a", X), Step(name="w", kind="wait", signal="go", input=out("a")), output=out("w"))
WAITS_AT_ONCE = graph(Step(name="w", kind="wait", signal="go", input=None), output=out("w"))


@pytest.mark.parametrize("signal_first", [True, False])
def test_a_signal_meets_the_beginning_of_its_wait(
    shared: Store, meeting: Meeting, retried: list[str], signal_first: bool
) -> None:
    run = begin(shared, WAITS)
    a = open_steps(shared, run)["a"]
    attempt = claimed(shared, [a])[a][0]

    def settle() -> object:
        return shared.settle([good(a, attempt)], worker=W, now=T0)

    def signal() -> object:
        return shared.signal(run, "go", "7", id="1", now=T0)

    if signal_first:
        arrived, go = meeting.stop(waits, "_deliver")  # it has looked, and found nobody waiting
        calls = (signal, settle)
    else:
        arrived, go = meeting.stop(waits, "begin")  # it has looked, and found no signal
        calls = (settle, signal)
    meeting.start(calls[0])
    assert arrived.wait(PATIENCE_S)
    second = meeting.start(calls[1])
    if signal_first:
        second.join(PATIENCE_S)
    else:
        until_blocked(shared)
    go.set()
    meeting.end()
    job = shared.get(run)
    assert (job.state, job.output) == (JobState.SUCCEEDED, 7) and retried == []


def test_a_signal_meets_the_beginning_of_its_run(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    run = begin(shared, WAITS_AT_ONCE, available_at=T0 + 5)
    arrived, go = meeting.stop(starts, "advance")
    meeting.start(lambda: shared.tend_runs(now=T0 + 5, limit=10))
    assert arrived.wait(PATIENCE_S)
    signal = meeting.start(lambda: shared.signal(run, "go", "7", id="1", now=T0 + 5))
    until_over_or_blocked(shared, signal)
    go.set()
    meeting.end()
    assert shared.get(run).output == 7 and retried == []


def until_over_or_blocked(store: Store, thread: threading.Thread) -> None:
    ends = time.monotonic() + PATIENCE_S
    while thread.is_alive() and not blocked(store):
        assert time.monotonic() < ends


def test_a_cancel_meets_the_last_settlement(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    run = begin(shared, JOIN)
    ids = open_steps(shared, run)
    attempts = claimed(shared, list(ids.values()))
    arrived, go = meeting.stop(conclude, "locked")
    meeting.start(lambda: shared.settle([good(id, attempts[id][0]) for id in ids.values()], worker=W, now=T0))
    assert arrived.wait(PATIENCE_S)
    meeting.start(lambda: shared.cancel(run, now=T0))
    until_blocked(shared)
    go.set()
    meeting.end()
    assert shared.get(run).state is JobState.CANCELLED
    assert open_steps(shared, run) == {} and retried == []


# The locks of a map and of its run ----------------------------------------------------------------------------------

EACH = step("each", {"$item": 0}, maps=True, over=X)
LONG = graph(EACH, step("b", X), output=[{"$else": [out("each"), 0]}, out("b")])


def test_an_element_fails_while_its_map_is_expanded(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    """Who fails it holds the map and wants the run; who expands it holds the run and wants the map."""
    arrived, go = meeting.stop(conclude, "locked")  # whoever expands has the run
    size = shared.bulk_rows + 1
    job = new_run(LONG, {"x": list(range(size))})
    meeting.start(lambda: shared.insert([job]))
    assert arrived.wait(PATIENCE_S)
    first = open_steps(shared, job.id)["each[0]"]
    attempt = claimed(shared, [first])[first][0]
    meeting.start(lambda: shared.settle([bad(first, attempt)], worker=W, now=T0))
    until_blocked(shared)
    go.set()
    meeting.end()
    assert retried == []


def test_elements_fail_and_end_in_two_batches(
    shared: Store, meeting: Meeting, retried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks come before maps, for everybody."""
    monkeypatch.setattr(maps, "CHUNK", 2)
    run = begin(shared, LONG, {"x": list(range(6))})
    ids = {path: id for path, id in open_steps(shared, run).items() if path != "b"}
    attempts = claimed(shared, list(ids.values()))
    each = [(id, attempts[id][0]) for _, id in sorted(ids.items())]
    shared.settle([good(*each[0])], worker=W, now=T0)
    arrived, go = meeting.stop(maps, "fail")
    meeting.start(lambda: shared.settle([good(*each[3]), bad(*each[4])], worker=W, now=T0))
    assert arrived.wait(PATIENCE_S)
    other = meeting.start(lambda: shared.settle([good(*each[1]), good(*each[2])], worker=W, now=T0))
    until_over_or_blocked(shared, other)
    go.set()
    meeting.end()
    assert retried == []


def test_steps_are_settled_while_their_run_closes(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    """Whoever changes many steps takes them in the order of their ids, whatever they came to."""
    other, run = begin(shared, JOIN), begin(shared, JOIN)
    first, (second, third) = open_steps(shared, other)["a"], sorted(open_steps(shared, run).values())
    attempts = claimed(shared, [first, second, third])
    outcomes = [good(first, attempts[first][0]), good(third, attempts[third][0])]
    outcomes.append(
        Outcome(id=second, attempt=attempts[second][0], state=JobState.ACCEPTED, failures=1, error={}, step=True)
    )
    arrived, go = meeting.stop(claims, "settled_of")  # those that have succeeded are changed, the third is not
    meeting.start(lambda: shared.settle(outcomes, worker=W, now=T0))
    assert arrived.wait(PATIENCE_S)
    meeting.start(lambda: shared.cancel(run, now=T0))
    until_blocked(shared)
    go.set()
    meeting.end()
    assert shared.get(run).state is JobState.CANCELLED and retried == []


# What nobody needs any more -----------------------------------------------------------------------------------------


def test_a_long_map_that_has_lost_a_race_is_not_begun_further(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = store.bulk_rows + 5
    race = Step(name="race", kind="pick", input={"$get": [{"$first": [1, [out("each"), out("quick")]]}, 0]})
    of = graph(
        step("each", {"$item": 0}, maps=True, over=X),
        step("quick", X),
        race,
        step("use", out("race")),
        output=out("use"),
    )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conclude, "_go_on", _die)
        begin(store, of, {"x": list(range(size))})
    run = store.list()[0].id
    succeed(store, [open_steps(store, run)["quick"]], tell)
    store.tend_runs(now=T0, limit=10)
    assert [path for path in open_steps(store, run) if path.startswith("each")] == []


def test_a_long_map_that_has_failed_is_not_begun_further(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = store.bulk_rows + 5
    of = graph(
        step("each", {"$item": 0}, maps=True, over=X), step("quick", X), output={"$else": [out("each"), out("quick")]}
    )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conclude, "_go_on", _die)
        begin(store, of, {"x": list(range(size))})
    run = store.list()[0].id
    fail(store, open_steps(store, run)["each[0]"])
    store.tend_runs(now=T0, limit=10)
    assert len(steps(store, run)) <= store.bulk_rows + 1


def test_the_losers_of_a_race_are_cancelled_though_who_decided_it_dies(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    race = Step(name="race", kind="pick", input={"$get": [{"$first": [1, [out("slow"), out("quick")]]}, 0]})
    two = step("use", out("race")), step("last", out("use"))
    run = begin(store, graph(step("slow", X), step("quick", X), race, *two, output=out("last")))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conclude, "drop", _die)
        succeed(store, [open_steps(store, run)["quick"]], tell)
    assert sorted(open_steps(store, run)) == ["slow", "use"]
    succeed(store, [open_steps(store, run)["use"]], tell)
    assert sorted(open_steps(store, run)) == ["last"], "with whatever ends next in the run"


def _die(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["when", "fallback"])
def test_a_loser_that_may_be_needed_yet_is_not_cancelled(store: Store, how: str) -> None:
    """Its race is over, and a choice that is not made yet may take it all the same."""
    race = Step(name="race", kind="pick", input={"$get": [{"$first": [1, [out("slow"), out("quick")]]}, 0]})
    judge = step("judge", out("race"))
    chosen = {"$if": [{"$op": ["eq", out("judge"), "bad"]}, out("slow"), out("race")]}
    given = {"when": chosen, "fallback": {"$else": [out("judge"), out("slow")]}}[how]
    run = begin(store, graph(step("slow", X), step("quick", X), race, judge, output=given))
    succeed(store, [open_steps(store, run)["quick"]], tell)
    if how == "when":
        succeed(store, [open_steps(store, run)["judge"]], lambda *_: "bad")
    else:
        fail(store, open_steps(store, run)["judge"])
    assert finish(store, run, tell).output == ["slow", 1]


@pytest.mark.parametrize("who", ["settler", "canceller", "dispatcher", "second retry"])
def test_a_run_that_was_run_again_is_not_closed(store: Store, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """Whoever closes it has read that it had ended; meanwhile somebody else has run it again."""
    run = begin(store, JOIN)
    closers = {"settler": conclude, "canceller": conclude, "dispatcher": tend, "second retry": again}

    def late(db: Any, id: str, *, now: float) -> Any:
        monkeypatch.undo()
        assert store.retry(run, now=now).state is JobState.RUNNING
        return closing.close(db, id, now=now)

    if who == "dispatcher":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(conclude, "close", _die)
            store.cancel(run, now=T0)
    if who == "second retry":
        store.cancel(run, now=T0)
    monkeypatch.setattr(closers[who], "close", late)
    if who == "settler":
        fail(store, open_steps(store, run)["a"])
    elif who == "canceller":
        store.cancel(run, now=T0)
    elif who == "dispatcher":
        store.tend_runs(now=T0, limit=10)
    else:
        store.retry(run, now=T0)
    assert finish(store, run, tell).state is JobState.SUCCEEDED


# What is told -------------------------------------------------------------------------------------------------------


def test_a_step_that_is_tried_again_is_not_told_as_failed(store: Store) -> None:
    run = begin(store, graph(step("a", X, retry=1), output=out("a")))
    a = open_steps(store, run)["a"]
    rows = fail(store, a)
    assert [(row.id, row.state) for row in rows] == [(a, JobState.ACCEPTED)]


def test_a_run_without_steps_tells_its_webhook(store: Store) -> None:
    run = begin(store, graph(output=[X, 1]), webhook="https://example.com/")
    job = store.get(run)
    assert (job.state, job.output) == (JobState.SUCCEEDED, [1, 1])
    assert [(each.job_id, each.type) for each in store.list_deliveries()] == [(run, "job.succeeded")]


def test_the_same_run_is_stored_twice(store: Store) -> None:
    """A caller whose commit arrived and whose answer did not."""
    job = new_run(JOIN)
    store.insert([job])
    succeed(store, list(open_steps(store, job.id).values()), tell)
    store.cancel(job.id, now=T0)
    assert store.insert([job])[0].id == job.id
    assert open_steps(store, job.id) == {} and store.get(job.id).state is JobState.CANCELLED
    assert store.retry(job.id, now=T0).state is JobState.RUNNING
    store.insert([job])
    assert finish(store, job.id, tell).state is JobState.SUCCEEDED


def test_a_delayed_run_that_is_cancelled_never_begins(store: Store) -> None:
    run = begin(store, JOIN, available_at=T0 + 5, deadline_at=T0 + 9)
    store.cancel(run, now=T0)
    store.tend_runs(now=T0 + 20, limit=10)
    assert (store.get(run).state, steps(store, run)) == (JobState.CANCELLED, {})


def test_a_delayed_run_whose_deadline_has_passed_does_nothing(store: Store) -> None:
    """No dispatcher ran for a while."""
    told: list[NewJob] = []
    store.publish_by(told.extend, lease_s=5.0)
    run = begin(store, JOIN, available_at=T0 + 5, deadline_at=T0 + 9)
    store.tend_runs(now=T0 + 20, limit=10)
    assert [row.id for row in store.expire(now=T0 + 20, limit=10)] == [run]
    assert store.get(run).state is JobState.EXPIRED and told == []


def test_a_run_whose_last_step_was_settled_by_who_does_not_know_runs_goes_on(store: Store) -> None:
    """A worker of an earlier release that had not been replaced yet, or somebody with a SQL shell."""
    run = begin(store, JOIN)
    for id in open_steps(store, run).values():
        claimed(store, [id])
        with store._db.write(conclude.Survives.CRASH) as session:
            session.run(
                "UPDATE penstock_job SET state = 'succeeded', output = '1', settled_at = :now WHERE id = :id",
                {"now": T0, "id": id},
            )
    for after_s in (1, 60, 3600):
        store.tend_runs(now=T0 + after_s, limit=10)
    assert sorted(open_steps(store, run)) == ["c"]


def test_one_run_that_cannot_be_decided_holds_up_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with it: a graph that was lost, a defect of ours."""
    nap = graph(Step(name="nap", kind="sleep", input=[5, X]), output=out("nap"))
    other = graph(Step(name="nap", kind="sleep", input=[5, X]), output=[out("nap"), 1])
    lost, run = begin(store, nap), begin(store, other)
    with store._db.write(conclude.Survives.CRASH) as session:
        session.run("DELETE FROM penstock_graph WHERE digest = :digest", {"digest": nap.digest})
    monkeypatch.setattr("penstock.store.runs.plans._kept", {})
    for _ in range(3):
        with suppress(PenstockError):
            store.tend_runs(now=T0 + 5, limit=10)
    assert store.get(run).state is JobState.SUCCEEDED
    assert store.get(lost).state is JobState.FAILED


# Many at a time -----------------------------------------------------------------------------------------------------


def test_cancelled_runs_are_run_again_together(store: Store) -> None:
    """By the states of their rows: steps are never meant."""
    runs = [begin(store, JOIN) for _ in range(3)]
    ids = sorted(each for run in runs for each in open_steps(store, run).values())
    rows = store.cancel_many([*runs, *ids], now=T0)
    assert sorted(row.id for row in rows) == sorted(runs)
    assert store.page("cancelled", {"model": "test"}, scan=100).ids == sorted(runs)
    assert store.page("cancelled", {"model": "a"}, scan=100).ids == []
    assert store.retry_many([*runs, *ids], now=T0) == [], "a run begins again by itself"
    for run in runs:
        store.retry(run, now=T0)
        assert finish(store, run, tell).state is JobState.SUCCEEDED


def test_a_run_that_is_gone_leaves_nothing(store: Store) -> None:
    of = graph(
        step("each", {"$item": 0}, maps=True, over=X),
        Step(name="w", kind="wait", signal="go", input=None),
        output=[out("each"), out("w")],
    )
    run = begin(store, of, {"x": list(range(300))}, tags={"a": "b"})
    store.signal(run, "go", "1", id="1", now=T0)
    store.signal(run, "go", "2", id="2", now=T0)
    assert finish(store, run, tell).state is JobState.SUCCEEDED
    while store.prune(before=T0 + 1, limit=100):
        pass
    with store._db.read() as session:
        for table in ("job", "job_tag", "map", "map_chunk", "signal", "todo"):
            assert session.all(f"SELECT * FROM penstock_{table}") == [], table  # noqa: S608 - a constant


@pytest.mark.parametrize("forgotten", ["in time", "with the run"])
def test_a_wait_that_ended_before_its_time_leaves_nothing(store: Store, forgotten: str) -> None:
    nap = Step(name="nap", kind="sleep", input=[X, None])
    wait = Step(name="w", kind="wait", signal="go", timeout=5.0, input=None)
    run = begin(store, graph(nap, wait, output=[out("nap"), out("w")]), {"x": 9})
    store.cancel(run, now=T0)
    assert store.get(run).state is JobState.CANCELLED
    store.tend_runs(now=T0 + 1, limit=10)
    if forgotten == "in time":
        store.tend_runs(now=T0 + 10, limit=10)
        assert {step.state for step in steps(store, run).values()} == {JobState.CANCELLED}
    else:
        while store.prune(before=T0 + 2, limit=100):
            pass
    with store._db.read() as session:
        assert session.all("SELECT * FROM penstock_wait") == []


def test_a_graph_that_no_run_has_any_more_is_forgotten(store: Store) -> None:
    """A program that writes its literals into graphs makes a new one each time."""
    for literal in range(3):
        run = begin(store, graph(output=[literal, X]))
        assert store.get(run).state is JobState.SUCCEEDED
    while store.prune(before=T0 + 1, limit=100):
        pass
    with store._db.read() as session:
        assert session.all("SELECT digest FROM penstock_graph") == []


def test_pieces_of_a_long_map_and_a_retry_meet(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    """One process is about to begin the next piece when the run fails, and is run again by another one."""
    size = 2 * shared.bulk_rows + 1
    job = new_run(graph(EACH, output=out("each")), {"x": list(range(size))})
    arrived, go = meeting.stop(conclude, "_go_on", behind=False)
    meeting.start(lambda: shared.insert([job]))
    assert arrived.wait(PATIENCE_S)
    failed = open_steps(shared, job.id)["each[0]"]
    attempt = claimed(shared, [failed])[failed][0]
    shared.settle([bad(failed, attempt)], worker=W, now=T0)
    assert shared.retry(job.id, now=T0).state is JobState.RUNNING
    go.set()
    meeting.end()
    assert len(open_steps(shared, job.id)) == size and retried == []
    assert finish(shared, job.id, lambda _, value: value).output == list(range(size))


# A graph that this process cannot read ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED])
@pytest.mark.parametrize("text", ["{}", None], ids=["newer", "gone"])
def test_a_graph_that_cannot_be_read_is_its_own_runs_fault(
    store: Store, monkeypatch: pytest.MonkeyPatch, text: str | None, state: JobState
) -> None:
    """Its steps are claimed and settled together with those of others."""
    strange = graph(step("a", [X, "strange"]), output=out("a"))
    lost, run = begin(store, strange), begin(store, graph(step("a", [X, 1], retry=1), output=out("a")))
    ids = {each: open_steps(store, each)["a"] for each in (lost, run)}
    with store._db.write(Survives.CRASH) as session:
        values = {"digest": strange.digest, "text": text}
        if text is None:
            session.run("DELETE FROM penstock_graph WHERE digest = :digest", values)
        else:
            session.run("UPDATE penstock_graph SET graph = :text WHERE digest = :digest", values)
    monkeypatch.setattr(plans, "_kept", {})
    rows = store.claim(list(ids.values()), worker=W, now=T0, need_input=list(ids.values())).claimed
    assert rows[ids[run]].input == "[1,1]"
    given = rows[ids[lost]]
    assert given.input is None and given.run_id and "cannot be read" in (given.fault or "")
    error = {"code": "broken", "message": "it broke", "retryable": False}
    good = state is JobState.SUCCEEDED
    outcomes = [
        Outcome(id=id, attempt=1, state=state, output="7" if good else None, error=None if good else error, step=True)
        for id in ids.values()
    ]
    store.settle(outcomes, worker=W, now=T0)
    assert store.get(lost).state is JobState.FAILED
    assert store.get(run).state is (JobState.SUCCEEDED if good else JobState.RUNNING), "it is tried again"
