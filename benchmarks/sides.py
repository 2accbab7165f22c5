"""The two sides of the comparison, behind one face: fresh state, a worker, producers, and when the last job ended."""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from benchmarks.partner import Partner
from benchmarks.peers.celery_app import WORKER_OPTIONS
from benchmarks.processes import BenchmarkError, Child, python
from benchmarks.servers import Servers
from benchmarks.subject import MODEL

from penstock.lane import LANES, queue_name
from penstock.transport.keys import list_keys

#: Redis databases: penstock's, stock Celery's broker, stock Celery's results.
PENSTOCK_DB, CELERY_DB, RESULT_DB = 0, 1, 2

NAMESPACE = "penstock"


class ProducerProcess(Partner):
    """A process of ``benchmarks.producer``."""

    def __init__(self, module: str, *, log: Path, env: Mapping[str, str]) -> None:
        super().__init__(python("-m", "benchmarks.producer", module), log=log, env=env)

    def ask(self, verb: str, count: int, *, warm: int = 0) -> dict[str, Any]:
        """Have it carry out one request; its answer."""
        return self.tell({"verb": verb, "count": count, "warm": warm})


class Side(ABC):
    """One way to run the same jobs. A side is used for one session: fresh state, then ``close``."""

    #: The module with this side's ``Producer``.
    producer_module: str

    def __init__(self, name: str, servers: Servers, folder: Path) -> None:
        self.name = name
        self.servers = servers
        self.folder = folder
        self.worker: Child | None = None
        self.others: dict[str, Child] = {}
        folder.mkdir(parents=True)
        servers.client(self.db).flushdb()

    db: int

    @abstractmethod
    def environ(self) -> dict[str, str]:
        """What this side's processes find in their environment."""

    @abstractmethod
    def start(self) -> None:
        """Start the worker and what it needs beside it. It is ready when a first job comes back."""

    @abstractmethod
    def waiting(self) -> int:
        """About how many jobs have not been claimed; cheap."""

    @abstractmethod
    def settled(self) -> int:
        """How many jobs have ended, and are acknowledged."""

    @abstractmethod
    def last_settled_at(self) -> float:
        """When the last job ended, as this side recorded it; Unix seconds."""

    def producer(self, **env: str) -> ProducerProcess:
        """A new producer process."""
        return ProducerProcess(self.producer_module, log=self.folder / "producer.log", env=self.environ() | env)

    def check(self) -> None:
        """Raise ``BenchmarkError`` when one of the processes has ended."""
        for child in [self.worker, *self.others.values()]:
            if child is not None:
                child.check()

    def pids(self) -> dict[str, list[int]]:
        """The processes whose CPU time is reported, by role."""
        assert self.worker is not None
        roles = {"worker": [self.worker.pid], "redis": [self.servers.redis_pid]}
        return roles | {role: [child.pid] for role, child in self.others.items()}

    def close(self) -> None:
        """Stop this side's processes."""
        for child in [self.worker, *self.others.values()]:
            if child is not None:
                child.stop()


@dataclass(frozen=True, slots=True)
class StockPool:
    """How a stock worker is run: execution pool, its size, and the prefetch multiplier."""

    pool: str
    concurrency: int
    prefetch: int

    def __str__(self) -> str:
        return f"{self.pool} x{self.concurrency}, prefetch {self.prefetch}"


class CelerySide(Side):
    """Stock Celery on stock kombu."""

    producer_module = "benchmarks.peers.celery_app"
    db = CELERY_DB

    def __init__(self, servers: Servers, folder: Path, pool: StockPool) -> None:
        super().__init__("celery", servers, folder)
        self.pool = pool
        self._results = servers.client(RESULT_DB)
        self._broker = servers.client(CELERY_DB)
        self._results.flushdb()

    def environ(self) -> dict[str, str]:
        return {
            "BENCH_BROKER_URL": self.servers.broker_url(CELERY_DB),
            "BENCH_RESULT_URL": self.servers.broker_url(RESULT_DB),
            "BENCH_PREFETCH": str(self.pool.prefetch),
        }

    def start(self) -> None:
        command = ["-m", "celery", "-A", "benchmarks.peers.celery_app", "worker", *WORKER_OPTIONS]
        command += ["-P", self.pool.pool, "-c", str(self.pool.concurrency)]
        self.worker = Child(python(*command), log=self.folder / "worker.log", env=self.environ())

    def waiting(self) -> int:
        return int(self._broker.llen("celery"))

    def settled(self) -> int:
        unacked = int(self._broker.hlen("unacked"))
        return 0 if unacked else int(self._results.dbsize())

    def last_settled_at(self) -> float:
        keys: list[Any] = list(self._results.scan_iter(count=1000))
        return max(_done_at(text) for i in range(0, len(keys), 1000) for text in self._results.mget(keys[i : i + 1000]))


def _done_at(text: Any) -> float:
    result = json.loads(text)
    if result["status"] != "SUCCESS":
        raise BenchmarkError(f"a stock job ended as {result['status']}: {result['result']}")
    at = datetime.fromisoformat(result["date_done"])
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


class PenstockSide(Side):
    """penstock with a worker and a dispatcher, on SQLite or Postgres."""

    producer_module = "benchmarks.subject"
    db = PENSTOCK_DB

    def __init__(self, servers: Servers, folder: Path, database: str) -> None:
        super().__init__(f"penstock-{database}", servers, folder)
        self.database = database
        if database == "postgres":
            self.url = servers.postgres.create(f"bench_{folder.name.replace('-', '_')}")
        else:
            self.url = f"sqlite:///{folder / 'penstock.db'}"
        self._broker = servers.client(PENSTOCK_DB)
        self._lists = [key for lane in LANES for key in list_keys(queue_name(NAMESPACE, MODEL, lane))]

    def environ(self) -> dict[str, str]:
        return {
            "PENSTOCK_HOME": str(self.folder),
            "PENSTOCK_NAMESPACE": NAMESPACE,
            "PENSTOCK_BROKER_URL": self.servers.broker_url(PENSTOCK_DB),
            "PENSTOCK_DATABASE_URL": self.url,
            "PENSTOCK_MODELS": "benchmarks.subject",
            "PENSTOCK_LOG_LEVEL": "warning",
            # The worker is paused while jobs are enqueued, and must not be taken for dead.
            "PENSTOCK_LEASE__TTL_S": "120",
        }

    def start(self) -> None:
        env = self.environ()
        migrated = Child(
            python("-c", f"import penstock_migrations; penstock_migrations.upgrade({self.url!r})"),
            log=self.folder / "migrate.log",
            env=env,
        )
        if migrated.process.wait(60):
            migrated.check()
        self.worker = Child(python("-m", "penstock_worker.main"), log=self.folder / "worker.log", env=env)
        self.others["dispatcher"] = Child(
            python("-m", "penstock_cli", "dispatcher"), log=self.folder / "dispatcher.log", env=env
        )

    def waiting(self) -> int:
        with self._broker.pipeline(transaction=False) as pipe:
            for key in self._lists:
                pipe.llen(key)
            return sum(pipe.execute())

    def settled(self) -> int:
        return int(self._one("SELECT count(*) FROM penstock_job WHERE settled_at IS NOT NULL"))

    def last_settled_at(self) -> float:
        failed = self._one("SELECT count(*) FROM penstock_job WHERE state <> 'succeeded'")
        if failed:
            raise BenchmarkError(f"{failed} jobs did not succeed")
        return float(self._one("SELECT max(settled_at) FROM penstock_job"))

    def pids(self) -> dict[str, list[int]]:
        roles = super().pids()
        return roles | {"postgres": [self.servers.postgres.pid]} if self.database == "postgres" else roles

    def _one(self, statement: str) -> Any:
        if self.database == "postgres":
            with psycopg.connect(self.url) as server:
                row = server.execute(statement).fetchone()
        else:
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30)) as file:
                row = file.execute(statement).fetchone()
        assert row is not None
        return row[0]
