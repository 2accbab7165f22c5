"""Runs within runs on each database: a graph for each element of a list, none of which waits for another one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.job import JobState, NewJob, Outcome
from penstock.pipelines import local
from penstock.pipelines.graph import Graph, Step
from penstock.store import Store
from penstock.store.runs import conclude
from tests.contract.test_store_runs import fork
from tests.contract.test_store_runs_hostile import Meeting, bad, good, meeting, retried, shared, until_blocked
from tests.fixtures.examples import examples
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.runs import begin, claimed, fail, graph, new_run, out, step, steps, succeed
from tests.fixtures.store import T0, W

__all__ = ("meeting", "retried", "shared")  # fixtures

X = {"$in": "x"}
ITEM = {"$item": 0}
WAITING = (JobState.ACCEPTED, JobState.QUEUED)


def tell(model: str, value: Any) -> Any:
    return f"{model}({value})"


def each(name: str, over: Any, input: Any = ITEM) -> Step:
    return step(name, input, maps=True, over=over)


def run_of(name: str, graph: Graph, input: Any, **fields: Any) -> Step:
    return Step(name=name, kind="run", graph=graph, input=input, **fields)


def mapped(name: str, graph: Graph, over: Any, input: Any = None) -> Step:
    return run_of(name, graph, {"x": ITEM} if input is None else input, maps=True, over=over)


LINE = graph(step("a", X), step("b", out("a")), output=out("b"))
LINES = graph(mapped("line", LINE, X), output=out("line"))


def everything(store: Store, run: str, *, around: str = "") -> dict[str, str]:
    """Ids of all that waits for a worker in a run and in those in it: ``line[0]/a``."""
    found: dict[str, str] = {}
    for path, job in sorted(steps(store, run).items()):
        if job.graph is not None:
            found |= everything(store, job.id, around=f"{around}{path}/")
        elif job.state in WAITING:
            found[f"{around}{path}"] = job.id
    return found


def finish(store: Store, run: str, work: Any = tell, *, now: float = T0) -> Any:
    while waiting := everything(store, run):
        assert succeed(store, list(waiting.values()), work, now=now), "nothing could be claimed"
    return store.get(run)


def test_a_graph_is_run_for_each_element(store: Store) -> None:
    run = begin(store, LINES, {"x": [1, 2, 3]})
    assert sorted(everything(store, run)) == ["line[0]/a", "line[1]/a", "line[2]/a"]
    jobs = steps(store, run)
    assert {(job.state, job.graph, job.model, job.worker) for job in jobs.values()} == {
        (JobState.RUNNING, LINE.digest, "test", None)
    }
    succeed(store, [everything(store, run)["line[1]/a"]], tell)
    assert sorted(everything(store, run)) == ["line[0]/a", "line[1]/b", "line[2]/a"], "none waits for another one"
    assert finish(store, run).output == ["b(a(1))", "b(a(2))", "b(a(3))"]
    assert [job.id for job in store.list(limit=10)] == [run]


def test_what_begins_is_told_to_whoever_publishes(store: Store) -> None:
    told: list[NewJob] = []
    store.publish_by(told.extend, lease_s=5.0)
    run = begin(store, LINES, {"x": [1, 2]}, tenant="t", priority=3, deadline_at=T0 + 50, trace="00-1")
    assert [(job.path, job.tenant, job.priority, job.deadline_at, job.trace) for job in told] == [
        ("a", "t", 3, T0 + 50, "00-1")
    ] * 2
    assert {job.run_id for job in told} == {job.id for job in steps(store, run).values()}


def test_each_has_inputs_of_its_own(store: Store) -> None:
    pair = graph(step("a", [X, {"$in": "y"}]), output=[out("a"), {"$in": "y"}], inputs=("x", "y"))
    of = graph(
        step("p", X),
        mapped("pair", pair, X, {"x": {"$op": ["mul", ITEM, 10]}, "y": out("p")}),
        output=out("pair"),
    )
    run = begin(store, of, {"x": [1, 2]})
    assert finish(store, run).output == [["a([10, 'p([1, 2])'])", "p([1, 2])"], ["a([20, 'p([1, 2])'])", "p([1, 2])"]]


def test_a_step_may_be_a_run_without_a_map(store: Store) -> None:
    run = begin(store, graph(step("p", X), run_of("line", LINE, {"x": out("p")}), output=[out("line")]))
    assert finish(store, run).output == ["b(a(p(1)))"]


def test_maps_of_graphs_with_maps_of_graphs(store: Store) -> None:
    row = graph(mapped("cell", LINE, X), step("sum", out("cell")), output=out("sum"))
    of = graph(mapped("row", row, X), each("last", out("row")), output=out("last"))
    run = begin(store, of, {"x": [[1, 2], [], [3]]})
    assert sorted(everything(store, run)) == ["row[0]/cell[0]/a", "row[0]/cell[1]/a", "row[1]/sum", "row[2]/cell[0]/a"]
    succeed(store, [everything(store, run)["row[1]/sum"]], tell)
    assert "last[1]" in everything(store, run), "a map of a map of runs begins element by element"
    assert finish(store, run).output == [
        "last(sum(['b(a(1))', 'b(a(2))']))",
        "last(sum([]))",
        "last(sum(['b(a(3))']))",
    ]


def test_a_run_follows_an_element(store: Store) -> None:
    of = graph(each("p", X), mapped("line", LINE, out("p")), mapped("next", LINE, out("line")), output=out("next"))
    run = begin(store, of, {"x": [1, 2]})
    succeed(store, [everything(store, run)["p[1]"]], tell)
    assert sorted(everything(store, run)) == ["line[1]/a", "p[0]"]
    for path in ("line[1]/a", "line[1]/b"):
        succeed(store, [everything(store, run)[path]], tell)
    assert sorted(everything(store, run)) == ["next[1]/a", "p[0]"]
    assert finish(store, run).output == [f"b(a(b(a(p({n})))))" for n in (1, 2)]


def one_call(model: str) -> Graph:
    return graph(step("a", X, model=model), output=out("a"))


def test_runs_of_one_name_begin_together_and_each_with_its_own_graph(store: Store) -> None:
    """Two runs whose steps have the same names, and are not the same."""
    runs = [
        begin(store, graph(step("p", X), run_of("q", one_call(model), {"x": out("p")}), output=out("q")), {"x": 1})
        for model in ("b", "c")
    ]
    succeed(store, [everything(store, run)["p"] for run in runs], tell)
    assert [list(everything(store, run)) for run in runs] == [["q/a"], ["q/a"]]
    assert [finish(store, run).output for run in runs] == ["b(p(1))", "c(p(1))"]


def test_a_run_and_one_in_it_may_have_a_step_of_one_name(store: Store) -> None:
    """What ends in one transaction lets a run begin within another one, and around it."""
    inner = graph(each("p", X), mapped("q", one_call("b"), out("p")), output=out("q"))
    of = graph(each("p", X), mapped("q", inner, out("p"), {"x": [ITEM]}), output=out("q"))
    run = begin(store, of, {"x": [1, 2]})
    succeed(store, [everything(store, run)["p[0]"]], tell)
    succeed(store, [everything(store, run)[path] for path in ("q[0]/p[0]", "p[1]")], tell)
    assert sorted(everything(store, run)) == ["q[0]/q[0]/a", "q[1]/p[0]"]
    assert finish(store, run).output == [["b(p(p(1)))"], ["b(p(p(2)))"]]


@pytest.mark.parametrize("size", [0, 3])
def test_runs_that_end_as_they_begin(store: Store, size: int) -> None:
    nothing = graph(output=[X, 7])
    inner = graph(each("a", []), output=[out("a"), X])
    of = graph(mapped("m", nothing, X), mapped("n", inner, out("m")), run_of("o", nothing, {"x": X}), output=out("n"))
    job = store.get(begin(store, of, {"x": list(range(size))}))
    assert (job.state, job.output) == (JobState.SUCCEEDED, [[[], [n, 7]] for n in range(size)])


def test_a_long_one_begins_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store._db), "bulk_rows", 3)
    monkeypatch.setattr(conclude, "PIECE", 2)
    sizes: list[int] = []
    original = conclude.first

    def first(ids: Any, *args: Any, **given: Any) -> Any:
        sizes.append(len(ids))
        return original(ids, *args, **given)

    monkeypatch.setattr(conclude, "first", first)
    run = begin(store, LINES, {"x": list(range(8))})
    assert len(everything(store, run)) == sum(sizes) == 8 and max(sizes) == 2
    assert finish(store, run).output == [f"b(a({n}))" for n in range(8)]


@pytest.mark.parametrize("at", ["first", "_go_on"])
def test_what_was_left_is_begun_by_the_dispatcher(store: Store, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    monkeypatch.setattr(type(store._db), "bulk_rows", 3)

    def die(*_: object, **__: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(conclude, at, die)
        begin(store, LINES, {"x": list(range(5))})
    [run] = [job.id for job in store.list(limit=10)]
    for after_s in (5, 10, 15):
        store.tend_runs(now=T0 + after_s, limit=10, heal=True)
    assert sorted(everything(store, run)) == [f"line[{n}]/a" for n in range(5)]
    assert finish(store, run, now=T0 + 15).output == [f"b(a({n}))" for n in range(5)]


def test_a_failure_names_the_way_to_its_step(store: Store) -> None:
    run = begin(store, LINES, {"x": [1, 2]})
    succeed(store, [everything(store, run)["line[1]/a"]], tell)
    id = everything(store, run)["line[1]/b"]
    fail(store, id)
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None
    assert (job.error["code"], job.error["step"], job.error["job"]) == ("broken", "line[1]/b", id)
    assert everything(store, run) == {}


def test_a_retry_goes_on_within_each(store: Store) -> None:
    calls: list[str] = []

    def work(model: str, value: Any) -> str:
        calls.append(tell(model, value))
        return calls[-1]

    row = graph(each("cell", X), mapped("line", LINE, out("cell")), step("sum", out("line")), output=out("sum"))
    run = begin(store, graph(mapped("row", row, X), output=out("row")), {"x": [[1, 2], [3]]})
    succeed(store, list(everything(store, run).values()), work)  # the cells
    succeed(store, [everything(store, run)[f"row[{n}]/line[0]/a"] for n in (0, 1)], work)
    fail(store, everything(store, run)["row[0]/line[1]/a"])
    assert store.get(run).state is JobState.FAILED and everything(store, run) == {}
    store.retry(run, now=T0)
    assert sorted(everything(store, run)) == ["row[0]/line[0]/b", "row[0]/line[1]/a", "row[1]/line[0]/b"]
    assert finish(store, run, work).state is JobState.SUCCEEDED
    assert len(calls) == len(set(calls)) == 3 + 2 * 3 + 2


def test_a_cancelled_run_cancels_all_within(store: Store) -> None:
    row = graph(mapped("cell", LINE, X), output=out("cell"))
    run = begin(store, graph(mapped("row", row, X), output=out("row")), {"x": [[1, 2], [3]] * 60})
    held = everything(store, run)["row[1]/cell[0]/a"]
    attempt = claimed(store, [held])[held][0]
    store.cancel(run, now=T0)
    assert everything(store, run) == {}
    store.settle([good(held, attempt)], worker=W, now=T0)
    assert store.get(held).state is JobState.CANCELLED
    store.retry(run, now=T0)
    assert finish(store, run).output == [["b(a(1))", "b(a(2))"], ["b(a(3))"]] * 60


def test_a_deadline_ends_all_within(store: Store) -> None:
    run = begin(store, LINES, {"x": [1, 2]}, deadline_at=T0 + 5)
    store.tend_runs(now=T0 + 6, limit=10)
    assert store.get(run).state is JobState.EXPIRED
    assert everything(store, run) == {}


def test_something_stands_in_for_a_run(store: Store) -> None:
    of = graph(mapped("line", LINE, X), step("q", 0), output={"$else": [out("line"), out("q")]})
    run = begin(store, of, {"x": [1, 2]})
    fail(store, everything(store, run)["line[0]/a"])
    job = finish(store, run)
    assert job.output == "q(0)"


def test_a_fork_takes_over_what_runs_have_given(store: Store) -> None:
    of = graph(mapped("line", LINE, X), step("sum", out("line")), output=out("sum"))
    run = begin(store, of, {"x": [1, 2]})
    finish(store, run)
    copy = fork(store, run, {"x": [1, 2]}, from_step="sum")
    assert sorted(everything(store, copy)) == ["sum"]
    assert finish(store, copy).output == "sum(['b(a(1))', 'b(a(2))'])"


def test_a_step_that_answers_with_steps_within(store: Store) -> None:
    run = begin(store, LINES, {"x": [1]})
    a = everything(store, run)["line[0]/a"]
    attempt = claimed(store, [a])[a][0]
    text = LINES.to_json().decode()
    outcome = Outcome(id=a, attempt=attempt, state=JobState.RUNNING, output='{"x": [5, 6]}', graph=text, step=True)
    store.settle([outcome], worker=W, now=T0)
    assert sorted(everything(store, run)) == ["line[0]/a/line[0]/a", "line[0]/a/line[1]/a"]
    assert finish(store, run).output == ["b(['b(a(5))', 'b(a(6))'])"]


def test_what_is_too_large_to_be_given_fails_the_run(store: Store) -> None:
    store.limit_outputs(100)
    run = begin(store, LINES, {"x": ["x" * 200]})
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None
    assert "PENSTOCK_JOB__MAX_OUTPUT_BYTES" in job.error["message"] and everything(store, run) == {}


def test_a_run_that_is_gone_leaves_nothing_of_those_within(store: Store) -> None:
    deep = graph(mapped("m", LINES, [X, X]), step("z", X), output=[out("m"), out("z")])
    run, other = begin(store, LINES, {"x": list(range(30))}), begin(store, deep, {"x": list(range(7))})
    assert all(finish(store, each).state is JobState.SUCCEEDED for each in (run, other))
    jobs, removed = 1 + 30 * 3 + 2 + 2 * (1 + 7 * 3), []
    while count := store.prune(before=T0 + 1, limit=10):
        removed.append(count)
    assert sum(removed) <= jobs and max(removed) <= 2 * 10, "no transaction removes more than a few times its limit"
    with store._db.read() as session:
        for table in ("job", "map", "map_chunk", "graph"):
            assert session.all(f"SELECT * FROM penstock_{table}") == [], table  # noqa: S608 - a constant


# Transactions that meet ---------------------------------------------------------------------------------------------


def test_two_runs_end_at_the_same_time(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    """Each is the last step of its own run; the second of them ends the map and the run around."""
    of = graph(mapped("m", graph(step("a", X), output=out("a")), X), output=out("m"))
    run = begin(shared, of, {"x": [1, 2]})
    ids = everything(shared, run)
    attempts = claimed(shared, list(ids.values()))
    arrived, go = meeting.stop(conclude.maps, "count")
    for path in ids:
        meeting.start(lambda path=path: shared.settle([good(ids[path], attempts[ids[path]][0])], worker=W, now=T0))
        assert arrived.wait(PATIENCE_S)
    go.set()
    meeting.end()
    assert shared.get(run).output == [1, 1] and retried == []


def test_one_fails_while_another_one_begins_its_steps(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    run = begin(shared, graph(each("p", X), mapped("line", LINE, out("p")), output=out("line")), {"x": [1, 2]})
    ids = everything(shared, run)
    attempts = claimed(shared, list(ids.values()))
    arrived, go = meeting.stop(conclude, "first")
    meeting.start(lambda: shared.settle([good(ids["p[0]"], attempts[ids["p[0]"]][0])], worker=W, now=T0))
    assert arrived.wait(PATIENCE_S)
    failing = meeting.start(lambda: shared.settle([bad(ids["p[1]"], attempts[ids["p[1]"]][0])], worker=W, now=T0))
    until_blocked(shared)
    go.set()
    failing.join(PATIENCE_S)
    meeting.end()
    assert shared.get(run).state is JobState.FAILED
    assert everything(shared, run) == {} and retried == []


def test_inputs_are_json_of_names(store: Store) -> None:
    run = begin(store, LINES, {"x": [{"deep": [1]}]})
    with store._db.read() as session:
        [(given,)] = session.all(
            "SELECT input FROM penstock_job WHERE path = 'line[0]' AND run_id = :run", {"run": run}
        )
    assert msgspec.json.decode(given) == {"x": {"deep": [1]}}


# Random histories ---------------------------------------------------------------------------------------------------


@st.composite
def nested(draw: st.DrawFn, depth: int = 2) -> Graph:
    """Maps of calls and of graphs, in rows, in graphs in graphs; all are given and give lists of numbers."""
    made: list[Step] = []
    value: Any = X
    for n in range(draw(st.integers(1, 3))):
        name = f"s{n}"
        if depth and draw(st.booleans()):
            made.append(mapped(name, draw(nested(depth - 1)), value, {"x": [ITEM, draw(st.integers(0, 3))]}))
        elif draw(st.booleans()):
            made.append(each(name, value, [ITEM, n]))
        else:
            made.append(step(name, [value, n]))
            made.append(each(f"e{n}", [out(name), 1][: draw(st.integers(0, 2))]))
            name = f"e{n}"
        value = out(name)
    return graph(*made, output=value)


@pytest.fixture
def short(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Everything is long."""
    monkeypatch.setattr(type(store._db), "bulk_rows", 2)
    monkeypatch.setattr(conclude.maps, "CHUNK", 2)
    monkeypatch.setattr(conclude, "PIECE", 2)
    return store


@given(data=st.data())
@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_happens_each_gives_what_it_says_and_nothing_is_done_twice(short: Store, data: st.DataObject) -> None:
    of = data.draw(nested())
    inputs = {"x": [1, 2][: data.draw(st.integers(0, 2))]}
    done: list[str] = []
    now = T0
    job = new_run(of, inputs)

    class Died(Exception):
        pass

    def perhaps_dies(call: Any) -> None:
        """Somebody ends between two transactions, and the dispatcher takes over."""
        nonlocal now
        at = data.draw(st.sampled_from(["", "", "first", "_go_on", "close"]))
        with pytest.MonkeyPatch.context() as patch, suppress(Died):
            if at:
                patch.setattr(conclude, at, Mock(side_effect=Died))
            call()
        while at and unfinished(short):
            now += 5
            short.tend_runs(now=now, limit=100, heal=True)

    perhaps_dies(lambda: short.insert([job]))
    for _ in range(100):
        waiting = everything(short, job.id)
        if not waiting:
            break
        chosen = data.draw(st.lists(st.sampled_from(sorted(waiting)), min_size=1, max_size=4, unique=True))
        if data.draw(st.integers(0, 9)) == 0:
            perhaps_dies(lambda id=waiting[chosen[0]]: fail(short, id, now=now))
            assert short.get(job.id).state is JobState.FAILED
            short.retry(job.id, now=now)
            continue
        done += chosen
        perhaps_dies(lambda ids=[waiting[path] for path in chosen]: succeed(short, ids, tell, now=now))
    finish(short, job.id, lambda model, value: tell(model, value), now=now)
    result = short.get(job.id)
    assert result.state is JobState.SUCCEEDED
    assert result.output == local.run(of, inputs, lambda model, items: [tell(model, item) for item in items], {})
    assert len(done) == len(set(done))


def unfinished(store: Store) -> bool:
    """Whether somebody has left something undone."""
    with store._db.read() as session:
        return bool(
            session.all("SELECT 1 FROM penstock_job WHERE closing")
            or session.all(
                "SELECT 1 FROM penstock_map AS m JOIN penstock_job AS j ON j.id = m.run_id"
                " WHERE m.begun < m.size AND j.state = 'running'"
            )
            or session.all(
                "SELECT 1 FROM penstock_job AS run WHERE graph IS NOT NULL AND state = 'running' AND NOT EXISTS"
                " (SELECT 1 FROM penstock_job AS step WHERE step.run_id = run.id"
                " AND step.state IN ('accepted', 'queued', 'running'))"
            )
        )
