"""Tenants that share a device, live: nine light ones beside a flood, and three that all want more than there is.

``python benchmarks/fairness.py [--json] [--quick] [--seeds N]``

The device takes 16 + 4 b ms for a batch of b, at most 8, give or take a tenth: 167 requests/s. In the first part nine
tenants ask for 8 % of that each, alone and then beside a tenant that asks for twice of all of it; judged are the nine.
In the second part three tenants ask for once of all of it each, with weights 1, 1.5 and 3; judged is how far what they
got, over their weights, was ever apart. See ``docs/benchmarks.md``.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from benchmarks import live
from benchmarks.facts import facts
from benchmarks.live import Setting, Stack, bar
from benchmarks.processes import BenchmarkError

from penstock.loadgen import plot
from penstock.loadgen.tally import percentile
from penstock.store import Store

SETTING = Setting(name="shared", alpha_ms=16, beta_ms=4, target_ms=1000, max_size=8)
LIGHT = tuple(f"light{number}" for number in range(1, 10))
#: What a light tenant asks for, as a share of the device; the flood, as a multiple of it.
LIGHT_SHARE, FLOOD = 0.08, 2.0
ALONE, BESIDE = "alone", "beside the flood"
#: Such that no batch of 8 can be divided by them.
WEIGHTS = {"one": 1.0, "half more": 1.5, "triple": 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    duration_s: float = 15.0
    seeds: Sequence[int] = (1, 2, 3)
    #: What the device is left to fill its queues before anything counts, seconds.
    warm_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Share:
    """One finished job's part of the device."""

    started_at: float
    tenant: str
    seconds: float


# First part: light tenants beside a flood -------------------------------------------------------------------------


def light_streams(*, flood: bool) -> list[dict[str, Any]]:
    """Nine light tenants, and the flood or not."""
    capacity = SETTING.capacity()
    streams = [{"tenant": name, "rate": LIGHT_SHARE * capacity} for name in LIGHT]
    return streams + ([{"tenant": "flood", "rate": FLOOD * capacity}] if flood else [])


def offer_light(stack: Stack, plan: Plan, condition: str, seed: int) -> dict[str, Any]:
    """One run: what became of the light ones' requests."""
    print(f"light tenants {condition}, seed {seed} …", file=sys.stderr, flush=True)
    report = stack.offer(
        light_streams(flood=condition == BESIDE), duration_s=plan.duration_s, seed=seed, samples=True, grace_s=30.0
    )
    stack.settle()
    samples = [sample for sample in report["samples"] if sample[2] in LIGHT and sample[0] >= plan.warm_s]
    latencies = sorted(sample[4] * 1e3 if sample[3] == "ok" else float("inf") for sample in samples)
    return {
        "part": "light",
        "condition": condition,
        "seed": seed,
        "void": report["void"],
        "lag_p99_ms": report["lag"]["p99_ms"],
        "offered": len(samples),
        "ok": sum(sample[3] == "ok" for sample in samples),
        **{f"p{percent}_ms": percentile(latencies, percent) for percent in (50, 95, 99)},
        "latencies_ms": latencies,
        "flood": (report["tenants"].get("flood") or {}).get("offered", 0),
        "batches": (report.get("batches") or {}).get("all", {}),
    }


# Second part: tenants that are always busy ------------------------------------------------------------------------


def offer_busy(stack: Stack, plan: Plan, seed: int) -> dict[str, Any]:
    """One run: how far apart the busy tenants were."""
    print(f"busy tenants, seed {seed} …", file=sys.stderr, flush=True)
    before = newest(stack)
    capacity = SETTING.capacity()
    report = stack.offer(
        [{"tenant": name, "rate": capacity} for name in WEIGHTS], duration_s=plan.duration_s, seed=seed, grace_s=60.0
    )
    stack.settle()
    shares = finished(stack, after=before)
    begin = min(share.started_at for share in shares) + plan.warm_s
    # Whoever is served most still had requests waiting then: it is offered twice what it can get.
    end = begin + plan.duration_s - 2 * plan.warm_s
    inside = [share for share in shares if begin <= share.started_at < end]
    line, largest = gap(inside, WEIGHTS)
    got = {name: sum(share.seconds for share in inside if share.tenant == name) for name in WEIGHTS}
    apart = max((y for _, y in line), default=None)
    return {
        "part": "busy",
        "seed": seed,
        "void": report["void"],
        "lag_p99_ms": report["lag"]["p99_ms"],
        "device_s": got,
        "largest_charge_ms": largest * 1e3,
        "gap_ms": None if apart is None else apart * 1e3,
        "gap_charges": None if apart is None or not largest else apart / largest,
        "line": [(at - begin, y / largest if largest else None) for at, y in line],
    }


def gap(shares: Iterable[Share], weights: Mapping[str, float]) -> tuple[list[tuple[float, float]], float]:
    """How far what any two tenants got, over their weights, has been apart over any time that ends at each batch.

    Returns ``(when, gap)`` per batch, and the largest charge, both in weighted device seconds. Over a time from ``t1``
    to ``t2`` two tenants differ by what their difference has changed; so the gap is its widest swing so far.
    """
    got = dict.fromkeys(weights, 0.0)
    pairs = [(a, b) for a in weights for b in weights if a < b]
    low, high = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    line: list[tuple[float, float]] = []
    largest = 0.0
    batches: dict[float, list[Share]] = {}
    for share in shares:
        batches.setdefault(share.started_at, []).append(share)
    for at in sorted(batches):
        for share in batches[at]:
            charge = share.seconds / weights[share.tenant]
            got[share.tenant] += charge
            largest = max(largest, charge)
        for pair in pairs:
            difference = got[pair[0]] - got[pair[1]]
            low[pair], high[pair] = min(low[pair], difference), max(high[pair], difference)
        line.append((at, max(high[pair] - low[pair] for pair in pairs)))
    return line, largest


def newest(stack: Stack) -> str:
    """The id of the last job so far."""
    store = Store.open(stack.settings().database)
    try:
        return next((job.id for job in store.list(limit=1)), "")
    finally:
        store.close()


def finished(stack: Stack, *, after: str) -> list[Share]:
    """The busy tenants' jobs that ran since ``after``, from their ledgers."""
    store = Store.open(stack.settings().database)
    found: list[Share] = []
    try:
        for name in WEIGHTS:
            before = None
            while page := store.list(tenant=name, limit=1000, before=before):
                before = page[-1].id
                for job in page:
                    spent = job.ledger
                    if job.id > after and spent.started_at and spent.compute_s and job.batch_size:
                        found.append(Share(spent.started_at, name, spent.compute_s / job.batch_size))
                if before <= after:
                    break
    finally:
        store.close()
    if not found:
        raise BenchmarkError("no job of the busy tenants has run")
    return found


# Judgement ----------------------------------------------------------------------------------------------------------


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bars. The light ones' latencies of all seeds count together."""
    alone, beside = (percentile(pooled(rows, condition), 99) for condition in (ALONE, BESIDE))
    ratio = beside / alone if alone and beside is not None else None
    light, busy = ([row for row in rows if row["part"] == part] for part in ("light", "busy"))
    gaps = [row["gap_charges"] for row in busy]
    worst = None if not gaps or None in gaps else max(gaps)
    return [
        bar("light tenants' p99 beside the flood, x alone", ratio, 2.0, at_most=True, rows=light),
        bar("service gap between busy tenants, charges", worst, 2.0, at_most=True, rows=busy),
    ]


def pooled(rows: Sequence[Mapping[str, Any]], condition: str) -> list[float]:
    """All latencies of one condition, ordered, ms; what got no result was as slow as can be."""
    return sorted(ms for row in rows if row.get("condition") == condition for ms in row["latencies_ms"])


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The light ones' distribution, and the gap over time."""
    percents = (5, 25, 50, 75, 90, 95, 98, 99, 99.9)
    lines = {c: [(p, percentile(pooled(rows, c), p)) for p in percents] for c in (ALONE, BESIDE)}
    gaps = {f"seed {row['seed']}": row["line"] for row in rows if row["part"] == "busy"}
    plot.panels(
        [
            plot.Panel(title="nine light tenants", x="percentile", y="latency, ms", lines=lines),
            plot.Panel(title="three busy tenants", x="s", y="gap, charges", lines=gaps, level=2.0),
        ],
        path,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a person."""
    light = [["light tenants", "seed", "offered", "ok", "p50 ms", "p95 ms", "p99 ms", "batch", "void"]]
    busy = [["busy tenants", "device s", "gap, charges", "largest charge, ms", "void"]]
    for row in rows:
        void = "void" if row["void"] else ""
        if row["part"] == "light":
            figures = [f"{row[name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms")]
            size = f"{row['batches'].get('mean_size', 0):.1f}"
            light.append(
                [row["condition"], str(row["seed"]), str(row["offered"]), str(row["ok"]), *figures, size, void]
            )
        else:
            got = " ".join(f"{name} {seconds:.2f}" for name, seconds in row["device_s"].items())
            apart = "-" if row["gap_charges"] is None else f"{row['gap_charges']:.2f}"
            busy.append([f"seed {row['seed']}", got, apart, f"{row['largest_charge_ms']:.2f}", void])
    return f"{live.columns(light)}\n\n{live.columns(busy)}"


def measure(plan: Plan) -> list[dict[str, Any]]:
    """All runs, the conditions in turns."""
    rows = []
    with live.folder() as folder:
        terms = json.dumps({name: {"weight": weight} for name, weight in WEIGHTS.items()})
        stack = Stack(folder, SETTING, settings={"PENSTOCK_TENANTS": terms}, env={"BENCH_NOISE": "0.1"})
        try:
            stack.start()
            for seed in plan.seeds:
                for condition in (ALONE, BESIDE) if seed % 2 else (BESIDE, ALONE):
                    rows.append(offer_light(stack, plan, condition, seed))
                rows.append(offer_busy(stack, plan, seed))
        finally:
            stack.stop()
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    parser = live.arguments(
        "fairness.py", "tenants that share a device, live", quick="a smoke test: one seed, short runs"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="default 3")
    options = parser.parse_args(argv)
    plan = Plan(duration_s=4.0, seeds=(1,)) if options.quick else Plan()
    if options.seeds:
        plan = Plan(duration_s=plan.duration_s, seeds=tuple(range(1, options.seeds + 1)))
    try:
        about = facts(seed=plan.seeds[0])
        if not about["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        rows = measure(plan)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bars = judge(rows)
    kept = [{name: value for name, value in row.items() if name not in ("latencies_ms", "line")} for row in rows]
    apart = [row["gap_charges"] for row in rows if row["part"] == "busy" and row["gap_charges"] is not None]
    report = {
        "benchmark": "fairness",
        "facts": about,
        "setting": {"alpha_ms": SETTING.alpha_ms, "beta_ms": SETTING.beta_ms, "max_size": SETTING.max_size},
        "plan": {"duration_s": plan.duration_s, "seeds": list(plan.seeds), "light_share": LIGHT_SHARE, "flood": FLOOD},
        "rows": kept,
        "median_gap_charges": statistics.median(apart) if apart else None,
        "bars": bars,
    }
    return live.conclude(report, options, table=table(rows), draw=lambda path: draw(rows, path))


if __name__ == "__main__":
    sys.exit(main())
