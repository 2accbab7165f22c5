"""Elasticity, live: a step of load, drains beside long jobs, leaders that stop and die, many cycles, a turn's length.

``python benchmarks/elasticlive.py [--json] [--quick] [--seed N] [--part NAME]``

Each part has servers, a dispatcher, autoscalers and workers of its own, all of them real processes
(``benchmarks/elasticstep.py``, ``elasticfleets.py``, ``elastictick.py``). What is measured and how:
``docs/benchmarks.md``. The exit status is 0 when every bar holds, 1 when one does not, 2 when the measurement itself
failed.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import elasticfleets, elasticstep, elastictick, live, parts
from benchmarks.elasticground import QUICK, Plan
from benchmarks.parts import Part

PARTS: dict[str, Callable[[Path, Plan], Part]] = {
    "step": elasticstep.step,
    "drains": elasticfleets.drains,
    "leaders": elasticfleets.leaders,
    "cycles": elasticfleets.cycles,
    "tick": elastictick.tick,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    options = parts.arguments(
        "elasticlive.py", "elasticity, live", PARTS, quick="a smoke test: few of everything", seed="draws the traffic"
    ).parse_args(argv)
    plan = plan_of(options)

    def measure(name: str) -> Part:
        print(f"{name} …", file=sys.stderr, flush=True)
        with live.folder() as folder:
            return PARTS[name](folder, plan)

    return parts.run("elasticlive", PARTS, options, measure, plan=asdict(plan))


def plan_of(options: argparse.Namespace) -> Plan:
    """How much is measured."""
    return Plan(seed=options.seed, **(QUICK if options.quick else {}))


if __name__ == "__main__":
    sys.exit(main())
