"""How far a run is, on each database: rows of plain steps, and counts of maps."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import JobNotFound
from penstock.job import JobState, Outcome
from penstock.store import Store
from tests.fixtures.runs import begin, claimed, fail, finish, graph, open_steps, out, step, succeed
from tests.fixtures.store import T0, W, add

X = {"$in": "x"}
MAP = graph(
    step("list", X),
    step("each", {"$item": 0}, maps=True, over=out("list")),
    step("join", out("each")),
    output=out("join"),
)


def listed(size: int) -> Any:
    return lambda model, value: list(range(size)) if model == "list" else value


def test_a_plain_step_has_its_row(store: Store) -> None:
    run = begin(store, MAP)
    first = open_steps(store, run)["list"]
    before = store.run_standing(run)
    assert before.graph == MAP and before.maps == {} and before.failed == []
    assert (before.steps["list"].id, before.steps["list"].status) == (first, "accepted")
    [(attempt, _)] = claimed(store, [first], now=T0 + 2).values()
    given = Outcome(
        id=first,
        attempt=attempt,
        state=JobState.SUCCEEDED,
        output="[]",
        step=True,
        started_at=T0 + 3,
        compute_s=0.5,
        batch_size=7,
    )
    store.settle([given], worker=W, now=T0 + 4)
    row = store.run_standing(run).steps["list"]
    assert (row.status, row.accepted_at, row.started_at, row.settled_at) == ("succeeded", T0, T0 + 3, T0 + 4)
    assert (row.compute_s, row.batch_size, row.attempt, row.worker, row.error) == (0.5, 7, 1, W, None)


@pytest.mark.parametrize("size", [0, 1, 700])
def test_a_map_is_counted(store: Store, size: int) -> None:
    run = begin(store, MAP)
    succeed(store, [open_steps(store, run)["list"]], listed(size), now=T0 + 1)
    before = store.run_standing(run)
    assert before.maps["each"].size == size
    assert before.maps["each"].counts == ({"accepted": size} if size else {})
    ids = [id for path, id in open_steps(store, run).items() if path != "join"]
    some = ids[: size // 2]
    succeed(store, some, listed(size), now=T0 + 2)
    waiting = {"accepted": size - len(some)} if size > len(some) else {}
    assert store.run_standing(run).maps["each"].counts == waiting | ({"succeeded": len(some)} if some else {})
    finish(store, run, listed(size), now=T0 + 5)
    each = store.run_standing(run).maps["each"]
    if not size:
        assert (each.counts, each.accepted_at, each.mean_batch) == ({}, None, None)
        return
    assert each.counts == {"succeeded": size}
    assert (each.accepted_at, each.settled_at) == (T0 + 1, T0 + 5)
    assert store.run_standing(run).steps["join"].status == "succeeded"


def test_a_map_has_sums_of_its_elements(store: Store) -> None:
    run = begin(store, MAP)
    succeed(store, [open_steps(store, run)["list"]], listed(4), now=T0 + 1)
    for number, (path, id) in enumerate(sorted(open_steps(store, run).items())):
        [(attempt, _)] = claimed(store, [id], now=T0 + 2).values()
        outcome = Outcome(
            id=id,
            attempt=attempt,
            state=JobState.SUCCEEDED,
            output="0",
            step=True,
            started_at=T0 + 2 + number,
            compute_s=0.25,
            device_s=0.25 / (1 + number),
            batch_size=1 + number,
        )
        assert path == f"each[{number}]"
        store.settle([outcome], worker=W, now=T0 + 3 + number)
    each = store.run_standing(run).maps["each"]
    assert (each.accepted_at, each.started_at, each.settled_at) == (T0 + 1, T0 + 2, T0 + 6)
    assert (each.waited_s, each.ran_s, each.mean_batch) == (1 + 2 + 3 + 4, 4.0, 2.5)
    assert each.device_s == pytest.approx(0.25 * (1 + 1 / 2 + 1 / 3 + 1 / 4))


def test_what_failed_is_told_with_its_error(store: Store) -> None:
    run = begin(store, MAP)
    succeed(store, [open_steps(store, run)["list"]], listed(300))
    fail(store, open_steps(store, run)["each[7]"])
    now = store.run_standing(run)
    assert now.maps["each"].counts == {"failed": 1, "cancelled": 299}
    assert [(row.path, row.error and row.error["code"]) for row in now.failed] == [("each[7]", "broken")]


def test_of_a_run_that_goes_on_only_what_succeeded_is_kept(store: Store) -> None:
    run = begin(store, MAP)
    succeed(store, [open_steps(store, run)["list"]], listed(5))
    succeed(store, [open_steps(store, run)["each[1]"]], listed(5))
    fail(store, open_steps(store, run)["each[3]"])
    store.retry(run, now=T0 + 1)
    again = store.run_standing(run)
    assert again.generation == 1 and again.failed == []
    assert again.steps["list"].status == "succeeded"
    assert again.maps["each"].counts == {"accepted": 4, "succeeded": 1}


def test_a_step_that_is_to_stop_says_so(store: Store) -> None:
    run = begin(store, MAP)
    claimed(store, [open_steps(store, run)["list"]])
    store.cancel(run, now=T0)
    assert store.run_standing(run).steps["list"].status == "cancelling"


def test_other_runs_and_jobs_are_not_counted(store: Store) -> None:
    runs = [begin(store, MAP) for _ in range(2)]
    for run in runs:
        succeed(store, [open_steps(store, run)["list"]], listed(3))
    finish(store, runs[0], listed(3))
    assert store.run_standing(runs[1]).maps["each"].counts == {"accepted": 3}
    assert set(store.run_standing(runs[1]).steps) == {"list"}


def test_maps_whose_names_begin_alike_are_told_apart(store: Store) -> None:
    names = ("m", "m-2", "m.x", "m_1")
    made = graph(*(step(name, {"$item": 0}, model="each", maps=True, over=X) for name in names), output=1)
    run = begin(store, made, {"x": [1, 2]})
    assert {name: one.counts for name, one in store.run_standing(run).maps.items()} == {
        name: {"accepted": 2} for name in names
    }


@pytest.mark.parametrize("id", ["nobody", ""])
def test_what_is_no_run_has_no_standing(store: Store, id: str) -> None:
    if not id:
        [id] = add(store)
    with pytest.raises(JobNotFound, match="no run"):
        store.run_standing(id)
