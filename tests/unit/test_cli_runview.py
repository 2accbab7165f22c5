"""A run's steps as the command line tells them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.job import Job, JobState, Ledger
from penstock.pipelines.graph import Graph, Step
from penstock.store.runs.cost import RunCost
from penstock.store.runs.standing import MapCounts, RunStanding, StepRow
from penstock_cli.layout import GAP, fit
from penstock_cli.output import dumps
from penstock_cli.runlines import (
    DROP,
    HEADER,
    changed,
    cost_pairs,
    done,
    failures,
    log_line,
    step_dict,
    step_row,
    worth,
)
from penstock_cli.runview import PENDING, SKIPPED, StepView, critical_path, not_done, views, waits_for
from tests.fixtures.runs import graph, out, step

X = {"$in": "x"}
MAP = graph(
    step("list", X),
    step("each", {"$item": 0}, maps=True, over=out("list")),
    step("join", out("each")),
    output=out("join"),
)


def run(state: str = "running", error: dict[str, Any] | None = None) -> Job:
    return Job(
        id="r",
        model="test",
        version="",
        lane="interactive",
        tenant="default",
        priority=0,
        state=JobState(state),
        attempt=0,
        input={"x": 1},
        output=None,
        error=error,
        available_at=0.0,
        deadline_at=None,
        timeout_s=None,
        idempotency_key=None,
        webhook=None,
        graph="d",
        ledger=Ledger(accepted_at=0.0),
    )


def row(path: str, status: str, *times: float | None, error: Any = None) -> StepRow:
    began, started, ended = times
    assert began is not None
    return StepRow(path, f"id-{path}", status, 1, began, started, ended, 0.5, 4, "1", "w", error)


def standing(*rows: StepRow, of: Graph = MAP, failed: Any = (), **maps: MapCounts) -> RunStanding:
    return RunStanding(of, 0, {each.path: each for each in rows}, maps, list(failed))


def at(view: StepView) -> tuple[Any, ...]:
    return (view.name, view.status, view.wait_s(10), view.run_s(10), view.critical)


DONE = MapCounts(3, {"succeeded": 3}, 3.0, 5.0, 8.0, 9.0, 6.0, 1.5, 2.0)


@pytest.mark.parametrize(
    ("job", "now", "expected"),
    [
        (run(), standing(), [("list", PENDING, None, None, False), ("each", PENDING, None, None, False)]),
        (run(), standing(row("list", "queued", 1, None, None)), [("list", "queued", 9, None, False)]),
        (run(), standing(row("list", "running", 1, 3, None)), [("list", "running", 2, 7, False)]),
        (run("cancelled"), standing(row("list", "cancelled", 1, None, 4)),
         [("list", "cancelled", 3, None, False), ("each", SKIPPED, None, None, False)]),
        (run("succeeded"), standing(row("list", "succeeded", 1, 2, 3), row("join", "succeeded", 8, 9, 9.5), each=DONE),
         [("list", "succeeded", 1, 1, True), ("each", "succeeded", 2, 3, True), ("join", "succeeded", 1, 0.5, True)]),
        (run("failed", {"step": "each[1]"}),
         standing(row("list", "succeeded", 1, 2, 3), each=MapCounts(3, {"failed": 1, "cancelled": 2}, 3.0, 5.0, 8.0)),
         [("list", "succeeded", 1, 1, True), ("each", "failed", 2, 3, True), ("join", SKIPPED, None, None, False)]),
    ],
)  # fmt: skip
def test_steps_wait_run_and_decide(job: Job, now: RunStanding, expected: list[tuple[Any, ...]]) -> None:
    assert [at(view) for view in views(job, now)][: len(expected)] == expected


@pytest.mark.parametrize(
    ("size", "counts", "status", "text"),
    [
        (0, {}, "succeeded", "0/0"),
        (10_000, {"succeeded": 7312, "running": 64, "queued": 2624}, "running", "7,312/10,000"),
        (10_000, {"queued": 1000}, "queued", "0/10,000"),
        (10_000, {"succeeded": 1000}, "running", "1,000/10,000"),
        (10_000, {"succeeded": 1000, "queued": 1}, "running", "1,000/10,000"),
        (3, {"succeeded": 3}, "succeeded", "3/3"),
        (3, {"succeeded": 1, "failed": 1, "cancelled": 1}, "failed", "1/3 (1 failed)"),
        (3, {"succeeded": 1, "expired": 1, "running": 1}, "expired", "1/3 (1 failed)"),
        (3, {"succeeded": 1, "cancelling": 1, "cancelled": 1}, "cancelling", "1/3"),
        (3, {"succeeded": 1, "cancelled": 2}, "cancelled", "1/3"),
        (3, {}, "queued", "0/3"),
    ],
)
def test_a_map_is_folded_to_its_counts(size: int, counts: dict[str, int], status: str, text: str) -> None:
    view = views(run(), standing(each=MapCounts(size, counts, 1.0, 2.0, 3.0)))[1]
    assert (view.status, done(view)) == (status, text)
    open_ones = size > sum(counts.values()) or any(counts.get(each) for each in ("running", "cancelling", "queued"))
    assert (view.ended_at is None) == bool(open_ones)


def test_the_json_of_a_step_has_lists_and_names_at_any_size() -> None:
    shown = views(run(), standing(row("list", "succeeded", 1, 2, 3), each=MapCounts(0, {})))
    one, each, join = map(step_dict, shown)
    assert one.keys() == each.keys() == join.keys()
    assert each["elements"] == {"size": 0, "counts": {}, "wait_s": 0.0, "run_s": 0.0, "device_s": 0.0}
    assert (one["elements"], join["elements"], join["id"]) == (None, None, None)
    assert (one["wait_s"], one["run_s"], one["batch_size"], one["id"]) == (1.0, 1.0, 4, "id-list")
    assert dumps(shown and one)


IDLING = graph(
    Step(name="said", kind="wait", signal="said", input=1, timeout=60.0),
    Step(name="asked", kind="wait", signal="asked", input=1),
    Step(name="nap", kind="sleep", input=[60, None]),
    output=out("said"),
)


def test_what_waits_or_sleeps_does_not_run() -> None:
    """It is told until when, if there is an end, and its time is spent waiting, as long as it goes on and after."""
    rows = [row("said", "running", 1, 1, None), row("asked", "running", 1, 1, None), row("nap", "running", 1, 1, None)]
    ends = (61.0, 1e15, 60.5)
    rows = [each._replace(available_at=end) for each, end in zip(rows, ends, strict=True)]
    shown = views(run(), standing(*rows, of=IDLING))
    assert [at(view)[:4] for view in shown] == [
        ("said", "waiting", 9, None), ("asked", "waiting", 9, None), ("nap", "sleeping", 9, None),
    ]  # fmt: skip
    assert [step_row(view, 10)[-1] for view in shown] == [
        "wait for said until 1970-01-01T00:01:01.000Z (timeout=60)",
        "wait for asked",
        "sleep until 1970-01-01T00:01:00.500Z",
    ]
    assert [step_dict(view)["until"] for view in shown] == [
        "1970-01-01T00:01:01.000Z", None, "1970-01-01T00:01:00.500Z",
    ]  # fmt: skip
    assert log_line(shown[2]) == "nap  sleeping  sleep until 1970-01-01T00:01:00.500Z"
    pending = views(run(), standing(of=IDLING))
    assert [view.name for view in changed(pending, shown, counts=False)] == ["said", "asked", "nap"], "that is news"

    after = views(run("succeeded"), standing(rows[0]._replace(status="succeeded", settled_at=4.0), of=IDLING))
    assert (at(after[0])[:4], step_row(after[0])[-1]) == (("said", "succeeded", 3, None), "wait for said (timeout=60)")
    stopped = views(run(), standing(rows[0]._replace(status="cancelling"), of=IDLING))
    assert stopped[0].status == "cancelling"


def test_what_a_fork_has_taken_over_is_told_as_that() -> None:
    shown = views(
        run("succeeded"),
        standing(
            row("list", "succeeded", 1, 2, 3)._replace(taken_over=True),
            row("join", "succeeded", 8, 9, 10),
            each=replace(DONE, taken_over=True),
        ),
    )
    assert [step_row(view)[:7] for view in shown] == [
        ["list", None, "taken over", None, None, None, None],
        ["each", "3/3", "taken over", None, None, None, None],
        ["join", None, "succeeded", "1.00 s", "1.00 s", "4", "*"],
    ]
    assert [(step_dict(view)["status"], step_dict(view)["taken_over"]) for view in shown] == [
        ("succeeded", True), ("succeeded", True), ("succeeded", False),
    ]  # fmt: skip
    cost = RunCost(0.5, {"join": 0.5}, 1.0, 1.0, 2.0, ["join"], 1, 2)
    assert dict(cost_pairs(standing(), cost))["taken over"] == "2 of 3 steps"
    assert dict(cost_pairs(standing(), replace(cost, taken_over=0)))["taken over"] is None


def test_what_holds_a_step_back_is_shown_where_it_is_set() -> None:
    held = graph(
        step("list", X, retry=3, timeout=5.0),
        step("each", {"$item": 0}, maps=True, over=out("list"), max_parallel=2),
        step("join", out("each")),
        output=out("join"),
    )
    shown = views(run(), standing(row("list", "running", 1, 2, None), of=held, each=MapCounts(3, {"queued": 2}, 1.0)))
    assert [step_row(view)[-1] for view in shown] == ["list (retry=3, timeout=5)", "each (max_parallel=2)", "join"]
    assert [step_dict(view)["limits"] for view in shown] == [{"retry": 3, "timeout": 5.0}, {"max_parallel": 2}, {}]


def test_only_what_ended_well_or_failed_has_a_critical_path() -> None:
    ended = standing(row("list", "succeeded", 1, 2, 3), row("join", "succeeded", 8, 9, 10), each=DONE)
    assert critical_path(run("succeeded"), ended) == ["list", "each", "join"]
    for state in ("running", "cancelled", "expired"):
        assert critical_path(run(state), ended) == []


def test_what_failed_is_gathered() -> None:
    error = {"code": "c", "message": "m"}
    now = standing(row("list", "failed", 1, 2, 3, error=error), failed=[row("each[7]", "expired", 1, 2, 3)])
    assert failures(views(run("failed"), now), now.failed) == [
        {"step": "list", "id": "id-list", "status": "failed", "error": error},
        {"step": "each[7]", "id": "id-each[7]", "status": "expired", "error": None},
    ]
    assert failures([], []) == []


def test_what_changed_is_told_once() -> None:
    first = views(run(), standing())
    assert list(changed([], first, counts=True)) == [], "that a step waits is no news"
    second = views(run(), standing(row("list", "queued", 1, None, None)))
    assert [view.name for view in changed(first, second, counts=False)] == ["list"]
    some = views(run(), standing(each=MapCounts(9, {"succeeded": 1}, 1.0)))
    more = views(run(), standing(each=MapCounts(9, {"succeeded": 2}, 1.0)))
    assert [view.name for view in changed(some, more, counts=True)] == ["each"]
    assert list(changed(some, more, counts=False)) == []


STATUSES = ["succeeded", "running", "queued", "failed", PENDING, SKIPPED]


@given(st.lists(st.sampled_from(STATUSES), max_size=40), st.integers(1, 30))
def test_a_screen_has_room_for_what_goes_on(statuses: list[str], rows: int) -> None:
    shown = [StepView(name=str(n), calls="m", status=status) for n, status in enumerate(statuses)]
    kept, more = worth(shown, rows)
    assert len(kept) + bool(more) <= rows and kept == sorted(kept, key=lambda view: int(view.name))
    assert bool(more) == (len(kept) < len(shown))
    if rows > 1 and any(view.status == "running" for view in shown if view not in kept):
        assert all(view.status in ("running", "queued", "failed") for view in kept)


@pytest.mark.parametrize("width", [40, 80])
def test_the_table_fits_narrow_terminals_and_keeps_what_matters(width: int) -> None:
    now = standing(row("list", "succeeded", 1, 2, 3), each=MapCounts(10_000, {"succeeded": 7312}, 1.0, 2.0, 3.0))
    cells = [["-" if cell is None else str(cell) for cell in step_row(view, 100.0)] for view in views(run(), now)]
    names, rows = fit(HEADER, cells, width, drop=DROP, wide=("step",))
    widths = [max(len(name), *(len(each[n]) for each in rows)) for n, name in enumerate(names)]
    assert sum(widths) + GAP * (len(names) - 1) <= width
    assert {"step", "done", "status"} <= set(names) and any("7,312/10,000" in each for each in rows)
    assert ({"wait", "run"} <= set(names)) == (width == 80)


def test_whose_workers_are_waited_for() -> None:
    half = standing(row("list", "succeeded", 1.0, 2.0, 3.0), each=MapCounts(3, {"succeeded": 1, "queued": 1}))
    assert waits_for(half, views(run(), half)) == ["each"], "although it counts as running"
    assert not_done(half, views(run(), half)) == ["each", "join"]
    wait = step("b", X, kind="wait", model="", signal="s")
    pinned = graph(step("a", X, model="list@2"), wait, output=out("b"))
    held = standing(row("a", "queued", 1.0, None, None), row("b", "running", 1.0, 1.0, None), of=pinned)
    assert waits_for(held, views(run(), held)) == not_done(held, views(run(), held)) == ["list@2"]
