"""Maps of maps on each database: an element begins when its own one has ended, whatever the others do."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.job import JobState, NewJob
from penstock.pipelines.graph import Graph
from penstock.store import Store
from penstock.store.runs import conclude, following, moves
from tests.contract.test_store_runs_hostile import Meeting, bad, good, meeting, retried, shared, until_blocked
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.runs import begin, claimed, fail, finish, graph, open_steps, out, step, steps, succeed
from tests.fixtures.store import T0, W

__all__ = ("meeting", "retried", "shared")  # fixtures

X = {"$in": "x"}
ITEM = {"$item": 0}


def tell(model: str, value: Any) -> Any:
    return f"{model}({value})"


def each(name: str, over: Any, input: Any = ITEM) -> Any:
    return step(name, input, maps=True, over=over)


CHAIN = graph(each("a", X), each("b", out("a")), each("c", out("b")), output=out("c"))
#: The second one needs another step besides.
LATE = graph(each("a", X), step("p", 0), each("b", out("a"), [ITEM, out("p")]), output=out("b"))


def test_an_element_begins_when_its_own_has_ended(store: Store) -> None:
    run = begin(store, CHAIN, {"x": [1, 2, 3]})
    assert sorted(open_steps(store, run)) == ["a[0]", "a[1]", "a[2]"]
    succeed(store, [open_steps(store, run)["a[1]"]], tell)
    assert sorted(open_steps(store, run)) == ["a[0]", "a[2]", "b[1]"]
    rows = succeed(store, [open_steps(store, run)["b[1]"]], tell)
    assert len(rows) == 1
    assert sorted(open_steps(store, run)) == ["a[0]", "a[2]", "c[1]"]
    assert finish(store, run, tell).output == [f"c(b(a({n})))" for n in (1, 2, 3)]


def test_elements_of_one_batch_begin_in_one_statement_however_many_chunks(store: Store) -> None:
    size = 2 * conclude.maps.CHUNK + 3
    run = begin(store, CHAIN, {"x": list(range(size))})
    succeed(store, list(open_steps(store, run).values()), tell)
    assert sorted(open_steps(store, run)) == sorted(f"b[{index}]" for index in range(size))
    assert finish(store, run, tell).output == [f"c(b(a({n})))" for n in range(size)]


@pytest.mark.parametrize(
    "of",
    [
        graph(each("a", X), each("b", out("a"), [ITEM, {"$get": [out("a"), 0]}]), output=out("b")),
        graph(each("a", X), each("b", {"$op": ["add", out("a"), []]}), output=out("b")),
        graph(each("a", X), each("b", out("a")), output={"$if": [{"$op": ["eq", 1, 1]}, out("b"), 0]}),
        graph(each("a", X), each("b", out("a")), output={"$else": [out("b"), 0]}),
    ],
    ids=["given the whole list", "a computed list", "a choice", "a substitute"],
)
def test_what_needs_the_whole_list_waits_for_it(store: Store, of: Graph) -> None:
    run = begin(store, of, {"x": [1, 2]})
    succeed(store, [open_steps(store, run)["a[1]"]], tell)
    assert sorted(open_steps(store, run)) == ["a[0]"]
    succeed(store, [open_steps(store, run)["a[0]"]], tell)
    assert sorted(open_steps(store, run)) == ["b[0]", "b[1]"]
    assert finish(store, run, tell).state is JobState.SUCCEEDED


def test_a_list_of_nothing_ends_the_whole_chain(store: Store) -> None:
    assert store.get(begin(store, CHAIN, {"x": []})).output == []
    run = begin(store, LATE, {"x": []})
    assert sorted(open_steps(store, run)) == ["p"]
    assert finish(store, run, tell).output == []


def test_one_that_needs_another_step_begins_with_what_has_ended_by_then(store: Store) -> None:
    run = begin(store, LATE, {"x": list(range(5))})
    ids = open_steps(store, run)
    succeed(store, [ids["a[1]"], ids["a[4]"]], tell)
    assert not any(path.startswith("b") for path in open_steps(store, run))
    succeed(store, [ids["p"], ids["a[2]"]], tell)
    assert [path for path in open_steps(store, run) if path.startswith("b")] == ["b[1]", "b[2]", "b[4]"]
    succeed(store, [ids["a[3]"]], tell)
    assert [path for path in open_steps(store, run) if path.startswith("b")] == ["b[1]", "b[2]", "b[3]", "b[4]"]
    assert finish(store, run, tell).output == [f"b(['a({n})', 'p(0)'])" for n in range(5)]


def test_it_begins_in_pieces_and_what_was_left_is_begun_by_the_dispatcher(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(store._db), "bulk_rows", 3)
    run = begin(store, LATE, {"x": list(range(8))})
    ids = open_steps(store, run)
    succeed(store, [id for path, id in ids.items() if path not in ("p", "a[5]", "a[0]")], tell)

    def die(*_: object, **__: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(conclude, "_go_on", die)
        succeed(store, [ids["p"]], tell)
    assert sorted(open_steps(store, run)) == ["a[0]", "a[5]", "b[1]", "b[2]"]
    succeed(store, [ids["a[0]"], ids["a[5]"]], tell)  # one before the cursor, one behind it
    assert sorted(open_steps(store, run)) == ["b[0]", "b[1]", "b[2]"]
    store.tend_runs(now=T0 + 5, limit=10)
    assert sorted(open_steps(store, run)) == [f"b[{index}]" for index in range(8)]
    assert finish(store, run, tell, now=T0 + 5).state is JobState.SUCCEEDED


def test_an_element_that_fails_is_tried_again_alone(store: Store) -> None:
    """A run that goes on after a failure, wherever its elements were."""
    calls: list[str] = []

    def work(model: str, value: Any) -> Any:
        calls.append(tell(model, value))
        return calls[-1]

    run = begin(store, CHAIN, {"x": [1, 2, 3, 4]})
    succeed(store, [id for path, id in open_steps(store, run).items() if path != "a[3]"], work)
    succeed(store, [open_steps(store, run)[path] for path in ("b[0]", "b[1]")], work)
    succeed(store, [open_steps(store, run)["c[0]"]], work)
    fail(store, open_steps(store, run)["b[2]"])
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None and job.error["step"] == "b[2]"
    assert open_steps(store, run) == {}
    store.retry(run, now=T0)
    assert sorted(open_steps(store, run)) == ["a[3]", "b[2]", "c[1]"]
    assert finish(store, run, work).output == [f"c(b(a({n})))" for n in (1, 2, 3, 4)]
    assert len(calls) == len(set(calls)) == 12


def test_one_that_ends_in_a_run_that_has_failed_is_taken_up_by_its_retry(store: Store) -> None:
    run = begin(store, CHAIN, {"x": [1, 2]})
    ids = open_steps(store, run)
    attempt = claimed(store, [ids["a[0]"]])[ids["a[0]"]][0]
    fail(store, ids["a[1]"])
    with store._db.write(conclude.Survives.CRASH) as session:  # it was settled before the run was closed
        session.run("UPDATE penstock_job SET cancel_requested = false WHERE id = :id", {"id": ids["a[0]"]})
    store.settle([good(ids["a[0]"], attempt)], worker=W, now=T0)
    assert open_steps(store, run) == {}
    store.retry(run, now=T0)
    assert sorted(open_steps(store, run)) == ["a[1]", "b[0]"]
    assert finish(store, run, tell).output == ["c(b(1))", "c(b(a(2)))"]


def test_a_step_s_own_retry_begins_what_follows_once(store: Store) -> None:
    of = graph(step("a", ITEM, maps=True, over=X, retry=1), each("b", out("a")), output=out("b"))
    run = begin(store, of, {"x": [1]})
    fail(store, open_steps(store, run)["a[0]"])
    succeed(store, [open_steps(store, run)["a[0]"]], tell, now=T0 + 10)
    assert sorted(open_steps(store, run)) == ["b[0]"]
    assert finish(store, run, tell, now=T0 + 10).output == ["b(a(1))"]


def test_a_cancelled_run_begins_nothing_more(store: Store) -> None:
    run = begin(store, CHAIN, {"x": [1, 2]})
    ids = open_steps(store, run)
    attempt = claimed(store, [ids["a[0]"]])[ids["a[0]"]][0]
    store.cancel(run, now=T0)
    store.settle([good(ids["a[0]"], attempt)], worker=W, now=T0)
    assert open_steps(store, run) == {}
    assert steps(store, run)["a[0]"].state is JobState.CANCELLED


def test_what_an_element_is_given_is_stored_once(store: Store) -> None:
    run = begin(store, CHAIN, {"x": ["x" * 1000]})
    finish(store, run, lambda _, value: value)
    with store._db.read() as session:
        rows = session.all("SELECT path, input FROM penstock_job WHERE run_id = :run", {"run": run})
    assert {path: len(input) for path, input in rows} == {"a[0]": 1004, "b[0]": 2, "c[0]": 2}


# Transactions that meet ---------------------------------------------------------------------------------------------


def test_the_element_of_an_ordinary_map_does_not_wait_for_its_run(shared: Store, meeting: Meeting) -> None:
    """Ten thousand of them do not meet at one row."""
    run = begin(shared, graph(each("a", X), step("p", X), output=[out("a"), out("p")]), {"x": [1, 2]})
    ids = open_steps(shared, run)
    attempts = claimed(shared, list(ids.values()))
    arrived, go = meeting.stop(conclude, "locked")
    meeting.start(lambda: shared.settle([good(ids["p"], attempts[ids["p"]][0])], worker=W, now=T0))
    assert arrived.wait(PATIENCE_S)
    shared.settle([good(ids["a[0]"], attempts[ids["a[0]"]][0])], worker=W, now=T0)
    go.set()
    meeting.end()
    assert steps(shared, run)["a[0]"].state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("module", "name", "behind", "first"),
    [
        (conclude, "locked", False, "element"),  # it has ended, and its run is not held yet
        (following, "due", True, "element"),  # it has seen that nobody follows yet
        (moves.following, "begin", True, "parent"),  # it has begun with what had ended
        (conclude, "locked", False, "parent"),
    ],
)
def test_an_element_ends_while_the_map_that_follows_begins(
    shared: Store, meeting: Meeting, retried: list[str], module: Any, name: str, behind: bool, first: str
) -> None:
    run = begin(shared, LATE, {"x": [1, 2]})
    ids = open_steps(shared, run)
    attempts = claimed(shared, list(ids.values()))
    paths = {"element": "a[1]", "parent": "p"}
    arrived, go = meeting.stop(module, name, behind=behind)
    [other] = paths.keys() - {first}
    meeting.start(lambda: shared.settle([good(ids[paths[first]], attempts[ids[paths[first]]][0])], worker=W, now=T0))
    assert arrived.wait(PATIENCE_S)
    second = meeting.start(
        lambda: shared.settle([good(ids[paths[other]], attempts[ids[paths[other]]][0])], worker=W, now=T0)
    )
    if behind:
        until_blocked(shared)
    else:
        second.join(PATIENCE_S)
    go.set()
    meeting.end()
    assert [path for path in open_steps(shared, run) if path.startswith("b")] == ["b[1]"] and retried == []
    shared.settle([good(ids["a[0]"], attempts[ids["a[0]"]][0])], worker=W, now=T0)
    assert finish(shared, run, lambda _, value: value).output == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("at", "behind"), [("_go_on", False), ("locked", True), ("locked", False)])
def test_an_element_ends_while_the_next_piece_begins(
    shared: Store,
    meeting: Meeting,
    retried: list[str],
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    behind: bool,
) -> None:
    monkeypatch.setattr(type(shared._db), "bulk_rows", 2)
    run = begin(shared, LATE, {"x": list(range(6))})
    ids = open_steps(shared, run)
    attempts = claimed(shared, list(ids.values()))
    shared.settle(
        [good(ids["a[5]"], attempts[ids["a[5]"]][0]), good(ids["p"], attempts[ids["p"]][0])], worker=W, now=T0
    )
    assert [path for path in open_steps(shared, run) if path.startswith("b")] == ["b[5]"]
    with shared._db.write(conclude.Survives.CRASH) as session:  # somebody has died behind the first piece
        session.run("UPDATE penstock_map SET begun = 2 WHERE path = 'b'")
        session.run("DELETE FROM penstock_job WHERE path = 'b[5]'")
    arrived, go = meeting.stop(conclude, at, behind=behind)
    meeting.start(lambda: shared.tend_runs(now=T0 + 5, limit=10))
    assert arrived.wait(PATIENCE_S)
    second = meeting.start(lambda: shared.settle([good(ids["a[3]"], attempts[ids["a[3]"]][0])], worker=W, now=T0))
    if behind:
        until_blocked(shared)
    else:
        second.join(PATIENCE_S)
    go.set()
    meeting.end()
    assert [path for path in open_steps(shared, run) if path.startswith("b")] == ["b[3]", "b[5]"] and retried == []


def test_elements_of_two_maps_that_follow_each_other_end_in_two_batches(
    shared: Store, meeting: Meeting, retried: list[str]
) -> None:
    """Each batch has elements of both; whoever is second waits for the first, and neither for ever."""
    run = begin(shared, CHAIN, {"x": list(range(4))})
    ids = open_steps(shared, run)
    succeed(shared, [ids["a[0]"], ids["a[1]"]], tell)
    ids |= open_steps(shared, run)
    attempts = claimed(shared, [ids[path] for path in ("a[2]", "a[3]", "b[0]", "b[1]")])
    arrived, go = meeting.stop(conclude, "locked")
    for number in (0, 1):
        both = [ids[f"b[{number}]"], ids[f"a[{number + 2}]"]]
        meeting.start(lambda both=both: shared.settle([good(id, attempts[id][0]) for id in both], worker=W, now=T0))
        assert arrived.wait(PATIENCE_S)
    until_blocked(shared)
    go.set()
    meeting.end()
    assert sorted(open_steps(shared, run)) == ["b[2]", "b[3]", "c[0]", "c[1]"] and retried == []


def test_an_element_fails_while_its_own_follower_begins(shared: Store, meeting: Meeting, retried: list[str]) -> None:
    run = begin(shared, CHAIN, {"x": [1, 2]})
    ids = open_steps(shared, run)
    attempts = claimed(shared, list(ids.values()))
    arrived, go = meeting.stop(conclude, "locked")
    meeting.start(lambda: shared.settle([good(ids["a[0]"], attempts[ids["a[0]"]][0])], worker=W, now=T0))
    assert arrived.wait(PATIENCE_S)
    meeting.start(lambda: shared.settle([bad(ids["a[1]"], attempts[ids["a[1]"]][0])], worker=W, now=T0))
    until_blocked(shared)
    go.set()
    meeting.end()
    assert shared.get(run).state is JobState.FAILED
    assert open_steps(shared, run) == {} and retried == []


# Joins --------------------------------------------------------------------------------------------------------------


def test_a_join_is_read_where_it_is_claimed_and_no_message_has_it(store: Store) -> None:
    """Three megabytes, for a step that is told by its id."""
    told: list[NewJob] = []
    store.publish_by(told.extend, lease_s=5.0)
    run = begin(store, graph(each("a", X), step("join", out("a")), output=out("join")), {"x": list(range(3000))})
    succeed(store, list(open_steps(store, run).values()), lambda _, value: f"{value:01000}")
    join = told[-1]
    assert join.path == "join" and len(join.input) == 2
    [(_, value)] = claimed(store, [join.id]).values()
    assert value == [f"{number:01000}" for number in range(3000)]


def test_a_map_that_is_too_long_for_the_output_of_its_run_fails_it_by_the_name_of_the_setting(store: Store) -> None:
    store.limit_outputs(100_000)
    run = begin(store, graph(each("a", X), output=out("a")), {"x": list(range(101))})
    job = finish(store, run, lambda _, value: f"{value:01000}")
    assert job.state is JobState.FAILED and job.error is not None
    assert "PENSTOCK_JOB__MAX_OUTPUT_BYTES" in job.error["message"]
    store.limit_outputs(200_000)
    assert store.retry(run, now=T0).state is JobState.SUCCEEDED, "all its steps have ended: nothing is done again"
    assert len(steps(store, run)) == 101 and len(store.get(run).output) == 101
