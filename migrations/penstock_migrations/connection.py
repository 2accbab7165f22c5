"""A connection for migrations: the place's parts go to the driver as they are, and its errors become ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from penstock.errors import PenstockError, StoreUnavailable
from penstock.store import postgres, sqlite
from penstock.store.place import PostgresDatabase, SQLiteFile

#: How long SQLite waits for other writers, seconds: a migration is no everyday transaction.
_BUSY_S = 60


@contextmanager
def connected(place: SQLiteFile | PostgresDatabase) -> Iterator[Connection]:
    """A connection for the length of a ``with``; raises ``StoreUnavailable`` or ``SchemaOutdated`` for its errors."""
    # The URL tells SQLAlchemy the dialect only.
    url = "sqlite://" if isinstance(place, SQLiteFile) else "postgresql+psycopg://"
    engine = create_engine(url, poolclass=NullPool, creator=lambda: _connect(place))
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise _explain(error, place) from error
    finally:
        engine.dispose()


def _connect(place: SQLiteFile | PostgresDatabase) -> Any:
    if isinstance(place, SQLiteFile):
        return sqlite3.connect(place.path, timeout=_BUSY_S, isolation_level=None)
    defaults = {"connect_timeout": postgres.CONNECT_S, "application_name": "penstock"}
    return postgres.psycopg_module().connect(**{**defaults, **place.parameters, **postgres.TEXT})


def _explain(error: DBAPIError, place: SQLiteFile | PostgresDatabase) -> PenstockError:
    cause = error.orig
    found: PenstockError | None = None
    if isinstance(cause, Exception):
        if isinstance(place, SQLiteFile):
            found = sqlite.translate(cause, place.path)
        else:
            found = postgres.translate(cause, place.where)
    if found is not None:
        return found
    reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    return StoreUnavailable(
        f"the database {place.where} did not take a change of its tables: {reason}",
        fix="nothing was changed; see what else is in this database, or begin with an empty one",
    )
