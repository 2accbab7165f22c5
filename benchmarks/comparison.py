"""The comparison that ``benchmarks/queue.py`` runs: sessions of both sides in turns, then medians and bars.

Everything is on, on both sides: late acknowledgements, results, task events; for penstock also the SQL store, on
SQLite and on Postgres, and a dispatcher. Both sides run in the same run on the same servers, in an order that the
seed shuffles. Each is measured pinned to one core and free. Bars are judged on the pinned figures (where waking
another core does not drown the rest), or on the free ones with ``--free``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.affinity import FREE, PINNED, affinity
from benchmarks.facts import facts
from benchmarks.measure import Plan, calibrate, session
from benchmarks.processes import BenchmarkError
from benchmarks.report import POSTGRES, SQLITE, STOCK, Sample, as_samples, failed, judge, rows
from benchmarks.servers import Servers, running_servers
from benchmarks.sides import CelerySide, PenstockSide, Side, StockPool
from benchmarks.table import print_report

#: The ways to run one stock worker among which the best is taken. Prefetch beyond these gains nothing.
STOCK_POOLS = (
    StockPool("solo", 1, 16),
    StockPool("solo", 1, 128),
    StockPool("threads", 8, 16),
    StockPool("prefork", 1, 64),
    StockPool("prefork", 2, 64),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    options = _arguments(argv)
    plan = _plan(options)
    modes = [PINNED] if options.pin else [FREE] if options.free else [PINNED, FREE]
    rng = random.Random(options.seed)
    samples: list[Sample] = []
    calibrations: dict[str, dict[str, float]] = {}
    try:
        about = facts(seed=options.seed)
        if not about["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        for mode in modes:
            with affinity(mode), running_servers() as servers:
                run = Run(servers, plan, mode, rng)
                calibrations[mode] = run.calibrate(STOCK_POOLS[1:2] if options.quick else STOCK_POOLS)
                for repeat in range(options.repeats):
                    samples += run.repeat(repeat)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    verdicts = judge(samples, judged_mode=modes[0])
    report = {
        "benchmark": "queue",
        "facts": about,
        "plan": {name: getattr(plan, name) for name in plan.__slots__} | {"repeats": options.repeats},
        "stock_pools_per_s": calibrations,
        "rows": rows(samples),
        "bars": verdicts,
    }
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report)
    return 1 if failed(verdicts) else 0


class Run:
    """The sessions of one mode, on one set of servers."""

    def __init__(self, servers: Servers, plan: Plan, mode: str, rng: random.Random) -> None:
        self._servers = servers
        self._plan = plan
        self._mode = mode
        self._rng = rng
        self._sessions = 0
        self._pool = STOCK_POOLS[0]

    def calibrate(self, pools: Sequence[StockPool]) -> dict[str, float]:
        """Find stock Celery's best way on this machine; every candidate's drain rate."""
        rates = {}
        for pool in pools:
            self._tell(f"stock, {pool}")
            rates[pool] = calibrate(CelerySide(self._servers, self._folder(), pool), self._plan)
        self._pool = max(rates, key=lambda pool: rates[pool])
        return {str(pool): rate for pool, rate in rates.items()}

    def repeat(self, number: int) -> list[Sample]:
        """One session per side, in shuffled order."""
        sides: dict[str, Callable[[Path], Side]] = {
            STOCK: lambda folder: CelerySide(self._servers, folder, self._pool),
            SQLITE: lambda folder: PenstockSide(self._servers, folder, "sqlite"),
            POSTGRES: lambda folder: PenstockSide(self._servers, folder, "postgres"),
        }
        order = list(sides)
        self._rng.shuffle(order)
        samples = []
        for name in order:
            self._tell(f"repeat {number + 1}, {name}")
            values = session(sides[name](self._folder()), self._plan)
            samples += as_samples(self._mode, name, number, values)
        return samples

    def _folder(self) -> Path:
        self._sessions += 1
        return self._servers.folder / f"s{self._sessions}"

    def _tell(self, what: str) -> None:
        print(f"{self._mode}: {what} …", file=sys.stderr, flush=True)


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        return Plan(jobs=options.jobs or 2000, stock_jobs=500, singles=100, round_trips=60, warm=20)
    jobs = options.jobs or 30_000
    # A stock job costs about ten of ours: the drains then last about as long.
    return Plan(jobs=jobs, stock_jobs=max(500, jobs // 8), singles=1000, round_trips=300, warm=50)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="queue.py", description="penstock against stock Celery: the cost of the queue itself"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few jobs, one repeat, no tuning of stock")
    parser.add_argument("--repeats", type=int, default=None, metavar="N", help="default 3")
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help="jobs per drain (default 30000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="shuffles the order of the sides")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--pin", action="store_true", help="only pinned to one core")
    modes.add_argument("--free", action="store_true", help="only free to use all cores")
    modes.add_argument("--both", action="store_true", help="pinned and free (the default)")
    options = parser.parse_args(argv)
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options
