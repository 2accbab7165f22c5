"""A database of any name, reached with any password; one that refuses, and one that is slow, say so."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest

import penstock_migrations
from penstock.errors import StoreRefused, StoreTimeout
from penstock.store import Store, users
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.store import add

NAME = "a b@:/?#%41é"
PASSWORD = "p w@:/?#%41é'\\"


@pytest.fixture
def guarded(postgres_server: PostgresServer) -> Iterator[str]:
    """The socket's folder of a server that asks the user ``penstock`` for a password, and has a database ``NAME``."""
    rules = postgres_server.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    with postgres_server.connect() as admin:
        admin.execute("SET password_encryption = 'scram-sha-256'")
        admin.execute("CREATE ROLE penstock LOGIN PASSWORD '{}'".format(PASSWORD.replace("'", "''")))
        admin.execute(f'CREATE DATABASE "{NAME}" OWNER penstock TEMPLATE template0')
        rules.write_text(f"local all penstock scram-sha-256\n{before}")
        admin.execute("SELECT pg_reload_conf()")
    yield quote(str(postgres_server.folder), safe="")
    rules.write_text(before)
    with postgres_server.connect() as admin:
        admin.execute("SELECT pg_reload_conf()")
        admin.execute(f'DROP DATABASE "{NAME}" WITH (FORCE)')
        admin.execute("DROP ROLE penstock")


def test_any_password_and_name(guarded: str) -> None:
    url = f"postgresql://penstock:{quote(PASSWORD, safe='')}@{guarded}/{quote(NAME, safe='')}"
    penstock_migrations.upgrade(url)
    store = Store.open(url)
    store.check()
    assert store.list() == []
    store.close()
    assert penstock_migrations.verify(url)
    for wrong in (
        url.replace("p%20w", "hunter2"),
        url.replace("p%20w", "hunter2") + "&x",
        url.replace(":p%20w", ":hunter2"),
    ):
        wrong = wrong.removesuffix("&x")
        for call in (Store.open(wrong).check, lambda wrong=wrong: penstock_migrations.upgrade(wrong)):  # type: ignore[misc]
            with pytest.raises(StoreRefused) as caught:
                call()
            assert not caught.value.retryable
            assert "user and password" in caught.value.fix
            assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


@pytest.fixture
def bytes_only(postgres_server: PostgresServer) -> Iterator[str]:
    """A database that knows no characters, as ``initdb`` makes it where there is no locale."""
    with postgres_server.connect() as admin:
        admin.execute("CREATE DATABASE bytes_only ENCODING 'SQL_ASCII' TEMPLATE template0")
    yield postgres_server.url("bytes_only")
    with postgres_server.connect() as admin:
        admin.execute("DROP DATABASE bytes_only WITH (FORCE)")


def test_text_is_text_in_a_database_without_an_encoding(bytes_only: str) -> None:
    penstock_migrations.upgrade(bytes_only)
    store = Store.open(bytes_only)
    [id] = add(store, input='"é, 文, 🙂"', tags={"ort": "Köln"})
    assert store.inputs([id]) == {id: '"é, 文, 🙂"'}
    assert dict(store.get(id).tags) == {"ort": "Köln"}
    store.close()


def test_what_does_not_exist_is_told_at_once(postgres_server: PostgresServer) -> None:
    for url in (
        postgres_server.url("nothing_of_this_name"),
        postgres_server.url().replace("postgres@", "nobody_of_this_name@"),
    ):
        with pytest.raises(StoreRefused) as caught:
            Store.open(url).check()
        assert "of_this_name" in caught.value.message
        assert "create" in caught.value.fix


def test_the_users_own_options_stay(postgres_url: str) -> None:
    store = Store.open(f"{postgres_url}&options=-c%20statement_timeout%3D1234&application_name=mine")
    with store._db.read() as session:
        assert session.one("SHOW statement_timeout") == ("1234ms",)
        assert session.one("SHOW application_name") == ("mine",)
        assert session.one("SHOW synchronous_commit") == ("off",)
    store.close()


def test_a_slow_statement_is_told_as_such(postgres_url: str) -> None:
    store = Store.open(f"{postgres_url}&options=-c%20statement_timeout%3D50")
    with pytest.raises(StoreTimeout) as caught, store._db.read() as session:
        session.one("SELECT pg_sleep(5)")
    assert "in time" in caught.value.message
    assert "narrows a list" in caught.value.fix and "start the server" not in caught.value.fix
    store.check()
    store.close()


def test_a_named_tenants_jobs_are_found_by_an_index(postgres_url: str, sqlite_url: str) -> None:
    for url, explain in ((postgres_url, "EXPLAIN"), (sqlite_url, "EXPLAIN QUERY PLAN")):
        store = Store.open(url)
        where = users._FILTERS["named_tenant"]
        text = f"{explain} SELECT * FROM penstock_job WHERE {where} ORDER BY id DESC LIMIT 10"  # noqa: S608
        with store._db.read() as session:
            plan = str(session.all(text, {"tenant": "acme"}))
        assert "ix_penstock_job_tenant" in plan, plan
        store.close()
