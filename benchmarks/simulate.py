"""What if: penstock's own policies on imagined devices under imagined traffic, in seconds instead of hours.

``python benchmarks/simulate.py --alpha-ms 8 --beta-ms 0.25 --rate 1000 --traffic 1,2 --workers 2,1``
``python benchmarks/simulate.py --models 10 --zipf 1 --workers 5 --partition shared,number,popularity --sweep``

prints a row for each combination: what becomes of goodput and latency with twice the traffic and one worker less, or
when the models are dealt out to the workers. ``--sweep`` finds the highest rate of each row at which 99 % are in time.
``--trace FILE`` plays a recorded trace instead (a JSON object a line with ``at_s`` and, as needed, ``lane``,
``tenant``, ``model``, ``cost``, ``deadline_s``). The result depends on the arguments and ``--seed`` alone. See
``docs/benchmarks.md``; ``benchmarks/scenario.py`` has the arguments.
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

from benchmarks import scenario
from benchmarks.live import columns
from benchmarks.scenario import Case

from penstock.errors import PenstockError
from penstock.loadgen import simulator
from penstock.loadgen.seeds import seeded
from penstock.loadgen.simulator import World

#: Rates are found to this share.
RESOLUTION = 0.02


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; the exit status."""
    options = scenario.arguments(argv)
    try:
        rows = [_row(options, case) for case in scenario.cases(options)]
        if options.plot:
            from penstock.loadgen import plot

            plot.scenarios(rows, options.plot)
    except (PenstockError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        asked = {name: value if name != "trace" else str(value) for name, value in vars(options).items()}
        print(json.dumps({"simulation": asked, "rows": rows, "bars": []}, indent=2))
    else:
        print(table(rows))
    return 0


def _row(options: argparse.Namespace, case: Case) -> dict[str, Any]:
    world = scenario.world(options, case)
    arrivals, duration_s = scenario.traffic(options, case.traffic)
    outcome = simulator.simulate(world, arrivals, rng=seeded(options.seed)("noise"))
    row = {
        "traffic": case.traffic,
        "partition": case.partition,
        "parts": [list(part) for part in world.parts],
        **simulator.summary(world, outcome, duration_s=duration_s),
    }
    if options.sweep:
        row["highest_traffic"] = limit = _highest(options, world)
        requests, seconds = scenario.traffic(options, 1.0)
        row["highest_per_s"] = limit * len(requests) / seconds
    return row


def _highest(options: argparse.Namespace, world: World) -> float:
    """The highest multiple of the traffic at which 99 % are in time, by bisection."""

    def holds(traffic: float) -> bool:
        arrivals, duration_s = scenario.traffic(options, traffic)
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
    """A row per world, for a person. What is the same in all is left out where it is not asked for often."""
    varied = [name for name in ("partition", "admission") if len({row[name] for row in rows}) > 1]
    refused = any(row["refused"] for row in rows)
    swept = any("highest_per_s" in row for row in rows)
    header = ["policy", *varied, "workers", "traffic", "offered/s", "goodput", *(["refused"] if refused else [])]
    header += ["p50 ms", "p95 ms", "p99 ms", "busy", "batch", *(["highest/s"] if swept else [])]
    cells = [header]
    for row in rows:
        shown = {"partition": row["partition"], "admission": "on" if row["admission"] else "off"}
        cells.append(
            [
                row["policy"],
                *(shown[name] for name in varied),
                str(row["workers"]),
                f"{row['traffic']:g}x",
                f"{row['offered_per_s']:.0f}",
                "-" if row["goodput"] is None else f"{row['goodput']:.4f}",
                *([str(row["refused"])] if refused else []),
                *("-" if row[f"p{p}_ms"] is None else f"{row[f'p{p}_ms']:.1f}" for p in (50, 95, 99)),
                f"{row['utilisation']:.2f}",
                "-" if row["batches"]["mean_size"] is None else f"{row['batches']['mean_size']:.1f}",
                *([f"{row['highest_per_s']:.0f}"] if swept else []),
            ]
        )
    return columns(cells)


if __name__ == "__main__":
    sys.exit(main())
