"""What if: penstock's own policies on imagined devices under imagined traffic, in seconds instead of hours.

``python benchmarks/simulate.py --alpha-ms 8 --beta-ms 0.25 --rate 1000 --traffic 1,2 --workers 2,1``

prints a row for each combination: what becomes of goodput and latency with twice the traffic and one worker less.
``--sweep`` finds the highest rate of each row at which 99 % are in time. ``--trace FILE`` plays a recorded trace
instead (a JSON object a line with ``at_s`` and, as needed, ``lane``, ``tenant``, ``cost``, ``deadline_s``). The result
depends on the arguments and ``--seed`` alone. See ``docs/benchmarks.md``.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.live import columns

from penstock.errors import PenstockError
from penstock.lane import LANES, Lane
from penstock.loadgen import simulator
from penstock.loadgen.arrivals import COSTS, SHAPES, Arrival, Stream, read_trace, schedule
from penstock.loadgen.seeds import seeded
from penstock.loadgen.simulator import Device, World
from penstock.model import Batching
from penstock.policy.batching import POLICIES

#: Rates are found to this share.
RESOLUTION = 0.02


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; the exit status."""
    options = _arguments(argv)
    try:
        rows = [
            _row(options, workers, policy, traffic)
            for policy in options.policy.split(",")
            for workers in _numbers(options.workers, int)
            for traffic in _numbers(options.traffic, float)
        ]
        if options.plot:
            from penstock.loadgen import plot

            plot.scenarios(rows, options.plot)
    except (PenstockError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(
            json.dumps(
                {
                    "simulation": {
                        name: value if name != "trace" else str(value) for name, value in vars(options).items()
                    },
                    "rows": rows,
                    "bars": [],
                },
                indent=2,
            )
        )
    else:
        print(table(rows))
    return 0


def _row(options: argparse.Namespace, workers: int, policy: str, traffic: float) -> dict[str, Any]:
    world = _world(options, workers, policy)
    arrivals, duration_s = _traffic(options, traffic)
    outcome = simulator.simulate(world, arrivals, rng=seeded(options.seed)("noise"))
    row = {"traffic": traffic, **simulator.summary(world, outcome, duration_s=duration_s)}
    if options.sweep:
        row["highest_traffic"] = limit = _highest(options, world)
        row["highest_per_s"] = limit * len(_traffic(options, 1.0)[0]) / _traffic(options, 1.0)[1]
    return row


def _world(options: argparse.Namespace, workers: int, policy: str) -> World:
    costly = options.trace or options.cost != "one"
    return World(
        device=Device(alpha_s=options.alpha_ms / 1e3, beta_s=options.beta_ms / 1e3, noise=options.noise),
        batching=Batching(
            max_size=options.max_size,
            max_wait_s=None if options.max_wait_ms is None else options.max_wait_ms / 1e3,
            max_cost=options.max_cost,
            cost=(lambda item: item.cost) if costly or options.max_cost else None,
        ),
        workers=workers,
        policy=policy,
        targets_s={
            Lane.INTERACTIVE: options.target_ms / 1e3,
            Lane.BACKGROUND: options.background_target_s,
        },
        overhead_s=options.overhead_ms / 1e3,
    )


def _traffic(options: argparse.Namespace, traffic: float) -> tuple[list[Arrival], float]:
    """The requests and how long they come."""
    if options.trace:
        with options.trace.open() as lines:
            arrivals = simulator.denser(read_trace(lines), traffic)
        return arrivals, (arrivals[-1].at_s if arrivals else 0.0) or 1.0
    share = options.background
    streams = [
        Stream(
            rate=options.rate * traffic * part / options.tenants,
            arrivals=options.arrivals,
            cv2=options.cv2,
            factor=options.factor,
            lane=lane,
            tenant=f"t{tenant}",
            cost=options.cost,
            deadline_s=None if options.deadline_ms is None else options.deadline_ms / 1e3,
        )
        for lane, part in zip(LANES, (1 - share, share), strict=True)
        if part > 0
        for tenant in range(options.tenants)
    ]
    return schedule(streams, options.duration, rng=seeded(options.seed)), options.duration


def _highest(options: argparse.Namespace, world: World) -> float:
    """The highest multiple of the traffic at which 99 % are in time, by bisection."""

    def holds(traffic: float) -> bool:
        arrivals, duration_s = _traffic(options, traffic)
        # A few thousand requests tell a row from its neighbour; more only take longer.
        outcome = simulator.simulate(world, arrivals, rng=seeded(options.seed)("noise"))
        goodput = simulator.summary(world, outcome, duration_s=duration_s)["goodput"]
        return bool(goodput is not None and goodput >= 0.99)

    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, high * 2
        if high > 1e6:
            return high
    if low == 0.0:
        low = high
        while not holds(low):
            low, high = low / 2, low
            if low < 1e-4:
                return 0.0
    while high / low > 1 + RESOLUTION:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row per world, for a person."""
    header = ["policy", "workers", "traffic", "offered/s", "goodput", "p50 ms", "p95 ms", "p99 ms", "busy", "batch"]
    swept = any("highest_per_s" in row for row in rows)
    cells = [[*header, *(["highest/s"] if swept else [])]]
    for row in rows:
        cells.append(
            [
                row["policy"],
                str(row["workers"]),
                f"{row['traffic']:g}x",
                f"{row['offered_per_s']:.0f}",
                "-" if row["goodput"] is None else f"{row['goodput']:.4f}",
                *("-" if row[f"p{p}_ms"] is None else f"{row[f'p{p}_ms']:.1f}" for p in (50, 95, 99)),
                f"{row['utilisation']:.2f}",
                "-" if row["batches"]["mean_size"] is None else f"{row['batches']['mean_size']:.1f}",
                *([f"{row['highest_per_s']:.0f}"] if swept else []),
            ]
        )
    return columns(cells)


def _numbers(text: str, kind: Any) -> list[Any]:
    return [kind(part) for part in text.split(",")]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulate.py", description="penstock's policies on imagined devices")
    add = parser.add_argument
    add("--alpha-ms", type=float, default=8.0, help="a batch takes alpha + beta * cost (default 8)")
    add("--beta-ms", type=float, default=0.25, help="default 0.25")
    add("--noise", type=float, default=0.05, help="relative standard deviation of a batch's time (default 0.05)")
    add("--max-size", type=int, default=64, help="largest batch (default 64)")
    add("--max-cost", type=float, help="largest cost of a batch")
    add("--max-wait-ms", type=float, help="pin how long an incomplete batch waits")
    add("--overhead-ms", type=float, default=0.0, help="added to each latency: the way there and back")
    add("--policy", default="adaptive", help=f"of {', '.join(POLICIES)}; several with commas")
    add("--workers", default="1", metavar="N[,N…]", help="workers; several with commas")
    add("--traffic", default="1", metavar="X[,X…]", help="times the traffic; several with commas")
    add("--rate", type=float, default=500.0, help="requests per second (default 500)")
    add("--duration", type=float, default=30.0, help="seconds of traffic (default 30)")
    add("--arrivals", choices=SHAPES, default="poisson")
    add("--cv2", type=float, help="squared coefficient of variation of the gaps")
    add("--factor", type=float, help="height of a step or spike")
    add("--trace", type=Path, metavar="FILE", help="play a recorded trace")
    add("--cost", choices=COSTS, default="one", help="what requests cost")
    add("--background", type=float, default=0.0, metavar="SHARE", help="share of background requests, 0 to 1")
    add("--tenants", type=int, default=1, help="tenants that share the traffic")
    add("--target-ms", type=float, default=100.0, help="interactive target (default 100)")
    add("--background-target-s", type=float, default=60.0, help="background target (default 60)")
    add("--deadline-ms", type=float, help="deadline of each request, from its arrival")
    add("--sweep", action="store_true", help="find the highest rate with 99 %% in time")
    add("--seed", type=int, default=1)
    add("--quick", action="store_true", help="a tenth of the duration")
    add("--json", action="store_true", help="print one JSON object")
    add("--plot", metavar="FILE", help="write a picture (needs matplotlib)")
    options = parser.parse_args(argv)
    if options.quick:
        options.duration /= 10
    return options


if __name__ == "__main__":
    sys.exit(main())
