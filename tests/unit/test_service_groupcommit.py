"""Group commit: who commits, with whom, and what happens when it fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.dispatch.groupcommit import GroupCommit
from penstock.errors import InvalidInput, StoreUnavailable
from tests.fixtures.patience import PATIENCE_S


class Journal:
    """A commit that can be held, and remembers its groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.after: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.at_once = 0

    def commit(self, items: Sequence[int]) -> list[int | BaseException]:
        self.at_once += 1
        assert self.at_once == 1, "two commits at a time"
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        self.groups.append(list(items))
        self.at_once -= 1
        return [InvalidInput(f"no {item}") if item < 0 else item * 2 for item in items]

    def done(self, items: Sequence[int], answers: Sequence[int | BaseException]) -> None:
        self.after.append(list(items))


def waiting(group: GroupCommit[int, int], count: int) -> None:
    until = threading.Event()
    for _ in range(1000):
        if len(group._waiting) == count:
            return
        until.wait(0.01)
    raise AssertionError("the callers did not come")


def test_a_lone_caller_commits_at_once() -> None:
    journal = Journal()
    group = GroupCommit(journal.commit, journal.done)
    assert [group(1), group(2)] == [2, 4]
    assert journal.groups == journal.after == [[1], [2]]


def test_those_who_come_meanwhile_share_the_next_commit() -> None:
    journal = Journal()
    group = GroupCommit(journal.commit, journal.done)
    journal.gate.clear()
    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(group, 0)
        assert journal.entered.acquire(timeout=PATIENCE_S)
        others = [pool.submit(group, n) for n in range(1, 21)]
        waiting(group, 20)
        journal.gate.set()
        assert first.result(PATIENCE_S) == 0
        assert [f.result(PATIENCE_S) for f in others] == [2 * n for n in range(1, 21)]
    assert len(journal.groups) == 2
    assert sorted(journal.groups[1]) == list(range(1, 21))
    assert len(journal.after) == 2


def test_one_callers_fault_is_his_alone() -> None:
    journal = Journal()
    group = GroupCommit(journal.commit, journal.done)
    journal.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(group, 1)
        assert journal.entered.acquire(timeout=PATIENCE_S)
        bad, good = pool.submit(group, -1), pool.submit(group, 5)
        waiting(group, 2)
        journal.gate.set()
        assert first.result(PATIENCE_S) == 2
        assert good.result(PATIENCE_S) == 10
        with pytest.raises(InvalidInput, match="no -1"):
            bad.result(PATIENCE_S)


def test_a_commit_that_fails_fails_its_group_and_not_the_next() -> None:
    calls: list[list[int]] = []
    entered, gate = threading.Semaphore(0), threading.Event()

    def commit(items: Sequence[int]) -> list[int | BaseException]:
        calls.append(list(items))
        entered.release()
        assert gate.wait(PATIENCE_S)
        if len(calls) <= 2:
            raise StoreUnavailable("away", fix="start it")
        return list(items)

    group: GroupCommit[int, int] = GroupCommit(commit, lambda items, answers: None)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(group, 0)]
        assert entered.acquire(timeout=PATIENCE_S)
        futures += [pool.submit(group, n) for n in (1, 2, 3)]
        waiting(group, 3)
        gate.set()
        errors = [future.exception(10) for future in futures]
    assert all(isinstance(error, StoreUnavailable) and error.fix == "start it" for error in errors)
    # Threads that share an exception object write into each other's traceback.
    assert len({id(error) for error in errors}) == 4
    assert group(7) == 7


def test_groups_are_bounded() -> None:
    journal = Journal()
    group = GroupCommit(journal.commit, journal.done, limit=4)
    journal.gate.clear()
    with ThreadPoolExecutor(11) as pool:
        futures = [pool.submit(group, 0)]
        assert journal.entered.acquire(timeout=PATIENCE_S)
        futures += [pool.submit(group, n) for n in range(1, 11)]
        waiting(group, 10)
        journal.gate.set()
        assert sorted(f.result(PATIENCE_S) for f in futures) == [2 * n for n in range(11)]
    assert [len(g) for g in journal.groups] == [1, 4, 4, 2]


def test_a_leader_that_is_interrupted_leaves_nobody_hanging() -> None:
    entered, gate = threading.Semaphore(0), threading.Event()
    calls: list[int] = []

    def commit(items: Sequence[int]) -> list[int | BaseException]:
        calls.append(len(items))
        entered.release()
        assert gate.wait(PATIENCE_S)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return list(items)

    group: GroupCommit[int, int] = GroupCommit(commit, lambda items, answers: None)
    outcomes: list[object] = []

    def call(item: int) -> None:
        try:
            outcomes.append(group(item))
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=call, args=(0,))]
    threads[0].start()
    assert entered.acquire(timeout=PATIENCE_S)
    threads += [threading.Thread(target=call, args=(n,)) for n in (1, 2)]
    for thread in threads[1:]:
        thread.start()
    waiting(group, 2)
    gate.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert sum(isinstance(o, KeyboardInterrupt) for o in outcomes) == 1
    assert sum(isinstance(o, StoreUnavailable) for o in outcomes) == 1
    assert group(5) == 5
