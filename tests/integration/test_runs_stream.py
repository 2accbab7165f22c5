"""Partial output of steps, in the stream of their run: by real step-wise workers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import AsyncClient, Client, InvalidInput, JobNotFound, JobState
from penstock.client import JobEvent
from penstock.client.handle import JobHandle
from penstock.settings import Settings
from penstock.transport.progress import ProgressLog
from penstock_cli.main import run
from penstock_cli.runscreen import Screen
from tests.fixtures.models import echo, gated
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
def plainly(gate: str) -> Any:
    """Of models that answer once."""
    return echo(gated(gate))


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


class Watching:
    """``penstock job watch`` of a run, with a terminal or without."""

    def __init__(self, settings: Settings, *words: str, terminal: bool = False) -> None:
        self.text = ""
        reader, writer = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock_cli", "job", "watch", *words],
            env=clean_environ() | settings.environ() | {"TERM": "xterm", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        self._reader = os.fdopen(reader, "rb", buffering=0)

    def read(self, until: str = "") -> str:
        """All that it prints, or as far as these words, which it has to print."""
        with contextlib.suppress(OSError):  # of a terminal whose other side is closed
            while (not until or until not in self.text) and (piece := self._reader.read(65536)):
                self.text += piece.decode()
        assert until in self.text, self.text
        return self.text

    def close(self) -> int:
        self._reader.close()
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait(PATIENCE_S)


LONG = "abcdefghij" * 4


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_shows_the_end_of_what_steps_give(
    sdk: Client, settings: Settings, worker_factory: WorkerFactory, terminal: bool
) -> None:
    """Of a step, and of one element of a map, as it grows; with what a terminal would obey as escapes."""
    title = ask("\x1b]0;evil\x07\n" + LONG, 0.05)
    job = sdk.enqueue(report, {"title": title, "chapters": [ask("one" * 20, 0.05), ask("two" * 20, 0.05)]})
    watching = Watching(settings, job.id, terminal=terminal)
    try:
        watching.read(until="speller")
        worker_factory()
        watching.read(until=r"speller  \x1b")
        watching.read(until="speller-2[")
        text = watching.read()
        assert watching.process.wait(PATIENCE_S) == 0, text
    finally:
        watching.close()
    assert "\x1b]0;" not in text and "\x07" not in text
    if terminal:
        assert LONG[:39] in text or "jabcdefghij" in text, "it grew"
        assert f"{job.id}  running" in text


def test_watch_json_has_a_line_for_what_each_step_gives(
    sdk: Client, settings: Settings, worker_factory: WorkerFactory
) -> None:
    job = sdk.enqueue(report, {"title": ask(LONG, 0.03), "chapters": [ask("one"), ask("\x9btwo", 0.03)]})
    watching = Watching(settings, job.id, "--json")
    try:
        watching.read(until='"speller"')
        worker_factory()
        told = [line for line in watching.read().split("\n") if line.startswith("{")]
        assert watching.process.wait(PATIENCE_S) == 0
    finally:
        watching.close()
    *lines, run = map(json.loads, told)
    assert all(line.isprintable() for line in told), "what a step says may be anything, and is in the run's output, too"
    assert run["status"] == "succeeded" and {line["run"] for line in lines} == {job.id}
    partial = [line for line in lines if "partial" in line]
    last = {line["step"]: line for line in partial}
    assert {path: line["partial"] for path, line in last.items()} == {
        "speller": LONG, "speller-2[0]": "one", "speller-2[1]": "\x9btwo",
    }  # fmt: skip
    assert all(line["partial"] == LONG[: line["index"] + 1] for line in partial if line["step"] == "speller")
    assert len({line["index"] for line in partial if line["step"] == "speller"}) > 1, "it was told while it grew"


@pytest.mark.parametrize("streams", [False, True])
def test_where_no_step_streams_nothing_is_listened_for(
    settings: Settings,
    sdk: Client,
    worker_factory: WorkerFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    streams: bool,
) -> None:
    """Not one command more at the broker, and not one statement more, although there are models that would."""
    worker_factory()
    gate = tmp_path / "gate"
    job = sdk.enqueue(twice, {"first": ask("one", 0.3)}) if streams else sdk.enqueue(plainly, {"gate": str(gate)})
    looks: set[str] = set()
    read, stream, show = ProgressLog.read, JobHandle.stream, Screen.show

    def shown(screen: Screen, job: Any, views: Any, **more: Any) -> bool:
        if any(view.status == "running" for view in views):
            gate.touch()
        return show(screen, job, views, **more)

    monkeypatch.setattr(Screen, "show", shown)
    monkeypatch.setattr(ProgressLog, "read", lambda *args: looks.add("read") or read(*args))
    monkeypatch.setattr(JobHandle, "stream", lambda *args, **options: looks.add("stream") or stream(*args, **options))
    for name, value in settings.environ().items():
        monkeypatch.setenv(name, value)
    assert run(["job", "watch", job.id]) == int(streams), "the one that streams fails, as it is told to"
    assert looks == ({"read", "stream"} if streams else set())
