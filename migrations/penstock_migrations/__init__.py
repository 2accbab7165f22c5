"""The database's schema over time: Alembic migrations, run by ``upgrade`` and not by Alembic's command line.

They ship with the package, so that ``penstock db upgrade`` works wherever penstock is installed. Changes that the old
code can live with come before a deployment; what takes something away comes after it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from penstock import private
from penstock.errors import ConfigError, SchemaOutdated
from penstock.store.place import SQLiteFile, read
from penstock_migrations.condition import Condition, look
from penstock_migrations.connection import connected

VERSION_TABLE = "penstock_alembic_version"

#: Names the advisory lock under which one process at a time migrates a Postgres database; any number will do.
_LOCK = 7_305_461_027


def head() -> str:
    """The newest version that this package knows."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def current(url: str) -> str | None:
    """The version of the database; ``None`` if it was never migrated. Makes no file."""
    return condition(url).version


def condition(url: str) -> Condition:
    """The version of the database, and what it lacks. Makes no file."""
    place = read(url)
    if isinstance(place, SQLiteFile) and not place.path.exists():
        return Condition()
    with connected(place) as connection:
        return look(connection)


def verify(url: str) -> str:
    """The version of a database that this penstock works with; raises ``SchemaOutdated`` that says what else it is."""
    found, where = condition(url), read(url).where
    _check_start(found, where)
    if found.version != head():
        has = f"tables of version {found.version}" if found.version else "no tables of penstock"
        raise SchemaOutdated(f"the database {where} has {has}, this penstock needs {head()}", fix="penstock db upgrade")
    _check_end(found, where)
    return head()


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to ``revision``. May be called by several processes at once: one works, the others wait.

    Creates the file of an SQLite database and its folder, for this user alone. Raises ``SchemaOutdated`` for a database
    that no migration can bring there: a newer one, or one that has lost a part.
    """
    _migrate(url, revision, up=True)


def downgrade(url: str, revision: str) -> None:
    """Take migrations back, down to ``revision``, or to nothing with ``"base"``. What their tables held is lost."""
    _migrate(url, revision, up=False)


def _migrate(url: str, revision: str, *, up: bool) -> None:
    place = read(url)
    if isinstance(place, SQLiteFile) and not place.path.exists():
        if not place.path.parent.exists():
            private.folder(place.path.parent)
        private.file(place.path)
    with connected(place) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        else:
            # SQLite changes its schema in transactions too, but Python's driver begins none for it by itself.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config = _config()
        config.attributes["connection"] = connection
        _check_start(look(connection), place.where)
        _run(config, revision, up=up)
        if up and revision in ("head", head()):
            _check_end(look(connection), place.where)
        connection.commit()


def _check_start(found: Condition, where: str) -> None:
    """Raise ``SchemaOutdated`` for what no migration begins with."""
    if found.version is not None and found.version not in _versions():
        raise SchemaOutdated(
            f"the database {where} has tables of version {found.version}, which this penstock does not know: it is "
            f"older and ends at {head()}",
            fix="install the penstock that upgraded the database, or newer; an old one runs on it only as far as its "
            "release notes say",
        )
    if found.version is None and found.tables:
        raise SchemaOutdated(
            f"the database {where} has tables of penstock ({', '.join(sorted(found.tables)[:3])}, …) and no version: "
            f"{VERSION_TABLE} is empty or missing",
            fix=f"restore the whole database from a backup, {VERSION_TABLE} with it; or begin with an empty database",
        )


def _check_end(found: Condition, where: str) -> None:
    """Raise ``SchemaOutdated`` when the version says more than there is."""
    if found.lost:
        raise SchemaOutdated(
            f"the database {where} is of version {head()} and lacks {', '.join(found.lost[:5])}",
            fix="restore all of it from a backup; or drop the rest of its tables and run `penstock db upgrade`",
        )


def _run(config: Config, revision: str, *, up: bool) -> None:
    try:
        (command.upgrade if up else command.downgrade)(config, revision)
    except CommandError as error:
        raise ConfigError(
            f"the database cannot be brought to version {revision!r}: {error}",
            fix=f"name one of base, {', '.join(_versions())}, on the right side of the present one",
        ) from error


def _versions() -> list[str]:
    return sorted(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _connect(url: str) -> AbstractContextManager[Connection]:
    return connected(read(url))


def _config() -> Config:
    config = Config()
    # Alembic's configuration gives the percent sign a meaning of its own.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    # Paths may contain spaces and colons.
    config.set_main_option("path_separator", "os")
    return config
