"""From a URL to sessions: pools, transactions, and errors that say what to do.

Two pools per database, since durability is a property of a connection: one whose commits wait for the disk, one whose
commits do not. Nothing is connected before the first use.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from penstock.errors import InvalidInput, PenstockError, SchemaOutdated, StoreTimeout, StoreUnavailable
from penstock.job import Job, NewJob
from penstock.store import postgres, sqlite
from penstock.store.learned import Learned
from penstock.store.place import PostgresDatabase, SQLiteFile, read
from penstock.store.records import Settled
from penstock.store.session import Session
from penstock.store.sql import Dialect

#: The newest migration that this code works with; a test holds it equal to the head of ``penstock_migrations``.
SCHEMA_VERSION = "0010"
#: Where Alembic writes the version down.
VERSION_TABLE = "penstock_alembic_version"

#: Connections beyond the pool's size under a burst, and how long a thread waits for one of them, seconds.
_OVERFLOW, _POOL_WAIT_S = 20, 10.0
#: How long `check` waits for an answer, seconds.
_CHECK_S = 1.0
#: Tries of a transaction that Postgres ended to resolve a deadlock.
_TRIES = 5

T = TypeVar("T")


class Survives(Enum):
    """The worst event that a commit must outlive. How, is the drivers' business (``sqlite``, ``postgres``)."""

    #: What was promised to somebody: a loss of power.
    POWER = "power"
    #: What can be found out again at a cost: the end of any process, the database server's among them.
    CRASH = "crash"
    #: What does no harm when it is forgotten.
    NOTHING = "nothing"


class Left(Protocol):
    """What is left to do behind a transaction. True while there is something."""

    def __bool__(self) -> bool: ...
    def forget(self) -> None:
        """Keep no values in memory: each ``step`` reads what it needs."""

    def step(self, *, now: float) -> list[Settled]:
        """One transaction of it; the rows of what has ended with it. When it fails, that part is the dispatcher's."""


class _Driver(Protocol):
    """What the two databases do differently."""

    dialect: Dialect
    #: Its name for people, without user and password.
    where: str
    #: For which commits to wait for the disk.
    waits_for: frozenset[Survives]

    def connect(self, durable: bool) -> Any: ...
    def is_stale(self, connection: Any) -> bool: ...
    def translate(self, error: Exception) -> PenstockError | None: ...
    def should_retry(self, error: BaseException) -> bool: ...
    def transaction(self, cursor: Any) -> contextlib.AbstractContextManager[None]: ...
    def tidy(self, cursor: Any) -> bool: ...
    def close(self) -> None: ...


class _SQLite:
    dialect = Dialect.SQLITE
    waits_for = frozenset({Survives.POWER})

    def __init__(self, place: SQLiteFile) -> None:
        self.path = place.path
        self.where = place.where
        self._lock = sqlite.WriteLock(self.path)

    def connect(self, durable: bool) -> Any:
        return sqlite.connect(self.path, durable=durable)

    def is_stale(self, connection: Any) -> bool:
        return False

    def translate(self, error: Exception) -> PenstockError | None:
        return sqlite.translate(error, self.path)

    def should_retry(self, error: BaseException) -> bool:
        return False

    def transaction(self, cursor: Any) -> contextlib.AbstractContextManager[None]:
        return self._lock.transaction(cursor)

    def tidy(self, cursor: Any) -> bool:
        return sqlite.tidy(cursor, self._lock)

    def close(self) -> None:
        self._lock.close()


class _Postgres:
    dialect = Dialect.POSTGRES
    waits_for = frozenset({Survives.POWER, Survives.CRASH})

    def __init__(self, place: PostgresDatabase) -> None:
        self._place = place
        self.where = place.where

    def connect(self, durable: bool) -> Any:
        return postgres.connect(self._place.parameters, durable=durable)

    def is_stale(self, connection: Any) -> bool:
        return postgres.is_stale(connection)

    def translate(self, error: Exception) -> PenstockError | None:
        return postgres.translate(error, self.where)

    def should_retry(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) in postgres.RETRYABLE

    @contextlib.contextmanager
    def transaction(self, cursor: Any) -> Iterator[None]:
        cursor.execute("BEGIN")
        try:
            yield
            cursor.execute("COMMIT")
        except BaseException:
            postgres.roll_back(cursor)
            raise

    def tidy(self, cursor: Any) -> bool:
        return False  # the server does it

    def close(self) -> None:
        pass


class Database:
    """Sessions on one database. Thread-safe, and usable on both sides of a fork."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self._place = read(url)
        self._pool_size = pool_size
        self._guard = threading.Lock()
        self._driver = _driver(self._place)
        self._pools: dict[bool, QueuePool] = {}
        self._pid = os.getpid()
        self._inherited: object = None
        self._compiled: dict[Any, str] = {}
        self.dialect = self._driver.dialect
        #: Hears of the steps of runs that a transaction let begin, after its commit: it publishes them, which nobody
        #: else does for ``release_lease_s`` seconds. Must not raise. Without it they are the dispatcher's to publish.
        self.on_released: Callable[[Sequence[NewJob]], object] | None = None
        self.release_lease_s = 0.0
        #: Hears of the plain tasks that are wanted no longer, after the commit. Must not raise.
        self.on_revoked: Callable[[Sequence[str]], object] | None = None
        #: Hears of the runs that Celery's programs have called and that have ended, after the commit: it sends their
        #: messages again. Must not raise. Without it the dispatcher does, later.
        self.on_owed: Callable[[Sequence[Job]], object] | None = None
        #: Takes what a transaction on runs leaves to others behind it. Must not raise. Without it, whoever made that
        #: transaction does it all before the call returns.
        self.on_left: Callable[[Left], object] | None = None
        #: Longest output of a run, bytes of JSON.
        self.max_output_bytes = sys.maxsize
        self._learned = Learned()
        #: Whether runs are put on the versions that are served when they begin.
        self.pins = False
        #: Until when it is taken as known that every worker knows runs, on a monotonic clock.
        self.knows_runs_until = float("-inf")

    @property
    def bulk_rows(self) -> int:
        """Rows of one bulk insert: on SQLite nobody else writes meanwhile, for 10 µs a row."""
        return 125 if self.dialect is Dialect.SQLITE else 1000

    @property
    def change_rows(self) -> int:
        """Rows of one bulk change of state by a user's word."""
        return 500 if self.dialect is Dialect.SQLITE else 1000

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """For queries: each statement sees what was committed before it began."""
        with self._session(Survives.NOTHING, whole=False) as session:
            yield session

    @contextlib.contextmanager
    def write(self, survives: Survives) -> Iterator[Session]:
        """For statements that need each other: all of them are committed at the end, or none."""
        with self._session(survives, whole=True) as session:
            yield session

    @contextlib.contextmanager
    def step(self, survives: Survives) -> Iterator[Session]:
        """For statements that stand alone: each is committed for itself on Postgres, which saves two round trips;
        together on SQLite, where a commit costs more than a statement.
        """
        with self._session(survives, whole=self.dialect is Dialect.SQLITE) as session:
            yield session

    def again(self, call: Callable[[], T]) -> T:
        """Run a transaction, and once more when Postgres ended it to resolve a deadlock."""
        for _ in range(_TRIES - 1):
            try:
                return call()
            except Exception as error:
                if not self._driver.should_retry(error.__cause__ or error):
                    raise
        return call()

    def check(self) -> None:
        """Whether the database answers within a second with tables of this version; raises ``StoreUnavailable``.

        In a thread, since no client library can be told to give up as soon as that. It ends when the library does.
        """
        answer: SimpleQueue[BaseException | None] = SimpleQueue()

        def ask() -> None:
            try:
                self._check_version()
            except BaseException as error:
                answer.put(error)
            else:
                answer.put(None)

        threading.Thread(target=ask, name="penstock-store-check", daemon=True).start()
        try:
            error = answer.get(timeout=_CHECK_S)
        except Empty:
            raise StoreUnavailable(
                f"the database {self._driver.where} has not answered within {_CHECK_S:g} s",
                fix="see whether its server is busy or cut off (`penstock doctor` shows what is used)",
            ) from None
        if error is not None:
            raise error

    def _check_version(self) -> None:
        with self.read() as session:
            found = session.one(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
        if found is None or found[0] != SCHEMA_VERSION:
            has = f"version {found[0]}" if found else "no version"
            newer = found is not None and str(found[0]) > SCHEMA_VERSION
            raise SchemaOutdated(
                f"the database {self._driver.where} has tables of {has}, this penstock needs {SCHEMA_VERSION}",
                fix="install the penstock that upgraded the database, or newer" if newer else "penstock db upgrade",
            )

    def tidy(self) -> bool:
        """What a database without a server of its own needs done now and then; whether there was anything to do."""
        with self._session(Survives.POWER, whole=False) as session:
            return self._driver.tidy(session.cursor)

    @property
    def where(self) -> str:
        """Which database, for a person."""
        return self._driver.where

    def close(self) -> None:
        """Close what is idle. Later use connects again."""
        with self._guard:
            pools, self._pools = self._pools, {}
            for pool in pools.values():
                pool.dispose()
            self._driver.close()

    @contextlib.contextmanager
    def _session(self, survives: Survives, *, whole: bool) -> Iterator[Session]:
        held = self._connect(survives in self._driver.waits_for)
        broken = True
        try:
            cursor = held.cursor()
            try:
                session = Session(
                    self.dialect,
                    cursor,
                    self._compiled,
                    bulk_rows=self.bulk_rows,
                    publish_lease_s=self.release_lease_s,
                    max_output_bytes=self.max_output_bytes,
                    learned=self._learned,
                    pins=self.pins,
                )
                if whole:
                    with self._driver.transaction(cursor):
                        yield session
                else:
                    yield session
                broken = False
            finally:
                cursor.close()
        except PenstockError:
            broken = False
            raise
        except Exception as error:
            translated = self._driver.translate(error) or _unfit(error)
            if translated is None:
                # A defect or a caller's own exception: the transaction was rolled back and the connection is sound.
                broken = False
                raise
            raise translated from error
        finally:
            if broken:
                held.invalidate()
            held.close()
        if session.released and self.on_released is not None:
            self.on_released(session.released)
        if session.revoked and self.on_revoked is not None:
            self.on_revoked(session.revoked)

    def _connect(self, durable: bool) -> PoolProxiedConnection:
        pool = self._pools.get(durable) if self._pid == os.getpid() else None
        if pool is None:
            pool = self._open(durable)
        try:
            held = pool.connect()
            while self._driver.is_stale(held.driver_connection):
                held.invalidate()
                held.close()
                held = pool.connect()
        except PoolTimeout:
            raise StoreTimeout(
                f"all {self._pool_size + _OVERFLOW} connections to the database were in use for {_POOL_WAIT_S:g} s",
                fix="use fewer threads per process",
            ) from None
        except PenstockError:
            raise
        except Exception as error:
            translated = self._driver.translate(error)
            if translated is None:
                raise
            raise translated from error
        return held

    def _open(self, durable: bool) -> QueuePool:
        with self._guard:
            if self._pid != os.getpid():
                # After a fork: connections and locks belong to the parent. They are kept, since they would be closed
                # when nobody refers to them, and SQLite's may then tidy up files that the parent uses.
                self._pid = os.getpid()
                self._inherited = (self._driver, self._pools)
                self._driver = _driver(self._place)
                self._pools = {}
            pool = self._pools.get(durable)
            if pool is None:
                driver = self._driver
                pool = self._pools[durable] = QueuePool(
                    lambda: driver.connect(durable),
                    pool_size=self._pool_size,
                    max_overflow=_OVERFLOW,
                    timeout=_POOL_WAIT_S,
                    # Every session ends its transaction itself.
                    reset_on_return=None,
                    use_lifo=True,
                )
            return pool


def _unfit(error: Exception) -> InvalidInput | None:
    """A value that neither database can hold: half of a surrogate pair, an enormous number."""
    if isinstance(error, (UnicodeEncodeError, OverflowError)):
        return InvalidInput(f"the database cannot hold a value of this call: {error}", fix="correct the value")
    return None


def _driver(place: SQLiteFile | PostgresDatabase) -> _Driver:
    return _SQLite(place) if isinstance(place, SQLiteFile) else _Postgres(place)
