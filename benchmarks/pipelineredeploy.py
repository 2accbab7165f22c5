"""The part of ``benchmarks/pipeline.py`` in which a pipeline changes while runs of it are in flight."""

from __future__ import annotations

from pathlib import Path

from benchmarks import pipelinebars as bars
from benchmarks import redeployed
from benchmarks.parts import Part
from benchmarks.pipelineground import START_TIMEOUT_S, Ground, Ours
from benchmarks.pipelineparts import NOOP, Plan
from benchmarks.processes import Child, python

import penstock

CASE, WORKERS = "another graph is deployed", 2


def redeploy(ground: Ground, plan: Plan) -> Part:
    """Worker after worker is replaced by one of the new deployment (SIGTERM), and then a run of the new graph."""
    part = Part()
    in_flight: list[int] = []
    statuses: list[int] = []
    with (
        ground.ours(NOOP, ["benchmarks.redeployed"], workers=WORKERS) as ours,
        penstock.Client(ours.stack.settings()) as client,
    ):
        after = ours.rows.newest()
        ours.submit("redeployed", {"x": 1}, plan.redeployed)
        waiting = ours.rows.open_runs(after)
        for number in range(WORKERS):
            ours.stack.start_workers({"BENCH_DEPLOYED": "new"}, count=1)
            in_flight.append(len(ours.rows.open_runs(after)))
            for run in waiting[number::WORKERS]:  # which go on while a worker leaves
                client.signal(run, "go", 0)
            worker = ours.stack.workers.pop(0)
            worker.stop()
            statuses.append(worker.process.returncode)
        good = ours.finished(after)
        calls = redeployed.calls(Path(ours.stack.environ["PENSTOCK_HOME"]))
        again = sum(calls.values()) - len(redeployed.BEFORE) * plan.redeployed
        run_afresh(ours, "redeployed", '{"y": 1}')  # which the old graph does not take
    part.tell(CASE, "runs", plan.redeployed)
    for number, count in enumerate(in_flight):
        part.tell(CASE, f"in flight when worker {number + 1} is stopped", count)
    part.tell(CASE, "steps called", sum(calls.values()), **calls)
    part.bars = bars.redeploy_bars(
        runs=plan.redeployed, in_flight=in_flight, good=good, again=again, unclean=sum(map(bool, statuses))
    )
    return part


def run_afresh(ours: Ours, name: str, inputs: str) -> None:
    """One run, by a program that starts now: the client knows the old graph for some seconds."""
    command = python("-m", "penstock_cli", "run", name, inputs)
    started = Child(command, log=ours.stack.folder / "afresh.log", env=ours.stack.environ | {"PENSTOCK_MODELS": ""})
    if started.process.wait(START_TIMEOUT_S):
        started.check()
