"""Bounds of runs, on each database: how much is in flight at a time, and what a run may spend."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from penstock.errors import JobNotFound
from penstock.job import OPEN, JobState, Outcome
from penstock.pipelines.fork import affected
from penstock.pipelines.graph import Graph, Step
from penstock.store import Store
from penstock.store.engine import Survives
from penstock.store.runs import conclude, listcache, maps, moves, slots, values
from penstock.store.runs.moves import STEP
from penstock.store.runs.tend import AT_IT_S
from penstock.store.runs.todo import BEGINNING
from penstock.store.session import Session
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.runs import begin, claimed, fail, finish, graph, new_run, open_steps, out, step, steps, succeed
from tests.fixtures.store import T0, W, make_job

X = {"$in": "x"}


def same(model: str, value: Any) -> Any:
    """A model that gives what it is given."""
    return value


def mapped(most: int | None, size: int, **fields: Any) -> Graph:
    """A map of so many elements, of which so many may be in flight."""
    each = step("each", {"$item": 0}, maps=True, over=list(range(size)), max_parallel=most, **fields)
    return graph(each, output=out("each"))


def took(store: Store, ids: Sequence[str], seconds: float, *, now: float = T0, lasts: float = 0.0) -> list[Any]:
    """Settle jobs that give what they are given and cost so much, each."""
    rows = claimed(store, ids, now=now)
    outcomes = [
        Outcome(
            id=id,
            attempt=attempt,
            state=JobState.SUCCEEDED,
            output=msgspec.json.encode(value).decode(),
            step=True,
            started_at=now,
            device_s=seconds,
        )
        for id, (attempt, value) in rows.items()
    ]
    return store.settle(outcomes, worker=W, now=now + lasts)


def room(store: Store, run: str) -> list[tuple[Any, ...]]:
    with store._db.read() as session:
        return session.all(
            "SELECT path, size, begun, in_flight FROM penstock_map_room WHERE run_id = :run ORDER BY path", {"run": run}
        )


# Elements of a map ------------------------------------------------------------------------------------------------


def test_a_map_has_so_many_in_flight_and_each_that_ends_lets_the_next_begin(store: Store) -> None:
    run = begin(store, mapped(3, 7))
    assert sorted(open_steps(store, run)) == ["each[0]", "each[1]", "each[2]"]
    succeed(store, [open_steps(store, run)["each[1]"]], same)
    assert sorted(open_steps(store, run)) == ["each[0]", "each[2]", "each[3]"]
    waiting = open_steps(store, run)
    succeed(store, [waiting["each[0]"], waiting["each[3]"]], same)
    assert sorted(open_steps(store, run)) == ["each[2]", "each[4]", "each[5]"]
    assert finish(store, run, same).output == list(range(7))
    assert room(store, run) == [("each", 7, 7, 0)]


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_a_map_of_fewer_is_as_any_other(store: Store, size: int) -> None:
    run = begin(store, mapped(2, size))
    assert len(open_steps(store, run)) == min(2, size)
    job = finish(store, run, same)
    assert (job.state, job.output) == (JobState.SUCCEEDED, list(range(size)))


def test_elements_are_begun_although_the_list_is_kept_nowhere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_lists", listcache.ListCache(most_chars=0))
    of = graph(
        step("list", X), step("each", {"$item": 0}, maps=True, over=out("list"), max_parallel=2), output=out("each")
    )
    run = begin(store, of, {"x": ["a", {"b": 1}, None, "ü"]})
    assert finish(store, run, same).output == ["a", {"b": 1}, None, "ü"]


def test_an_ordinary_maps_elements_do_not_look_at_their_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(store, mapped(None, 5))
    seen: list[Sequence[str]] = []
    real = conclude.locked
    monkeypatch.setattr(conclude, "locked", lambda session, ids: seen.append(list(ids)) or real(session, ids))
    succeed(store, [open_steps(store, run)["each[0]"]], same)
    assert seen == [[]]


def test_an_element_that_is_tried_again_keeps_its_slot(store: Store) -> None:
    run = begin(store, mapped(2, 4, retry=1))
    fail(store, open_steps(store, run)["each[0]"])
    assert sorted(open_steps(store, run)) == ["each[0]", "each[1]"]
    succeed(store, [open_steps(store, run)["each[1]"]], same)
    assert sorted(open_steps(store, run)) == ["each[0]", "each[2]"]
    assert finish(store, run, same, now=T0 + 5).output == [0, 1, 2, 3]


def test_an_element_whose_worker_died_keeps_its_slot(store: Store) -> None:
    run = begin(store, mapped(2, 4))
    claimed(store, [open_steps(store, run)["each[0]"]], worker="gone")
    store.rescue(now=T0, max_losses=9, max_kills=9, dead=[("gone", 0.0)])
    store.rescue(now=T0 + 1, max_losses=9, max_kills=9)
    assert sorted(open_steps(store, run)) == ["each[0]", "each[1]"]


def test_after_a_failure_a_retry_begins_what_had_not_succeeded(store: Store) -> None:
    run = begin(store, mapped(2, 6))
    succeed(store, [open_steps(store, run)["each[1]"]], same)
    fail(store, open_steps(store, run)["each[0]"])
    assert store.get(run).state is JobState.FAILED
    assert open_steps(store, run) == {}
    store.retry(run, now=T0 + 1)
    assert sorted(open_steps(store, run)) == ["each[0]", "each[2]"]
    assert finish(store, run, same, now=T0 + 1).output == list(range(6))


def test_what_stands_in_for_a_map_begins_and_the_map_begins_no_more(store: Store) -> None:
    of = graph(
        step("each", {"$item": 0}, maps=True, over=[1, 2, 3, 4], max_parallel=2),
        step("other", X),
        output={"$else": [out("each"), out("other")]},
    )
    run = begin(store, of)
    fail(store, open_steps(store, run)["each[0]"])
    assert sorted(open_steps(store, run)) == ["each[1]", "other"]
    succeed(store, [open_steps(store, run)["each[1]"]], same)
    assert sorted(open_steps(store, run)) == ["other"]
    assert finish(store, run, same).output == 1


def test_a_fork_takes_over_a_whole_map_and_begins_the_others_anew(store: Store) -> None:
    of = graph(
        step("done", {"$item": 0}, maps=True, over=[1, 2, 3], max_parallel=2),
        step("half", {"$item": 0}, maps=True, over=[out("done"), 5, 6], max_parallel=2),
        output=out("half"),
    )
    source = begin(store, of)
    while "half[0]" not in (waiting := open_steps(store, source)):
        succeed(store, list(waiting.values()), same)
    succeed(store, [waiting["half[0]"]], same)
    store.cancel(source, now=T0)
    new = new_run(of, max_parallel=1)
    store.fork(source, new, affected(store.graph_of(source), from_step=None, inputs={}))
    assert sorted(open_steps(store, new.id)) == ["half[0]"]
    assert finish(store, new.id, same).output == [[1, 2, 3], 5, 6]


# Steps of a run ---------------------------------------------------------------------------------------------------


def wide(count: int, *more: Step) -> Graph:
    return graph(*(step(f"s{n}", X) for n in range(count)), *more, output=[out(f"s{n}") for n in range(count)])


def test_steps_that_are_ready_wait_until_others_have_ended(store: Store) -> None:
    run = begin(store, wide(5), max_parallel=2)
    assert sorted(open_steps(store, run)) == ["s0", "s1"]
    succeed(store, [open_steps(store, run)["s1"]], same)
    assert sorted(open_steps(store, run)) == ["s0", "s2"]
    succeed(store, list(open_steps(store, run).values()), same)
    assert sorted(open_steps(store, run)) == ["s3", "s4"]
    assert finish(store, run, same).output == [1] * 5


def test_elements_of_maps_are_steps_too(store: Store) -> None:
    of = graph(
        step("one", {"$item": 0}, maps=True, over=list(range(5))),
        step("two", {"$item": 0}, maps=True, over=list(range(5)), max_parallel=1),
        step("alone", X),
        output=[out("one"), out("two"), out("alone")],
    )
    run = begin(store, of, max_parallel=3)
    most = 0
    while waiting := open_steps(store, run):
        assert len(waiting) <= 3
        assert sum(path.startswith("two") for path in waiting) <= 1
        most = max(most, len(waiting))
        succeed(store, [list(waiting.values())[-1]], same)
    assert most == 3
    assert store.get(run).output == [list(range(5)), list(range(5)), 1]


def test_what_takes_no_worker_takes_no_slot(store: Store) -> None:
    of = graph(
        Step(name="ask", input=None, kind="wait", signal="go"),
        Step(name="nap", input=[5], kind="sleep"),
        step("a", X),
        step("b", [out("ask"), out("nap")]),
        output=[out("a"), out("b")],
    )
    run = begin(store, of, max_parallel=1)
    assert sorted(open_steps(store, run)) == ["a"]
    store.signal(run, "go", "7", id="1", now=T0)
    store.tend_runs(now=T0 + 6, limit=10)
    assert sorted(open_steps(store, run)) == ["a"], "b is ready, and waits"
    assert finish(store, run, same, now=T0 + 6).output == [1, [7, None]]


def test_a_race_within_one_slot_comes_to_an_end(store: Store) -> None:
    first = {"$get": [{"$first": [1, [out("a"), out("b")]]}, 0]}
    of = graph(step("a", X), step("b", X), Step(name="pick", input=first, kind="pick"), output=out("pick"))
    run = begin(store, of, max_parallel=1)
    assert sorted(open_steps(store, run)) == ["a"]
    succeed(store, [open_steps(store, run)["a"]], same)
    assert store.get(run).output == 1
    assert sorted(steps(store, run)) == ["a", "pick"], "b was never begun"


def test_a_loser_holds_no_slot(store: Store) -> None:
    first = {"$get": [{"$first": [1, [out("a"), out("b")]]}, 0]}
    of = graph(
        step("a", X),
        step("b", X),
        Step(name="pick", input=first, kind="pick"),
        step("c", out("pick")),
        step("d", out("pick")),
        output=[out("c"), out("d")],
    )
    run = begin(store, of, max_parallel=2)
    claimed(store, [open_steps(store, run)["b"]])
    succeed(store, [open_steps(store, run)["a"]], same)
    assert sorted(open_steps(store, run)) == ["c", "d"]


def test_runs_within_a_run_have_slots_of_their_own(store: Store) -> None:
    run = begin(store, graph(step("a", X), step("b", X), output=[out("a"), out("b")]), max_parallel=1)
    a = open_steps(store, run)["a"]
    [(attempt, _)] = claimed(store, [a]).values()
    more = Outcome(
        id=a, attempt=attempt, state=JobState.RUNNING, output='{"x": 3}', graph=wide(3).to_json().decode(), step=True
    )
    store.settle([more], worker=W, now=T0)
    assert sorted(open_steps(store, a)) == ["s0"], "as many as the run around it"
    assert open_steps(store, run) == {}
    finish(store, a, same)
    assert finish(store, run, same).output == [[3, 3, 3], 1]


def test_a_retried_and_a_delayed_run_keep_their_bound(store: Store) -> None:
    run = begin(store, wide(4), max_parallel=2, available_at=T0 + 5)
    store.tend_runs(now=T0 + 5, limit=10)
    fail(store, open_steps(store, run)["s0"], now=T0 + 5)
    store.retry(run, now=T0 + 6)
    assert sorted(open_steps(store, run)) == ["s0", "s1"]
    assert finish(store, run, same, now=T0 + 6).output == [1] * 4
    assert store.bounds_of(run) == (2, None)


def test_a_run_in_which_nothing_is_left_in_flight_is_healed(store: Store) -> None:
    run = begin(store, wide(4), max_parallel=2)
    with store._db.write(Survives.NOTHING) as session:  # as somebody does who knows no runs
        session.run(
            "UPDATE penstock_job SET state = 'succeeded', settled_at = :now, output = '1' WHERE run_id = :run",
            {"run": run, "now": T0},
        )
    store.tend_runs(now=T0, limit=10)
    assert sorted(open_steps(store, run)) == ["s2", "s3"]


# Maps of maps, and runs in maps -----------------------------------------------------------------------------------


def test_what_follows_a_map_with_a_bound_begins_element_by_element(store: Store) -> None:
    of = graph(
        step("a", {"$item": 0}, maps=True, over=[1, 2, 3, 4], max_parallel=2),
        step("b", {"$item": 0}, maps=True, over=out("a")),
        output=out("b"),
    )
    run = begin(store, of)
    succeed(store, [open_steps(store, run)["a[1]"]], same)
    assert sorted(open_steps(store, run)) == ["a[0]", "a[2]", "b[1]"]
    assert finish(store, run, same).output == [1, 2, 3, 4]


@pytest.mark.parametrize("bounds", [{}, {"max_parallel": 2}])
def test_a_map_with_a_bound_waits_for_the_whole_list(store: Store, bounds: Any) -> None:
    of = graph(
        step("a", {"$item": 0}, maps=True, over=[1, 2, 3, 4], max_parallel=None if bounds else 3),
        step("b", {"$item": 0}, maps=True, over=out("a"), max_parallel=None if bounds else 2),
        output=out("b"),
    )
    run = begin(store, of, **bounds)
    for _ in range(3):
        succeed(store, [next(id for path, id in open_steps(store, run).items() if path[0] == "a")], same)
    assert sorted(open_steps(store, run)) == ["a[3]"]
    succeed(store, list(open_steps(store, run).values()), same)
    assert sorted(open_steps(store, run)) == ["b[0]", "b[1]"]
    assert finish(store, run, same).output == [1, 2, 3, 4]


INNER = graph(step("p", X), step("q", out("p")), output=out("q"))


def runs_in(store: Store, run: str) -> dict[str, str]:
    """Open runs within a run, by path."""
    return {job.path or "": job.id for job in store.list(run=run, limit=100) if job.state in OPEN and job.graph}


def test_so_many_runs_of_a_map_are_in_flight(store: Store) -> None:
    each = Step(
        name="each", kind="run", graph=INNER, input={"x": {"$item": 0}}, over=[1, 2, 3], maps=True, max_parallel=2
    )
    run = begin(store, graph(each, output=out("each")), budget_s=100.0)
    assert sorted(runs_in(store, run)) == ["each[0]", "each[1]"]
    finish(store, runs_in(store, run)["each[1]"], same)
    assert sorted(runs_in(store, run)) == ["each[0]", "each[2]"]
    for id in runs_in(store, run).values():
        finish(store, id, same)
    assert store.get(run).output == [1, 2, 3]


def test_a_run_within_has_its_own_bound_or_that_of_the_run_around_it(store: Store) -> None:
    both = graph(step("p", X), step("q", X), output=[out("p"), out("q")])
    own = Graph(name="own", inputs=["x"], steps=both.steps, output=both.output, max_parallel=2)
    of = graph(
        Step(name="one", kind="run", graph=both, input={"x": 1}),
        Step(name="two", kind="run", graph=own, input={"x": 2}),
        output=[out("one"), out("two")],
    )
    run = begin(store, of, max_parallel=1)
    [(path, inner)] = runs_in(store, run).items()
    assert path == "one" and sorted(open_steps(store, inner)) == ["p"]
    finish(store, inner, same)
    [(path, inner)] = runs_in(store, run).items()
    assert path == "two" and sorted(open_steps(store, inner)) == ["p", "q"]
    finish(store, inner, same)
    assert store.get(run).output == [[1, 1], [2, 2]]


def test_a_retry_goes_on_in_the_bounded_maps_of_runs_within(store: Store) -> None:
    inner = graph(step("m", {"$item": 0}, maps=True, over=[1, 2, 3, 4, 5], max_parallel=2), output=out("m"))
    each = Step(name="each", kind="run", graph=inner, input={"x": {"$item": 0}}, over=[7, 8], maps=True)
    run = begin(store, graph(each, output=out("each")))
    first = runs_in(store, run)["each[0]"]
    succeed(store, [open_steps(store, first)["m[0]"]], same)
    fail(store, open_steps(store, first)["m[1]"])
    assert store.get(run).state is JobState.FAILED
    store.retry(run, now=T0 + 1)
    for path, id in runs_in(store, run).items():
        assert sorted(open_steps(store, id)) == (["m[1]", "m[2]"] if path == "each[0]" else ["m[0]", "m[1]"])
        finish(store, id, same, now=T0 + 1)
    assert store.get(run).output == [[1, 2, 3, 4, 5]] * 2


def test_runs_in_a_map_are_paid_by_the_run_around_them(store: Store) -> None:
    each = Step(name="each", kind="run", graph=INNER, input={"x": {"$item": 0}}, over=[1, 2, 3], maps=True)
    run = begin(store, graph(each, output=out("each")), budget_s=1.0)
    ids = runs_in(store, run)
    for id in ids.values():
        took(store, [open_steps(store, id)["p"]], 0.4)
    job = store.get(run)
    assert job.error is not None and (job.error["code"], job.error["spent_s"]) == ("over_budget", pytest.approx(1.2))
    assert [store.get(id).state for id in ids.values()] == [JobState.CANCELLED] * 3
    assert store.run_cost(run).by_model == {"p": pytest.approx(1.2), "q": 0.0}


# Budgets ----------------------------------------------------------------------------------------------------------

CHAIN = graph(step("a", X), step("b", out("a")), step("c", out("b")), output=out("c"))


def test_a_run_over_its_budget_fails_and_says_by_how_much(store: Store) -> None:
    run = begin(store, CHAIN, budget_s=1.0)
    took(store, [open_steps(store, run)["a"]], 0.75)
    took(store, [open_steps(store, run)["b"]], 0.5)
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None
    assert (job.error["code"], job.error["spent_s"], job.error["budget_s"]) == ("over_budget", 1.25, 1.0)
    assert "1.25 device seconds" in job.error["message"]
    assert sorted(steps(store, run)) == ["a", "b"]


def test_what_runs_is_cancelled(store: Store) -> None:
    run = begin(store, wide(3), budget_s=1.0)
    waiting = open_steps(store, run)
    claimed(store, [waiting["s2"]])
    took(store, [waiting["s0"]], 1.5)
    assert store.get(run).state is JobState.FAILED
    found = steps(store, run)
    assert (found["s1"].state, found["s2"].status) == (JobState.CANCELLED, "cancelling")


def test_a_run_that_is_done_has_its_output_whatever_the_last_step_took(store: Store) -> None:
    run = begin(store, CHAIN, budget_s=1.0)
    for name in "ab":
        took(store, [open_steps(store, run)[name]], 0.4)
    took(store, [open_steps(store, run)["c"]], 9.0)
    assert store.get(run).output == 1


@pytest.mark.parametrize("bounds", [{}, {"max_parallel": 1}])
def test_what_takes_nothing_is_done_whatever_was_spent(store: Store, bounds: Any) -> None:
    of = graph(
        step("a", X),
        Step(name="pick", input={"$get": [{"$first": [1, [out("a")]]}, 0]}, kind="pick"),
        step("m", [{"$item": 0}, out("a")], maps=True, over=[]),
        step("n", {"$item": 0}, maps=True, over=out("m"), max_parallel=2),
        output=[out("pick"), out("n")],
    )
    run = begin(store, of, budget_s=1.0, **bounds)
    took(store, [open_steps(store, run)["a"]], 9.0)
    job = store.get(run)
    assert job.state is JobState.SUCCEEDED, job.error
    over = begin(store, graph(*of.steps, step("b", out("a")), output=out("b")), budget_s=1.0, **bounds)
    took(store, [open_steps(store, over)["a"]], 9.0)
    assert store.get(over).error is not None and store.get(over).error["code"] == "over_budget"  # type: ignore[index]
    assert open_steps(store, over) == {}


def test_each_element_of_a_map_counts(store: Store) -> None:
    run = begin(store, mapped(None, 10), budget_s=1.0)
    waiting = list(open_steps(store, run).values())
    took(store, waiting[:4], 0.25)
    assert store.get(run).state is JobState.RUNNING
    took(store, waiting[4:5], 0.25)
    assert store.get(run).error is not None and store.get(run).error["spent_s"] == 1.25  # type: ignore[index]


def test_a_retry_has_the_whole_budget_once_more(store: Store) -> None:
    run = begin(store, CHAIN, budget_s=1.0)
    took(store, [open_steps(store, run)["a"]], 2.0)
    store.retry(run, now=T0 + 1)
    took(store, [open_steps(store, run)["b"]], 0.75, now=T0 + 1)
    assert store.get(run).state is JobState.RUNNING
    took(store, [open_steps(store, run)["c"]], 0.2, now=T0 + 1)
    assert store.get(run).state is JobState.SUCCEEDED
    assert store.run_cost(run).device_s == pytest.approx(2.95)


def test_attempts_that_failed_count_when_their_step_has_ended(store: Store) -> None:
    run = begin(store, CHAIN, budget_s=1.0)
    a = open_steps(store, run)["a"]
    [(attempt, _)] = claimed(store, [a]).values()
    again = Outcome(
        id=a, attempt=attempt, state=JobState.ACCEPTED, available_at=T0, failures=1, step=True, device_s=0.9
    )
    store.settle([again], worker=W, now=T0)
    assert store.get(run).state is JobState.RUNNING
    took(store, [a], 0.2)
    assert store.get(run).error is not None and store.get(run).error["spent_s"] == pytest.approx(1.1)  # type: ignore[index]


def expanded(store: Store, id: str, more: Graph, seconds: float) -> None:
    [(attempt, _)] = claimed(store, [id]).values()
    text = more.to_json().decode()
    outcome = Outcome(
        id=id, attempt=attempt, state=JobState.RUNNING, output='{"x": 3}', graph=text, step=True, device_s=seconds
    )
    store.settle([outcome], worker=W, now=T0)


def test_steps_within_steps_are_paid_by_the_run_around_them(store: Store) -> None:
    run = begin(store, CHAIN, budget_s=1.0)
    a = open_steps(store, run)["a"]
    expanded(store, a, CHAIN, 0.5)
    inner = open_steps(store, a)["a"]
    expanded(store, inner, CHAIN, 0.2)
    took(store, [open_steps(store, inner)["a"]], 0.2)
    assert store.get(run).state is JobState.RUNNING
    took(store, [open_steps(store, inner)["b"]], 0.2)
    job = store.get(run)
    assert job.state is JobState.FAILED and job.error is not None
    assert (job.error["code"], job.error["spent_s"]) == ("over_budget", pytest.approx(1.1))
    assert [store.get(id).state for id in (a, inner)] == [JobState.CANCELLED] * 2
    assert open_steps(store, inner) == {}
    assert store.run_cost(run).device_s == pytest.approx(1.1)


def test_a_step_that_answers_with_more_may_be_the_one_too_many(store: Store) -> None:
    run = begin(store, CHAIN, budget_s=1.0)
    a = open_steps(store, run)["a"]
    expanded(store, a, CHAIN, 1.5)
    assert store.get(run).state is JobState.FAILED
    assert store.get(a).state is JobState.CANCELLED and store.list(run=a) == []


def test_a_run_whose_last_step_within_takes_too_much_is_done_all_the_same(store: Store) -> None:
    run = begin(store, graph(step("a", X), output=out("a")), budget_s=1.0)
    a = open_steps(store, run)["a"]
    expanded(store, a, graph(step("a", X), output=out("a")), 0.5)
    took(store, [open_steps(store, a)["a"]], 5.0)
    assert store.get(run).output == 3


def test_a_loser_that_ran_is_paid_for(store: Store) -> None:
    first = {"$get": [{"$first": [1, [out("a"), out("b")]]}, 0]}
    of = graph(
        step("a", X),
        step("b", X),
        Step(name="pick", input=first, kind="pick"),
        step("c", out("pick")),
        step("d", out("c")),
        output=out("d"),
    )
    run = begin(store, of, budget_s=1.0)
    b = open_steps(store, run)["b"]
    [(attempt, _)] = claimed(store, [b]).values()
    took(store, [open_steps(store, run)["a"]], 0.4)
    assert store.get(b).status == "cancelling"
    stopped = Outcome(id=b, attempt=attempt, state=JobState.SUCCEEDED, output="1", step=True, device_s=0.7)
    store.settle([stopped], worker=W, now=T0)
    assert store.get(run).error is not None and store.get(run).error["spent_s"] == pytest.approx(1.1)  # type: ignore[index]


# Long transactions ------------------------------------------------------------------------------------------------


def test_many_maps_with_bounds_are_not_begun_by_one_transaction(store: Store, sessions: list[Session]) -> None:
    names = [f"m{n}" for n in range(30)]
    over = list(range(100))
    of = graph(*(step(name, {"$item": 0}, maps=True, over=over, max_parallel=90) for name in names), output=out("m0"))
    run = begin(store, of)
    assert len(sessions) > 1
    assert max(session.begun for session in sessions) <= BEGINNING + STEP * sessions[0].bulk_rows
    assert max(len(session.released) for session in sessions) * STEP <= BEGINNING + STEP * 90
    assert room(store, run) == [(name, 100, 90, 90) for name in sorted(names)]


def test_a_list_that_no_process_remembers_is_as_much_work_as_its_decision(
    store: Store, monkeypatch: pytest.MonkeyPatch, sessions: list[Session]
) -> None:
    """One list may be read by each decision; a transaction makes no other one when it has taken long."""
    monkeypatch.setattr(slots, "_lists", listcache.ListCache(most_chars=0))
    monkeypatch.setattr(values, "MOST_READ", 1000)
    monkeypatch.setattr(moves, "DECIDING", 20)
    lists = [step(name, X) for name in ("a", "b")]
    each = [step(f"m{one.name}", {"$item": 0}, maps=True, over=out(one.name), max_parallel=1) for one in lists]
    run = begin(store, graph(*lists, *each, output=X))
    for name in ("a", "b"):
        succeed(store, [open_steps(store, run)[name]], lambda *_: ["x" * 300] * 3)
    sessions.clear()
    succeed(store, [open_steps(store, run)["ma[0]"], open_steps(store, run)["mb[0]"]], same)
    assert sorted(open_steps(store, run)) == ["ma[1]", "mb[1]"]
    assert finish(store, run, same).state is JobState.SUCCEEDED


def test_a_runs_bounds_hold_though_everybody_dies(store: Store, short: pytest.MonkeyPatch) -> None:
    of = graph(
        step("m", {"$item": 0}, maps=True, over=list(range(5))),
        step("n", {"$item": 0}, maps=True, over=out("m"), max_parallel=1),
        *(step(f"s{n}", X) for n in range(4)),
        output=[out("n"), *(out(f"s{n}") for n in range(4))],
    )
    original = conclude.Behind

    def behind(db: Any, left: Session) -> Any:
        if left.maps or left.todo:
            raise KeyboardInterrupt
        return original(db, left)

    short.setattr(conclude, "Behind", behind)
    job = new_run(of, max_parallel=3)
    with suppress(KeyboardInterrupt):
        store.insert([job])
    now = T0
    for _ in range(200):
        waiting = open_steps(store, job.id)
        assert len(waiting) <= 3 and sum(path[0] == "n" for path in waiting) <= 1
        if waiting:
            with suppress(KeyboardInterrupt):
                succeed(store, [next(iter(waiting.values()))], same, now=now)
        if store.get(job.id).state.is_terminal:
            break
        now += AT_IT_S
        with suppress(KeyboardInterrupt):
            store.tend_runs(now=now, limit=10, heal=False)
    assert store.get(job.id).output == [list(range(5)), 1, 1, 1, 1]
    assert len(steps(store, job.id)) == len(store.list(run=job.id, limit=100)) == 14, "no step has begun twice"


def test_runs_in_a_map_with_a_bound_are_begun_as_far_as_their_inputs_are_short(
    store: Store, monkeypatch: pytest.MonkeyPatch, sessions: list[Session]
) -> None:
    monkeypatch.setattr(maps, "MOST_CHARACTERS", 1000)
    each = Step(
        name="m",
        kind="run",
        graph=INNER,
        maps=True,
        over=[1, 2, 3, 4, 5, 6],
        input={"x": [{"$item": 0}, X]},
        max_parallel=5,
    )
    run = begin(store, graph(each, output=out("m")), {"x": "x" * 600})
    assert len(runs_in(store, run)) == 5
    assert [len(session.inner) for session in sessions if session.inner] == [2, 2, 1]
    assert room(store, run) == [("m", 6, 5, 5)]
    while waiting := runs_in(store, run):
        finish(store, next(iter(waiting.values())), lambda *_: 1)
    assert store.get(run).output == [1] * 6


def test_a_run_over_its_budget_that_is_left_fails_when_it_is_its_turn(
    store: Store, short: pytest.MonkeyPatch, sessions: list[Session]
) -> None:
    runs = [begin(store, CHAIN, budget_s=1.0) for _ in range(3)]
    first = [open_steps(store, run)["a"] for run in runs]
    sessions.clear()
    took(store, first, 1.5)
    assert len(sessions[0].todo) == 2
    assert [store.get(run).error["spent_s"] for run in runs] == [1.5] * 3  # type: ignore[index]


def test_a_run_that_is_done_and_left_has_its_output_whatever_one_within_it_took(
    store: Store, short: pytest.MonkeyPatch
) -> None:
    first = {"$get": [{"$first": [1, [out("a"), out("b")]]}, 0]}
    runs = [begin(store, graph(step("a", X), step("b", X), output=first), budget_s=1.0) for _ in range(2)]
    within = [open_steps(store, run)["a"] for run in runs]
    for a in within:
        expanded(store, a, CHAIN, 0.0)
    ids = [open_steps(store, run)["b"] for run in runs] + [open_steps(store, a)["a"] for a in within]
    took(store, ids, 1.5)
    for run in runs:
        job = store.get(run)
        assert (job.state, job.output) == (JobState.SUCCEEDED, 1), job.error
    assert [store.get(a).state for a in within] == [JobState.CANCELLED] * 2


# Many at once -----------------------------------------------------------------------------------------------------


def test_whoever_settles_at_the_same_time_keeps_within_the_bounds(store: Store) -> None:
    of = graph(
        step("one", {"$item": 0}, maps=True, over=list(range(40)), max_parallel=3),
        step("two", {"$item": 0}, maps=True, over=list(range(20))),
        *(step(f"s{n}", X) for n in range(10)),
        output=[out("one"), out("two"), *(out(f"s{n}") for n in range(10))],
    )
    run = begin(store, of, max_parallel=5, budget_s=100.0)
    faults: list[str] = []
    ends_at = time.monotonic() + PATIENCE_S

    def work(worker: str) -> None:
        try:
            while not store.get(run).state.is_terminal and time.monotonic() < ends_at:
                waiting = [job for job in store.list(run=run, limit=100) if job.state in OPEN]
                ones = [job for job in waiting if (job.path or "").startswith("one")]
                if len(waiting) > 5 or len(ones) > 3:
                    faults.append(f"{len(waiting)} in flight, {len(ones)} of the map")
                rows = store.claim([job.id for job in waiting[:2]], worker=worker, now=T0).claimed
                outcomes = [
                    Outcome(id=id, attempt=row.attempt, state=JobState.SUCCEEDED, output="1", step=True, device_s=0.5)
                    for id, row in rows.items()
                ]
                store.settle(outcomes, worker=worker, now=T0)
        except Exception as error:
            faults.append(repr(error))

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert faults == []
    job = store.get(run)
    assert (job.state, job.output) == (JobState.SUCCEEDED, [[1] * 40, [1] * 20, *[1] * 10])
    assert store.run_cost(run).device_s == 35.0
    with store._db.read() as session:
        spent = session.one("SELECT device_s FROM penstock_job WHERE id = :run", {"run": run})
    assert spent == (35.0,), "nothing is counted twice, and nothing is missed"


# What a run has taken ---------------------------------------------------------------------------------------------


def test_a_run_says_what_it_took_and_what_decided_when_it_ended(store: Store) -> None:
    of = graph(
        step("list", X, model="first"),
        step("each", {"$item": 0}, maps=True, over=out("list"), model="many@2"),
        step("join", out("each"), model="first"),
        Step(name="nap", input=[1, out("list")], kind="sleep"),
        output=[out("join"), out("nap")],
    )
    run = begin(store, of, {"x": [1, 2, 3]})
    took(store, list(open_steps(store, run).values()), 0.5, now=T0 + 1, lasts=2)
    took(store, list(open_steps(store, run).values()), 0.25, now=T0 + 4, lasts=2)
    half = store.run_cost(run)
    assert (half.total_s, half.critical_path, half.steps) == (None, [], 5)
    took(store, list(open_steps(store, run).values()), 0.125, now=T0 + 7, lasts=2)
    store.tend_runs(now=T0 + 9, limit=10)
    cost = store.run_cost(run)
    assert cost.by_model == {"first": 0.625, "many": 0.75}
    assert cost.device_s == 1.375
    assert (cost.queue_s, cost.run_s) == (1 + 3 * 1 + 1, 2 + 3 * 2 + 2)
    assert cost.total_s is not None and cost.total_s == pytest.approx(9)
    assert cost.critical_path == ["list", "each", "join"]
    assert store.run_standing(run).maps["each"].device_s == 0.75
    assert store.run_standing(run).steps["join"].device_s == 0.125


def test_what_a_fork_has_taken_over_is_not_charged_twice(store: Store) -> None:
    source = begin(store, CHAIN)
    for name in "ab":
        took(store, [open_steps(store, source)[name]], 1.0)
    store.cancel(source, now=T0)
    new = new_run(CHAIN)
    store.fork(source, new, affected(store.graph_of(source), from_step=None, inputs={}))
    took(store, [open_steps(store, new.id)["c"]], 0.5)
    assert (store.run_cost(new.id).device_s, store.run_cost(source).device_s) == (0.5, 2.0)


def test_a_fork_counts_what_it_has_done_itself(store: Store) -> None:
    """A map that was taken over among the rest: its times are its source's."""
    of = graph(
        step("list", X),
        step("each", {"$item": 0}, maps=True, over=out("list")),
        step("join", out("each")),
        step("last", out("join")),
        output=out("last"),
    )
    source = begin(store, of)
    finish(store, source, lambda model, value: [1, 2, 3] if model == "list" else value, now=T0 + 1)
    job = new_run(of, accepted_at=T0 + 50, available_at=T0 + 50)
    store.fork(source, job, affected(store.graph_of(source), from_step="join", inputs={}))
    before = store.run_cost(job.id)
    assert (before.steps, before.taken_over, before.queue_s, before.run_s) == (1, 2, 0.0, 0.0)
    assert before.by_model.keys() == {"join"}
    took(store, list(open_steps(store, job.id).values()), 0.5, now=T0 + 51, lasts=2)
    took(store, list(open_steps(store, job.id).values()), 0.25, now=T0 + 54, lasts=1)
    cost = store.run_cost(job.id)
    assert (cost.steps, cost.taken_over) == (2, 2)
    assert (cost.queue_s, cost.run_s, cost.device_s) == (2, 3, 0.75)
    assert cost.critical_path == ["join", "last"], "what was taken over decided nothing here"
    standing = store.run_standing(job.id)
    assert {name: row.taken_over for name, row in standing.steps.items()} == {
        "list": True, "join": False, "last": False,
    }  # fmt: skip
    assert standing.maps["each"].taken_over
    again = new_run(of, accepted_at=T0 + 60, available_at=T0 + 60)
    store.fork(job.id, again, affected(store.graph_of(job.id), from_step="last", inputs={}))
    assert store.run_cost(again.id).taken_over == 3, "a fork of a fork has from it what that one had from another, too"
    assert store.run_cost(source).taken_over == 0


def test_what_is_no_run_has_no_cost(store: Store) -> None:
    plain = make_job()
    store.insert([plain])
    for id in (plain.id, "nobody"):
        with pytest.raises(JobNotFound):
            store.run_cost(id)
        with pytest.raises(JobNotFound):
            store.bounds_of(id)


def test_what_bounds_a_run_goes_with_it(store: Store) -> None:
    run = begin(store, mapped(1, 3))
    finish(store, run, same)
    while store.prune(before=T0 + 99, limit=2):
        pass
    assert room(store, run) == []
