"""Read results of tasks where Celery keeps them: in Redis, in SQL, or wherever else.

Each reader gives a text for each id, in their order, as many at a time as it reads at a time. It is what Celery's
key-value backends write (see ``end_of``); ``None`` where there is none, ``NO_JSON`` for what cannot be read. None of
them changes what is there, or lets a pickle run anything. They connect on first use, and raise whatever their library
raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from penstock.dispatch.tasks.backends import REDIS, SQL, Backend
from penstock.dispatch.tasks.endings import NO_JSON, text_of
from penstock.dispatch.tasks.pickled import unpickled

#: What comes before a task's id in the key of its result.
_KEY = "celery-task-meta-"
#: Longest wait for an answer of Redis, seconds.
ANSWER_S = 2.0
#: Results that one statement reads.
PIECE = 200
#: Celery's states in which a result stays as it is.
_ENDED = frozenset({"SUCCESS", "FAILURE", "REVOKED"})

Texts = Sequence[tuple[str, bytes | None]]


class Reader(Protocol):
    """One thread at a time."""

    #: Whether each wait of it is bounded by itself.
    bounded: bool

    def texts(self, ids: Sequence[str]) -> Iterator[Texts]: ...

    def close(self) -> None: ...


def reader_of(backend: Backend) -> Reader:
    """Who reads this backend."""
    if backend.scheme in REDIS:
        return RedisReader(backend)
    return SqlReader(backend) if backend.scheme.startswith(SQL) else CeleryReader(backend)


class RedisReader:
    """All of them in one command."""

    bounded = True

    def __init__(self, backend: Backend) -> None:
        self._url = backend.url
        options = backend.options.get("result_backend_transport_options") or {}
        self._prefix = f"{options.get('global_keyprefix', '')}{_KEY}"
        self._client: Any = None

    def texts(self, ids: Sequence[str]) -> Iterator[Texts]:
        from penstock.transport.url import connect

        if self._client is None:
            self._client = connect(self._url, timeout_s=ANSWER_S)
        yield [*zip(ids, self._client.mget([self._prefix + id for id in ids]), strict=True)]

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


class SqlReader:
    """The tables of Celery's database backend, many rows in one statement.

    Celery's own class makes a connection for each result, adds tables and columns that it misses, and unpickles what
    an older Celery, or anybody else, has written there.
    """

    bounded = False

    def __init__(self, backend: Backend) -> None:
        prefix = next(each for each in SQL if backend.scheme.startswith(each))
        self._url = backend.url[len(prefix) :]
        self._options = backend.options
        self._engine: Any = None

    def texts(self, ids: Sequence[str]) -> Iterator[Texts]:
        import sqlalchemy as sa

        if self._engine is None:
            self._engine = _engine(self._url, self._options.get("database_engine_options") or {})
        names, schemas = (self._options.get(f"database_table_{what}") or {} for what in ("names", "schemas"))
        columns = (sa.column("task_id", sa.String), sa.column("status", sa.String), sa.column("result", sa.LargeBinary))
        table = sa.table(names.get("task") or "celery_taskmeta", *columns, schema=schemas.get("task"))
        query = sa.select(table).where(table.c.status.in_(_ENDED))
        with self._engine.connect() as connection:
            for start in range(0, len(ids), PIECE):
                piece = ids[start : start + PIECE]
                rows = connection.execute(query.where(table.c.task_id.in_(piece)))
                found = {id: _kept(status, result) for id, status, result in rows}
                yield [(id, found.get(id)) for id in piece]

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()


def _engine(url: str, options: Mapping[str, Any]) -> Any:
    from importlib.util import find_spec

    from sqlalchemy import create_engine, make_url
    from sqlalchemy.pool import NullPool

    at = make_url(url)
    if at.drivername == "postgresql" and find_spec("psycopg2") is None and find_spec("psycopg") is not None:
        at = at.set(drivername="postgresql+psycopg")  # the driver that penstock has, in the place of the program's
    if at.get_backend_name() == "sqlite" and at.database and not Path(at.database).exists():
        raise FileNotFoundError(f"there is no file {at.database}")  # which would be made
    kept = {name: value for name, value in options.items() if not name.startswith(("pool", "max_overflow", "echo"))}
    # No transaction: it would last as long as a round.
    return create_engine(at, poolclass=NullPool, **kept | {"isolation_level": "AUTOCOMMIT"})


def _kept(status: str, result: bytes | str | None) -> bytes:
    """The text of a row. Before Celery 5.7 results were pickled there, whatever the serializer."""
    if result is None:
        return text_of(status, b"null")
    raw = result.encode() if isinstance(result, str) else bytes(result)
    if not raw.startswith(b"\x80"):
        return text_of(status, raw)
    try:
        return text_of(status, json.dumps(unpickled(raw)).encode())
    except Exception:  # what a pickle can raise that is cut, or not one
        return NO_JSON


class CeleryReader:
    """Celery's own backend of any kind, asked for one result after the other."""

    bounded = False

    def __init__(self, backend: Backend) -> None:
        self._given = backend
        self._app: Any = None
        self._backend: Any = None

    def texts(self, ids: Sequence[str]) -> Iterator[Texts]:
        if self._backend is None:
            self._backend = self._opened()
        for id in ids:
            yield [(id, self._text(id))]

    def close(self) -> None:
        if self._app is not None:
            self._app.close()

    def _opened(self) -> Any:
        from celery import Celery

        if self._app is None:
            app: Any = Celery("penstock-results", set_as_current=False)
            app.conf.update(self._given.options)
            app.conf.update(
                result_backend=self._given.url,
                # A pickle could run code here; and who tries again is who asks.
                result_serializer="json",
                accept_content=["json"],
                result_accept_content=["json"],
                result_backend_always_retry=False,
            )
            self._app = app
        return self._app.backend

    def _text(self, id: str) -> bytes | None:
        from celery.exceptions import SecurityError
        from kombu.exceptions import ContentDisallowed, DecodeError
        from kombu.utils.json import dumps

        try:
            meta = self._backend.get_task_meta(id, cache=False)
            status, result = meta["status"], meta["result"]
            if status not in _ENDED:
                return None
            if isinstance(result, BaseException):
                result = {"exc_type": type(result).__name__, "exc_message": list(map(str, result.args))}
            # Written as workers write it: what they mark (a date, a set) is marked again.
            return text_of(status, dumps(result).encode())
        except (DecodeError, ContentDisallowed, SecurityError, KeyError, TypeError, ValueError):
            return NO_JSON
