"""What only SQLite needs: writers that take turns, and a log that is moved before a commit has to."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import penstock_migrations
from penstock.clock import monotonic_s
from penstock.job import NewJob, new_id
from penstock.store import Store
from penstock.store.sqlite import WriteLock
from tests.fixtures.patience import PATIENCE_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "p.db"
    penstock_migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store.open(f"sqlite:///{path}")) as store:
        yield store


def jobs(count: int) -> list[NewJob]:
    return [
        NewJob(
            id=new_id(),
            model="m",
            version="1",
            input='"' + "x" * 500 + '"',
            lane="background",
            accepted_at=1.0,
            available_at=1.0,
        )
        for _ in range(count)
    ]


def test_who_comes_back_at_once_does_not_go_first(path: Path) -> None:
    """A bulk submission is one transaction after the other; a lone one waits for the one that runs, or one more."""
    greedy, patient = WriteLock(path), WriteLock(path)
    rounds = 0
    stopping, running = threading.Event(), threading.Event()

    def hold_again_and_again() -> None:
        nonlocal rounds
        while not stopping.is_set():
            with greedy.alone():
                rounds += 1
                running.set()
                stopping.wait(0.005)

    thread = threading.Thread(target=hold_again_and_again)
    thread.start()
    try:
        assert running.wait(PATIENCE_S)
        passed = []
        for _ in range(20):
            before = rounds
            with patient.alone():
                passed.append(rounds - before)
    finally:
        stopping.set()
        thread.join(PATIENCE_S)
        greedy.close()
        patient.close()
    assert max(passed) <= 3, passed


def test_a_turn_that_does_not_come_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.store.sqlite.WAIT_S", 0.1)
    holder, waiter = WriteLock(path), WriteLock(path)
    try:
        with holder.alone():
            for _ in range(2):  # the first failure must not leave the turn taken
                began = monotonic_s()
                with pytest.raises(sqlite3.OperationalError, match="locked by another process"), waiter.alone():
                    raise AssertionError("it is held")
                assert monotonic_s() - began >= 0.1
        with waiter.alone():
            pass
    finally:
        holder.close()
        waiter.close()


def test_the_log_is_moved_and_begins_anew(path: Path, store: Store) -> None:
    log = path.with_name(path.name + "-wal")

    def fill() -> None:
        for _ in range(8):
            store.insert(jobs(500))

    assert not store.tidy(), "there is nothing to move yet"
    fill()
    before = log.stat().st_size
    assert store.tidy()
    fill()
    assert log.stat().st_size < 1.5 * before, "the second half was written over the first"
    assert store.tidy()


def test_chunks_of_one_submission_are_stored_before_the_last_one(store: Store) -> None:
    first, last = jobs(2)
    store.insert([first], more_follow=True)
    assert store.get(first.id).id == first.id
    store.insert([last])
    assert set(store.get_many([first.id, last.id])) == {first.id, last.id}
