"""What the claim does with messages whose job is not to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.worker import state as worker_state

from penstock.job import JobState, new_id
from penstock.lane import Lane
from penstock.model import Model
from penstock.store import Store
from penstock_worker.claimer import Claimer
from penstock_worker.item import Batch, Item
from tests.fixtures.store import T0, W, add


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
