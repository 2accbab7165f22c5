"""A stock Celery worker process on our transport: tasks, remote control, stopping, death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from penstock.transport import inspect, keys
from penstock.transport.url import for_kombu
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer, until

QUEUE = "plain"


class Workers:
    """Worker processes, and a program that sends to them."""

    def __init__(self, url: str, namespace: str, folder: Path) -> None:
        self.done = folder / "done"
        self.done.touch()
        self.log = folder / "log"
        self.environment = os.environ | {
            "STOCK_BROKER": for_kombu(url).url,
            "STOCK_DONE": str(self.done),
            "STOCK_NAMESPACE": namespace,
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.fixtures.stock_app", "worker",
                 "-Q", QUEUE, "-l", "info", "-n", f"w{len(self.processes)}@here", *options],
                env=self.environment, cwd=Path(__file__).parents[2], stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def finished(self) -> list[int]:
        return [json.loads(line) for line in self.done.read_text().splitlines()]

    def complaints(self) -> list[str]:
        """Lines of the workers' logs that a clean run does not have."""
        words = ("Traceback", "ERROR", "CRITICAL", "WARNING")
        return [line for line in self.log.read_text().splitlines() if any(word in line for word in words)]

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE_S)


@pytest.fixture
def workers(broker_url: str, namespace: str, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(broker_url, namespace, tmp_path)
    yield workers
    workers.stop()


@pytest.fixture
def send(broker_url: str) -> Iterator[Callable[..., None]]:
    """Sends numbers as tasks, through kombu's own transport."""
    app = Celery("sender", broker=for_kombu(broker_url).url, set_as_current=False)

    def send(*numbers: int, **options: float) -> None:
        for number in numbers:
            app.send_task("stock.task", args=[number], kwargs=options, queue=QUEUE)

    yield send
    app.close()


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_worker_runs_and_stops_cleanly(
    pool: str, workers: Workers, send: Callable[..., None], broker: redis.Redis, namespace: str
) -> None:
    send(*range(30))
    worker = workers.start("-P", pool, "-c", "2")
    until(lambda: len(workers.finished()) == 30, timeout_s=60)
    send(*range(30, 60))  # to an idle worker, without a bell
    until(lambda: len(workers.finished()) == 60)
    assert sorted(workers.finished()) == list(range(60))
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    assert inspect.depths(broker, namespace, [QUEUE])[QUEUE].total == 0
    assert broker.zcard(keys.consumers(namespace)) == 0
    assert workers.complaints() == []


def test_remote_control_works(workers: Workers, send: Callable[..., None]) -> None:
    workers.start("-P", "solo")
    send(1)
    until(lambda: workers.finished(), timeout_s=60)
    shown = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.fixtures.stock_app", "inspect", "-j", "-t", "5", "ping"],
        env=workers.environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(shown.stdout) == {"w0@here": {"ok": "pong"}}, shown.stderr


def test_what_a_stopping_worker_had_claimed_is_ready_at_once(
    workers: Workers, send: Callable[..., None], broker: redis.Redis, namespace: str
) -> None:
    send(*range(20), sleep_s=0.2)
    worker = workers.start("-P", "threads", "-c", "2", "--prefetch-multiplier", "5")
    until(lambda: len(workers.finished()) >= 2, timeout_s=60)
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    done = len(workers.finished())
    depth = inspect.depths(broker, namespace, [QUEUE])[QUEUE]
    assert (depth.ready, depth.claimed) == (20 - done, 0)
    workers.start("-P", "threads", "-c", "8")
    until(lambda: len(workers.finished()) >= 20)
    assert sorted(workers.finished()) == list(range(20))  # after a clean stop nothing ran twice


def test_a_killed_workers_messages_are_run_by_another(workers: Workers, send: Callable[..., None]) -> None:
    send(*range(10), sleep_s=0.3)
    worker = workers.start("-P", "threads", "-c", "2", "--prefetch-multiplier", "5")
    until(lambda: len(workers.finished()) >= 2, timeout_s=60)
    worker.send_signal(signal.SIGKILL)
    worker.wait(PATIENCE_S)
    workers.start("-P", "threads", "-c", "8")
    until(lambda: set(workers.finished()) == set(range(10)), timeout_s=60)


def test_a_worker_outlives_its_broker(workers: Workers, send: Callable[..., None], redis_server: RedisServer) -> None:
    workers.start("-P", "solo")
    send(1)
    until(lambda: workers.finished() == [1], timeout_s=60)
    redis_server.kill()
    redis_server.start()
    send(2)
    until(lambda: 2 in workers.finished(), timeout_s=60)
    redis_server.flushall()
    send(3)
    until(lambda: 3 in workers.finished(), timeout_s=60)
