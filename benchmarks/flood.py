"""The two sides of ``benchmarks/isolation.py``: a flood of background jobs, and interactive requests beside it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import live
from benchmarks.live import Setting, Stack
from benchmarks.peers.celery_app import WORKER_OPTIONS
from benchmarks.processes import BenchmarkError, Child, environment, eventually, python

from penstock.client import Client
from penstock.policy.isolation import isolation_bound_s
from penstock.transport.embedded import EmbeddedBroker
from penstock.transport.url import connect

PENSTOCK, CELERY = "penstock", "celery"

#: Jobs that are added at a time to keep the backlog up, and how often it is looked at, seconds.
CHUNK, LOOK_EVERY_S = 1000, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodPlan:
    """How much is measured: ``rate`` interactive requests per second beside ``backlog`` waiting background jobs."""

    repeats: int = 3
    duration_s: float = 20.0
    rate: float = 20.0
    backlog: int = 10_000


def published_bound_s(setting: Setting) -> float:
    """How much later than alone an interactive request may be beside background work, seconds."""
    return isolation_bound_s(setting.target_s)


class PenstockSide:
    """penstock with its defaults; the backlog is kept up while it is measured."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self._stack = Stack(folder, setting, name=PENSTOCK)
        self._setting = setting

    def start(self) -> None:
        """Start it, and pause it until it is its turn."""
        self._stack.start()
        self._stack.pause()

    def stop(self) -> None:
        """Stop it."""
        self._stack.resume()
        self._stack.stop()

    def measure(self, plan: FloodPlan, *, rate: float, flood: bool, seed: int) -> dict[str, Any]:
        """One run: the report, with ``samples``, ``background_per_s`` and ``background_batch``."""
        with live.turn(self._stack) as stack:
            feeder = _Feeder(stack, plan.backlog) if flood else None
            try:
                if feeder is not None:
                    feeder.start()
                begins = time.time()
                if rate:
                    report = stack.offer(
                        [{"rate": rate, "lane": "interactive"}], duration_s=plan.duration_s, seed=seed, samples=True
                    )
                else:
                    time.sleep(plan.duration_s)
                    report = {**NOTHING}
                ends = time.time()
            finally:
                if feeder is not None:
                    feeder.stop()
            settled, batch = self._background(begins, ends)
        if feeder is not None and feeder.least < plan.backlog / 2:
            raise BenchmarkError(f"the backlog could not be kept up: it fell to {feeder.least}")
        report = {**live.brief(report), "samples": report["samples"]}
        return {**report, "background_per_s": settled / (ends - begins), "background_batch": batch}

    def _background(self, begins: float, ends: float) -> tuple[int, float | None]:
        """Background jobs settled in this time, and the mean size of their batches."""
        with closing(sqlite3.connect(self._stack.folder / "penstock.db", timeout=30)) as file:
            count, batches = file.execute(
                "SELECT count(*), sum(1.0 / batch_size) FROM penstock_job "
                "WHERE lane = 'background' AND settled_at BETWEEN ? AND ?",
                (begins, ends),
            ).fetchone()
        return int(count), count / batches if batches else None


#: The report of a run in which nothing interactive is offered.
NOTHING: dict[str, Any] = {
    "goodput": None,
    "p50_ms": None,
    "p99_ms": None,
    "max_ms": None,
    "void": False,
    "samples": [],
}


class _Feeder:
    """Keeps so many background jobs waiting, from a thread; ``least`` is the fewest that it saw after the start."""

    def __init__(self, stack: Stack, backlog: int) -> None:
        self._stack = stack
        self._backlog = backlog
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder")
        self._client = Client(stack.settings())
        self._error: Exception | None = None
        self.least = backlog

    def start(self) -> None:
        """Queue the backlog, then keep it up."""
        self._feed(self._backlog)
        self._thread.start()

    def stop(self) -> None:
        """Feed no more. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(30)
        self._client.close()
        if self._error is not None:
            raise BenchmarkError(f"the flood broke off: {self._error}")

    def _run(self) -> None:
        try:
            while not self._stopping.wait(LOOK_EVERY_S):
                waiting = self._stack.open_jobs()
                self.least = min(self.least, waiting)
                if waiting <= self._backlog:
                    self._feed(self._backlog - waiting + CHUNK)
        except Exception as error:
            self._error = error

    def _feed(self, count: int) -> None:
        self._client.enqueue_many(self._stack.setting.model, range(count), lane="background")


class CelerySide:
    """Stock Celery with priority queues, prefetch 1, late acknowledgements, one job at a time."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self._folder = folder
        self._setting = setting
        self._broker = EmbeddedBroker(folder, socket=folder / "s")
        self._worker: Child | None = None
        self._environ = {
            "BENCH_BROKER_URL": f"{self._broker.url}?virtual_host=1",
            "BENCH_RESULT_URL": f"{self._broker.url}?virtual_host=2",
            **setting.environ(),
        }

    def start(self) -> None:
        """Start broker and worker, and pause the worker until it is its turn."""
        self._folder.mkdir(parents=True)
        self._broker.start()
        command = ["-m", "celery", "-A", "benchmarks.peers.celery_device", "worker", *WORKER_OPTIONS]
        self._worker = Child(
            python(*command, "-P", "solo", "-c", "1"), log=self._folder / "worker.log", env=self._environ
        )
        self._offer({"streams": [], "duration_s": 0.1, "seed": 0, "target_s": 1.0})
        self._worker.pause()

    def stop(self) -> None:
        """Stop both."""
        if self._worker is not None:
            self._worker.resume()
            self._worker.stop()
        self._broker.stop()

    def measure(self, plan: FloodPlan, *, rate: float, flood: bool, seed: int) -> dict[str, Any]:
        """One run on an empty broker: what is left of a flood would take minutes."""
        assert self._worker is not None
        self._empty()
        self._worker.resume()
        try:
            report = self._offer(
                {
                    "streams": [{"rate": rate, "lane": "interactive"}],
                    "duration_s": plan.duration_s,
                    "seed": seed,
                    "target_s": self._setting.target_s,
                    "flood": plan.backlog if flood else 0,
                }
            )
        finally:
            self._empty()
            self._worker.pause()
        return {**live.brief(report), "samples": report["samples"], "background_batch": 1.0}

    def _empty(self) -> None:
        assert self._worker is not None
        client = connect(self._environ["BENCH_BROKER_URL"], timeout_s=10.0)
        try:
            self._worker.resume()
            client.delete(*(client.keys("celery*") or ["celery"]))
            # The job that runs is acknowledged within a moment.
            eventually(lambda: not client.hlen("unacked"), "stock Celery to be idle", timeout_s=30)
        finally:
            client.close()

    def _offer(self, spec: dict[str, Any]) -> dict[str, Any]:
        log = self._folder / "offer.log"
        with log.open("ab") as output:
            done = subprocess.run(
                python("-m", "benchmarks.peers.celery_offer"),
                env=environment(self._environ),
                input=json.dumps(spec),
                stdout=subprocess.PIPE,
                stderr=output,
                encoding="utf-8",
                timeout=spec["duration_s"] + 180,
            )
        if done.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise BenchmarkError(f"Celery's generator ended with status {done.returncode}:\n{tail}")
        report: dict[str, Any] = json.loads(done.stdout)
        return report
