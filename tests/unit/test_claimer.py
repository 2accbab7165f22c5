"""What the claim does with messages whose job is not to run."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state as worker_state
from structlog.testing import capture_logs

from penstock import clock
from penstock.job import JobState, new_id
from penstock.lane import Lane
from penstock.model import Model
from penstock.store import Store
from penstock_worker.item import Batch, Item
from penstock_worker.schedule.claimer import Claimer
from tests.fixtures.runs import begin, graph, open_steps, out, step
from tests.fixtures.store import T0, W, add, make_job


class Echo(Model):
    name = "embed"

    def predict(self, batch: list[str]) -> list[str]:
        return batch


@pytest.fixture
def revoked() -> Iterator[Any]:
    """Celery's list of revoked tasks, which is the process's."""
    yield worker_state.revoked
    worker_state.revoked.clear()


def make_item(id: str, **fields: Any) -> Item:
    return Item(id, "embed", Lane.BACKGROUND, input='"x"', tag=1, source="s", arrived_at=0.0, claimed_at=T0, **fields)


def test_a_revoked_job_is_cancelled_and_told_of(store: Store, revoked: Any) -> None:
    """One that nobody knows (pruned, never stored) is dropped like any message without a job."""
    (known,), (other,) = add(store, reply_to="c1"), add(store)
    unknown = new_id()
    revoked.update([known, unknown])
    dismissed: list[tuple[list[str], list[tuple[str, JobState, str | None]]]] = []

    def dismiss(items: Any, ended: Any) -> None:
        dismissed.append(([item.id for item in items], [(row.id, row.state, row.reply_to) for row in ended]))

    claimer = Claimer(store, worker=W, insist=lambda call: call(), dismiss=dismiss)
    run = claimer(Batch(Echo, [make_item(id) for id in (known, unknown, other)], "idle"))
    assert [item.id for item in run.live] == [other]
    assert dismissed == [([known, unknown], [(known, JobState.CANCELLED, "c1")])]
    assert store.get(known).state is JobState.CANCELLED


def test_who_is_not_to_run_any_more_is_answered_for(store: Store, revoked: Any) -> None:
    """Whose deadline has not passed, as far as SQL knows, comes back, and nobody gives it up again."""
    now = clock.now()
    (overdue,), (ended,), (cancelled,) = (add(store, deadline_at=now - 1, reply_to="c") for _ in range(3))
    (later,), (never,) = add(store, deadline_at=now + 100), add(store)
    store.cancel(ended, now=now)
    revoked.update([cancelled])
    dismissed: list[tuple[list[str], list[tuple[str, JobState]]]] = []

    def dismiss(items: Any, rows: Any) -> None:
        dismissed.append(([item.id for item in items], [(row.id, row.state) for row in rows]))

    items = [make_item(id) for id in (overdue, ended, cancelled, later, never, overdue)]
    for item in items:
        item.ends_at = 1.0
    claimer = Claimer(store, worker=W, insist=lambda call: call(), dismiss=dismiss)
    run = claimer.answer(Batch(Echo, items, "expired"))
    assert run.live == [] and run.unfinished == []
    assert [(item.id, item.ends_at, item.suspect) for item in run.returned] == [
        (later, float("inf"), False),
        (never, float("inf"), False),
    ]
    assert dismissed == [
        ([overdue, overdue, ended, cancelled], [(overdue, JobState.EXPIRED), (cancelled, JobState.CANCELLED)])
    ]


def test_a_message_with_the_id_of_a_job_that_has_ended_is_told_of(store: Store) -> None:
    """Of a program that applies a frozen signature twice: an id is one job. A redelivered message is no surprise."""
    row = make_job(canvas="{}")
    store.adopt([row])
    store.cancel(row.id, now=T0)
    store.mark_canvas_done([row.id])
    claimer = Claimer(store, worker=W, insist=lambda call: call(), dismiss=lambda items, ended: None)
    told = []
    for again in (False, True):
        request = SimpleNamespace(delivery_info={"redelivered": again})
        item = make_item(row.id, request=request, foreign=True)
        item.row = row
        with capture_logs() as logs:
            run = claimer(Batch(Echo, [item], "idle"))
        assert not run.live and not run.unfinished
        told.append([(line["action"], line["job"]) for line in logs])
    assert told == [[("claim.ended", row.id)], []]


def test_a_step_that_was_sent_as_a_plain_job_is_given_what_the_graph_says(store: Store) -> None:
    """A dispatcher of a release before runs sends what stands in the row, an empty list."""
    of = graph(step("a", {"$in": "x"}, model="embed"), output=out("a"))
    id = open_steps(store, begin(store, of, {"x": "given"}))["a"]
    (plain,) = add(store)
    early = make_item(id)
    early.input = "[]"
    claimer = Claimer(store, worker=W, insist=lambda call: call(), dismiss=lambda *_: None)
    run = claimer(Batch(Echo, [early, make_item(plain)], "idle"))
    assert {item.id: (item.input, item.step, item.error) for item in run.live} == {
        id: ('"given"', True, None),
        plain: ('"x"', False, None),
    }
