"""The heartbeat goes on whatever its chores do, and what was learned is kept as far as a database takes it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from penstock.policy.latency import LatencyBook
from penstock.settings import LeaseSettings
from penstock.store import Store
from penstock_worker.models.latency import LONGEST_KEY, LatencyMemory
from penstock_worker.report.heartbeat import Heartbeat
from tests.fixtures.patience import PATIENCE_S


def test_a_failing_chore_does_not_end_it(store: Store) -> None:
    rounds = threading.Semaphore(0)

    def fails() -> None:
        rounds.release()
        raise ValueError("unexpected")

    beat = Heartbeat(
        store,
        worker="w1",
        name="w",
        pool="default",
        info={},
        lease=LeaseSettings(ttl_s=30, heartbeat_s=0.05),
        also=[fails],
    )
    beat.start()
    try:
        assert all(rounds.acquire(timeout=PATIENCE_S) for _ in range(3)), "it goes on"
    finally:
        beat.stop()


@pytest.mark.parametrize("key", ["a\0b", "x" * (LONGEST_KEY + 1)])
def test_a_key_that_no_database_takes_is_not_stored_and_the_others_are(store: Store, key: str) -> None:
    book = LatencyBook()
    for name in (key, "plain"):
        book.observe("m", 1.0, 0.01, name)
    memory = LatencyMemory(store, book, {"m": "1"}, "cpu")
    memory.keep()
    stored: list[Any] = list(store.latencies())
    assert {line.key for line in stored} == {"", "plain"}
