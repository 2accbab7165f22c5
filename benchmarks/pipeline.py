"""Runs of pipelines, live: what an edge costs, how near a run is to the list schedule, and many steps at a time.

``python benchmarks/pipeline.py [--json] [--quick] [--seed N] [--part NAME] [--database NAME] [--pin | --free]``

Six parts, each with servers, workers, a dispatcher and a client of its own: ``benchmarks/pipelineparts.py``,
``pipelinefloods.py`` and ``pipelineredeploy.py``. What is measured and how: ``docs/benchmarks.md``. The exit status is
0 when every bar holds, 1 when one does not, 2 when the measurement itself failed.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import live, pipelinefloods, pipelineparts, pipelineredeploy
from benchmarks.affinity import FREE, PINNED, affinity
from benchmarks.comparison import STOCK_POOLS
from benchmarks.facts import facts
from benchmarks.pipelinebars import Part
from benchmarks.pipelineground import Ground
from benchmarks.pipelineparts import Plan
from benchmarks.processes import BenchmarkError

PARTS: dict[str, Callable[[Ground, Plan], Part]] = {
    "edge": pipelineparts.edge,
    "makespan": pipelineparts.makespan,
    "flood": pipelinefloods.flood,
    "map": pipelinefloods.long_map,
    "messages": pipelineparts.messages,
    "redeploy": pipelineredeploy.redeploy,
}
#: What is not pinned unless it is asked for: two devices have a worker each, which work at the same time.
UNPINNED = ("makespan",)
DATABASES = ("sqlite", "postgres")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    options = _arguments(argv)
    live.stop_on_sigterm()
    plan = plan_of(options)
    parts: dict[str, Part] = {}
    try:
        about = facts(seed=options.seed)
        if not about["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        for name in dict.fromkeys(options.part or PARTS):
            mode = mode_of(name, options)
            print(f"{name}, {options.database}, {mode} …", file=sys.stderr, flush=True)
            with affinity(mode), live.folder() as folder:
                ground = Ground(folder, database=options.database, seed=options.seed)
                with ground.servers():
                    parts[name] = PARTS[name](ground, plan)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    modes = {name: mode_of(name, options) for name in parts}
    report = report_of(parts, about | {"modes": modes, "database": options.database}, plan)
    return live.conclude(report, options, table=table(report["rows"]), draw=lambda path: None)


def mode_of(part: str, options: argparse.Namespace) -> str:
    """Whether a part runs on one core."""
    if options.pin or options.free:
        return PINNED if options.pin else FREE
    return FREE if part in UNPINNED else PINNED


def plan_of(options: argparse.Namespace) -> Plan:
    """How much is measured."""
    if not options.quick:
        return Plan(seed=options.seed)
    return Plan(
        repeats=1,
        warm=10,
        round_trips=50,
        edges=50,
        makespans=3,
        runs=200,
        stock_device_runs=20,
        stock_noop_runs=50,
        map_size=2000,
        pools=STOCK_POOLS[1:2],
        seed=options.seed,
    )


def report_of(parts: Mapping[str, Part], about: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The one report; each row and each bar names its part. The bars come last."""
    whole = "pipeline" if about["database"] == "sqlite" else f"pipeline-{about['database']}"
    given = asdict(plan) | {"pools": [str(pool) for pool in plan.pools]}
    return {
        # One file a part where only some were measured.
        "benchmark": whole if len(parts) == len(PARTS) else "-".join([whole, *parts]),
        "facts": dict(about),
        "plan": given,
        "rows": [{"part": name, **row} for name, part in parts.items() for row in part.rows],
        "bars": [{"part": name, **verdict} for name, part in parts.items() for verdict in part.bars],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a person: one line a figure."""
    lines = [["part", "case", "figure", "value", ""]]
    for row in rows:
        value = "-" if row["value"] is None else f"{row['value']:,.4g}"
        lines.append([row["part"], row["case"], row["figure"], value, row["unit"]])
    return live.columns(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = live.arguments("pipeline.py", "runs of pipelines, live", quick="a smoke test: few runs, a small map")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="default: all")
    parser.add_argument("--database", choices=DATABASES, default="sqlite", help="default sqlite")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="draws the random graphs, shuffles the sides")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--pin", action="store_true", help="each part on one core (the default for most)")
    modes.add_argument("--free", action="store_true", help="each part free to use all cores (the default for makespan)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
