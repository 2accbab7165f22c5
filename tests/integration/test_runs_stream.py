"""Partial output of steps, in the stream of their run: by real step-wise workers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import AsyncClient, Client, InvalidInput, JobNotFound, JobState
from penstock.client import JobEvent
from penstock.settings import Settings
from tests.fixtures.models import echo
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer
from tests.fixtures.stepmodels import Speller, plan
from tests.fixtures.worker import MODELS, Worker, clean_environ

STEPS = str(Path(__file__).parents[1] / "fixtures" / "stepmodels.py")
WorkerFactory = Callable[..., Worker]


@penstock.pipeline
def report(title: dict[str, Any], chapters: list[dict[str, Any]]) -> Any:
    """Two ways that spell at the same time, and one behind them."""
    first, all_chapters = Speller(title), Speller.map(chapters)
    return echo({"title": first["text"], "chapters": all_chapters})


@penstock.pipeline
def planned(asks: list[dict[str, Any]]) -> Any:
    """A step that answers with steps."""
    return plan(asks)


@penstock.pipeline
def twice(first: dict[str, Any]) -> Any:
    """One behind the other, which fails in the middle."""
    return Speller({"text": Speller(first)["text"], "at": 2, "what": "fail"})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"models": [MODELS, STEPS]})


def ask(text: str, step_s: float = 0.0, **trouble: Any) -> dict[str, Any]:
    return {"text": text, "step_s": step_s, **trouble}


def texts(events: Sequence[JobEvent]) -> dict[str, str]:
    """What each step has spelt in the end; fails where a piece is missing, told twice or out of order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.kind == "progress":
            assert "missed" not in event.data
            if event.data["index"] == 0:
                found[event.data["step"]] = []
            found[event.data["step"]].append(event.data)
    for pieces in found.values():
        assert [piece["index"] for piece in pieces] == list(range(len(pieces)))
        assert len({(piece["job"], piece["attempt"]) for piece in pieces}) == 1
    return {path: "".join(piece["progress"] for piece in pieces) for path, pieces in sorted(found.items())}


GIVEN = {"title": ask("title"), "chapters": [ask("one"), ask("two"), ask("three")]}
TOLD = {"speller": "title", "speller-2[0]": "one", "speller-2[1]": "two", "speller-2[2]": "three"}


def test_a_run_tells_what_its_steps_tell(sdk: Client, settings: Settings, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job = sdk.enqueue(report, GIVEN)
    events = list(job.stream())
    assert texts(events) == TOLD
    states = [event.state for event in events if event.kind == "state"]
    assert states == [JobState.ACCEPTED, JobState.RUNNING, JobState.SUCCEEDED]
    assert events[-1].kind == "state" and events[-1].data["output"]["title"] == "title"
    # Resumed anywhere, also when it has ended: the rest, no more and no less.
    for place, event in enumerate(events):
        rest = list(sdk.get(job.id).stream(after=event.cursor))
        assert [e.cursor for e in rest] == [e.cursor for e in events[place + 1 :]]
    # One step alone, or one element; and what the step's own stream has.
    assert texts(list(job.stream(step="speller"))) == {"speller": "title"}
    assert texts(list(job.stream(step="speller-2"))) == {path: text for path, text in TOLD.items() if "[" in path}
    one = list(job.stream(step="speller-2[1]"))
    assert texts(one) == {"speller-2[1]": "two"} and one[-1].state is JobState.SUCCEEDED
    own = next(e for e in one if e.kind == "progress").data["job"]
    pieces = [e.data for e in sdk.get(own).stream() if e.kind == "progress"]
    assert [(piece["progress"], piece["index"]) for piece in pieces] == [("t", 0), ("w", 1), ("o", 2)]
    assert not any("step" in piece for piece in pieces)

    with pytest.raises(InvalidInput, match="no step 'spelller'") as wrong:
        list(job.stream(step="spelller"))
    assert wrong.value.fix == "did you mean 'speller'?"
    with pytest.raises(JobNotFound, match="no run"):
        list(sdk.get(own).stream(step="speller"))

    async def follow() -> list[JobEvent]:
        async with AsyncClient(settings) as client:
            handle = await client.get(job.id)
            return [event async for event in handle.stream(step="speller-2[2]")]

    assert texts(asyncio.run(asyncio.wait_for(follow(), PATIENCE_S))) == {"speller-2[2]": "three"}


def test_it_is_live_and_steps_of_several_workers_come_together(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory("one")
    worker_factory("two")
    chapters = [ask("abcdefgh" * 3, 0.02) for _ in range(12)]  # three groups of four
    job = sdk.enqueue(report, {"title": ask("title"), "chapters": chapters})
    events: list[JobEvent] = []
    for event in job.stream():
        if event.kind == "progress" and not any(e.kind == "progress" for e in events):
            assert job.refresh().state is JobState.RUNNING, "the first piece came while it ran"
        events.append(event)
    assert texts(events) == {"speller": "title"} | {f"speller-2[{n}]": "abcdefgh" * 3 for n in range(12)}
    paths = [event.data["step"] for event in events if event.kind == "progress"]
    assert sum(one != other for one, other in pairwise(paths)) > 12, "nobody's pieces waited for another's end"


def test_what_a_step_answers_with_is_told_of_in_the_outermost_run(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job = sdk.enqueue(planned, {"asks": [ask("one"), ask("two")]})
    events = list(job.stream(step="plan"))
    assert texts(events) == {"plan/speller[0]": "one", "plan/speller[1]": "two"}
    assert texts(list(job.stream(step="plan/speller[1]"))) == {"plan/speller[1]": "two"}


def test_a_killed_worker_costs_the_progress_of_its_step_only(
    sdk: Client, worker_factory: WorkerFactory, dispatcher: Any
) -> None:
    worker = worker_factory()
    long = "abcdefghij" * 4
    job = sdk.enqueue(report, {"title": ask("t"), "chapters": [ask(long, 0.05)]})
    events: list[JobEvent] = []
    for event in job.stream():
        events.append(event)
        here = [event.data.get(name) for name in ("step", "attempt", "index")]
        if here == ["speller-2[0]", 1, 5]:
            worker.kill()
            worker_factory()
    assert texts(events) == {"speller": "t", "speller-2[0]": long}
    told = [
        (e.data["attempt"], e.data["index"]) for e in events if e.kind == "progress" and e.data["step"] != "speller"
    ]
    assert told == sorted(told) and {attempt for attempt, _ in told} == {1, 2}, "the second attempt after the first"


def test_a_run_that_is_tried_again_tells_what_is_done_again(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job = sdk.enqueue(twice, {"first": ask("good")})
    job.wait(PATIENCE_S)
    assert job.status == "failed"
    first = list(job.stream())
    assert texts(first) == {"speller": "good", "speller-2": "go"}
    job.retry()
    rest = list(job.stream(after=first[-1].cursor))
    assert texts(rest) == {"speller-2": "go"}, "what has succeeded is not done again"
    assert [e.data["attempt"] for e in rest if e.kind == "state"] == [2, 2]
    assert {e.data["job"] for e in rest if e.kind == "progress"}.isdisjoint(
        e.data["job"] for e in first if e.kind == "progress"
    )
    whole = list(job.stream())
    assert texts(whole) == {"speller": "good", "speller-2": "go"}


def test_a_lost_broker_costs_partial_output_only(
    sdk: Client, redis_server: RedisServer, worker_factory: WorkerFactory, dispatcher: Any
) -> None:
    """A reader that was there all along goes on with what is told since, and hears what it has missed."""
    worker_factory()
    job = sdk.enqueue(report, {"title": ask("a" * 60, 0.05), "chapters": []})
    seen: list[JobEvent] = []
    for event in job.stream():
        seen.append(event)
        if len([e for e in seen if e.kind == "progress"]) == 5:
            redis_server.flushall()
    pieces = [e.data for e in seen if e.kind == "progress"]
    assert pieces[-1]["index"] == 59 and seen[-1].state is JobState.SUCCEEDED
    assert len(pieces) + sum(piece.get("missed", 0) for piece in pieces) == 60


def test_the_command_line_says_which_step_is_heard(
    sdk: Client, settings: Settings, worker_factory: WorkerFactory
) -> None:
    worker_factory()
    job = sdk.enqueue(report, GIVEN)
    job.result(PATIENCE_S)

    def penstock(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "penstock_cli", *words]
        env = clean_environ() | settings.environ()
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S)

    done = penstock("job", "stream", job.id, "--step", "speller-2[1]")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["data"].get("progress", event["state"]) for event in events] == [
        "accepted", "running", "t", "w", "o", "succeeded",
    ]  # fmt: skip
    done = penstock("job", "stream", job.id, "--step", "spell")
    assert done.returncode != 0 and "no step 'spell'" in done.stderr and "speller" in done.stderr
