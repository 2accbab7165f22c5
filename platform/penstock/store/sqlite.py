"""SQLite: connections, pragmas, and one writer at a time.

Durability. The database runs in WAL mode. What a user was told (accepted, cancelled) is committed with
``synchronous=FULL``: it is on the disk when the call returns, and with it every commit before it. Claims and outcomes
are committed with ``NORMAL``: they survive the end of any process, but a loss of power may take the last of them with
it. Then a job that had run is run again, which at-least-once execution allows. Nothing is ever torn.

Writers wait for ``flock`` of ``<database>.lock`` and not in SQLite's busy handler, whose pauses grow to a tenth of a
second: with it a writer that comes often starves the others. A second lock, ``<database>.turn``, is the place at the
head of the queue: whoever has it is next, so that a bulk submission which comes back at once does not go first again.
Programs that do not know the locks are waited for too.

The log. A commit that fills it would move it into the database, with syncs, while everybody waits. So that happens far
beyond what a dispatcher lets it grow to: ``tidy`` moves most of it beside the writers, and the rest in their way.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from penstock.clock import monotonic_s
from penstock.errors import ConfigError, InvalidInput, PenstockError, SchemaOutdated, StoreTimeout, StoreUnavailable

try:
    import fcntl
except ImportError:  # pragma: no cover - not on this system: SQLite's busy handler serves alone
    fcntl = None  # type: ignore[assignment]

#: For RETURNING and UPDATE … FROM.
OLDEST = (3, 35, 0)
#: How long a writer waits for its turn, seconds.
WAIT_S = 5.0
#: How long a writer waits for the place at the head of the queue, seconds.
TURN_S = 0.5
#: How long SQLite itself waits at a time: for programs that do not take our lock, such as the sqlite3 shell.
_BUSY_STEP_S = 0.1
#: First and longest pause between two looks at a lock that another process holds, seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.00002, 0.0005
#: Pages of 4 KiB in the log before a commit moves them to the database: only where no dispatcher does it before.
_CHECKPOINT_PAGES = 16_000
#: Pages in the log from which on a dispatcher moves them, and so many that may be left to move while writers wait.
_TIDY_PAGES, _REST_PAGES = 500, 200
#: Times that the log is moved beside the writers before the rest is moved in their way.
_TIDY_ROUNDS = 5

_NO_TABLES = "penstock db upgrade"
_NO_FILE = f"{_NO_TABLES}; or name the database that `penstock up` uses (PENSTOCK_HOME, PENSTOCK_DATABASE_URL)"

_PRAGMAS = (
    "journal_mode = WAL",
    f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
    "cache_size = -32768",
    f"mmap_size = {256 * 2**20}",
    "temp_store = MEMORY",
    # Some builds wipe what is deleted; that doubles the writing, and outputs are not more secret than the file.
    "secure_delete = OFF",
)


def connect(path: Path, *, durable: bool) -> sqlite3.Connection:
    """A connection in autocommit mode; transactions are begun by hand."""
    if sqlite3.sqlite_version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise ConfigError(
            f"SQLite {sqlite3.sqlite_version} is too old, {needed} is needed",
            fix="use a newer Python build, or Postgres through PENSTOCK_DATABASE_URL",
        )
    if not path.exists():
        # Connecting would create it, empty, and in the place of a file that is only not mounted yet.
        raise SchemaOutdated(f"the database {path} does not exist", fix=_NO_FILE)
    connection = sqlite3.connect(
        path, timeout=_BUSY_STEP_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    except BaseException:
        connection.close()
        raise
    return connection


class WriteLock:
    """Admits one writer at a time: among the threads of this process and among processes on this machine.

    The system frees the lock of a process that dies. Make a new one after a fork.
    """

    def __init__(self, database: Path) -> None:
        self._turn, self._lock = (_Lock(database.with_name(database.name + suffix)) for suffix in (".turn", ".lock"))
        # In one process, too, whoever comes first is next.
        self._next, self._threads = threading.Lock(), threading.Lock()

    @contextlib.contextmanager
    def transaction(self, cursor: sqlite3.Cursor) -> Iterator[None]:
        """A write transaction; raises ``sqlite3.OperationalError`` when its turn does not come in time."""
        self._begin(cursor)
        try:
            yield
            cursor.execute("COMMIT")
        except BaseException:
            if cursor.connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        finally:
            self._release()

    def close(self) -> None:
        """Let go of the files."""
        with self._next, self._threads:
            self._turn.close()
            self._lock.close()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No writer beside us, and no transaction. Raises ``sqlite3.OperationalError`` when that cannot be in time."""
        self._acquire(monotonic_s() + WAIT_S)
        try:
            yield
        finally:
            self._release()

    def _begin(self, cursor: sqlite3.Cursor) -> None:
        deadline = monotonic_s() + WAIT_S
        while True:
            self._acquire(deadline)
            try:
                cursor.execute("BEGIN IMMEDIATE")
                return
            except BaseException as error:
                self._release()
                # Held by a program that knows nothing of our lock. Whoever waits for it waits without ours, so that
                # the waits of many writers do not add up.
                if not _is_busy(error) or monotonic_s() >= deadline:
                    raise

    def _acquire(self, deadline: float) -> None:
        # First the place at the head of the queue, then the lock itself; then the place is free for the next.
        if not self._next.acquire(timeout=max(0.0, deadline - monotonic_s())):
            raise sqlite3.OperationalError("database is locked by another thread")
        try:
            if not self._threads.acquire(timeout=max(0.0, deadline - monotonic_s())):
                raise sqlite3.OperationalError("database is locked by another thread")
            try:
                # The place is a courtesy: who holds it may have been stopped (not killed) while it waited.
                in_turn = self._turn.acquire(min(deadline, monotonic_s() + TURN_S))
                try:
                    if not self._lock.acquire(deadline):
                        raise sqlite3.OperationalError("database is locked by another process")
                finally:
                    if in_turn:
                        self._turn.release()
            except BaseException:
                self._threads.release()
                raise
        finally:
            self._next.release()

    def _release(self) -> None:
        try:
            self._lock.release()
        finally:
            self._threads.release()


class _Lock:
    """``flock`` of one file, with a limit on the wait. One thread at a time.

    The lock belongs to the open file, which a fork shares: a child must let go of it at once, or it would keep what a
    killed parent had locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._usable = fcntl is not None
        _LOCKS.add(self)

    def acquire(self, deadline: float) -> bool:
        """Whether it was to be had until then. A system without such locks: always."""
        pause_s = _FIRST_PAUSE_S
        while self._usable:
            try:
                if self._file is None:
                    self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                # Not a blocking call, since that has no time limit: a process that was stopped may hold the lock.
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if monotonic_s() >= deadline:
                    return False
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            except OSError:
                # A file system without locks, or a folder that is not ours to write: SQLite itself still serialises.
                self._usable = False
        return True

    def release(self) -> None:
        if self._usable and self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


_LOCKS: weakref.WeakSet[_Lock] = weakref.WeakSet()


def _let_go() -> None:
    for lock in _LOCKS:
        with contextlib.suppress(OSError):
            lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def tidy(cursor: sqlite3.Cursor, lock: WriteLock) -> bool:
    """Move what the log holds into the database, so that no commit has to; whether there was enough to move.

    Moving does not disturb writers, but while they write, the log is never at its end, and it begins anew only when
    all of it was moved. So the last few pages are moved while the writers wait, for as long as a commit takes.
    """
    for _ in range(_TIDY_ROUNDS):
        _, written, moved = cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if written < _TIDY_PAGES:
            return False
        if written - moved <= _REST_PAGES:
            break
    with lock.alone():
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return True


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def translate(error: Exception, path: Path) -> PenstockError | None:
    """A driver's error as ours; ``None`` if it is a defect of the program."""
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and ("no such table" in text or "no such column" in text):
        return SchemaOutdated(f"the database {path} has no tables of this version", fix=_NO_TABLES)
    if isinstance(error, sqlite3.OperationalError) and any(w in text for w in ("syntax", "near", "already exists")):
        return None
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.InterfaceError)) and "binding" in text:
        return InvalidInput(f"the database cannot hold a value of this call: {text}", fix="correct the value")
    if not isinstance(error, (sqlite3.OperationalError, sqlite3.DatabaseError)) or isinstance(
        error, (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.DataError)
    ):
        return None
    if _is_busy(error) or "busy" in text:
        return StoreTimeout(
            f"the database {path} is in use by others: {text} for {WAIT_S:g} s",
            fix=f"another program holds a lock on {path}: end it (`fuser {path}` names it)",
        )
    if "interrupted" in text:
        return StoreTimeout(f"a statement on the database {path} was interrupted", fix="try again, or ask for less")
    fixes = (
        ("full", f"make room on the disk of {path}"),
        ("readonly", f"let this user write {path} and its folder: `ls -l` shows whose they are"),
        ("unable to open", f"let this user read and write {path} and its folder: `ls -l` shows whose they are"),
        ("not a database", "correct PENSTOCK_DATABASE_URL or PENSTOCK_HOME, or restore the file from a backup"),
        ("malformed", "restore the file from a backup; `sqlite3 FILE .recover` saves what is left of it"),
    )
    usual = f"check that {path} can be written, is a database and has room on its disk"
    fix = next((fix for words, fix in fixes if words in text), usual)
    return StoreUnavailable(f"the database {path} cannot be used: {text}", fix=fix)
