"""The database goes away while jobs run: callers are told, and what was accepted is done when it is back."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import Client, StoreUnavailable
from penstock.clock import monotonic_s
from penstock.settings import Settings
from tests.chaos.audit import Audit
from tests.chaos.load import Load
from tests.chaos.lossy import lossy
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.worker import Worker, clean_environ, wait_for

ROUNDS, LOSSES = 3, 10

#: The name of Postgres' socket in its folder.
SOCKET = ".s.PGSQL.5432"


on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@on_postgres
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_postgres_restarted_while_jobs_run(
    how: str,
    postgres_server: PostgresServer,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
) -> None:
    """``kill -9`` or a fast shutdown, three times. ``enqueue`` says so within seconds; the worker keeps its results."""
    load.pause_s = 0.01
    start_dispatcher()
    worker = worker_factory()
    for _ in range(ROUNDS):
        before = audit.settled()
        load.submit(400)
        wait_for(lambda before=before: audit.settled() > before + 20, what="work in progress")
        getattr(postgres_server, how)()
        started = monotonic_s()
        with pytest.raises(StoreUnavailable, match="fix"):
            load.client.enqueue("witnessed", load.item())
        assert monotonic_s() - started < 5
        postgres_server.start()
    all_ended()
    assert worker.popen.poll() is None, worker.output()[-3000:]
    audit.verify(load.accepted, expected=load.expected)


@on_postgres
def test_answers_of_postgres_lost(
    postgres_server: PostgresServer,
    settings: Settings,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
) -> None:
    """The commit has arrived and its answer has not: a claim is not forgotten, an outcome is not lost.

    The worker talks to Postgres through a proxy that loses answers; producer and dispatcher do not.
    """
    folder = Path(tempfile.mkdtemp(prefix="penstock-lossy-"))  # a socket's path is short
    load.pause_s = 0.001
    start_dispatcher()
    try:
        with lossy(folder / SOCKET, postgres_server.folder / SOCKET, rng=load.rng) as proxy:
            url = settings.database.replace(str(postgres_server.folder), str(folder))
            assert url != settings.database
            worker = worker_factory(settings=settings.model_copy(update={"database_url": url}))
            proxy.loss = 0.04
            load.submit(4000)
            wait_for(lambda: proxy.lost >= LOSSES or not audit.open(), what="answers to be lost")
            proxy.loss = 0.0
            assert proxy.lost >= LOSSES
            load.submit(100)
            all_ended()
            assert worker.popen.poll() is None, worker.output()[-3000:]
            audit.verify(load.accepted, expected=load.expected)
            assert worker.stop() == 0
    finally:
        shutil.rmtree(folder)


@contextmanager
def process_in_transaction(database: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has written into the database and does not commit: it holds SQLite's write lock."""
    code = """
        import sqlite3, sys
        file = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
        file.execute("BEGIN IMMEDIATE")
        file.execute("DELETE FROM penstock_job")
        print("locked", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@on_sqlite
def test_sqlite_process_killed_in_a_transaction(
    settings: Settings,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
) -> None:
    """A stranger takes the write lock, deletes every job, and is killed before it commits: nothing has happened."""
    path = Path(settings.database.removeprefix("sqlite:///"))
    load.pause_s = 0.005
    start_dispatcher()
    worker_factory()
    for _ in range(ROUNDS):
        before = audit.settled()
        load.submit(300)
        wait_for(lambda before=before: audit.settled() > before + 20, what="work in progress")
        with process_in_transaction(path) as stranger:
            # Readers are not blocked by it (WAL), and see nothing of it.
            assert len(audit.states()) == len(load.accepted)
            stranger.kill()
            stranger.wait()
    all_ended()
    audit.verify(load.accepted, expected=load.expected)
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    file.close()


@on_sqlite
def test_sqlite_locked_for_long(
    settings: Settings,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
) -> None:
    """Locked for longer than anybody waits: ``enqueue`` says so, and everything goes on afterwards."""
    path = Path(settings.database.removeprefix("sqlite:///"))
    load.pause_s = 0.005
    start_dispatcher()
    worker_factory()
    load.submit(400)
    wait_for(lambda: audit.settled() > 20, what="work in progress")
    with process_in_transaction(path):
        started = monotonic_s()
        with pytest.raises(StoreUnavailable, match="fix"):
            load.client.enqueue("witnessed", load.item())
        assert monotonic_s() - started < 10
    load.submit(100)
    all_ended()
    audit.verify(load.accepted, expected=load.expected)


#: A producer that says which chunk it has been told to be accepted, and goes on until it is killed.
PRODUCER = """
    import sys
    import penstock
    client = penstock.Client()
    for chunk in range(10_000):
        items = [{"ledger": sys.argv[1], "key": f"c{chunk}-{n}", "fate": "ok", "pause_s": 0.0} for n in range(50)]
        client.enqueue_many("witnessed", items)
        print(chunk, flush=True)
"""


def test_producer_killed(
    settings: Settings,
    client: Client,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
) -> None:
    """A producer is killed while it enqueues. Each bulk submission is all or nothing, and what is there is done."""
    start_dispatcher()
    worker_factory()
    told = 0
    for round in range(3):
        producer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PRODUCER), str(audit.ledger.with_name(f"ledger-{round}"))],
            env={**clean_environ(), **settings.environ()},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert producer.stdout is not None
        for _ in range(load.rng.randrange(3, 10)):
            assert producer.stdout.readline(), "the producer ended by itself"
            told += 1
        producer.kill()
        # What it had said before the kill reached it counts too.
        told += len(producer.communicate()[0].splitlines())
    wait_for(lambda: not audit.open(), timeout_s=60, what="every job that is in SQL to end")
    jobs = len(audit.states())
    assert jobs % 50 == 0, "half a bulk submission was stored"
    assert told * 50 <= jobs <= (told + 3) * 50
    audit.verify({}, expected={})
