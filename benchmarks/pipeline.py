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
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import live, parts, pipelinefloods, pipelineparts, pipelineredeploy
from benchmarks.affinity import FREE, PINNED, affinity
from benchmarks.comparison import STOCK_POOLS
from benchmarks.parts import Part
from benchmarks.pipelineground import Ground
from benchmarks.pipelineparts import Plan

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
    plan = plan_of(options)

    def measure(name: str) -> Part:
        mode = mode_of(name, options)
        print(f"{name}, {options.database}, {mode} …", file=sys.stderr, flush=True)
        with affinity(mode), live.folder() as folder:
            ground = Ground(folder, database=options.database, seed=options.seed)
            with ground.servers():
                return PARTS[name](ground, plan)

    def about(measured: Collection[str]) -> dict[str, Any]:
        return {"modes": {name: mode_of(name, options) for name in measured}, "database": options.database}

    whole = "pipeline" if options.database == "sqlite" else f"pipeline-{options.database}"
    given = asdict(plan) | {"pools": [str(pool) for pool in plan.pools]}
    return parts.run(whole, PARTS, options, measure, plan=given, about=about)


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


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parts.arguments(
        "pipeline.py",
        "runs of pipelines, live",
        PARTS,
        quick="a smoke test: few runs, a small map",
        seed="draws the random graphs, shuffles the sides",
    )
    parser.add_argument("--database", choices=DATABASES, default="sqlite", help="default sqlite")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--pin", action="store_true", help="each part on one core (the default for most)")
    modes.add_argument("--free", action="store_true", help="each part free to use all cores (the default for makespan)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
