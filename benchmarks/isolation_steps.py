"""Interactive requests beside 5 s generations that run in steps, live.

``python benchmarks/isolation_steps.py [--json] [--quick] [--repeats N]``

20 interactive requests per second on the first setting's device, alone and then beside generations of 250 steps of
20 ms, as many as keep the device busy; and these generations alone, which says what a step and a switch cost.

* Latency: p99 beside them <= p99 alone + 1.5 x (step + switch).
* What they keep: their device seconds >= 95 % of what the interactive batches leave over.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import live
from benchmarks.facts import facts
from benchmarks.live import SETTINGS, Stack, bar
from benchmarks.processes import BenchmarkError, eventually

from penstock import Client, JobState
from penstock.loadgen import plot
from penstock.loadgen.tally import percentile
from penstock.transport.progress import ProgressLog

ALONE, BESIDE, LONG = "alone", "beside generations", "generations alone"
#: More than a generation has.
MOST_STEPS = 1000


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What is offered. ``switch_ms`` is what changing from steps to a batch and back may cost, published as a bound."""

    repeats: int = 3
    duration_s: float = 60.0
    rate: float = 20.0
    step_ms: float = 20.0
    steps: int = 250
    switch_ms: float = 2.0

    @property
    def generations(self) -> int:
        """So many that the device has never nothing left of them."""
        return int(self.duration_s / (self.step_ms * self.steps / 1e3)) + 4

    @property
    def bound_ms(self) -> float:
        """How much later than alone an interactive answer may come."""
        return 1.5 * (self.step_ms + self.switch_ms)


def measure(stack: Stack, plan: StepPlan, condition: str, seed: int) -> dict[str, Any]:
    """One run under one condition."""
    with Client(stack.settings()) as client:
        jobs = []
        if condition != ALONE:
            jobs = client.enqueue_many("generation", range(plan.generations))
            eventually(
                lambda: any(job.refresh().state is JobState.RUNNING for job in jobs),
                "a generation to begin",
                timeout_s=60,
            )
        began = time.time()
        if condition == LONG:
            time.sleep(plan.duration_s)
            report: dict[str, Any] = {}
        else:
            streams = [{"rate": plan.rate, "lane": "interactive"}]
            report = stack.offer(streams, duration_s=plan.duration_s, seed=seed, samples=True)
        ended = time.time()
        steps = sum(steps_of(stack, job.id, began, ended) for job in jobs)
        for job in jobs:
            job.cancel()
        stack.settle()
    return report | {"steps": steps, "generations_device_s": steps * plan.step_ms / 1e3, "window_s": ended - began}


def steps_of(stack: Stack, job: str, began: float, ended: float) -> int:
    """How often a generation was stepped within the window: each step but the last is told as progress."""
    settings = stack.settings()
    log = ProgressLog(settings.broker, settings.namespace)
    try:
        return sum(began <= entry.at < ended for entry in log.read(job, 1, 0, MOST_STEPS))
    finally:
        log.close()


def compare(plan: StepPlan) -> dict[str, Any]:
    """All conditions in shuffled turns, every seed."""
    setting = SETTINGS["gpu"]
    env = {"BENCH_STEP_MS": str(plan.step_ms), "BENCH_STEPS": str(plan.steps)}
    rows: list[dict[str, Any]] = []
    order = random.Random("isolation steps")
    with live.folder() as folder:
        stack = Stack(folder / "p", setting, env=env, models="benchmarks.devices,benchmarks.steppers")
        try:
            stack.start()
            for seed in range(1, plan.repeats + 1):
                turns = [ALONE, BESIDE, LONG]
                order.shuffle(turns)
                for condition in turns:
                    print(f"steps: {condition}, repeat {seed} …", file=sys.stderr, flush=True)
                    rows.append({"condition": condition, "seed": seed, **measure(stack, plan, condition, seed)})
        finally:
            stack.stop()
    return {"rows": rows, "bars": bars_of(rows, plan)}


def bars_of(rows: Sequence[dict[str, Any]], plan: StepPlan) -> list[dict[str, Any]]:
    """The verdicts, on the latencies of all repeats together."""
    alone, beside = (percentile(latencies_ms(rows, condition), 99) for condition in (ALONE, BESIDE))
    later = None if alone is None or beside is None else beside - alone
    return [
        bar("interactive p99 beside generations, less alone, ms", later, plan.bound_ms, at_most=True),
        bar("generations keep, of what interactive work leaves over", kept(rows), 0.95),
    ]


def kept(rows: Sequence[dict[str, Any]]) -> float | None:
    """Device seconds of generations over those that the window had left for them, all repeats together.

    The machine itself takes something of every step: what generations alone reach is the whole.
    """
    alone = [row for row in rows if row["condition"] == LONG]
    beside = [row for row in rows if row["condition"] == BESIDE]
    whole = sum(row["window_s"] for row in alone)
    reached = sum(row["generations_device_s"] for row in alone)
    left = sum(row["window_s"] - interactive_device_s(row) for row in beside)
    if not whole or not reached or left <= 0:
        return None
    return sum(row["generations_device_s"] for row in beside) / (left * reached / whole)


def interactive_device_s(row: dict[str, Any]) -> float:
    """Device seconds of the interactive batches, by their number and mean size."""
    setting = SETTINGS["gpu"]
    size = (row["batches"].get("all") or {}).get("mean_size") or 1.0
    answered = sum(sample[3] == "ok" for sample in row["samples"])
    return answered / size * (setting.alpha_ms + setting.beta_ms * size) / 1e3


def latencies_ms(rows: Sequence[dict[str, Any]], condition: str) -> list[float]:
    """Of all repeats, ordered. A request without a result was as slow as can be."""
    samples = [sample for row in rows if row["condition"] == condition for sample in row["samples"]]
    return sorted(sample[4] * 1e3 if sample[3] == "ok" else float("inf") for sample in samples)


def panel(rows: Sequence[dict[str, Any]]) -> plot.Panel:
    """The two distributions of latency."""
    percents = (5, 25, 50, 75, 90, 95, 98, 99, 99.9)
    lines = {c: [(p, percentile(latencies_ms(rows, c), p)) for p in percents] for c in (ALONE, BESIDE)}
    return plot.Panel(title="interactive beside 5 s generations", x="percentile", y="latency, ms", lines=lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    parser = live.arguments(
        "isolation_steps.py",
        "interactive requests beside generations",
        quick="a smoke test: one short repeat, short generations",
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="default 3")
    options = parser.parse_args(argv)
    plan = StepPlan(repeats=1, duration_s=6.0, steps=50) if options.quick else StepPlan(repeats=options.repeats or 3)
    try:
        about = facts(seed=1)
        if not about["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        found = compare(plan)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    planned = {name: getattr(plan, name) for name in StepPlan.__slots__}
    report = {"benchmark": "isolation_steps", "facts": about, "plan": planned, **found}
    return live.conclude(
        report, options, table=table(found["rows"]), draw=lambda path: plot.panels([panel(found["rows"])], path)
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For a person: one line a run."""
    lines = [["condition", "seed", "p50 ms", "p99 ms", "max ms", "generations, device s", "of s", "void"]]
    for row in rows:
        figures = ("-" if row.get(n) is None else f"{row[n]:.1f}" for n in ("p50_ms", "p99_ms", "max_ms"))
        spent = (f"{row['generations_device_s']:.1f}", f"{row['window_s']:.1f}")
        lines.append([row["condition"], str(row["seed"]), *figures, *spent, "void" if row.get("void") else ""])
    return live.columns(lines)


if __name__ == "__main__":
    sys.exit(main())
