"""The scaling policy on traffic of others, against the cheapest plan that knows the future and against tuned rivals.

``python benchmarks/elastic.py [--json] [--quick] [--seed S] [--traces FOLDER] [--case NAME …] [--delay S …]``

Simulated, event by event, with the very ``decide`` that the autoscaler calls. The service model, what is late:
``elastictraces``; what a worker costs: ``elasticsim``; the plan's algorithm: ``elasticplan``; the rivals and their
grids: ``elasticrivals``. Without ``--traces`` (or ``PENSTOCK_TRACES``) the workloads are synthetic, and their bars are
reported, not judged. See ``docs/benchmarks.md``.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import live
from benchmarks.elasticplan import cheapest
from benchmarks.elasticrivals import grid
from benchmarks.elasticsim import View, first_need, simulate
from benchmarks.elastictraces import Workload, workloads
from benchmarks.facts import facts
from benchmarks.live import bar

from penstock.lane import Lane
from penstock.policy.scaling import Context, Fleet, Load, State, Terms, decide

DELAYS_S = (0.0, 30.0, 120.0)
#: Whose lateness and cost are judged by themselves; the others have bursts that nobody can be ready for.
JUDGED = frozenset({"conv", "deepseek-r1", "m-small"})
LATE, COST, TICK_S = 0.01, 1.3, 0.010
FAMILIES = ("KEDA", "Knative", "Ray Serve")
MOST = 1000


class Ours:
    """The policy of the autoscaler, with its defaults."""

    every_s = 1.0

    def __init__(self, target_s: float, delay_s: float) -> None:
        self._terms = Terms(least=1, most=MOST, target_s={Lane.INTERACTIVE: target_s}, ready_in_s=delay_s)
        self._state = State()

    def target(self, view: View) -> int:
        """What it decides."""
        load = Load(
            at=view.now,
            demand=view.arrived_s / self.every_s,
            backlog_s={Lane.INTERACTIVE: view.backlog_s},
            jobs=view.waiting + view.busy,
        )
        fleet = Fleet(ready=view.ready, busy=view.busy, starting=view.starting)
        decision = decide(Context(now=view.now, terms=self._terms, load=load, fleet=fleet, state=self._state))
        self._state = decision.state
        return decision.target


@dataclass(frozen=True, slots=True)
class Task:
    """One workload at one start delay."""

    case: str
    delay_s: float
    folder: Path | None
    seed: int
    quick: bool


def run(task: Task) -> dict[str, Any]:
    """Everything about one workload at one start delay."""
    workload = workloads(task.folder, seed=task.seed, quick=task.quick)[task.case]()
    begin = first_need(workload)
    ours = simulate(workload, Ours(workload.target_s, task.delay_s), delay_s=task.delay_s, begin=begin)
    rivals = []
    for family, words, scaler in grid(float(workload.work_s.mean()), quick=task.quick):
        found = simulate(workload, scaler, delay_s=task.delay_s, begin=begin)
        rivals.append({"family": family, "parameters": words, "mean": found.mean, "late": found.late})
    row: dict[str, Any] = {
        "case": task.case,
        "delay_s": task.delay_s,
        "units": len(workload.arrivals),
        "span_s": workload.span_s,
        "work": workload.need,
        "late": ours.late,
        "mean": ours.mean,
        "most": ours.most,
        "reversals_per_hour": ours.reversals / workload.span_s * 3600,
        "plan": plan(workload, ours.late, task.delay_s),
        "rivals": rivals,
    }
    for family in FAMILIES:
        row[family] = cost_at([rival for rival in rivals if rival["family"] == family], ours.late)
    print(
        f"{task.case}, {task.delay_s:.0f} s: {ours.late:.3%} late, {ours.mean:.2f} workers", file=sys.stderr, flush=True
    )
    return row


def plan(workload: Workload, late: float, delay_s: float) -> float:
    """The mean workers of the cheapest plan at that lateness.

    Where starting takes no time, that is the work itself, which no plan can undercut: what is planned in seconds loses
    more there than it knows.
    """
    if not delay_s:
        return workload.need
    busiest = max(workload.need, *(part / 60.0 for part in _by_minute(workload)))
    return cheapest(workload, late=late, delay_s=delay_s, most=int(busiest * 1.5) + 3).outcome.mean


def _by_minute(workload: Workload) -> Iterable[float]:
    sums: dict[int, float] = {}
    for at, seconds in zip(workload.arrivals.tolist(), workload.work_s.tolist(), strict=True):
        sums[int(at // 60)] = sums.get(int(at // 60), 0.0) + seconds
    return sums.values()


def cost_at(rivals: Sequence[Mapping[str, Any]], late: float) -> float | None:
    """The mean workers of the best of these at a lateness: along the line through those that no other beats.

    ``None``: none of the grid is as good, whatever it costs.
    """
    best: list[tuple[float, float]] = []
    for rival in sorted(rivals, key=lambda rival: (rival["mean"], rival["late"])):
        if not best or rival["late"] < best[-1][1]:
            best.append((rival["mean"], rival["late"]))
    before: tuple[float, float] | None = None
    for mean, there in best:
        if there <= late:
            if before is None or there == late:
                return mean
            # A setting between two of the grid's.
            return mean - (mean - before[0]) * (late - there) / (before[1] - there)
        before = (mean, there)
    return None


def tick_s(pools: int = 50, workers: int = 1000) -> float:
    """The best of some turns of deciding about so many pools."""
    terms = Terms(least=0, most=workers, target_s={Lane.INTERACTIVE: 0.5, Lane.BACKGROUND: 60.0}, wake_in_s=0.1)
    states, fleet, took = [State()] * pools, Fleet(ready=workers // pools, busy=10, starting=2), []
    for second in range(60):
        now = 1000.0 + second
        began = time.perf_counter()
        for index in range(pools):
            load = Load(
                at=now,
                demand=15.0 + second % 7,
                backlog_s={Lane.INTERACTIVE: 3.0, Lane.BACKGROUND: 40.0},
                due=[(float(slack), 0.1) for slack in range(0, 200, 4)],
                jobs=500,
            )
            states[index] = decide(Context(now=now, terms=terms, load=load, fleet=fleet, state=states[index])).state
        took.append(time.perf_counter() - began)
    return min(took)


def judge(rows: Sequence[Mapping[str, Any]], tick: float | None, *, judged: bool) -> list[dict[str, Any]]:
    """The bars of all rows."""
    bars = []
    for row in rows:
        name = f"{row['case']}, {row['delay_s']:.0f} s"
        if row["case"] in JUDGED or not judged:
            bars.append(bar(f"{name}: late, %", row["late"] * 100, LATE * 100, at_most=True, judged=judged))
            ratio = row["mean"] / row["plan"] if row["plan"] else None
            bars.append(bar(f"{name}: cost, x the cheapest plan", ratio, COST, at_most=True, judged=judged))
        for family in FAMILIES:
            # Where none of a family is as good at any price, nothing is to be beaten.
            value = row[family] / row["mean"] if row[family] is not None else 99.0
            bars.append(bar(f"{name}: {family}'s cost at equal lateness, x ours", value, 1.0, judged=judged))
    bars.append(
        bar("a turn over 50 pools and 1,000 workers, ms", tick * 1e3 if tick else None, TICK_S * 1e3, at_most=True)
    )
    return bars


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a person: workers on average, of the work itself, ours, the plan's, and the rivals' at our lateness."""
    head = ("workload", "start", "work", "late", "ours", "plan", *FAMILIES, "turns/h")
    cells = [
        (
            str(row["case"]),
            f"{row['delay_s']:.0f} s",
            f"{row['work']:.2f}",
            f"{row['late']:.2%}",
            f"{row['mean']:.2f}",
            f"{row['plan']:.2f}",
            *("-" if row[family] is None else f"{row[family]:.2f}" for family in FAMILIES),
            f"{row['reversals_per_hour']:.0f}",
        )
        for row in rows
    ]
    return live.columns([head, *cells])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    parser = live.arguments("elastic.py", "the scaling policy, simulated", quick="a piece of each workload, few rivals")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn")
    parser.add_argument("--traces", type=Path, default=os.environ.get("PENSTOCK_TRACES"), help="folder of the traces")
    parser.add_argument("--case", nargs="+", help="these workloads only")
    parser.add_argument("--delay", nargs="+", type=float, default=DELAYS_S, help="these start delays, seconds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(argv)
    known = workloads(options.traces, seed=options.seed, quick=options.quick)
    if unknown := set(options.case or ()) - set(known):
        print(f"error: no workload {', '.join(sorted(unknown))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if options.traces is not None and not options.traces.is_dir():
        print(f"error: {options.traces} is no folder; see benchmarks/elastictraces.py", file=sys.stderr)
        return 2
    about = facts(seed=options.seed)
    tasks = [
        Task(case, delay, options.traces, options.seed, options.quick)
        for case in options.case or known
        for delay in options.delay
    ]
    with multiprocessing.get_context("spawn").Pool(min(options.jobs, len(tasks))) as processes:
        rows = processes.map(run, tasks, chunksize=1)
    bars = judge(rows, tick_s(), judged=options.traces is not None and not options.quick)
    # Cases that are measured one by one are kept one by one.
    name = "elastic" if not options.case else "-".join(("elastic", *options.case))
    report = {"benchmark": name, "facts": about, "rows": rows, "bars": bars}
    return live.conclude(report, options, table=table(rows), draw=lambda path: None)


if __name__ == "__main__":
    sys.exit(main())
