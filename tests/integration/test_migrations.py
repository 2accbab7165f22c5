"""The migrations, up and down, on both databases; and that they make what the code expects."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

import penstock_migrations
from penstock.errors import ConfigError, SchemaOutdated, StoreUnavailable
from penstock.store import SCHEMA_VERSION, Store
from penstock.store.engine import VERSION_TABLE
from penstock.store.tables import Row
from tests.fixtures.patience import PATIENCE_S

TABLES = {table.name for table in Row.metadata.sorted_tables}


def tables(url: str) -> set[str]:
    with penstock_migrations._connect(url) as connection:
        return set(inspect(connection).get_table_names()) - {VERSION_TABLE}


def test_the_store_and_the_migrations_mean_the_same() -> None:
    assert penstock_migrations.head() == SCHEMA_VERSION
    assert penstock_migrations.VERSION_TABLE == VERSION_TABLE


def test_up_and_down_and_up(empty_database_url: str) -> None:
    url = empty_database_url
    penstock_migrations.upgrade(url)
    assert penstock_migrations.current(url) == penstock_migrations.head()
    assert tables(url) == TABLES
    penstock_migrations.upgrade(url)
    penstock_migrations.downgrade(url, "base")
    assert penstock_migrations.current(url) is None
    assert tables(url) == set()
    penstock_migrations.upgrade(url)
    store = Store.open(url)
    store.check()
    store.close()


def test_migrations_make_the_tables_of_the_code(empty_database_url: str) -> None:
    penstock_migrations.upgrade(empty_database_url)
    with penstock_migrations._connect(empty_database_url) as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Row.metadata) == []


def test_constraints_and_partial_indexes_are_the_same_too(empty_database_url: str) -> None:
    """What Alembic's comparison does not look at, compared with tables made from the code alone."""
    penstock_migrations.upgrade(empty_database_url)
    with penstock_migrations._connect(empty_database_url) as connection:
        migrated = _fingerprint(connection)
        Row.metadata.drop_all(connection)
        Row.metadata.create_all(connection)
        assert _fingerprint(connection) == migrated
        connection.rollback()


def _fingerprint(connection: object) -> object:
    found = inspect(connection)  # type: ignore[call-overload]
    return {
        table: (
            sorted((c["name"], c["sqltext"]) for c in found.get_check_constraints(table)),
            sorted(
                (
                    i["name"],
                    tuple(i["column_names"]),
                    sorted((k, str(v)) for k, v in i.get("dialect_options", {}).items()),
                )
                for i in found.get_indexes(table)
            ),
            found.get_pk_constraint(table),
            [(c["name"], repr(c["type"]), c["nullable"], str(c["default"])) for c in found.get_columns(table)],
        )
        for table in sorted(TABLES)
    }


def test_many_upgrade_at_once(empty_database_url: str) -> None:
    barrier = threading.Barrier(4)

    def upgrade(_: int) -> None:
        barrier.wait(PATIENCE_S)
        penstock_migrations.upgrade(empty_database_url)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, range(4)))
    assert tables(empty_database_url) == TABLES


def test_a_failed_migration_leaves_nothing(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic.operations import Operations

    monkeypatch.setattr(Operations, "create_index", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        penstock_migrations.upgrade(empty_database_url)
    monkeypatch.undo()
    assert tables(empty_database_url) == set()
    penstock_migrations.upgrade(empty_database_url)


def test_paths_may_be_awkward(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a b%2541c;d:e%3F#f/pen stock.db"
    penstock_migrations.upgrade(url)
    assert (tmp_path / "a b%41c;d:e?#f" / "pen stock.db").is_file()
    store = Store.open(url)
    store.check()
    store.close()
    assert penstock_migrations.current(url) == SCHEMA_VERSION


# What no migration can mend --------------------------------------------------------------------------------------


def edit(url: str, *statements: str) -> None:
    with penstock_migrations._connect(url) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.commit()


@pytest.mark.parametrize(
    ("statements", "says", "fix"),
    [
        (["UPDATE penstock_alembic_version SET version_num = '9999'"], "version 9999", "install the penstock"),
        (["DELETE FROM penstock_alembic_version"], "no version", "from a backup"),
        (["DROP TABLE penstock_alembic_version"], "no version", "from a backup"),
        (["INSERT INTO penstock_alembic_version VALUES ('0001')"], "no version", "from a backup"),
        (["DROP TABLE penstock_delivery"], "lacks the table penstock_delivery", "backup"),
        (["ALTER TABLE penstock_worker DROP COLUMN info"], "lacks the column penstock_worker.info", "backup"),
    ],
)
def test_a_schema_that_is_not_whole_is_named(database_url: str, statements: list[str], says: str, fix: str) -> None:
    edit(database_url, *statements)
    for call in (penstock_migrations.upgrade, penstock_migrations.verify):
        with pytest.raises(SchemaOutdated) as caught:
            call(database_url)
        assert says in caught.value.message
        assert fix in caught.value.fix


def test_an_empty_version_table_alone_is_nothing(empty_database_url: str) -> None:
    penstock_migrations.upgrade(empty_database_url)
    penstock_migrations.downgrade(empty_database_url, "base")
    assert penstock_migrations.current(empty_database_url) is None
    with pytest.raises(SchemaOutdated, match="no tables of penstock"):
        penstock_migrations.verify(empty_database_url)
    penstock_migrations.upgrade(empty_database_url)
    assert penstock_migrations.verify(empty_database_url) == penstock_migrations.head()


@pytest.mark.parametrize("revision", ["nonsense", "9999", "-70"])
def test_a_version_that_there_is_not(sqlite_url: str, revision: str) -> None:
    for call in (penstock_migrations.upgrade, penstock_migrations.downgrade):
        with pytest.raises(ConfigError) as caught:
            call(sqlite_url, revision)
        assert "0001" in caught.value.fix


def test_something_else_has_the_name_of_a_table(empty_database_url: str) -> None:
    penstock_migrations.upgrade(empty_database_url)
    penstock_migrations.downgrade(empty_database_url, "base")
    edit(empty_database_url, "CREATE TABLE elsewhere (x int)", "CREATE INDEX ix_penstock_job_state ON elsewhere (x)")
    with pytest.raises(StoreUnavailable, match="did not take a change") as caught:
        penstock_migrations.upgrade(empty_database_url)
    assert "nothing was changed" in caught.value.fix
    assert tables(empty_database_url) == {"elsewhere"}


def test_looking_makes_no_file(tmp_path: Path) -> None:
    assert penstock_migrations.current(f"sqlite:///{tmp_path}/none.db") is None
    assert list(tmp_path.iterdir()) == []


def test_nobody_there() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        penstock_migrations.upgrade("postgresql://penstock:s3cret@127.0.0.1:1/penstock")
    assert caught.value.fix
    assert "s3cret" not in str(caught.value)


def test_a_new_migration_can_be_written(tmp_path: Path) -> None:
    """The template for `alembic revision` renders, for whoever writes the next one."""
    from mako.template import Template

    template = Path(penstock_migrations.__file__).with_name("script.py.mako")
    text = Template(filename=str(template)).render(
        message="next", up_revision="0002", down_revision="0001", branch_labels=None, depends_on=None,
        imports="", upgrades="", downgrades="", comma=lambda value: value,
    )  # fmt: skip
    compile(text, "0002.py", "exec")
