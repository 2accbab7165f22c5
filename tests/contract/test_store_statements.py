"""How many statements the ways that every job and every step take are: each is a round trip on Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock.job import JobState
from penstock.store import Store
from penstock.store.session import Session
from tests.fixtures.runs import begin, graph, open_steps, out, step
from tests.fixtures.store import T0, W, claim, make_job, outcome

X = {"$in": "x"}
CHAIN = graph(step("a", [X]), step("b", [out("a")]), output=out("b"))
JOIN = graph(step("a", [X]), step("b", [X]), step("c", [out("a"), out("b")]), output=out("c"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The first word of each statement that is made; without the beginnings and ends of transactions."""
    found: list[str] = []
    for verb in ("all", "run", "insert"):
        real: Callable[..., Any] = getattr(Session, verb)

        def noted(self: Session, text: Any, *values: Any, real: Callable[..., Any] = real) -> Any:
            if isinstance(text, str):
                found.append(text.split()[0])
            elif values[0]:
                found.append("INSERT")
            return real(self, text, *values)

        monkeypatch.setattr(Session, verb, noted)
    yield found


def told(made: list[str]) -> list[str]:
    """What was made since the last question."""
    found = list(made)
    made.clear()
    return found


def end(store: Store, id: str, **fields: Any) -> None:
    """As a worker of ours: it says whether a job is a step."""
    [row] = store.settle([outcome(id, step=True, **fields)], worker=W, now=T0 + 2)[:1]
    assert row.state is JobState.SUCCEEDED


def test_each_move_of_a_plain_job_is_one(store: Store, made: list[str]) -> None:
    job = make_job()
    store.insert([job])
    assert told(made) == ["INSERT"]
    store.claim([job.id], worker=W, now=T0 + 1)
    assert told(made) == ["UPDATE"]
    store.settle([outcome(job.id)], worker=W, now=T0 + 2)
    assert told(made) == ["UPDATE"]


def test_an_edge_is_three_and_a_claim(store: Store, made: list[str]) -> None:
    run = begin(store, CHAIN)
    first = open_steps(store, run)["a"]
    claim(store, [first])
    made.clear()
    end(store, first)
    assert told(made) == ["UPDATE", "SELECT", "INSERT"], "the step ends, its run is held, the next one begins"
    last = open_steps(store, run)["b"]
    made.clear()
    claim(store, [last], now=T0 + 2)
    assert told(made) == ["UPDATE"]
    end(store, last)
    assert told(made) == ["UPDATE", "SELECT", "UPDATE"], "the step ends, its run is held, and ends"
    assert store.get(run).output == [1.5]


def test_a_join_asks_for_its_other_parents(store: Store, made: list[str]) -> None:
    run = begin(store, JOIN)
    ids = open_steps(store, run)
    claim(store, list(ids.values()))
    made.clear()
    end(store, ids["a"])
    assert told(made) == ["UPDATE", "SELECT", "SELECT"]
    end(store, ids["b"])
    assert told(made) == ["UPDATE", "SELECT", "SELECT", "INSERT"]
