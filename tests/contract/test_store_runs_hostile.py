"""Runs under attack, on each database: graphs and values that nobody meant, and transactions that meet at bad moments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock.job import JobState, NewJob, Outcome
from penstock.pipelines.graph import Step
from penstock.store import Store
from penstock.store.runs import conclude, maps, start, waits
from penstock.store.runs.waits import WaitTimeout
from penstock.store.session import Session
from penstock.store.sql import Dialect
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
DEEP = 920


def test_a_step_that_would_be_given_too_deep_a_value_fails(store: Store) -> None:
    run = begin(store, graph(step("a", X), step("b", wrapped(out("a"))), output=out("b")))
    succeed(store, [open_steps(store, run)["a"]], lambda *_: nested(DEEP))
    b = open_steps(store, run)["b"]
    row = store.claim([b], worker=W, now=T0, need_input=[b]).claimed[b]
    assert row.input is None and row.fault is not None and "deep" in row.fault


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
