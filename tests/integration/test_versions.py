"""Two versions of a model beside each other, each in a real worker: who answers what, and what is said of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from penstock import Client, IdempotencyConflict, JobFailed
from penstock.app import make_celery
from penstock.dispatch.daemon import Dispatcher
from penstock.errors import BrokerUnavailable
from penstock.job import JobState
from penstock.pipelines.graph import Graph, Step
from penstock.settings import RunSettings, Settings
from penstock.store import Store
from penstock.transport.url import connect
from penstock_cli import stranded
from penstock_cli.main import run
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer
from tests.fixtures.versioned import write
from tests.fixtures.worker import Worker, clean_environ, wait_for


def ended(settings: Settings, *args: str) -> tuple[int, str, str]:
    """A command's exit status, and what it prints on both streams."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {**clean_environ(), **settings.environ()}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = run(list(args))
    return status, out.getvalue(), err.getvalue()


def said(settings: Settings, *args: str) -> tuple[str, str]:
    """What a command prints, on both streams."""
    return ended(settings, *args)[1:]


def each(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def rows(settings: Settings, *args: str) -> list[dict[str, Any]]:
    status, out, err = ended(settings, *args, "--json")
    assert status == 0, f"{args} ended with {status}:\n{out}\n{err}"
    return each(out)


def test_two_versions_beside_each_other(
    settings: Settings, worker_factory: Callable[..., Worker], tmp_path: Path, dispatcher: Any
) -> None:
    one, two = (settings.model_copy(update={"models": [write(tmp_path, version)]}) for version in "12")
    none = settings.model_copy(update={"models": []})
    worker_factory("old", settings=one)
    with Client(settings=none) as client:
        before = client.enqueue("which", 1, idempotency_key="k")
        assert before.result(PATIENCE_S) == "1"

        # A version waits for its workers, whatever becomes of the broker meanwhile; the others do not take its jobs.
        early = [client.enqueue("which@2", 1), client.enqueue("which@2", 1, delay=0.5)]
        assert client.run("which", 1, result_timeout=PATIENCE_S) == "1"
        wait_for(lambda: client.get(early[1].id).status == JobState.QUEUED, what="the dispatcher to publish it")
        with connect(settings.broker) as broker:
            broker.flushall()
        worker_factory("new", settings=two)
        assert [job.result(PATIENCE_S) for job in early] == ["2", "2"]

        # Whoever is free answers, and the row says who it was.
        jobs = client.enqueue_many("which", range(200))
        assert [job.result(PATIENCE_S) for job in jobs] == [client.get(job.id).job.version for job in jobs]
        assert {client.get(job.id).job.asked_version for job in jobs} == {None}

        # Only the version that was asked for, in both lanes and from Celery.
        for version in "12":
            for lane in ("interactive", "background"):
                pinned = client.enqueue_many(f"which@{version}", range(20), lane=lane)
                assert {job.result(PATIENCE_S) for job in pinned} == {version}
                row = client.get(pinned[0].id).job
                assert (row.model, row.version, row.asked_version) == ("which", version, version)
            celery = make_celery(none)
            task, queue = f"{settings.namespace}.which", f"{settings.namespace}.which@{version}.interactive"
            sent = [celery.send_task(task, args=(n,), queue=queue) for n in range(5)]
            assert {result.get(timeout=PATIENCE_S) for result in sent} == {version}
            assert client.get(sent[0].id).job.asked_version == version

        # A repeated call after the deployment is the same call; another version is another one.
        assert client.enqueue("which", 1, idempotency_key="k").id == before.id
        with pytest.raises(IdempotencyConflict):
            client.enqueue("which@1", 1, idempotency_key="k")

        # A version that nobody serves waits, and everything says so.
        waiting = client.enqueue("which@3", 1)
        stats = {(row["model"], row["lane"]): row for row in rows(none, "queue", "stats")}
        workers = {name: row["workers"] for (name, lane), row in stats.items() if lane == "interactive"}
        assert workers == {"which": 2, "which@3": 0}
        assert stats["which@3", "interactive"]["ready"] == 1
        assert "no worker serves 'which@3'" in said(none, "job", "get", waiting.id)[1]
        listed, warned = said(none, "model", "list", "--json")
        served = {row["version"]: [name.split("@")[0] for name in row["workers"]] for row in each(listed)}
        assert served == {"1": ["old"], "2": ["new"]}
        assert "without a version run on any of 1 (old" in warned
        doctor = said(none, "doctor")[0]
        assert "1 open job asks for which@3" in doctor and "without a version run on any of" in doctor
        assert "fix: start a worker that serves 'which@3'" in doctor

        # Once nobody wants its answer, nothing but the message is left.
        waiting.cancel()
        assert "fix: no open job is left of it: `penstock queue purge which@3`" in said(none, "doctor")[0]
        assert said(none, "queue", "purge", "which@3", "--yes")[0].strip() == "0"
        assert "which@3" not in said(none, "doctor")[0]
        waiting = client.enqueue("which@3", 1)
        assert said(none, "queue", "purge", "which@3", "--yes")[0].strip() == "1"
        assert client.get(waiting.id).status == JobState.CANCELLED


def test_a_run_goes_on_with_its_version_and_says_when_that_is_gone(
    settings: Settings, worker_factory: Callable[..., Worker], tmp_path: Path
) -> None:
    one, two = (settings.model_copy(update={"models": [write(tmp_path, version)]}) for version in "12")
    impatient = settings.model_copy(update={"models": [], "run": RunSettings(unserved_wait_s=2.0)})
    steps = [
        Step(name="first", model="which", input=1),
        Step(name="go", kind="wait", signal="go", input={"$out": "first"}),
        Step(name="second", model="which", input={"$item": 0}, over=[{"$out": "go"}], maps=True),
    ]
    graph = Graph(name="slow", inputs=[], steps=steps, output=[{"$out": "first"}, {"$out": "second"}])
    old = worker_factory("old", settings=one)
    service, store = Dispatcher(impatient), Store.open(settings.database)
    with contextlib.closing(store), Client(settings=impatient) as client:
        kept, lost = client.enqueue(graph, {}), client.enqueue(graph, {})
        for job in (kept, lost):
            wait_for(lambda job=job: "go" in store.run_standing(job.id).steps, what="the wait")
        client.signal(kept, "go", 1)
        assert kept.result(PATIENCE_S) == ["1", ["1"]]
        assert old.stop() == 0
        worker_factory("new", settings=two)
        quick = Graph(name="quick", inputs=[], steps=steps[:1], output={"$out": "first"})
        assert client.run(quick, {}, result_timeout=PATIENCE_S) == "2"
        client.signal(lost, "go", 1)
        assert "no worker serves 'which@1'" in said(impatient, "job", "get", lost.id)[1]
        service.start()
        try:
            with pytest.raises(JobFailed) as raised:
                lost.result(PATIENCE_S)
            assert raised.value.error["code"] == "not_served" and "'which@1'" in raised.value.error["message"]
            lost.retry()
            assert lost.result(PATIENCE_S) == ["1", ["2"]], "what had succeeded was not done again"
        finally:
            service.stop()


def test_a_command_in_a_long_lived_process_outlives_its_broker(settings: Settings, redis_server: RedisServer) -> None:
    """What asks Celery's workers keeps no connection from one time to the next."""
    with Client(settings=settings) as client:
        client.enqueue("echo", "a")
        assert rows(settings, "queue", "stats")
        redis_server.stop()
        redis_server.start()
        assert {row["ready"] for row in rows(settings, "queue", "stats", "--model", "echo")} == {0, 1}
        assert rows(settings, "queue", "stats")


def test_a_broker_that_goes_away_while_workers_are_asked_is_told_as_such(settings: Settings) -> None:
    gone = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        stranded._consumed(SimpleNamespace(settings=gone))  # type: ignore[arg-type]


def test_a_worker_that_is_called_as_another_one_says_so_and_none_is_missed(
    settings: Settings, worker_factory: Callable[..., Worker], tmp_path: Path
) -> None:
    """Of two that have one name, Celery's remote control hears one."""
    busy = {"gated": str(tmp_path / "never"), "nap": 30.0}
    with Client(settings=settings) as client:
        for model, value in busy.items():
            client.enqueue_many(model, [value] * 200, lane="background")
    first = worker_factory("same", args=("--model", "gated"))
    second = worker_factory("same", args=("--model", "nap"), ready=False)
    wait_for(lambda: len(second.registrations()) == 2, what="the second one to register")
    wait_for(lambda: "worker.name_taken" in second.output(), what="it to say so")
    assert f'"pid": {first.pid}' in second.output() and "worker.name_taken" not in first.output()
    with contextlib.closing(Store.open(settings.database)) as store:
        app: Any = SimpleNamespace(settings=settings, store=store)
        started = lambda: {job.model for job in store.list(status="running", limit=400)}  # noqa: E731
        wait_for(lambda: started() == set(busy), what="both to be at it")
        assert stranded.unserved(app) == {}
