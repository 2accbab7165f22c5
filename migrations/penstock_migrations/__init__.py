"""The database's schema over time: Alembic migrations, run by ``upgrade`` and not by Alembic's command line.

They ship with the package, so that ``penstock db upgrade`` works wherever penstock is installed. Changes that the old
code can live with come before a deployment; what takes something away comes after it.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from penstock.errors import StoreUnavailable

VERSION_TABLE = "penstock_alembic_version"

#: Names the advisory lock under which one process at a time migrates a Postgres database; any number will do.
_LOCK = 7_305_461_027


def head() -> str:
    """The newest version that this package knows."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def current(url: str) -> str | None:
    """The version of the database; ``None`` if it was never migrated."""
    with _connect(url) as connection:
        return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to ``revision``. May be called by several processes at once: one works, the others wait.

    Creates the file of an SQLite database and its folder.
    """
    _migrate(url, revision, up=True)


def downgrade(url: str, revision: str) -> None:
    """Take migrations back, down to ``revision``, or to nothing with ``"base"``. What their tables held is lost."""
    _migrate(url, revision, up=False)


def _migrate(url: str, revision: str, *, up: bool) -> None:
    parsed = make_url(url)
    if parsed.drivername == "sqlite" and parsed.database:
        Path(parsed.database).expanduser().parent.mkdir(parents=True, exist_ok=True)
    with _connect(url) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        else:
            # SQLite changes its schema in transactions too, but Python's driver begins none for it by itself.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config = _config()
        config.attributes["connection"] = connection
        (command.upgrade if up else command.downgrade)(config, revision)
        connection.commit()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    # Paths may contain spaces and colons.
    config.set_main_option("path_separator", "os")
    return config


class _connect:
    """A connection for the length of a ``with``; ``StoreUnavailable`` if there is none to be had."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        arguments: dict[str, object] = {"timeout": 60} if parsed.drivername == "sqlite" else {"connect_timeout": 2}
        if parsed.drivername == "sqlite":
            arguments["isolation_level"] = None
            if parsed.database:
                parsed = parsed.set(database=str(Path(parsed.database).expanduser()))
        self._where = parsed.render_as_string(hide_password=True)
        self._engine = create_engine(parsed, poolclass=NullPool, connect_args=arguments)

    def __enter__(self) -> Connection:
        try:
            self._connection = self._engine.connect()
        except DBAPIError as error:
            raise StoreUnavailable(
                f"the database {self._where} cannot be used: {error.orig}",
                fix="start the server, or correct PENSTOCK_DATABASE_URL",
            ) from error
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._engine.dispose()
