"""Who is abandoned, and who of them is tried after all: tables, without a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from penstock.model import Batching
from penstock.policy.hopeless import HOPELESS_BATCHES, INFINITY, STALE_S, TRIED_S, Hopeless, abandoned, full_cost
from penstock.policy.latency import LatencyBook

NEVER = INFINITY


@dataclass(eq=False)
class Job:
    ends_at: float = NEVER
    model: str = "m"
    key: str = ""
    cost: float = 1.0


def book(*models: str) -> LatencyBook:
    """8 ms, and 0.25 ms per item."""
    found = LatencyBook()
    for model in models:
        for size in (1, 2, 4, 8, 16, 32, 64) * 20:
            found.observe(model, size, 8e-3 + 0.25e-3 * size)
    return found


def hopeless(**limits: int) -> Hopeless[Job]:
    """Of models of which a batch has just told how long it took, at 10.0."""
    found = Hopeless[Job]({name: Batching(max_size=size) for name, size in limits.items()}, book(*limits))
    for name in limits:
        found.observed(name, 10.0)
    return found


def choose(of: Hopeless[Job], *jobs: Job, **more: Any) -> list[Job]:
    case = {"now": 10.0, "starts_in_s": 0.0, "after_s": 0.0, "free": False, "mates": lambda model, key: (0.0, 0.0)}
    return of.choose(jobs, **(case | more))


@pytest.mark.parametrize(
    ("deadlines_s", "situation", "gone"),
    [
        pytest.param([NEVER] * 64, {}, [], id="no deadlines"),
        pytest.param([0.1] * 20, {}, [], id="all in time"),
        pytest.param([0.1, 0.012, 0.1], {}, [], id="three take 8.75 ms"),
        pytest.param([0.1, 0.012, 0.1], {"starts_at": 10.01}, [1], id="behind a batch of 10 ms they do not"),
        pytest.param([0.1, 0.012, 0.1], {"mates": 20.0}, [1], id="nor with 20 that wait"),
        pytest.param([0.012] * 20, {}, list(range(5)), id="each that gives way makes the batch shorter for the others"),
        pytest.param([0.1, 0.002, NEVER], {}, [1], id="by itself too late"),
        pytest.param([0.002], {"starts_at": 10.01}, [0], id="alone behind a batch"),
        pytest.param([0.002], {"try_one": True}, [], id="a free device tries the last one"),
        pytest.param([0.002], {"try_one": True, "mates": 1.0}, [0], id="not beside one that is there"),
        pytest.param([0.002, 0.003], {"try_one": True}, [0], id="the last one"),
        pytest.param([0.03] * 64, {}, [], id="a full batch takes 24 ms"),
        pytest.param(
            [0.03] * 64, {"after_s": 0.01}, list(range(26)), id="room is for who will be in time at the client"
        ),
        pytest.param([0.03] * 63, {"after_s": 0.01}, [], id="nobody else wants it"),
        pytest.param([0.012] * 15, {"late": 40.0}, [], id="late ones wait"),
        pytest.param([0.023] * 34, {"late": 30.0}, list(range(14)), id="late ones fill the batch"),
    ],
)
def test_who_is_abandoned(deadlines_s: list[float], situation: dict[str, Any], gone: list[int]) -> None:
    items = [Job(ends_at=10.0 + seconds) for seconds in deadlines_s]
    case = {"starts_at": 10.0, "mates": 0.0, "late": 0.0, "most": 64.0, "after_s": 0.0, "try_one": False} | situation
    assert abandoned(items, book("m").line("m"), **case) == gone


def test_nobody_is_given_up_by_a_model_that_was_never_seen() -> None:
    case = {"starts_at": 10.0, "mates": 9.0, "late": 0.0, "most": 64.0, "after_s": 0.0, "try_one": False}
    assert abandoned([Job(ends_at=0.0)], LatencyBook().line("new"), **case) == []


@pytest.mark.parametrize(
    ("limit", "costs", "expected"),
    [
        (Batching(max_size=8), [], 8.0),
        (Batching(max_size=8), [1.0, 3.0], 16.0),
        (Batching(max_size=8, max_cost=10.0, cost=float), [1.0, 3.0], 10.0),
    ],
)
def test_what_a_full_batch_costs(limit: Batching, costs: list[float], expected: float) -> None:
    assert full_cost(limit, [Job(cost=cost) for cost in costs]) == expected


def test_every_key_is_judged_by_itself_and_the_limit_is_the_models() -> None:
    known = book("m")
    for key in "abc":
        known.observe("m", 1, 8e-3, key)
    of = Hopeless[Job]({"m": Batching(max_size=2)}, known)
    late = [Job(10.001, key=key) for key in "abc" for _ in range(3 * HOPELESS_BATCHES)]
    found = choose(of, *late, Job(10.1, key="d"))
    assert len(found) == 2 * HOPELESS_BATCHES == of.room("m")
    for job in found:
        of.add(job)
    assert of.room("m") == 0 and choose(of, Job(10.001, key="a")) == []


@pytest.mark.parametrize(
    ("situation", "given"),
    [
        ({}, True),
        ({"free": True}, False),
        ({"now": 10.0 + STALE_S}, True),
        ({"now": 10.1 + STALE_S}, False),
    ],
)
def test_the_last_one_is_tried_where_the_line_may_be_wrong(situation: dict[str, Any], given: bool) -> None:
    job = Job(situation.get("now", 10.0) + 0.001)
    assert choose(hopeless(m=4), job, **situation) == ([job] if given else [])


def test_a_free_device_tries_a_batch_of_those_who_can_be_in_time() -> None:
    of = hopeless(m=4, cold=4)
    jobs = [*(Job(10.001) for _ in range(3)), *(Job(10.5) for _ in range(6)), Job(10.5, "cold"), Job(9.9)]
    for job in jobs:
        of.add(job)
    assert of.revived(now=10.0, free_since=10.0, resident={"m"}) == jobs[3:7]
    assert of.revived(now=10.0, free_since=10.0, resident={"m"}) == jobs[7:9]
    assert of.revived(now=10.0, free_since=10.0, resident={"m"}) == [], "the others cannot be in time"
    assert of.revive_in_s(now=10.0, free_since=10.0, resident={"m"}) == pytest.approx(TRIED_S)
    assert of.revive_in_s(now=10.0, free_since=10.0, resident=set()) is None
    last = of.revived(now=10.0, free_since=10.0 - 1.01 * TRIED_S, resident={"m"})
    assert last == [jobs[2]], "after a while, one all the same"
    assert of.revived(now=10.0, free_since=10.0) == [jobs[9]], "all models are loaded"
    assert of.items == [jobs[0], jobs[1], jobs[10]]


def test_the_expired_leave_model_by_model_and_in_parts() -> None:
    of = hopeless(m=4, n=4)
    jobs = [Job(10.2), Job(10.1), Job(10.3, "n"), Job(11.0)]
    for job in jobs:
        of.add(job)
    assert of.ends_at == 10.1
    assert of.expired(10.05, most=9) == []
    assert of.expired(10.5, most=1) == [jobs[0]] and of.ends_at == 10.1
    assert of.expired(10.5, most=9) == [jobs[1]]
    assert of.expired(10.5, most=9) == [jobs[2]] and of.ends_at == 11.0
    assert of.pull(lambda job: job.model == "m") == [jobs[3]] and of.ends_at == INFINITY
