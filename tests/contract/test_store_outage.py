"""The database is missing, stops, is killed, is locked or is something else: callers are told, soon, and what to do."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penstock_migrations
from penstock.errors import ConfigError, SchemaOutdated, StoreUnavailable
from penstock.job import JobState
from penstock.store import SCHEMA_VERSION, Store
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.stopwatch import Stopwatch
from tests.fixtures.store import T0, W, add, claim, end, make_job, outcome, register, running


@pytest.fixture
def pg(postgres_url: str) -> Iterator[Store]:
    store = Store.open(postgres_url)
    register(store, W)
    yield store
    store.close()


def refused_within(seconds: float, call: Callable[[], object]) -> StoreUnavailable:
    watch = Stopwatch()
    with pytest.raises(StoreUnavailable) as caught:
        call()
    assert watch.took_s < seconds
    assert caught.value.fix
    return caught.value


# Nothing there ----------------------------------------------------------------------------------------------------


def test_a_database_that_was_never_migrated(empty_database_url: str) -> None:
    store = Store.open(empty_database_url)
    for call in (store.check, lambda: store.get("x"), lambda: store.insert([make_job()]), store.models):
        error = refused_within(2.0, call)
        assert isinstance(error, SchemaOutdated)
        assert "penstock db upgrade" in error.fix
    penstock_migrations.upgrade(empty_database_url)
    store.check()
    add(store)
    store.close()


def test_looking_for_a_database_does_not_make_one(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/sub/penstock.db")
    with pytest.raises(SchemaOutdated):
        store.check()
    assert list(tmp_path.iterdir()) == []


def test_a_schema_of_another_version(database_url: str, store: Store) -> None:
    with penstock_migrations._connect(database_url) as connection:
        connection.exec_driver_sql("UPDATE penstock_alembic_version SET version_num = '9999'")
        connection.commit()
    error = refused_within(2.0, store.check)
    assert isinstance(error, SchemaOutdated)
    assert "9999" in error.message and SCHEMA_VERSION in error.message


@pytest.mark.parametrize(
    "url", ["mysql://localhost/x", "sqlite://", "sqlite:///:memory:", "nonsense", "redis://localhost", ""]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Store.open(url)
    assert caught.value.fix


def test_opening_does_not_connect() -> None:
    Store.open("postgresql://nobody@127.0.0.1:1/none").close()


def test_a_port_where_nobody_listens() -> None:
    store = Store.open("postgresql://penstock:s3cret@127.0.0.1:1/penstock")
    error = refused_within(2.0, store.check)
    assert "s3cret" not in str(error)
    assert "127.0.0.1" in str(error)


def test_a_host_that_accepts_and_says_nothing() -> None:
    """As behind a firewall or on a machine that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Store.open(f"postgresql://penstock@127.0.0.1:{silent.getsockname()[1]}/penstock")
        refused_within(1.9, store.check)
        refused_within(2.5, lambda: store.insert([make_job()]))
        store.close()


def test_a_database_that_does_not_exist(postgres_server: PostgresServer) -> None:
    store = Store.open(postgres_server.url("nothing_of_this_name"))
    assert "nothing_of_this_name" in refused_within(2.0, store.check).message


@pytest.mark.parametrize("content", [b"this is not a database, " * 100, b""])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "penstock.db"
    path.write_bytes(content)
    store = Store.open(f"sqlite:///{path}")
    refused_within(2.0, store.check)
    refused_within(2.0, lambda: store.insert([make_job()]))
    store.close()


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}")
    refused_within(2.0, store.check)


# Going and coming back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_postgres_goes_and_comes_back(pg: Store, postgres_server: PostgresServer, how: str) -> None:
    (before,) = running(pg)
    getattr(postgres_server, how)()
    for call in (
        pg.check,
        lambda: pg.insert([make_job()]),
        lambda: pg.claim([before], worker=W, now=T0),
        lambda: pg.settle([outcome(before)], worker=W, now=T0),
        lambda: pg.take_due(now=T0, limit=10, lease_s=5),
        lambda: pg.get(before),
    ):
        refused_within(2.0, call)
    postgres_server.start()
    # By itself, with the first call: nobody has to open it again.
    end(pg, [before])
    assert pg.get(before).state is JobState.SUCCEEDED
    add(pg)


def test_idle_connections_that_a_restart_broke_are_not_noticed(pg: Store, postgres_server: PostgresServer) -> None:
    barrier = threading.Barrier(5)

    def use() -> None:
        with pg._db.read() as session:
            session.one("SELECT 1")
            barrier.wait(PATIENCE_S)

    threads = [threading.Thread(target=use) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    postgres_server.stop()
    postgres_server.start()
    for _ in range(6):
        pg.check()
        add(pg)


def test_a_session_that_the_server_ends_in_the_middle(pg: Store, postgres_server: PostgresServer) -> None:
    """Killed while it waits for a lock, inside its transaction: nothing of it is left."""
    (id,) = add(pg)
    failures: list[Exception] = []

    def cancel() -> None:
        try:
            pg.cancel(id, now=T0)
        except StoreUnavailable as error:
            failures.append(error)

    with postgres_server.connect(_name(pg)) as rival:
        rival.execute("BEGIN")
        rival.execute("SELECT 1 FROM penstock_job FOR UPDATE")
        thread = threading.Thread(target=cancel)
        thread.start()
        with postgres_server.connect() as admin:
            query = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND application_name = 'penstock'"
            )
            deadline = time.monotonic() + 20
            while not admin.execute(query).fetchall():
                assert time.monotonic() < deadline
        thread.join(PATIENCE_S)
        rival.execute("ROLLBACK")
    assert len(failures) == 1
    assert pg.get(id).state is JobState.ACCEPTED
    assert pg.cancel(id, now=T0).state is JobState.CANCELLED


def test_a_server_that_hangs_does_not_hang_its_clients(
    pg: Store, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.store.postgres.ANSWER_S", 1)
    (id,) = add(pg)
    postgres_server.pause()
    try:
        refused_within(1.9, pg.check)
        assert "timeout" in refused_within(2.0, lambda: pg.insert([make_job()])).message
        # The connection of no use was dropped, so these find out when they connect.
        refused_within(3.0, lambda: pg.cancel(id, now=T0))
        refused_within(3.0, lambda: pg.settle([outcome(id)], worker=W, now=T0))
    finally:
        postgres_server.resume()
    assert pg.cancel(id, now=T0).state is JobState.CANCELLED


def test_a_lock_that_a_stranger_keeps_is_reported(
    pg: Store, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.store.postgres.LOCK_WAIT_S", 1)
    (id,) = add(pg)
    pg.close()
    with postgres_server.connect(_name(pg)) as rival:
        rival.execute("BEGIN")
        rival.execute("SELECT 1 FROM penstock_job FOR UPDATE")
        assert "lock" in refused_within(2.0, lambda: pg.cancel(id, now=T0)).message
        rival.execute("ROLLBACK")
    assert pg.cancel(id, now=T0).state is JobState.CANCELLED


def _name(store: Store) -> str:
    with store._db.read() as session:
        row = session.one("SELECT current_database()")
    assert row is not None
    return str(row[0])


# SQLite's locks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lite(sqlite_url: str) -> Iterator[Store]:
    store = Store.open(sqlite_url)
    register(store, W)
    yield store
    store.close()


def test_a_stranger_with_sqlites_lock_is_waited_for(lite: Store, sqlite_url: str) -> None:
    stranger = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    stranger.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: stranger.execute("ROLLBACK"))
    timer.start()
    (id,) = add(lite)
    timer.join()
    stranger.close()
    assert lite.get(id).state is JobState.ACCEPTED


def test_a_stranger_who_keeps_sqlites_lock_is_reported(
    lite: Store, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All writers give up after their own patience: their waits do not add up. Readers go on."""
    monkeypatch.setattr("penstock.store.sqlite.WAIT_S", 1.0)
    (id,) = add(lite)
    stranger = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    errors: list[StoreUnavailable] = []
    threads = [
        threading.Thread(target=lambda: errors.append(refused_within(3.5, lambda: lite.insert([make_job()]))))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert lite.get(id).state is JobState.ACCEPTED
    for thread in threads:
        thread.join()
    stranger.execute("ROLLBACK")
    stranger.close()
    assert len(errors) == 5
    assert "lock" in errors[0].fix
    add(lite)


def test_a_folder_without_room_for_the_lock_file(lite: Store, sqlite_url: str) -> None:
    """The lock is a convenience: where its file cannot be made, SQLite's own lock serves."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    lock = path.with_name(path.name + ".lock")
    lock.unlink()
    lock.mkdir()
    second = Store.open(sqlite_url)
    ids = add(second, 3)
    claim(second, ids)
    second.close()


def test_a_database_that_is_read_only(sqlite_url: str) -> None:
    """In a child without privileges, since root may write everywhere."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "penstock.db"
    shutil.copy(sqlite_url.removeprefix("sqlite:///"), path)
    path.chmod(0o444)
    folder.chmod(0o555)

    def child() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        store = Store.open(f"sqlite:///{path}")
        assert "let this user write" in refused_within(2.0, lambda: store.insert([make_job()])).fix

    try:
        in_child(child)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def in_child(call: Callable[[], object]) -> None:
    """Run it in a forked process, and fail if it fails there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_fork_has_connections_of_its_own(store: Store) -> None:
    (before,) = add(store)

    def child() -> None:
        assert store.get(before).state is JobState.ACCEPTED
        claim(store, [before])

    in_child(child)
    end(store, [before])
    assert store.get(before).state is JobState.SUCCEEDED
