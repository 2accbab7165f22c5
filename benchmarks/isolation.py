"""Interactive requests beside background work, live, in two parts.

``python benchmarks/isolation.py [--json] [--quick] [--repeats N] [--part flood] [--part generations]``

20 interactive requests per second on the first setting's device, alone and then

* ``flood``: beside 10,000 queued background jobs of the same model, with stock Celery's tuned priorities in the same
  run. penstock's backlog is kept at 10,000 for the whole run, since it works it off within seconds.
* ``generations``: beside generations of 5 s that run in steps.

See ``docs/benchmarks.md``.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import generations, live
from benchmarks.facts import facts
from benchmarks.flood import CELERY, PENSTOCK, CelerySide, FloodPlan, PenstockSide, published_bound_s
from benchmarks.generations import StepPlan
from benchmarks.live import SETTINGS, bar
from benchmarks.processes import BenchmarkError

from penstock.loadgen import plot
from penstock.loadgen.tally import percentile

#: The conditions of the first part.
ALONE, BESIDE, FLOOD = "alone", "beside the flood", "the flood alone"


@dataclass(slots=True)
class Part:
    """What one part of the benchmark gives to the report."""

    plan: FloodPlan | StepPlan
    rows: list[dict[str, Any]] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)
    panels: list[plot.Panel] = field(default_factory=list)


# First part: beside a flood of background jobs ------------------------------------------------------------------


def beside_flood(plan: FloodPlan) -> Part:
    """Both sides, alone and beside the flood, in shuffled turns; judged on the latencies of all repeats together."""
    setting = SETTINGS["gpu"]
    part = Part(plan)
    order = random.Random("isolation")
    with live.folder() as folder:
        sides = {PENSTOCK: PenstockSide(folder / "p", setting), CELERY: CelerySide(folder / "c", setting)}
        try:
            for side in sides.values():
                side.start()
            for seed in range(1, plan.repeats + 1):
                turns = [(name, condition) for name in sides for condition in (ALONE, BESIDE)]
                order.shuffle(turns)
                for name, condition in [*turns, (PENSTOCK, FLOOD)]:
                    print(f"flood: {name} {condition}, repeat {seed} …", file=sys.stderr, flush=True)
                    rate = 0.0 if condition == FLOOD else plan.rate
                    report = sides[name].measure(plan, rate=rate, flood=condition != ALONE, seed=seed)
                    part.rows.append({"part": "flood", "side": name, "condition": condition, "seed": seed, **report})
        finally:
            for side in sides.values():
                side.stop()
    bound_ms = published_bound_s(setting) * 1e3
    p99 = {(name, condition): _pooled(part.rows, name, condition) for name in sides for condition in (ALONE, BESIDE)}
    part.bars = [
        bar(
            "interactive p99 beside the flood, less alone, ms",
            _less(p99[PENSTOCK, BESIDE], p99[PENSTOCK, ALONE]),
            bound_ms,
            at_most=True,
        ),
        bar(
            "background beside interactive, x stock Celery's",
            _over(_speed(part.rows, PENSTOCK, BESIDE), _speed(part.rows, CELERY, BESIDE)),
            1.0,
            judged=False,
        ),
        bar(
            "background beside interactive, x the flood alone",
            _over(_speed(part.rows, PENSTOCK, BESIDE), _speed(part.rows, PENSTOCK, FLOOD)),
            0.5,
            judged=False,
        ),
        bar(
            "stock Celery: interactive p99 beside the flood, less alone, ms",
            _less(p99[CELERY, BESIDE], p99[CELERY, ALONE]),
            bound_ms,
            at_most=True,
            judged=False,
        ),
    ]
    lines = {f"{n}, {c}": _distribution(part.rows, n, c) for n in sides for c in (ALONE, BESIDE)}
    part.panels = [
        plot.Panel(title="interactive beside 10,000 background jobs", x="percentile", y="latency, ms", lines=lines)
    ]
    return part


def _latencies(rows: Sequence[dict[str, Any]], side: str, condition: str) -> list[float]:
    """Of all repeats, ordered, ms. A request without a result was as slow as can be."""
    chosen = [row for row in rows if row["side"] == side and row["condition"] == condition]
    every = [sample[4] if sample[3] == "ok" else float("inf") for row in chosen for sample in row["samples"]]
    return sorted(seconds * 1e3 for seconds in every)


def _pooled(rows: Sequence[dict[str, Any]], side: str, condition: str) -> float | None:
    return percentile(_latencies(rows, side, condition), 99)


def _distribution(rows: Sequence[dict[str, Any]], side: str, condition: str) -> list[tuple[float, float | None]]:
    ordered = _latencies(rows, side, condition)
    return [(percent, percentile(ordered, percent)) for percent in (5, 25, 50, 75, 90, 95, 98, 99, 99.9)]


def _speed(rows: Sequence[dict[str, Any]], side: str, condition: str) -> float | None:
    values = [row["background_per_s"] for row in rows if row["side"] == side and row["condition"] == condition]
    return statistics.median(values) if values else None


def _less(value: float | None, alone: float | None) -> float | None:
    return None if value is None or alone is None else value - alone


def _over(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


# Second part: beside generations ----------------------------------------------------------------------------------


def beside_generations(plan: StepPlan) -> Part:
    """penstock, alone, beside generations, and these alone; judged on the latencies of all repeats together."""
    rows = generations.compare(plan)
    return Part(plan, rows, generations.bars_of(rows, plan), [generations.panel(rows)])


# All of it --------------------------------------------------------------------------------------------------------


def _flood(options: argparse.Namespace) -> Part:
    if options.quick:
        return beside_flood(FloodPlan(repeats=options.repeats or 1, duration_s=4.0, backlog=2000))
    return beside_flood(FloodPlan(repeats=options.repeats or 3))


def _generations(options: argparse.Namespace) -> Part:
    if options.quick:
        return beside_generations(StepPlan(repeats=options.repeats or 1, duration_s=6.0, steps=50))
    return beside_generations(StepPlan(repeats=options.repeats or 3))


#: The parts of the benchmark by name, each measured on its own: they share the report and nothing else.
PARTS: dict[str, Callable[[argparse.Namespace], Part]] = {"flood": _flood, "generations": _generations}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    options = _arguments(argv)
    live.stop_on_sigterm()
    try:
        about = facts(seed=1)
        if not about["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        parts = {name: PARTS[name](options) for name in dict.fromkeys(options.part or PARTS)}
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = report_of(parts, about)
    return live.conclude(
        report,
        options,
        table=table(report["rows"]),
        draw=lambda path: plot.panels([panel for part in parts.values() for panel in part.panels], path),
    )


def report_of(parts: Mapping[str, Part], about: Mapping[str, Any]) -> dict[str, Any]:
    """The one report of all parts that were measured; each bar names its own, and how many runs of it are void."""
    bars = []
    for name, part in parts.items():
        void = sum(bool(row["void"]) for row in part.rows)
        bars += [{**verdict, "part": name, "void": void, "runs": len(part.rows)} for verdict in part.bars]
    return {
        # One file a part where only that one was measured.
        "benchmark": "isolation" if len(parts) == len(PARTS) else "-".join(["isolation", *parts]),
        "facts": dict(about),
        "plan": {name: asdict(part.plan) for name, part in parts.items()},
        "rows": [row for part in parts.values() for row in part.rows],
        "bars": bars,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For a person: one line a run."""
    lines = [["part", "side", "condition", "seed", "goodput", "p50 ms", "p99 ms", "max ms", "background", "void"]]
    for row in rows:
        lines.append(
            [
                row["part"],
                row["side"],
                row["condition"],
                str(row["seed"]),
                "-" if row["goodput"] is None else f"{row['goodput']:.4f}",
                *("-" if row[name] is None else f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "max_ms")),
                _background(row),
                "void" if row["void"] else "",
            ]
        )
    return live.columns(lines)


def _background(row: Mapping[str, Any]) -> str:
    """What background work had in a run: jobs, or device seconds of so many."""
    if row["part"] == "generations":
        return f"{row['generations_device_s']:.1f} of {row['window_s']:.1f} s"
    return f"{row['background_per_s']:.0f}/s by {row['background_batch'] or 0:.1f}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = live.arguments(
        "isolation.py",
        "interactive requests beside background work",
        quick="a smoke test: one short repeat, a small flood, short generations",
    )
    parser.add_argument("--part", action="append", choices=list(PARTS), help="default: all")
    parser.add_argument("--repeats", type=int, metavar="N", help="default 3")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
