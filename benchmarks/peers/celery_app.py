"""Stock Celery, as its documentation tells a careful user to run it: the other side of ``benchmarks/queue.py``.

JSON, late acknowledgements, results stored in Redis, task events on. Nothing of penstock is imported here. The
worker is ``celery -A benchmarks.peers.celery_app worker`` with the options in ``WORKER_OPTIONS``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery

#: Chatter between workers is switched off: with one worker it costs and gives nothing.
WORKER_OPTIONS = ("-E", "-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")

app = Celery(
    "bench",
    broker=os.environ.get("BENCH_BROKER_URL", "redis://localhost:6379/1"),
    backend=os.environ.get("BENCH_RESULT_URL", "redis://localhost:6379/2"),
)
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=False,
    worker_send_task_events=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    broker_connection_retry_on_startup=True,
    result_expires=3600,
)


@app.task(name="noop")
def noop(item: str) -> str:
    """Gives back what it was given."""
    return item


class Producer:
    """What a program that sends to Celery does, verb by verb."""

    def __init__(self) -> None:
        self._commit: Callable[[str], None] = lambda item: None
        url = os.environ.get("BENCH_DATABASE_URL")
        if url:
            self._commit = _sqlite(url) if url.startswith("sqlite") else _postgres(url)

    def single(self, item: str) -> None:
        """``apply_async``, after a commit of one row where a database is named: the least that makes it durable."""
        self._commit(item)
        noop.apply_async((item,))

    def many(self, items: Sequence[str]) -> None:
        """Celery has no bulk verb: one ``apply_async`` per job."""
        for item in items:
            noop.apply_async((item,))

    def kombu_batch(self, items: Sequence[str]) -> None:
        """``apply_async`` inside kombu's ``Producer.batch()``, which sends many messages in one round trip."""
        with app.producer_pool.acquire(block=True) as producer, producer.batch():  # type: ignore[attr-defined]
            for item in items:
                noop.apply_async((item,), producer=producer)

    def round_trip(self, item: str) -> Any:
        """``apply_async().get()``."""
        return noop.apply_async((item,)).get(timeout=30)

    def close(self) -> None:
        """Nothing is pending."""


_TABLE = "CREATE TABLE IF NOT EXISTS job (id {id}, state TEXT NOT NULL, input TEXT NOT NULL)"
_INSERT = "INSERT INTO job (state, input) VALUES ({mark}, {mark})"


def _sqlite(url: str) -> Callable[[str], None]:
    """An insert and a commit through the bare driver, as durable as penstock's own."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=" + os.environ.get("BENCH_SQLITE_SYNCHRONOUS", "FULL"))
    connection.execute("PRAGMA wal_autocheckpoint=4000")
    connection.execute(_TABLE.format(id="INTEGER PRIMARY KEY"))
    statement = _INSERT.format(mark="?")

    def commit(item: str) -> None:
        connection.execute(statement, ("accepted", item))  # its own transaction

    return commit


def _postgres(url: str) -> Callable[[str], None]:
    """An insert and a commit through the bare driver: one round trip on an open connection."""
    import psycopg

    connection = psycopg.connect(url, autocommit=True)
    connection.execute(_TABLE.format(id="BIGSERIAL PRIMARY KEY"))
    statement = _INSERT.format(mark="%s")

    def commit(item: str) -> None:
        connection.execute(statement, ("accepted", item), prepare=True)

    return commit
