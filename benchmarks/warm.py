"""How soon a worker is there: cold, forked from a zygote, and parked.

``python benchmarks/warm.py [--quick] [--json]``: torch and 200 MB of weights on the CPU, in a file that is in the page
cache. Each repeat measures all variants once, in turns, and a ratio is made within a repeat.

- *first pass*: from the decision to the end of the first forward pass. Cold and forked: of a process that only loads
  the model and does one. Parked: of a whole worker, whose slot is set to ``wanted`` in SQL, which is told to look at
  it, and which then claims the job that waits.
- *first result*: from the decision (the slot in SQL) until a client has the result of a job that was waiting, from a
  whole worker under its supervisor.
- *ready to claim*: from ``ready_at`` of the slot to ``claimed_at`` of that job.

The exit status is 1 when a bar does not hold.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if (
    __name__ == "__main__"
):  # as a script its folder is on the path, where ``queue.py`` would hide the standard library's
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import warmmodel
from benchmarks.facts import facts
from benchmarks.live import arguments, columns, conclude, stop_on_sigterm
from benchmarks.live import folder as short_lived
from benchmarks.processes import BenchmarkError, environment, eventually

import penstock_migrations
from penstock import Client, clock
from penstock.processes.handle import Handle
from penstock.processes.starter import Cold, Starter
from penstock.processes.warm import Warm
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.elastic import AUTOSCALER, NewSlot, Slot
from penstock.telemetry.logs import configure_logs
from penstock.transport import control
from penstock.transport.embedded import EmbeddedBroker
from penstock.transport.url import connect, parse

COLD, FORK, WAKE = "cold", "fork", "wake"
PASS, RESULT, CLAIM = "first pass", "first result", "ready to claim"
REPEATS, QUICK_REPEATS = 7, 3
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """``how`` is to be so many times faster than cold."""

    how: str
    what: str
    least: float


BARS = (
    Bar(how=FORK, what=PASS, least=20.0),
    Bar(how=WAKE, what=PASS, least=50.0),
    Bar(how=FORK, what=RESULT, least=8.0),
)

#: Seconds by variant and metric, one of each repeat.
Figures = dict[tuple[str, str], list[float]]


class Bench:
    """One broker, one database, one zygote; workers come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        weights = folder / "weights.pt"
        warmmodel.save(weights)
        weights.read_bytes()  # into the page cache
        self.broker = EmbeddedBroker(folder, socket=folder / "s")
        self.settings = Settings.load(
            home=folder,
            broker_url=self.broker.url,
            database_url=f"sqlite:///{folder / 'penstock.db'}",
            models=["benchmarks.warmmodel"],
            worker={"device": "cpu"},
            log_level="info",
        )
        self.env = environment(
            {
                **self.settings.environ(),
                "PENSTOCK_CONFIG": os.devnull,
                "BENCH_WARM_WEIGHTS": str(weights),
                "BENCH_WARM_NOTES": str(self.notes),
            }
        )
        self.cold = Cold()
        self.warm = Warm(self.settings.models, env=self.env, log=folder / "zygote.log", say=self._refuse)
        self.figures: Figures = {}

    def run(self, repeats: int) -> Figures:
        """All variants, once to warm up and then so often."""
        os.chdir(ROOT)
        self.broker.start()
        penstock_migrations.upgrade(self.settings.database)
        self.store, self.client = Store.open(self.settings.database), Client(self.settings)
        self.redis = connect(self.settings.broker)
        self.term = self.store.elastic.lead(AUTOSCALER, "benchmark", {})
        assert self.term is not None, "the database is new"
        began = time.monotonic()
        if not self.warm.ready(TIMEOUT_S):
            raise BenchmarkError("there is no zygote")
        self._note("zygote", "ready", time.monotonic() - began)
        try:
            for repeat in range(repeats + 1):
                if not repeat:
                    kept, self.figures = self.figures, {}
                self._first_pass(COLD, self.cold)
                self._first_pass(FORK, self.warm)
                self._first_result(COLD, self.cold)
                self._first_result(FORK, self.warm)
                self._wake()
                if not repeat:
                    self.figures = kept
        finally:
            self.warm.close()
            self.client.close()
            self.store.close()
            self.redis.close()
            self.broker.stop()
        return self.figures

    # One measurement each ---------------------------------------------------------------------------------------------

    def _first_pass(self, how: str, starter: Starter) -> None:
        self.notes.unlink(missing_ok=True)
        began = time.monotonic()
        handle = self._start(starter, "benchmarks.warmforward")
        eventually(handle.ended, "a forward pass", timeout_s=TIMEOUT_S, every_s=0.01)
        self._note(how, PASS, self._passed(handle.pid) - began)

    def _first_result(self, how: str, starter: Starter) -> None:
        job = self.client.enqueue("deep", 1.0)
        began = time.monotonic()
        slot = self._add("wanted")
        handle = self._start(starter, "penstock_cli", "worker", "--pool", "default", "--slot", slot)
        job.result(timeout=TIMEOUT_S)
        self._note(how, RESULT, time.monotonic() - began)
        claimed_at, ready_at = self._job(job.id).claimed_at, self._row(slot).ready_at
        if claimed_at is not None and ready_at is not None:
            self._note(how, CLAIM, claimed_at - ready_at)
        self._end(slot, handle)

    def _wake(self) -> None:
        slot = self._add("parked")
        handle = self._start(self.warm, "penstock_cli", "worker", "--pool", "default", "--slot", slot)
        eventually(lambda: self._row(slot).ready_at is not None, "a parked worker", timeout_s=TIMEOUT_S)
        eventually(lambda: self._listens(slot), "a worker that listens", timeout_s=TIMEOUT_S)
        job = self.client.enqueue("deep", 1.0)
        self.notes.unlink(missing_ok=True)
        began = time.monotonic()
        self.store.elastic.change(self.term, set={slot: "wanted"}, now=clock.now())
        self.redis.publish(*control.look([self._node(slot)], parse(self.settings.broker).db))
        job.result(timeout=TIMEOUT_S)
        self._note(WAKE, RESULT, time.monotonic() - began)
        self._note(WAKE, PASS, self._passed(None) - began)
        self._end(slot, handle)

    # Steps ------------------------------------------------------------------------------------------------------------

    def _start(self, starter: Starter, *argv: str) -> Handle:
        return Handle(starter.start([sys.executable, "-m", *argv], self.env, self.folder / "worker.log"))

    def _add(self, state: str) -> str:
        new = NewSlot(pool="default", state=state)
        self.store.elastic.change(self.term, add=[new], now=clock.now())
        return new.id

    def _row(self, slot: str) -> Slot:
        row = self.store.elastic.slot(slot)
        if row is None:
            raise BenchmarkError("the slot is gone")
        return row

    def _node(self, slot: str) -> str:
        return (self._row(slot).worker or "").rsplit(":", 2)[0]

    def _listens(self, slot: str) -> bool:
        return any(self._node(slot) in line for line in self._heard())

    def _heard(self) -> list[str]:
        from celery import Celery

        from penstock.transport.url import for_kombu

        app = Celery("benchmark", broker=for_kombu(self.settings.broker).url, set_as_current=False)
        try:
            return [name for answer in app.control.ping(timeout=0.3) for name in answer]
        finally:
            app.close()

    def _job(self, id: str) -> Any:
        return self.store.get_many([id])[id].ledger

    def _passed(self, pid: int | None) -> float:
        """When the first pass ended, of this process or of whoever was first."""
        for line in self.notes.read_text(encoding="utf-8").splitlines():
            by, at = line.split()
            if pid is None or int(by) == pid:
                return float(at)
        raise BenchmarkError("no pass was noted")

    def _end(self, slot: str, handle: Handle) -> None:
        self.store.elastic.change(self.term, set={slot: "draining"}, now=clock.now())
        handle.send(signal.SIGTERM)
        eventually(handle.ended, "a worker to drain", timeout_s=TIMEOUT_S)
        self.store.elastic.gone([self._row(slot)], term=self.term)

    def _note(self, how: str, what: str, seconds: float) -> None:
        self.figures.setdefault((how, what), []).append(seconds)

    def _refuse(self, line: str) -> None:
        raise BenchmarkError(line)


def rows(figures: Mapping[tuple[str, str], Sequence[float]]) -> list[dict[str, Any]]:
    """Medians and raw values; how many times faster than cold, of each repeat."""
    found = []
    for (how, what), values in figures.items():
        cold = figures.get((COLD, what), ()) if how != COLD and what != CLAIM else ()
        ratios = [one / other for one, other in zip(cold, values, strict=False)]
        times = statistics.median(ratios) if ratios else None
        found.append(
            {"how": how, "what": what, "median_s": statistics.median(values), "values_s": list(values), "times": times}
        )
    return found


def judge(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bars."""
    by = {(row["how"], row["what"]): row["times"] for row in found}
    return [
        {
            "name": f"{bar.how}, {bar.what}: times faster than cold",
            "value": by.get((bar.how, bar.what)),
            "bar": bar.least,
            "at_most": False,
            "judged": True,
            "holds": (by.get((bar.how, bar.what)) or 0.0) >= bar.least,
        }
        for bar in BARS
    ]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """For a person."""
    lines = [["how", "what", "ms", "least", "most", "times faster"]]
    for row in found:
        values = [1000 * value for value in row["values_s"]]
        times = "-" if row["times"] is None else f"{row['times']:.1f}"
        figures = [f"{value:.1f}" for value in (1000 * row["median_s"], min(values), max(values))]
        lines.append([row["how"], row["what"], *figures, times])
    return columns(lines)


@contextmanager
def _where(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    options = _arguments(argv)
    stop_on_sigterm()
    configure_logs("warning")
    about = facts(seed=1)
    if not about["quiet"]:
        print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    try:
        with short_lived() as folder, _where(ROOT):
            found = rows(Bench(folder).run(repeats))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = {
        "benchmark": "warm",
        "facts": about,
        "weights_bytes": warmmodel.WIDTH**2 * 4 * warmmodel.DEPTH,
        "repeats": repeats,
        "rows": found,
        "bars": judge(found),
    }
    return conclude(report, options, table=table(found), draw=lambda path: None)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments("warm.py", "workers that start cold, by fork and parked", quick="three repeats instead of seven")
    parser.add_argument("--repeats", type=int, metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
