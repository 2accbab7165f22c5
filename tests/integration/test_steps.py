"""Step-wise models in real workers: streams, joining, preemption, and everything that ends a sequence early."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import AsyncClient, Client, JobState
from penstock.client import JobEvent, JobHandle
from penstock.errors import InvalidInput, JobCancelled, JobExpired, JobFailed
from penstock.processes.agreed import EXIT_WEDGED
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.url import connect
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import MODELS, Worker, clean_environ

STEPS = str(Path(__file__).parents[1] / "fixtures" / "stepmodels.py")
WorkerFactory = Callable[..., Worker]
#: A generation that outlasts every test that does not wait for its end: 20 s at least.
LONG = {"text": "x" * 900, "step_s": 0.025}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A deployment that serves step-wise models beside ordinary ones."""
    return settings.model_copy(update={"models": [MODELS, STEPS]})


def text_of(events: list[JobEvent], attempt: int = 1) -> str:
    """What an attempt has spelt; fails where a piece is missing or told twice."""
    pieces = [event.data for event in events if event.kind == "progress" and event.data["attempt"] == attempt]
    assert [piece["index"] for piece in pieces] == list(range(len(pieces)))
    assert not any("missed" in piece for piece in pieces)
    return "".join(piece["progress"] for piece in pieces)


def first(job: JobHandle, kind: str) -> JobEvent:
    """The first event of a kind."""
    return next(event for event in job.stream() if event.kind == kind)


def test_partial_output_streams_to_the_end(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job = sdk.enqueue("speller", {"text": "hello"})
    events = list(job.stream())
    assert text_of(events) == "hello"
    assert [event.state for event in events if event.kind == "state"][-2:] == [JobState.RUNNING, JobState.SUCCEEDED]
    assert events[-1].data["output"]["text"] == "hello"
    snapshot = job.refresh()
    assert (snapshot.attempt, snapshot.batch_reason, snapshot.batch_size) == (1, "begin", 1)
    assert snapshot.ledger.compute_s is not None
    # Resumed anywhere, before the end or after it: the rest, no more and no less.
    for place, event in enumerate(events):
        rest = list(sdk.get(job.id).stream(after=event.cursor))
        assert [e.cursor for e in rest] == [e.cursor for e in events[place + 1 :]]


def test_a_stream_is_live_and_an_async_one_too(sdk: Client, settings: Settings, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job = sdk.enqueue("speller", {"text": "abc" * 40, "step_s": 0.02})
    assert first(job, "progress").data["progress"] == "a"
    assert job.refresh().state is JobState.RUNNING, "the first piece came while it ran"

    async def follow() -> list[JobEvent]:
        async with AsyncClient(settings) as client:
            handle = await client.get(job.id)
            return [event async for event in handle.stream()]

    assert text_of(asyncio.run(asyncio.wait_for(follow(), 60))) == "abc" * 40


def test_the_command_line_prints_partial_output(sdk: Client, settings: Settings, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job = sdk.enqueue("speller", {"text": "hello"})
    job.result(PATIENCE_S)

    def stream(*options: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "penstock_cli", "job", "stream", job.id, *options],
            env=clean_environ() | settings.environ(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    pieces = [event for event in stream() if event["kind"] == "progress"]
    assert "".join(piece["data"]["progress"] for piece in pieces) == "hello"
    rest = stream("--after", pieces[2]["cursor"])
    assert [event["data"].get("progress", event["state"]) for event in rest] == ["l", "o", "succeeded"]

    # `run --stream` prints it while it comes; Ctrl-C cancels the job.
    command = [sys.executable, "-m", "penstock_cli", "run", "--stream", "speller"]
    env = clean_environ() | settings.environ()
    done = subprocess.run([*command, '{"text": "hello"}'], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    with subprocess.Popen([*command, json.dumps(LONG)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stdout.read(2) == b"xx", "long before its end"
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 130 and set(out.decode()) <= {"x", "\n"}
    job = sdk.get(err.decode().split()[1].removesuffix(":"))
    job.wait(PATIENCE_S)
    assert job.status == "cancelled"


def test_newcomers_join_at_a_step(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    long = sdk.enqueue("joiner", LONG)
    first(long, "progress")
    short = sdk.enqueue("joiner", {"text": "ab", "step_s": 0.02})
    assert short.result(PATIENCE_S)["mates"] == 2
    assert short.job.batch_reason == "join"
    assert long.refresh().state is JobState.RUNNING
    assert long.cancel() == "cancelling"


def test_without_join_groups_take_turns(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    long = sdk.enqueue("speller", LONG)
    first(long, "progress")
    short = sdk.enqueue("speller", {"text": "ab"})
    assert short.result(PATIENCE_S)["mates"] == 1
    assert long.refresh().state is JobState.RUNNING
    long.cancel()


def test_states_are_bounded_and_others_wait_at_the_broker(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    jobs = sdk.enqueue_many("speller", [{"text": "x" * 30, "step_s": 0.01}] * 30)
    results = [job.result(PATIENCE_S) for job in jobs]
    assert {result["text"] for result in results} == {"x" * 30}
    # As the model counts them: SQL still has as running what waits to be settled.
    assert 4 < max(result["alive"] for result in results) <= 2 * 4, "two groups of four; one more is kept free"


def test_interactive_work_goes_between_the_steps(sdk: Client, worker_factory: WorkerFactory) -> None:
    """A short batch of another model answers at once beside long generations; so does an interactive generation."""
    worker_factory()
    long = sdk.enqueue_many("speller", [LONG] * 4)
    first(long[0], "progress")
    for number in range(10):
        assert sdk.run("inc", number, result_timeout=PATIENCE_S) == number + 1
    assert sdk.run("speller", {"text": "quick"}, result_timeout=PATIENCE_S)["text"] == "quick"
    assert {job.refresh().state for job in long} == {JobState.RUNNING}, "eleven answers came before one of their ends"
    for job in long:
        job.cancel()


def test_background_work_shares_with_a_generation(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    long = sdk.enqueue_many("speller", [LONG])
    first(long[0], "progress")
    assert [job.result(PATIENCE_S) for job in sdk.enqueue_many("inc", range(40))] == list(range(1, 41))
    assert long[0].refresh().state is JobState.RUNNING
    long[0].cancel()


def test_a_running_generation_is_cancelled_at_a_step(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job, mate = sdk.enqueue_many("joiner", [LONG, {"text": "y" * 60, "step_s": 0.02}])
    first(job, "progress")
    assert job.cancel() == "cancelling"
    with pytest.raises(JobCancelled):
        job.result(PATIENCE_S)
    assert mate.result(PATIENCE_S)["text"] == "y" * 60
    events = list(job.stream())
    assert events[-1].state is JobState.CANCELLED
    assert 0 < len(text_of(events)) < 900


def test_a_job_that_was_abandoned_expires_in_a_worker_of_step_models(
    sdk: Client, worker_factory: WorkerFactory
) -> None:
    """Although nothing else comes for the device. No dispatcher runs that would do it."""
    worker_factory()
    for _ in range(2):
        sdk.enqueue("nap", 0.8).result(PATIENCE_S)
    first_one = sdk.enqueue("nap", 0.8)
    next(event for event in first_one.stream() if event.state is JobState.RUNNING)
    # Both begin when it ends, 0.8 s after its start, and would take until 1.6 s after it.
    left_s = (first_one.refresh().ledger.claimed_at or 0.0) + 1.2 - time.time()
    tight, mate = *sdk.enqueue_many("nap", [0.8], lane="interactive", deadline=left_s), sdk.enqueue("nap", 0.8)
    with pytest.raises(JobExpired):
        tight.result(PATIENCE_S)
    assert mate.result(PATIENCE_S) == 0.8
    assert tight.refresh().ledger.started_at is None


def test_a_deadline_passes_between_steps(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job = sdk.enqueue("speller", LONG, deadline=1.0)
    with pytest.raises(JobExpired):
        job.result(PATIENCE_S)


def test_a_timeout_ends_one_attempt_between_steps(sdk: Client, worker_factory: WorkerFactory) -> None:
    worker = worker_factory()
    job = sdk.enqueue("joiner", LONG, timeout=0.5)
    with pytest.raises(JobFailed, match=r"did not end within 0\.5 s"):
        job.result(PATIENCE_S)
    assert worker.popen.poll() is None, "the worker lives on"
    assert sdk.run("inc", 1, result_timeout=PATIENCE_S) == 2


def test_a_step_that_never_returns_fails_its_job_alone(
    sdk: Client, worker_factory: WorkerFactory, dispatcher: Any
) -> None:
    """The process ends; what else had begun goes back and runs elsewhere."""
    worker = worker_factory()
    parked = sdk.enqueue_many("joiner", [{"text": "z" * 300, "step_s": 0.01}])[0]
    first(parked, "progress")
    job = sdk.enqueue("speller", {"text": "ab", "at": 1, "what": "hang"}, timeout=1.0)
    with pytest.raises(JobFailed, match="did not return"):
        job.result(PATIENCE_S)
    assert worker.wait() == EXIT_WEDGED
    worker_factory()
    assert parked.result(PATIENCE_S)["text"] == "z" * 300
    assert parked.job.attempt == 2


@pytest.mark.parametrize("what", ["fail", "huge", "unwritable"])
def test_one_sequence_fails_alone(what: str, sdk: Client, worker_factory: WorkerFactory) -> None:
    worker_factory()
    good, bad = sdk.enqueue_many("joiner", [{"text": "good"}, {"text": "bad", "at": 2, "what": what}])
    assert good.result(PATIENCE_S)["text"] == "good"
    with pytest.raises(JobFailed, match={"fail": "will not", "huge": "limit", "unwritable": "progress holds"}[what]):
        bad.result(PATIENCE_S)
    assert good.refresh().attempt == 1


@pytest.mark.parametrize("model", ["speller", "joiner"])
def test_a_step_that_raises_for_all_is_split(model: str, sdk: Client, worker_factory: WorkerFactory) -> None:
    """The guilty one fails, the others begin again: as new attempts, so that nothing is told twice within one."""
    asks: list[dict[str, Any]] = [{"text": "good"}, {"text": "bad", "at": 2, "what": "raise"}, {"text": "also"}]
    jobs = sdk.enqueue_many(model, asks)  # before there is a worker, so that they begin together
    worker_factory()
    assert jobs[0].result(PATIENCE_S)["text"] == "good"
    assert jobs[2].result(PATIENCE_S)["text"] == "also"
    with pytest.raises(JobFailed, match="cannot spell bad"):
        jobs[1].result(PATIENCE_S)
    for job in jobs:
        job.refresh()
    assert jobs[0].job.attempt >= 2
    assert {job.job.failures for job in jobs} == {0}
    events = list(jobs[0].stream())
    assert text_of(events, jobs[0].job.attempt) == "good"
    assert text_of(events, 1) == "go"


def test_a_begin_that_raises_is_split(sdk: Client, worker_factory: WorkerFactory) -> None:
    jobs = sdk.enqueue_many("speller", [{"text": "good"}, {"text": "bad", "what": "begin"}, {"text": "also"}])
    worker_factory()
    assert [jobs[0].result(PATIENCE_S)["text"], jobs[2].result(PATIENCE_S)["text"]] == ["good", "also"]
    with pytest.raises(JobFailed, match="no beginning"):
        jobs[1].result(PATIENCE_S)
    assert {job.refresh().attempt for job in jobs} == {1}


def test_faulty_inputs_and_answers(sdk: Client, settings: Settings, worker_factory: WorkerFactory) -> None:
    worker_factory()
    with pytest.raises(JobFailed, match="which does not run"):
        sdk.run("stray", "x", result_timeout=PATIENCE_S)
    unaware = settings.model_copy(update={"models": []})
    with Client(unaware) as client, pytest.raises(InvalidInput, match="does not fit"):
        client.enqueue("speller", 5)
    assert sdk.run("speller", {"text": "ok"}, result_timeout=PATIENCE_S)["text"] == "ok"


def test_a_killed_worker_costs_the_progress_only(sdk: Client, worker_factory: WorkerFactory, dispatcher: Any) -> None:
    """A reader that was connected all along, and one that resumes, both learn of the new attempt."""
    worker = worker_factory()
    job = sdk.enqueue("speller", {"text": "abcdefghij" * 6, "step_s": 0.05})
    events: list[JobEvent] = []
    for event in job.stream():
        events.append(event)
        if len(events) == 12:
            worker.kill()
            worker_factory()
    cut = text_of(events, 1)
    assert 0 < len(cut) < 60
    assert ("abcdefghij" * 6).startswith(cut)
    assert text_of(events, 2) == "abcdefghij" * 6
    second = [e for e in events if e.kind == "state" and e.state is JobState.RUNNING and e.data["attempt"] == 2]
    began = events.index(second[0])
    assert all(e.data["attempt"] == 1 for e in events[:began] if e.kind == "progress")
    assert all(e.data["attempt"] == 2 for e in events[began:] if e.kind == "progress")
    middle = next(e for e in events if e.kind == "progress")
    rest = list(sdk.get(job.id).stream(after=middle.cursor))
    assert text_of(rest, 2) == "abcdefghij" * 6


def test_a_stop_lets_short_ones_finish_and_gives_long_ones_back(
    sdk: Client, settings: Settings, worker_factory: WorkerFactory, dispatcher: Any
) -> None:
    quick = settings.model_copy(update={"worker": settings.worker.model_copy(update={"drain_s": 4.0})})
    worker = worker_factory(settings=quick)
    long, short = sdk.enqueue_many("joiner", [{"text": "x" * 300, "step_s": 0.02}, {"text": "x" * 20, "step_s": 0.02}])
    first(long, "progress")
    first(short, "progress")
    assert worker.stop() == 0, worker.output()[-3000:]
    assert short.result(1)["text"] == "x" * 20
    assert long.refresh().state in (JobState.ACCEPTED, JobState.QUEUED)
    worker_factory()
    assert long.result(PATIENCE_S)["text"] == "x" * 300
    assert (long.job.attempt, long.job.failures, long.job.losses) == (2, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_stop_waits_for_what_can_finish(number: signal.Signals, sdk: Client, worker_factory: WorkerFactory) -> None:
    worker = worker_factory()
    job = sdk.enqueue("speller", {"text": "x" * 40, "step_s": 0.02})
    first(job, "progress")
    worker.signal(number)
    assert worker.wait() == 0
    assert job.result(1)["text"] == "x" * 40
    assert job.refresh().attempt == 1


def test_a_lost_broker_costs_partial_output_only(
    sdk: Client, worker_factory: WorkerFactory, redis_server: RedisServer
) -> None:
    """The stream goes on with changes of state, and the result is there."""
    worker_factory()
    job = sdk.enqueue("speller", {"text": "x" * 100, "step_s": 0.02})
    first(job, "progress")
    redis_server.kill()
    events = list(job.stream())
    assert events[-1].state is JobState.SUCCEEDED
    assert events[-1].data["output"]["text"] == "x" * 100


def test_what_is_not_kept_any_more_is_reported(sdk: Client, settings: Settings, worker_factory: WorkerFactory) -> None:
    worker_factory()
    job = sdk.enqueue("speller", {"text": "x" * 50})
    job.result(PATIENCE_S)
    with connect(settings.broker) as client:
        key = keys.progress(settings.namespace, job.id)
        assert 0 < client.ttl(key) <= settings.progress.ttl_s
        client.xtrim(key, maxlen=10, approximate=False)
    pieces = [event for event in job.stream() if event.kind == "progress"]
    assert [piece.data["index"] for piece in pieces] == list(range(40, 50))
    assert pieces[0].data["missed"] == 40
    assert not any("missed" in piece.data for piece in pieces[1:])
