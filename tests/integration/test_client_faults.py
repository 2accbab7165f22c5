"""What a user meets when something is down, missing or forked: clear errors in bounded time, nothing lost."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import Client, JobState
from penstock.errors import BrokerUnavailable, SchemaOutdated, StoreUnavailable
from penstock.settings import Settings
from penstock.store import Store
from tests.fixtures.client import MODELS, MiniWorker, until
from tests.fixtures.forked import fork
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.ports import closed_port
from tests.fixtures.redis import RedisServer
from tests.fixtures.stopwatch import Stopwatch


def elsewhere(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update=changes)


def test_what_a_slow_broker_kept_a_client_from_publishing_ends_all_the_same(
    client: Client, running: MiniWorker, redis_server: RedisServer
) -> None:
    """A broker that takes longer than a second over it: the job is the relay's, and its client is told by push."""
    assert client.run("echo", 0, result_timeout=PATIENCE_S) == 0
    pid = redis_server.broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        job = client.enqueue("echo", "late")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert job.result(PATIENCE_S) == "late"


@pytest.fixture
def refusing() -> Iterator[int]:
    """A port that refuses connections."""
    with closed_port() as port:
        yield port


def test_with_the_broker_down_jobs_are_accepted(client_settings: Settings, tmp_path: Path, refusing: int) -> None:
    for url in (f"redis+socket://{tmp_path}/nobody.sock", f"redis://127.0.0.1:{refusing}/0"):
        with Client(elsewhere(client_settings, broker_url=url), models=MODELS) as client:
            watch = Stopwatch()
            jobs = [client.enqueue("echo", n) for n in range(20)] + client.enqueue_many("echo", range(100))
            assert watch.took_s < 5
            assert {client.get(job.id).job.state for job in jobs} == {JobState.ACCEPTED}
            with pytest.raises(BrokerUnavailable) as caught:
                client.check()
            assert caught.value.fix
            with pytest.raises(TimeoutError):
                jobs[0].result(0.1)


def test_a_broker_that_does_not_answer_does_not_hold_producers_up(client_settings: Settings) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(16)
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        with Client(elsewhere(client_settings, broker_url=url), models=MODELS) as client:
            watch = Stopwatch()
            for n in range(50):
                client.enqueue("echo", n)
            # One attempt takes its timeout, and a second one for redis-py's own repetition; then nobody tries. The
            # rest is for fifty commits: fifty attempts would take more than a minute.
            assert watch.took_s < 15


def test_publishing_goes_on_when_the_broker_is_back(
    client_settings: Settings, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.dispatch import fastpath

    monkeypatch.setattr(fastpath, "PAUSE_S", 0.05)
    monkeypatch.setattr(fastpath, "PAUSE_FACTOR", 0.0)
    with Client(client_settings, models=MODELS) as client:
        client.enqueue("echo", 0)
        redis_server.stop()
        lost = client.enqueue("echo", 1)
        redis_server.start()

        def submit() -> bool:
            job = client.enqueue("echo", 2)
            client._runtime().submitter.close()
            return job.refresh().state is JobState.QUEUED

        until(submit)
        assert lost.refresh().state is JobState.ACCEPTED  # the dispatcher's to relay


def test_results_are_read_from_sql_while_the_broker_is_down(
    client: Client, mini: MiniWorker, redis_server: Any
) -> None:
    client._runtime().push.listen()
    job = client.enqueue("echo", 1)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(job.result, 30)
        until(lambda: len(client._runtime().push._inbox))
        redis_server.kill()
        mini.tells = False
        mini.answer([job.id])
        assert wait.result(PATIENCE_S) == 1


def test_without_tables_the_error_says_what_to_type(broker_url: str, tmp_path: Path) -> None:
    with Client(home=tmp_path / "new", broker_url=broker_url, models=MODELS) as client:
        for call in (client.check, lambda: client.enqueue("echo", 1), lambda: client.get("x"), client.list):
            watch = Stopwatch()
            with pytest.raises(SchemaOutdated) as caught:
                call()
            assert watch.took_s < 2
            assert "penstock db upgrade" in caught.value.fix and "PENSTOCK_HOME" in caught.value.fix


def test_with_the_database_down_nothing_is_accepted(broker_url: str, tmp_path: Path, refusing: int) -> None:
    pytest.importorskip("psycopg")
    url = f"postgresql://nobody@127.0.0.1:{refusing}/none"
    with Client(home=tmp_path, broker_url=broker_url, database_url=url, models=MODELS) as client:
        watch = Stopwatch()
        with pytest.raises(StoreUnavailable) as caught:
            client.enqueue("echo", 1)
        assert watch.took_s < 3
        assert caught.value.fix
        with pytest.raises(StoreUnavailable):
            client.enqueue_many("echo", [1, 2])


def test_a_database_that_is_away_for_a_moment(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.dispatch import marks

    monkeypatch.setattr(marks, "RETRY_S", 0.02)
    store = client._runtime().store
    mark, tries = store.mark_queued, []

    def away(ids: Any, *, now: float) -> int:
        tries.append(len(ids))
        if len(tries) < 3:
            raise StoreUnavailable("away")
        return mark(ids, now=now)

    store.mark_queued = away  # type: ignore[method-assign]
    job = client.enqueue("echo", 1)
    until(lambda: job.refresh().state is JobState.QUEUED)
    assert len(tries) == 3


def test_a_wait_bears_with_a_database_that_goes_away(
    broker_url: str, postgres_url: str, postgres_server: Any, namespace: str, tmp_path: Path
) -> None:
    settings = Settings.load(home=tmp_path, broker_url=broker_url, database_url=postgres_url, namespace=namespace)
    worker = MiniWorker(settings)
    with Client(settings, models=MODELS) as client, ThreadPoolExecutor(1) as pool:
        job = client.enqueue("echo", "x" * 20_000)  # too long for a push: it must be read from SQL
        wait = pool.submit(job.result, 60)
        until(lambda: len(client._runtime().push._inbox))
        postgres_server.stop()
        try:
            watch = Stopwatch()
            with pytest.raises(StoreUnavailable):
                client.enqueue("echo", 2)
            assert watch.took_s < 3
            with pytest.raises(StoreUnavailable):
                client.get(job.id)
            client._runtime().push._inbox.gap()  # look, now
            with pytest.raises(StoreUnavailable):
                job.result(0.1)
        finally:
            postgres_server.start()
        until(worker.step)
        assert wait.result(60) == "x" * 20_000
        assert client.enqueue("echo", 3).job.state is JobState.ACCEPTED
    worker.stop()


def _in_child(client: Client, job: penstock.JobHandle, pipe: Any) -> None:
    try:
        own = client.enqueue("echo", "child")
        pipe.send((job.result(PATIENCE_S), own.result(PATIENCE_S), client._runtime().pid == os.getpid()))
    except BaseException as error:
        pipe.send(repr(error))


def test_a_fork_gets_connections_of_its_own(client: Client, running: MiniWorker) -> None:
    assert client.run("echo", "parent", result_timeout=PATIENCE_S) == "parent"
    here, there = multiprocessing.Pipe()
    # SQLite has locks of its own, and a child gets them as they are: no other thread may be inside it at that moment.
    with running.working:
        job = client.enqueue("echo", "both")
        until(lambda: job.refresh().state is JobState.QUEUED)  # the client's own thread has nothing left to write
        child = fork(_in_child, client, job, there)
    assert here.poll(2 * PATIENCE_S), "the child does not answer"
    assert here.recv() == ("both", "child", True)
    assert os.waitpid(child, 0) == (child, 0)
    assert job.result(PATIENCE_S) == "both"
    assert client.run("echo", "still here", result_timeout=PATIENCE_S) == "still here"


def test_a_dropped_client_ends_its_threads_and_records_its_jobs(client_settings: Settings) -> None:
    client = Client(client_settings, models=MODELS)
    id = client.enqueue("echo", 1).id
    background = client._runtime().background
    assert background._thread is not None
    del client
    gc.collect()
    until(lambda: background._closed)
    store = Store.open(client_settings.database)
    until(lambda: store.get(id).state is JobState.QUEUED)
    store.close()
    until(lambda: not any(t.name == "penstock-close" for t in threading.enumerate()))


def test_a_script_that_ends_at_once_leaves_its_job_recorded(client_settings: Settings) -> None:
    code = (
        "import penstock, tests.fixtures.client as c\n"
        "client = penstock.Client(models=c.MODELS)\n"
        "print(client.enqueue('echo', 1).id)\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    env = {**clean, **client_settings.environ(), "PYTHONPATH": str(Path(__file__).parents[2])}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    store = Store.open(client_settings.database)
    assert store.get(done.stdout.strip()).state is JobState.QUEUED
    store.close()
