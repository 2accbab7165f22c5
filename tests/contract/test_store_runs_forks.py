"""Forks of long runs on each database: what they take over is copied in pieces, whoever dies in between."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from penstock.job import JobState
from penstock.store import Store
from penstock.store.engine import Database, Survives
from penstock.store.runs import fork as forks
from penstock.store.runs import start
from penstock.store.runs.fork import paths_of
from penstock.store.runs.tend import AT_IT_S
from penstock.store.session import Session
from tests.contract.test_store_runs import fork
from tests.fixtures.runs import begin, finish, graph, open_steps, out, step, steps, succeed
from tests.fixtures.store import T0

X = {"$in": "x"}
#: Rows of one piece, and elements of the map.
PIECE, SIZE = 50, 230
LONG = graph(
    step("a", X),
    step("m", {"$item": 0}, maps=True, over=X),
    step("z", [out("a"), out("m")]),
    output=out("z"),
)
GIVEN = {"x": list(range(SIZE))}


def tell(model: str, value: Any) -> Any:
    return 1 if model in "az" else value


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "bulk_rows", PIECE)


@pytest.fixture
def source(store: Store) -> str:
    """A run that has ended."""
    run = begin(store, LONG, GIVEN)
    assert finish(store, run, tell).output == 1
    return run


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Counter[Session]:
    """Rows that were stored, by transaction."""
    found: Counter[Session] = Counter()
    insert = Session.insert

    def counted(session: Session, spell: Any, rows: Any) -> None:
        found[session] += len(rows)
        insert(session, spell, rows)

    monkeypatch.setattr(Session, "insert", counted)
    return found


def abandoned(store: Store, source: str, monkeypatch: pytest.MonkeyPatch, *, pieces: int = 1) -> str:
    """A fork of which so many pieces were copied when its process died."""
    take_over, done = forks.take_over, Counter[str]()

    def dies(session: Session, each: forks.Fork, *, now: float) -> Any:
        if done[each.run] == pieces:
            raise KeyboardInterrupt
        done[each.run] += 1
        return take_over(session, each, now=now)

    with monkeypatch.context() as patch:
        patch.setattr(forks, "take_over", dies)
        with pytest.raises(KeyboardInterrupt):
            fork(store, source, GIVEN, from_step="z")
        [copy] = done
    return copy


def is_whole(store: Store, copy: str, source: str) -> None:
    """It has taken over everything but ``z``, which is its own."""
    old, new = steps(store, source), steps(store, copy)
    assert new.keys() == old.keys() and len(store.list(run=copy, limit=1000)) == SIZE + 2
    assert {path for path, job in new.items() if job.state is not JobState.SUCCEEDED} == {"z"}
    assert all(new[path].output == job.output for path, job in old.items() if path != "z")
    assert not {job.id for job in old.values()} & {job.id for job in new.values()}
    assert finish(store, copy, tell, now=T0 + 10).output == 1


def left(store: Store) -> int:
    with store._db.read() as session:
        return len(session.all("SELECT run_id FROM penstock_fork"))


@pytest.mark.parametrize(
    ("taken", "start", "most", "paths"),
    [
        ([], 0, 9, []),
        ([("a", None), ("b", None)], 0, 9, ["a", "b"]),
        ([("a", None), ("b", None)], 1, 9, ["b"]),
        ([("a", None), ("m", 3)], 0, 2, ["a", "m[0]"]),
        ([("a", None), ("m", 3), ("n", 2)], 2, 3, ["m[1]", "m[2]", "n[0]"]),
        ([("m", 0), ("n", 2)], 0, 9, ["n[0]", "n[1]"]),
        ([("m", 3), ("n", 2)], 4, 9, ["n[1]"]),
        ([("m", 3)], 3, 9, []),
    ],
)
def test_paths_by_their_place(taken: Any, start: int, most: int, paths: list[str]) -> None:
    assert paths_of(taken, start, most) == paths


def test_no_transaction_copies_many_rows(store: Store, source: str, stored: Counter[Session]) -> None:
    copy = fork(store, source, GIVEN, from_step="z")
    assert max(stored.values()) <= PIECE + 3 and len(stored) == 1 + SIZE // PIECE
    is_whole(store, copy, source)
    assert left(store) == 0


def test_no_transaction_copies_many_characters(
    store: Store, source: str, stored: Counter[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "MOST_CHARACTERS", 40)
    copy = fork(store, source, GIVEN, from_step="z")
    assert 1 < max(stored.values()) <= 20 and len(stored) > 10
    is_whole(store, copy, source)


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_a_process_that_died_has_not_copied_the_dispatcher_does(
    store: Store, source: str, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    copy = abandoned(store, source, monkeypatch, pieces=pieces)
    assert (store.get(copy).state, left(store)) == (JobState.ACCEPTED, 1)
    assert len(store.list(run=copy, limit=1000)) == pieces * PIECE
    store.tend_runs(now=T0 + AT_IT_S / 2, limit=9)
    assert store.take_due(now=T0 + 1, limit=9, lease_s=1.0) == [], "it is no message"
    assert (store.get(copy).state, left(store)) == (JobState.ACCEPTED, 1), "somebody may be at it"
    assert store.prune(before=T0 + 1e6, limit=1000) == 0, "what it is of is kept"
    store.tend_runs(now=T0 + 2 * AT_IT_S, limit=9)
    assert list(open_steps(store, copy)) == ["z"] and left(store) == 0
    is_whole(store, copy, source)


def test_a_fork_that_is_cancelled_early_is_whole_when_it_is_tried_again(
    store: Store, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = abandoned(store, source, monkeypatch)
    store.cancel(copy, now=T0 + 1)
    assert store.get(copy).state is JobState.CANCELLED
    store.retry(copy, now=T0 + 2)
    assert list(open_steps(store, copy)) == ["z"] and left(store) == 0
    is_whole(store, copy, source)


def test_a_fork_that_was_cancelled_early_does_not_begin(
    store: Store, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = abandoned(store, source, monkeypatch)
    store.cancel(copy, now=T0 + 1)
    store.tend_runs(now=T0 + 2 * AT_IT_S, limit=9)
    assert (store.get(copy).state, open_steps(store, copy), left(store)) == (JobState.CANCELLED, {}, 0)


def test_a_fork_whose_source_is_gone_says_so(store: Store, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = abandoned(store, source, monkeypatch, pieces=2)
    with store._db.write(Survives.CRASH) as session:
        session.run("DELETE FROM penstock_job WHERE run_id = :run", {"run": source})
    store.tend_runs(now=T0 + 2 * AT_IT_S, limit=9)
    job = store.get(copy)
    assert job.state is JobState.FAILED and job.error is not None and source in job.error["message"]
    assert left(store) == 0
    store.retry(copy, now=T0 + 10)
    assert finish(store, copy, tell, now=T0 + 10).output == 1, "it does by itself what it could not take over"


def test_two_that_go_on_with_a_fork_copy_each_step_once(
    store: Store, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher takes it for abandoned while whoever forked is only slow."""
    complete, copies = start.complete, []

    def slow(db: Database, run: str, *, now: float) -> Any:
        if not copies:
            copies.append(run)
            store.tend_runs(now=T0 + 2 * AT_IT_S, limit=9)
        return complete(db, run, now=now)

    monkeypatch.setattr(start, "complete", slow)
    copy = fork(store, source, GIVEN, from_step="z")
    assert copies == [copy]
    assert succeed(store, list(open_steps(store, copy).values()), tell, now=T0 + 10)
    assert store.get(copy).output == 1 and len(store.list(run=copy, limit=1000)) == SIZE + 2
