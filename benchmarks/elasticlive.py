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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import elasticfleets, elasticstep, elastictick, live
from benchmarks.elasticground import QUICK, Part, Plan
from benchmarks.facts import facts
from benchmarks.processes import BenchmarkError

PARTS: dict[str, Callable[[Path, Plan], Part]] = {
    "step": elasticstep.step,
    "drains": elasticfleets.drains,
    "leaders": elasticfleets.leaders,
    "cycles": elasticfleets.cycles,
    "tick": elastictick.tick,
}


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
            print(f"{name} …", file=sys.stderr, flush=True)
            with live.folder() as folder:
                parts[name] = PARTS[name](folder, plan)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = report_of(parts, about, plan)
    return live.conclude(report, options, table=table(report["rows"]), draw=lambda path: None)


def plan_of(options: argparse.Namespace) -> Plan:
    """How much is measured."""
    return Plan(seed=options.seed, **(QUICK if options.quick else {}))


def report_of(parts: Mapping[str, Part], about: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The one report; each row and each bar names its part. The bars come last."""
    return {
        # One file a part where only some were measured.
        "benchmark": "elasticlive" if len(parts) == len(PARTS) else "-".join(["elasticlive", *parts]),
        "facts": dict(about),
        "plan": asdict(plan),
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
    parser = live.arguments("elasticlive.py", "elasticity, live", quick="a smoke test: few of everything")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="default: all")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="draws the traffic")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
