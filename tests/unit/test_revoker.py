"""Celery's ``revoke``, carried out in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
from celery.worker import state as worker_state

from penstock.errors import StoreUnavailable
from penstock.job import JobState
from penstock.store import Store
from penstock_worker.canvas import revoked
from penstock_worker.canvas import revoker as module
from penstock_worker.canvas.revoker import Revoker
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import add, end, running


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    worker_state.revoked.clear()


def test_all_at_once_whatever_else_was_named_and_again_while_the_database_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, canvas, runs, over = add(store, 3), add(store, canvas="{}"), running(store), running(store)
    end(store, over)
    ids = ["a\0b", "\ud800", *waiting, *canvas, *runs, *over, "nobody"]
    calls: list[int] = []
    real = Store.cancel_many

    def cancel_many(self: Store, ids: Any, **options: Any) -> Any:
        calls.append(len(ids))
        if len(calls) == 1:
            raise StoreUnavailable("gone")
        return real(self, ids, **options)

    monkeypatch.setattr(Store, "cancel_many", cancel_many)
    monkeypatch.setattr(module, "AGAIN_FIRST_S", 0.01)
    told: list[tuple[dict[str, JobState], set[str]]] = []
    left: list[list[str]] = []
    done = Event()
    revoker = Revoker(store, told=lambda rows, celerys: told.append(({row.id: row.state for row in rows}, celerys)))
    revoked.add(ids)
    revoker.revoke(ids, lambda unknown: (left.append(list(unknown)), done.set()))
    assert done.wait(PATIENCE_S)
    revoker.stop()
    assert calls == [7, 7], "one statement a try"
    ended = dict.fromkeys([*waiting, *canvas], JobState.CANCELLED)
    assert told == [(ended | dict.fromkeys(runs, JobState.RUNNING), set(canvas))]
    assert left == [["a\0b", "\ud800", "nobody"]]
    assert store.statuses([*runs, *over]) == {runs[0]: "cancelling", over[0]: "succeeded"}
    assert not any(map(revoked.is_open, [*waiting, *over])) and revoked.is_open("nobody")
