"""The second part of ``benchmarks/isolation.py``: interactive requests beside 5 s generations that run in steps.

20 interactive requests per second on the first setting's device, alone and then beside generations of 250 steps of
20 ms, as many as keep the device busy; and these generations alone, which says what a step and a switch cost.

* Latency: p99 beside them <= p99 alone + 1.5 x (step + switch).
* What they keep: their device seconds >= 95 % of what the interactive batches leave over.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import live
from benchmarks.flood import NOTHING, PENSTOCK
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
        return int(self.duration_s / (self.step_ms * self.steps / 1e3)) + 10

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
            report = {**NOTHING}
        else:
            streams = [{"rate": plan.rate, "lane": "interactive"}]
            report = stack.offer(streams, duration_s=plan.duration_s, seed=seed, samples=True)
        ended = time.time()
        if jobs and all(job.refresh().state.is_terminal for job in jobs):
            raise BenchmarkError("the generations were over before the measurement was")
        steps = sum(steps_of(stack, job.id, began, ended) for job in jobs)
        for job in jobs:
            job.cancel()
        stack.settle()
    spent = {"steps": steps, "generations_device_s": steps * plan.step_ms / 1e3, "window_s": ended - began}
    return {**live.brief(report), "samples": report["samples"], **spent}


def steps_of(stack: Stack, job: str, began: float, ended: float) -> int:
    """How often a generation was stepped within the window: each step but the last is told as progress."""
    settings = stack.settings()
    log = ProgressLog(settings.broker, settings.namespace)
    try:
        return sum(began <= entry.at < ended for entry in log.read(job, 1, 0, MOST_STEPS))
    finally:
        log.close()


def compare(plan: StepPlan) -> list[dict[str, Any]]:
    """All conditions in shuffled turns, every seed: the rows."""
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
                    print(f"generations: {condition}, repeat {seed} …", file=sys.stderr, flush=True)
                    report = measure(stack, plan, condition, seed)
                    named = {"part": "generations", "side": PENSTOCK, "condition": condition, "seed": seed}
                    rows.append({**named, **report})
        finally:
            stack.stop()
    return rows


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
    size = row["batches"].get("mean_size") or 1.0
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
