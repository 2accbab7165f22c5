"""Adaptive batching against batch size 1 and the best static configuration, live.

``python benchmarks/batching.py [--json] [--quick] [--setting NAME …] [--seeds N] [--tries N]``

The three variants are the same system: penstock with its defaults, with ``Batching(max_size=1)``, and with the pinned
``Batching(max_size=…, max_wait_s=…)`` that a sweep on this machine finds best. Each setting is a device and a target
(``benchmarks.live.SETTINGS``). Results are kept under ``benchmarks/results/``. See ``docs/benchmarks.md``.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import live
from benchmarks.facts import facts
from benchmarks.live import QUICK, SETTINGS, Effort, Setting, Stack, bar
from benchmarks.processes import BenchmarkError

from penstock.loadgen import plot

ADAPTIVE, ONE, STATIC = "adaptive", "batch size 1", "best static"

#: The sweep: sizes, and waits as shares of the target.
SIZES, WAITS = (64, 32, 16, 8), (0.0, 0.05, 0.125, 0.25)
#: Loads as shares of the best static configuration's highest rate. Above 1 it is overloaded.
LOADS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0, 1.2)
#: Low load, as a share of batch size 1's highest rate.
LOW = 0.2


@dataclass(slots=True)
class Findings:
    """What was measured in one setting."""

    setting: Setting
    best: dict[str, Any] = field(default_factory=dict)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[str, list[float]] = field(default_factory=dict)
    searches: list[dict[str, Any]] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)
    low: list[dict[str, Any]] = field(default_factory=list)
    absolute: list[dict[str, Any]] = field(default_factory=list)

    def limit(self, variant: str) -> float | None:
        """A variant's highest rate: the median over the seeds."""
        found = self.limits.get(variant)
        return statistics.median(found) if found else None

    def probes(self, *variants: str) -> list[dict[str, Any]]:
        """Every probe of the searches for these variants' highest rates."""
        return [probe for search in self.searches if search["variant"] in variants for probe in search["probes"]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        names = ("best", "sweep", "limits", "searches", "loads", "low", "absolute")
        return {"setting": self.setting.name, **{name: getattr(self, name) for name in names}}


class Bench:
    """One setting: its three stacks, measured in turns."""

    def __init__(self, folder: Path, setting: Setting, effort: Effort, *, quick: bool) -> None:
        self._effort = effort
        self._quick = quick
        self._order = random.Random(f"{setting.name}:order")
        self.found = Findings(setting)
        self._stacks = {
            ADAPTIVE: Stack(folder / "a", setting, name=ADAPTIVE),
            ONE: Stack(folder / "b", setting, name=ONE, env={"BENCH_MAX_SIZE": "1"}),
            STATIC: Stack(folder / "c", setting, name=STATIC, env={"BENCH_MAX_WAIT_S": "0"}),
        }

    def run(self) -> Findings:
        """All measurements, in order; each needs the one before it."""
        with live.running(*self._stacks.values()):
            for measure in (self._sweep, self._limits, self._loads, self._low, self._absolute):
                measure()
        return self.found

    def _sweep(self) -> None:
        """The best static configuration: every candidate is asked for a little more than the best one so far holds."""
        setting, stack = self.found.setting, self._stacks[STATIC]
        best, rate = None, 0.0
        sizes, waits = (SIZES[:2], WAITS[:1]) if self._quick else (SIZES, WAITS)
        for size in sizes:
            for share in waits:
                wait_s = share * setting.target_s
                self._pin(size, wait_s)
                guess = rate * (1 + self._effort.resolution) or 0.75 * self._capacity(size)
                found = self._search(stack, guess, seed=self._effort.seeds[0], low=rate)
                self.found.sweep.append(
                    {"max_size": size, "max_wait_s": wait_s, "highest_per_s": found.rate, "probes": found.probes}
                )
                if found.rate > rate or best is None:
                    best, rate = (size, wait_s), found.rate
                else:
                    # It did not hold more than the best, which is all that was asked.
                    self.found.sweep[-1]["highest_per_s"] = None
        assert best is not None
        self._pin(*best)
        self.found.best = {"max_size": best[0], "max_wait_s": best[1], "highest_per_s": rate}

    def _pin(self, size: int, wait_s: float) -> None:
        stack = self._stacks[STATIC]
        self._tell(f"static, size {size}, wait {wait_s * 1e3:g} ms")
        stack.resume()
        stack.stop_workers()
        stack.start_workers({"BENCH_MAX_SIZE": str(size), "BENCH_MAX_WAIT_S": str(wait_s)})
        stack.pause()

    def _limits(self) -> None:
        """The highest rate of each variant, seed by seed, the variants in shuffled turns."""
        guesses = {
            ADAPTIVE: self.found.best["highest_per_s"] or self._capacity(),
            STATIC: self.found.best["highest_per_s"] or self._capacity(),
            ONE: 0.8 * self._capacity(1),
        }
        for seed in self._effort.seeds:
            for variant in self._shuffled(self._stacks):
                self._tell(f"highest rate, {variant}, seed {seed}")
                found = self._search(self._stacks[variant], guesses[variant], seed=seed)
                self.found.limits.setdefault(variant, []).append(found.rate)
                self.found.searches.append(
                    {"variant": variant, "seed": seed, "highest_per_s": found.rate, "probes": found.probes}
                )
                guesses[variant] = found.rate or guesses[variant]

    def _loads(self) -> None:
        limit = self.found.limit(STATIC) or self._capacity() / 2
        for load in LOADS[1::3] if self._quick else LOADS:
            for seed in self._effort.seeds:
                for variant in self._shuffled((ADAPTIVE, STATIC)):
                    self.found.loads.append({"load": load, **self._once(variant, load * limit, seed)})

    def _low(self) -> None:
        rate = LOW * (self.found.limit(ONE) or self._capacity(1) / 2)
        for seed in self._effort.seeds:
            for variant in self._shuffled((ADAPTIVE, ONE)):
                self.found.low.append(self._once(variant, rate, seed))

    def _absolute(self) -> None:
        """Two absolute figures, end to end; they are for the first setting only."""
        if self.found.setting.name != "gpu":
            return
        for rate in (1000.0, 2000.0):
            for seed in self._effort.seeds:
                self.found.absolute.append(self._once(ADAPTIVE, rate, seed))

    def _once(self, variant: str, rate: float, seed: int) -> dict[str, Any]:
        self._tell(f"{variant} at {rate:.0f}/s, seed {seed}")
        with live.turn(self._stacks[variant]) as stack:
            return {"variant": variant, **live.brief(live.probe(stack, rate, seed, self._effort))}

    def _search(self, stack: Stack, guess: float, *, seed: int, low: float = 0.0) -> live.Found:
        with live.turn(stack):
            return live.highest_rate(
                lambda rate: live.probe(stack, rate, seed, self._effort),
                guess,
                resolution=self._effort.resolution,
                low=low,
            )

    def _capacity(self, size: int | None = None) -> float:
        return self.found.setting.capacity(size)

    def _shuffled(self, variants: Iterable[str]) -> list[str]:
        order = list(variants)
        self._order.shuffle(order)
        return order

    def _tell(self, what: str) -> None:
        print(f"{self.found.setting.name}: {what} …", file=sys.stderr, flush=True)


def judge(findings: Sequence[Findings]) -> list[dict[str, Any]]:
    """The bars, from what was measured."""
    bars = []
    for found in findings:
        name = found.setting.name
        one, static, adaptive = (found.limit(variant) for variant in (ONE, STATIC, ADAPTIVE))
        # On a CPU a batch is not as much quicker as on a device: only the first setting has this bar.
        ratio = _over(adaptive, one)
        asked = found.probes(ADAPTIVE, ONE)
        bars.append(bar(f"{name}: rate, x batch size 1", ratio, 8.0, judged=name == "gpu", rows=asked))
        asked = found.probes(ADAPTIVE, STATIC)
        bars.append(bar(f"{name}: rate, x best static", _over(adaptive, static), 0.95, rows=asked))
        for load in dict.fromkeys(row["load"] for row in found.loads):
            rows = [row for row in found.loads if row["load"] == load]
            ratio = _over(_median(rows, ADAPTIVE, "goodput"), _median(rows, STATIC, "goodput"))
            bars.append(bar(f"{name}: goodput at {load:g} of static's limit, x best static", ratio, 0.95, rows=rows))
        ratio = _over(_median(found.low, ADAPTIVE, "p50_ms"), _median(found.low, ONE, "p50_ms"))
        bars.append(bar(f"{name}: p50 at low load, x batch size 1", ratio, 1.1, at_most=True, rows=found.low))
        if found.absolute:
            at = {rate: [row for row in found.absolute if row["rate"] == rate] for rate in (1000.0, 2000.0)}
            in_time, p99 = _median(at[2000.0], ADAPTIVE, "goodput"), _median(at[1000.0], ADAPTIVE, "p99_ms")
            bars.append(bar("gpu: share within 100 ms at 2,000/s", in_time, 0.99, rows=at[2000.0]))
            bars.append(bar("gpu: p99 at 1,000/s, ms", p99, 35.0, at_most=True, rows=at[1000.0]))
    return bars


def _median(rows: Iterable[dict[str, Any]], variant: str, name: str) -> float | None:
    values = [row[name] for row in rows if row["variant"] == variant]
    # A run without one result in time has no latency: that is no small one.
    return None if not values or None in values else statistics.median(values)


def _over(ours: float | None, theirs: float | None) -> float | None:
    """A ratio, 1,000 at most (the other side may have got nothing done); none where neither did anything."""
    if ours is None or theirs is None or not (ours or theirs):
        return None
    return ours / max(theirs, ours / 1000)


def draw(findings: Sequence[Findings], path: Path) -> None:
    """Latency and goodput over the offered rate, a pair of panels per setting."""
    shown = []
    for found in findings:
        rows = [*found.loads, *found.low, *found.absolute]
        rows += [{"variant": search["variant"], **p} for search in found.searches for p in search["probes"]]
        for y, title, level, log in (
            ("p99_ms", "p99, ms", found.setting.target_ms, True),
            ("goodput", "goodput", live.SHARE, False),
        ):
            lines = {
                v: [(r["offered_per_s"], r[y]) for r in rows if r["variant"] == v] for v in (ADAPTIVE, STATIC, ONE)
            }
            name = f"{found.setting.name}: {title}"
            shown.append(plot.Panel(title=name, x="offered/s", y=title, lines=lines, level=level, logarithmic=log))
    plot.panels(shown, path)


def table(findings: Sequence[Findings]) -> str:
    """For a person: limits, and what became of each load."""
    lines = [["setting", "variant", "highest/s", "by seed"]]
    for found in findings:
        for variant in (ADAPTIVE, STATIC, ONE):
            by_seed = " ".join(f"{rate:.0f}" for rate in found.limits.get(variant, []))
            label = f"{variant} {found.best['max_size']}/{found.best['max_wait_s'] * 1e3:g} ms" * (variant == STATIC)
            lines.append([found.setting.name, label or variant, f"{found.limit(variant) or 0:.0f}", by_seed])
    detail = [["setting", "variant", "offered/s", "goodput", "p50 ms", "p99 ms", "batch", "void"]]
    for found in findings:
        for row in [*found.loads, *found.low, *found.absolute]:
            detail.append(
                [
                    found.setting.name,
                    row["variant"],
                    f"{row['offered_per_s']:.0f}",
                    f"{row['goodput'] or 0:.4f}",
                    *("-" if row[name] is None else f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms")),
                    f"{row['batches'].get('mean_size', 0):.1f}",
                    "void" if row["void"] else "",
                ]
            )
    return f"{live.columns(lines)}\n\n{live.columns(detail)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    options = _arguments(argv)
    live.stop_on_sigterm()
    effort = QUICK if options.quick else Effort()
    if options.seeds:
        effort = replace(effort, seeds=tuple(range(1, options.seeds + 1)))
    if options.tries:
        effort = replace(effort, tries=options.tries)
    findings: list[Findings] = []
    try:
        about = facts(seed=effort.seeds[0])
        if not about["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        for name in options.setting or (["gpu"] if options.quick else list(SETTINGS)):
            with live.folder() as folder:
                findings.append(Bench(folder, SETTINGS[name], effort, quick=options.quick).run())
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bars = judge(findings)
    report = {
        # One file a setting where they are measured one by one.
        "benchmark": "-".join(["batching", *(options.setting or [])]),
        "facts": about,
        "effort": {name: getattr(effort, name) for name in Effort.__slots__},
        "rows": [found.as_dict() for found in findings],
        "bars": bars,
    }
    return live.conclude(report, options, table=table(findings), draw=lambda path: draw(findings, path))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = live.arguments(
        "batching.py",
        "adaptive batching against static sizes, live",
        quick="a smoke test: one setting, one seed, short probes",
    )
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="default: all")
    parser.add_argument("--seeds", type=int, metavar="N", help="default 3")
    parser.add_argument("--tries", type=int, metavar="N", help="of a probe whose generator lagged; default 3")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
