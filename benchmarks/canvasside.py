"""The stock side of ``benchmarks/pipeline.py``: a Celery worker that runs canvases of the same shapes."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.live import Setting
from benchmarks.partner import Partner
from benchmarks.peers.celery_app import WORKER_OPTIONS
from benchmarks.processes import Child, python
from benchmarks.sides import StockPool

from penstock.transport.embedded import EmbeddedBroker


class Stock:
    """A stock worker with our canvases, on a broker of its own."""

    def __init__(self, folder: Path, setting: Setting, pool: StockPool) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.pool = pool
        self._broker = EmbeddedBroker(folder, socket=folder / "s")
        self._env = {
            "BENCH_BROKER_URL": f"{self._broker.url}?virtual_host=1",
            "BENCH_RESULT_URL": f"{self._broker.url}?virtual_host=2",
            "BENCH_PREFETCH": str(pool.prefetch),
            **setting.environ(),
        }
        self._worker: Child | None = None
        self._client: Partner | None = None

    def start(self) -> Stock:
        """Start broker, worker and client."""
        self._broker.start()
        command = python("-m", "celery", "-A", "benchmarks.peers.celery_canvas", "worker", *WORKER_OPTIONS)
        pool = ("-P", self.pool.pool, "-c", str(self.pool.concurrency))
        self._worker = Child([*command, *pool], log=self._folder / "worker.log", env=self._env)
        self._client = Partner(
            python("-m", "benchmarks.peers.celery_canvas"), log=self._folder / "client.log", env=self._env
        )
        return self

    def run(self, what: str, count: int = 1) -> list[float]:
        """Canvases one after the other; seconds."""
        assert self._client is not None
        answer = self._client.tell({"verb": "run", "what": what, "count": count})
        return [us / 1e6 for us in answer["calls_us"]]

    def drain_per_s(self, what: str, count: int) -> float:
        """Canvases per second of a backlog that stood there when the worker ran on."""
        assert self._worker is not None and self._client is not None
        self._worker.pause()
        try:
            self._client.tell({"verb": "submit", "what": what, "count": count})
            begins = time.time()
        finally:
            self._worker.resume()
        last: float = self._client.tell({"verb": "wait"})["last_at"]
        return count / (last - begins)

    def stop(self) -> None:
        """Stop all of it. Idempotent."""
        for each in (self._client, self._worker):
            if each is not None:
                each.stop()
        self._broker.stop()
