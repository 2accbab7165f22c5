"""What each part of ``benchmarks/pipeline.py`` stands on: a whole penstock, and a stock Celery with canvases.

Each part starts its own, with a client in a process of its own, and stops it before the next one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.canvasside import Stock
from benchmarks.live import Setting, Stack
from benchmarks.partner import Partner
from benchmarks.processes import BenchmarkError, eventually, python
from benchmarks.servers import Postgres
from benchmarks.sides import StockPool
from benchmarks.steprows import Rows

from penstock.lane import LANES, queue_name
from penstock.transport.keys import list_keys
from penstock.transport.url import connect

#: Longest waits for what was submitted, and for a worker that starts, seconds.
DRAIN_TIMEOUT_S, START_TIMEOUT_S = 300.0, 60.0
LOOK_EVERY_S = 0.05


@dataclass(slots=True)
class Ours:
    """A penstock that runs."""

    stack: Stack
    rows: Rows
    client: Partner

    def run(self, what: str, value: Any, count: int = 1) -> list[float]:
        """``client.run``, one after the other; seconds."""
        answer = self.client.tell({"verb": "run", "what": what, "input": value, "count": count})
        return [us / 1e6 for us in answer["calls_us"]]

    def submit(self, what: str, value: Any, count: int) -> float:
        """``enqueue_many``; seconds."""
        answer = self.client.tell({"verb": "submit", "what": what, "input": value, "count": count})
        return float(answer["wall_s"])

    def pause(self) -> None:
        """Stop the workers in their tracks; the dispatcher goes on."""
        for worker in self.stack.workers:
            worker.pause()

    def resume(self) -> None:
        """Let them run on."""
        for worker in self.stack.workers:
            worker.resume()

    def settle(self, after: str) -> None:
        """Wait until all that is newer has ended; raise ``BenchmarkError`` unless all has succeeded."""

        def ended() -> bool:
            self.stack.check()
            return not self.rows.any_open(after)

        eventually(ended, "runs to end", timeout_s=DRAIN_TIMEOUT_S, every_s=LOOK_EVERY_S)
        self.rows.check(after)

    def finished(self, after: str) -> float:
        """The same without an error: the share that has ended well."""
        with suppress(BenchmarkError):
            self.settle(after)
        self.stack.check()
        return self.rows.good_share(after)

    def messages(self, model: str) -> list[bytes]:
        """What stands at the broker for a model: in its queues, or claimed."""
        with connect(self.stack.environ["PENSTOCK_BROKER_URL"], timeout_s=10.0) as broker:
            found: list[Any] = []
            for key in _keys(model):
                found += broker.lrange(key, 0, -1)
            for key in broker.scan_iter(_CLAIMED):
                claims: list[Any] = broker.hvals(key)
                found += [
                    each.rpartition(b"\0")[2] for each in claims if each.startswith(f"penstock.{model}.".encode())
                ]
        return found

    @contextmanager
    def counting(self, model: str) -> Iterator[Callable[[], int]]:
        """Gives a function that says how many there are, where only this model has any; quick."""
        with connect(self.stack.environ["PENSTOCK_BROKER_URL"], timeout_s=10.0) as broker:

            def count() -> int:
                claimed = list(broker.scan_iter(_CLAIMED))
                with broker.pipeline(transaction=False) as pipe:
                    for key in _keys(model):
                        pipe.llen(key)
                    for key in claimed:  # a worker that waited when it was paused still gets the first one
                        pipe.hlen(key)
                    return sum(map(int, pipe.execute()))

            yield count


_CLAIMED = "penstock:unacked:*"


def _keys(model: str) -> list[str]:
    return [key for lane in LANES for key in list_keys(queue_name("penstock", model, lane))]


class Ground:
    """Makes them, one after the other, in one folder and on one kind of database."""

    def __init__(self, folder: Path, *, database: str, seed: int) -> None:
        self._folder = folder
        self._seed = {"BENCH_SEED": str(seed)}
        self._made = 0
        self._postgres = Postgres(folder / "pg") if database == "postgres" else None

    @contextmanager
    def servers(self) -> Iterator[None]:
        """The database server, where it is one."""
        if self._postgres is None:
            yield
            return
        self._folder.chmod(0o711)  # for its user, who is another one
        try:
            self._postgres.start()
            yield
        finally:
            self._postgres.stop()

    @contextmanager
    def ours(self, setting: Setting, models: Sequence[str], *, workers: int = 1) -> Iterator[Ours]:
        """A penstock that has answered once for each of ``models`` that is told."""
        folder = self._next("p")
        url = f"sqlite:///{folder / 'penstock.db'}"
        if self._postgres is not None:
            url = self._postgres.create(f"pipeline_{self._made}")
        stack = Stack(
            folder,
            setting,
            models=",".join(models),
            workers=workers,
            settings={"PENSTOCK_DATABASE_URL": url},
        )
        client: Partner | None = None
        try:
            stack.start()
            client = Partner(
                python("-m", "benchmarks.runclient"), log=folder / "client.log", env=stack.environ | self._seed
            )
            yield Ours(stack, Rows(url), client)
        finally:
            if client is not None:
                client.stop()
            for worker in stack.workers:
                worker.resume()
            stack.stop()

    @contextmanager
    def stock(self, setting: Setting, pool: StockPool) -> Iterator[Stock]:
        """A stock worker."""
        stock = Stock(self._next("c"), setting, pool)
        try:
            yield stock.start()
        finally:
            stock.stop()

    def best_stock(
        self, setting: Setting, pools: Sequence[StockPool], what: str, count: int
    ) -> tuple[StockPool, dict[str, float]]:
        """The pool that is quickest with these canvases, and the rates of all."""
        rates: dict[StockPool, float] = {}
        for pool in pools:
            with self.stock(setting, pool) as stock:
                stock.run(what, 5)
                rates[pool] = stock.drain_per_s(what, count)
        return max(rates, key=lambda pool: rates[pool]), {str(pool): rate for pool, rate in rates.items()}

    def _next(self, name: str) -> Path:
        self._made += 1
        return self._folder / f"{name}{self._made}"
