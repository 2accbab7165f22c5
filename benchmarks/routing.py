"""Ten models on shared workers against the same workers with the models dealt out, live.

``python benchmarks/routing.py [--json] [--quick] [--seeds N] [--first-seed S] [--case NAME …]``

The models are alike; their popularity is Zipf's. Compared are workers that all serve everything, workers that have two
models each as somebody deals them out who does not know what will be asked, and the partition that fits the popularity
best. Measured is the highest rate of all requests together at which 99 % are in time. See ``docs/benchmarks.md``.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import live
from benchmarks.facts import facts
from benchmarks.live import Effort, Setting, Stack, bar
from benchmarks.partition import by_number, by_popularity, popularity
from benchmarks.processes import BenchmarkError, Child, eventually, python
from benchmarks.zoo import NAMES, sources

from penstock.loadgen import plot

#: Slow enough that eight processes on two cores spend their time asleep: at 800 requests/s in batches of 25 the five
#: devices begin 32 batches a second.
SETTING = Setting(name="ten models", alpha_ms=40, beta_ms=4, target_ms=400, model=NAMES[0])
WORKERS = 5
SHARED, BY_NUMBER, BALANCED, MEMORY = "shared", "by number", "by popularity", "shared, half fits"
#: What a device of the last variant holds, of ten gibibytes, and how long a model takes to load there.
HELD, LOAD_MS = "5GiB", 300
#: Requests need some seconds to show whether a queue stands: twenty targets.
EFFORT = Effort(probe_s=8.0, most_s=12.0, tries=2)
#: Where the searches begin, requests per second.
GUESSES = {SHARED: 450.0, BY_NUMBER: 250.0, BALANCED: 400.0, MEMORY: 200.0}
QUICK = Effort(probe_s=2.0, least=60, most_s=3.0, resolution=0.3, seeds=(1,), tries=1)
BAR = "rate, x static partition by number of models"


def streams(rate: float, shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """``rate`` requests per second, over the models."""
    return [{"model": name, "rate": rate * share} for name, share in shares.items()]


class Fleet(Stack):
    """A stack whose workers need not serve the same models: ``parts`` has each one's."""

    def __init__(self, folder: Path, parts: Sequence[Sequence[str]], **more: Any) -> None:
        super().__init__(folder, SETTING, workers=len(parts), **more)
        self.parts = parts

    def start_workers(self, env: Mapping[str, str] | None = None, *, count: int | None = None) -> None:
        """Start one worker per part."""
        known = {worker.instance for worker in self._registered()}
        for index, part in enumerate(self.parts):
            variables = {**self._environ, **self._worker_env, **(env or {}), "PENSTOCK_MODELS": sources(part)}
            command = python("-m", "penstock_worker.main", "--name", f"w{index}")
            self.workers.append(Child(command, log=self.folder / f"worker{index}.log", env=variables))

        def ready() -> bool:
            self.check()
            return len({worker.instance for worker in self._registered()} - known) >= len(self.parts)

        eventually(ready, "the workers to be ready", timeout_s=live.START_TIMEOUT_S)

    def deal(self, parts: Sequence[Sequence[str]]) -> None:
        """Start again with other parts; paused before and after."""
        self.resume()
        self.stop_workers()
        self.parts = parts
        self.start_workers()
        self.pause()


@dataclass(slots=True)
class Plan:
    """What is compared, and with how much effort."""

    effort: Effort
    cases: Sequence[str]
    workers: int = WORKERS


class Bench:
    """The fleets, measured in turns."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._plan = plan
        self._order = random.Random("routing:order")
        self.shares = popularity(NAMES)
        everything = [NAMES] * plan.workers
        limited = {"PENSTOCK_WORKER__MEMORY": HELD, "BENCH_LOAD_MS": str(LOAD_MS)}
        made = {
            SHARED: lambda: Fleet(folder / "s", everything, name=SHARED),
            BY_NUMBER: lambda: Fleet(folder / "n", self._dealt(plan.effort.seeds[0]), name=BY_NUMBER),
            BALANCED: lambda: Fleet(folder / "p", by_popularity(self.shares, plan.workers), name=BALANCED),
            MEMORY: lambda: Fleet(folder / "m", everything, name=MEMORY, env=limited),
        }
        self._fleets = {case: made[case]() for case in plan.cases}
        self.rows: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """Every case with every seed; a seed has its own deal."""
        guesses = dict(GUESSES)
        with live.running(*self._fleets.values()):
            for seed in self._plan.effort.seeds:
                for case in self._order.sample(list(self._fleets), len(self._fleets)):
                    fleet = self._fleets[case]
                    if case == BY_NUMBER and fleet.parts != self._dealt(seed):
                        fleet.deal(self._dealt(seed))
                    found = self._search(fleet, guesses[case], seed)
                    guesses[case] = found.rate or guesses[case]
                    self.rows.append(self._row(case, seed, fleet, found))
                    # Said at once: a long run that is cut short has not measured nothing.
                    print(f"{case}, seed {seed}: {found.rate:.0f}/s held", file=sys.stderr, flush=True)
        return self.rows

    def _dealt(self, seed: int) -> list[list[str]]:
        return by_number(NAMES, self._plan.workers, seed)

    def _search(self, fleet: Fleet, guess: float, seed: int) -> live.Found:
        with live.turn(fleet):
            return live.highest_rate(
                lambda rate: self._probe(fleet, rate, seed), guess, resolution=self._plan.effort.resolution
            )

    def _probe(self, fleet: Fleet, rate: float, seed: int) -> dict[str, Any]:
        print(f"{fleet.name}, seed {seed}: {rate:.0f}/s …", file=sys.stderr, flush=True)
        report = live.mixed(fleet, streams(rate, self.shares), seed, self._plan.effort)
        late = {name: figures["goodput"] for name, figures in report["models"].items()}
        return {**report, "by_model": late}

    def _row(self, case: str, seed: int, fleet: Fleet, found: live.Found) -> dict[str, Any]:
        asked = [sum(self.shares[name] for name in part) for part in fleet.parts]
        return {
            "case": case,
            "seed": seed,
            "highest_per_s": found.rate,
            "parts": [list(part) for part in fleet.parts],
            # Of the workers of a partition, the share of the one that is asked for most.
            "most_asked": max(asked) if case in (BY_NUMBER, BALANCED) else None,
            "void": sum(probe["void"] for probe in found.probes),
            "probes": found.probes,
        }


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bar, on the median over the seeds; the partition that knows the popularity is reported."""
    ours = limit(rows, SHARED)

    def probes(*cases: str) -> list[Mapping[str, Any]]:
        return [probe for row in rows if row["case"] in cases for probe in row["probes"]]

    return [
        bar(BAR, over(ours, limit(rows, BY_NUMBER)), 1.5, rows=probes(SHARED, BY_NUMBER)),
        bar(
            "rate, x best partition of known popularity",
            over(ours, limit(rows, BALANCED)),
            1.5,
            judged=False,
            rows=probes(SHARED, BALANCED),
        ),
        *(
            [bar("rate where half fits, x where all fits", over(limit(rows, MEMORY), ours), 0.9, judged=False)]
            if limit(rows, MEMORY) is not None
            else []
        ),
    ]


def limit(rows: Sequence[Mapping[str, Any]], case: str) -> float | None:
    """A case's highest rate, the median over its seeds."""
    found = [row["highest_per_s"] for row in rows if row["case"] == case]
    return statistics.median(found) if found else None


def over(ours: float | None, theirs: float | None) -> float | None:
    """A ratio, or ``None`` where one side was not measured or held nothing: that shows nothing."""
    return ours / theirs if ours is not None and theirs else None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a person: the limits, and what became of each probe."""
    limits = [["case", "seed", "highest/s", "most asked worker", "void probes"]]
    probes = [["case", "seed", "offered/s", "goodput", "refused", "p50 ms", "p99 ms", "batch", "void"]]
    for row in rows:
        most = "-" if row["most_asked"] is None else f"{row['most_asked']:.0%} of the requests"
        void = f"{row['void']} of {len(row['probes'])}"
        limits.append([row["case"], str(row["seed"]), f"{row['highest_per_s']:.0f}", most, void])
        for probe in row["probes"]:
            probes.append(
                [
                    row["case"],
                    str(row["seed"]),
                    f"{probe['offered_per_s']:.0f}",
                    f"{probe['goodput'] or 0:.4f}",
                    str(probe["refused"]),
                    *("-" if probe[name] is None else f"{probe[name]:.0f}" for name in ("p50_ms", "p99_ms")),
                    f"{probe['batches'].get('mean_size', 0):.1f}",
                    "void" if probe["void"] else "",
                ]
            )
    return f"{live.columns(limits)}\n\n{live.columns(probes)}"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What came back in time, and the 99th percentile, over the offered rate."""
    shown = []
    for y, title, level in (("goodput", "share in time", live.SHARE), ("p99_ms", "p99, ms", SETTING.target_ms)):
        lines: dict[str, list[tuple[float, float | None]]] = {}
        for row in rows:
            for probe in row["probes"]:
                lines.setdefault(row["case"], []).append((probe["offered_per_s"], probe[y]))
        shown.append(plot.Panel(title=f"ten models: {title}", x="offered/s", y=title, lines=lines, level=level))
    plot.panels(shown, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    options = _arguments(argv)
    live.stop_on_sigterm()
    effort = QUICK if options.quick else EFFORT
    count = options.seeds or len(effort.seeds)
    effort = replace(effort, seeds=tuple(range(options.first_seed, options.first_seed + count)))
    cases = options.case or ([SHARED, BY_NUMBER] if options.quick else [SHARED, BY_NUMBER, BALANCED, MEMORY])
    plan = Plan(effort=effort, cases=cases)
    try:
        about = facts(seed=effort.seeds[0])
        if not about["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        with live.folder() as folder:
            rows = Bench(folder, plan).run()
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = {
        "benchmark": "routing",
        "facts": about,
        "setting": {"alpha_ms": SETTING.alpha_ms, "beta_ms": SETTING.beta_ms, "target_ms": SETTING.target_ms},
        "workers": plan.workers,
        "popularity": popularity(NAMES),
        "effort": {name: getattr(effort, name) for name in Effort.__slots__},
        "rows": rows,
        "bars": judge(rows),
    }
    return live.conclude(report, options, table=table(rows), draw=lambda path: draw(rows, path))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = live.arguments(
        "routing.py",
        "ten models on shared workers against a static partition, live",
        quick="a smoke test: two cases, one seed, short probes",
    )
    parser.add_argument("--case", action="append", choices=[SHARED, BY_NUMBER, BALANCED, MEMORY], help="default: all")
    parser.add_argument("--seeds", type=int, metavar="N", help="default 3")
    parser.add_argument("--first-seed", type=int, default=1, metavar="S", help="default 1")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
