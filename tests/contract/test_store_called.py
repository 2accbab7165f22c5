"""Runs that Celery's programs have called: whoever ends them, Celery is owed a word, on each database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.errors import StoreUnavailable
from penstock.job import Job, JobState
from penstock.store import Store
from tests.fixtures.runs import begin, fail, graph, open_steps, out, step, succeed
from tests.fixtures.store import T0, add

CALLED = '{"run":true,"headers":{},"properties":{},"embed":null,"args":[],"kwargs":{}}'
LINE = graph(step("a", {"$in": "x"}), step("b", out("a")), output=out("b"))
AT_ONCE = graph(output=7)


@pytest.fixture
def told(store: Store) -> list[Job]:
    """What is told to whoever sends messages."""
    found: list[Job] = []
    store.finish_by(found.extend)
    return found


def finish(store: Store, run: str) -> None:
    while waiting := open_steps(store, run):
        succeed(store, list(waiting.values()), lambda model, value: value)


def cancel(store: Store, run: str) -> None:
    store.cancel(run, now=T0)


def cancel_many(store: Store, run: str) -> None:
    store.cancel_many([run], now=T0)


def fail_first(store: Store, run: str) -> None:
    fail(store, open_steps(store, run)["a"])


def expire(store: Store, run: str) -> None:
    store.tend_runs(now=T0 + 100, limit=10)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (finish, JobState.SUCCEEDED),
        (fail_first, JobState.FAILED),
        (cancel, JobState.CANCELLED),
        (cancel_many, JobState.CANCELLED),
        (expire, JobState.EXPIRED),
    ],
)
def test_its_end_is_told_once_whoever_ends_it(
    store: Store, told: list[Job], end: Callable[[Store, str], None], state: JobState
) -> None:
    run = begin(store, LINE, canvas=CALLED, deadline_at=T0 + 50)
    assert not told and not store.owed([run])
    end(store, run)
    assert [(job.id, job.state, job.canvas) for job in told] == [(run, state, CALLED)]
    assert [job.id for job in store.owed([run])] == [run]
    store.mark_canvas_done([run])
    assert not store.owed([run])


def test_one_that_ends_when_it_begins_is_told(store: Store, told: list[Job]) -> None:
    run = begin(store, AT_ONCE, canvas=CALLED)
    assert [(job.id, job.output) for job in told] == [(run, 7)]


def test_other_jobs_and_runs_are_not(store: Store, told: list[Job]) -> None:
    finish(store, begin(store, LINE))
    member = add(store, canvas='{"headers":{},"properties":{},"embed":null}')
    succeed(store, member, lambda model, value: value)
    assert not told, "who has claimed a member finishes it"
    assert [job.id for job in store.owed(member)] == member


def test_what_was_told_already_is_not_told_again(store: Store, told: list[Job]) -> None:
    run = begin(store, LINE, canvas=CALLED)
    store.mark_canvas_done([run])
    finish(store, run)
    assert not told


def test_one_that_is_started_again_is_told_of_its_second_end(store: Store, told: list[Job]) -> None:
    run = begin(store, LINE, canvas=CALLED)
    fail_first(store, run)
    store.mark_canvas_done([run])
    store.retry(run, now=T0, publish_lease_s=0.0)
    assert [job.state for job in told] == [JobState.FAILED]
    finish(store, run)
    assert [job.state for job in told] == [JobState.FAILED, JobState.SUCCEEDED]


def test_what_nobody_was_told_of_is_left_to_the_dispatcher(store: Store) -> None:
    run = begin(store, LINE, canvas=CALLED)
    finish(store, run)
    assert [job.id for job in store.unfinished_canvas(older_than=1e12, limit=10)] == [run]


def test_plain_runs_cost_no_statement_for_it(store: Store, told: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Any:
        raise AssertionError("nobody is owed anything")

    run = begin(store, LINE)
    monkeypatch.setattr("penstock.store.called.owed", never)
    finish(store, run)
    assert store.get(run).state is JobState.SUCCEEDED


def test_an_end_that_nobody_could_be_told_of_is_an_end(
    store: Store, told: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away just behind the commit."""
    run = begin(store, LINE, canvas=CALLED)

    def away(*args: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr("penstock.store.called.owed", away)
    store.cancel(run, now=T0)
    assert not told
    assert [job.id for job in store.unfinished_canvas(older_than=1e12, limit=10)] == [run]
