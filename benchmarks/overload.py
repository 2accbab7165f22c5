"""Overload, live: interactive requests at twice and three times what the device can do, and a spike.

``python benchmarks/overload.py [--json] [--quick] [--repeats N]``

On the first setting's device. First the peak: the highest goodput at rates up to the device's limit. Then twice and
three times the rate that gave the peak, and a spike of three times a rate of 0.6 of it, each with admission and without
(the losing rows), each with a deadline on every job and without. Goodput counts correct results within the target;
refusals are misses. See ``docs/benchmarks.md``.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
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
from benchmarks.processes import BenchmarkError

from penstock.loadgen import plot

#: Shares of the device's limit at which the peak is looked for.
PEAK_AT = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
#: The spike: so many times the base, which is this share of the rate at the peak.
SPIKE, BASE = 3.0, 0.6
ON, OFF = "admission on", "admission off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. Times in seconds; the first ``settle_s`` of an overload are its onset and not counted."""

    repeats: int = 3
    probe_s: float = 5.0
    over_s: float = 10.0
    settle_s: float = 2.0
    spike_at_s: float = 5.0
    spike_s: float = 5.0
    after_s: float = 6.0
    peak_at: Sequence[float] = PEAK_AT


QUICK = Plan(repeats=1, probe_s=2.0, over_s=4.0, spike_at_s=2.0, spike_s=2.0, after_s=4.0, peak_at=(0.5,))


def measure(plan: Plan, say: Any) -> list[dict[str, Any]]:
    """All rows. The order of the variants changes from repeat to repeat."""
    setting = SETTINGS["gpu"]
    rows: list[dict[str, Any]] = []
    with live.folder() as folder:
        stacks = {
            ON: Stack(folder / "on", setting, name=ON),
            OFF: Stack(folder / "off", setting, name=OFF, settings={"PENSTOCK_ADMISSION__ENABLED": "false"}),
        }
        with live.running(*stacks.values()):
            peak = _peak(stacks[ON], plan, rows, say)
            for seed in range(1, plan.repeats + 1):
                sides = list(stacks) if seed % 2 else list(reversed(stacks))
                for deadline_s in (None, setting.target_s):
                    for side in sides:
                        for times in (2.0, 3.0):
                            say(f"{side}, {times:g}x, deadline {deadline_s}, repeat {seed}")
                            stream = {"rate": times * peak, "deadline_s": deadline_s}
                            row = _offer(stacks[side], stream, plan.over_s, seed)
                            rows.append(
                                row
                                | {"part": "over", "side": side, "times": times, "deadline": deadline_s is not None}
                                | {"settled_per_s": _per_s(row, "in_time", plan.settle_s, plan.over_s)}
                            )
                        say(f"{side}, spike, deadline {deadline_s}, repeat {seed}")
                        rows.append(_spike(stacks[side], plan, BASE * peak, seed, deadline_s) | {"side": side})
    return rows


def _peak(stack: Stack, plan: Plan, rows: list[dict[str, Any]], say: Any) -> float:
    """The rate with the highest goodput, requests per second."""
    best, best_rate = 0.0, 0.0
    for share in plan.peak_at:
        rate = share * stack.setting.capacity()
        say(f"{stack.name}, {rate:.0f}/s for the peak")
        row = _offer(stack, {"rate": rate}, plan.probe_s, seed=1)
        rows.append(row | {"part": "peak", "side": stack.name, "settled_per_s": row["goodput_per_s"]})
        if row["goodput_per_s"] > best:
            best, best_rate = row["goodput_per_s"], rate
    if not best:
        raise BenchmarkError("nothing came back in time at any rate")
    return best_rate


def _offer(stack: Stack, stream: Mapping[str, Any], duration_s: float, seed: int) -> dict[str, Any]:
    with live.turn(stack):
        report = stack.offer([dict(stream)], duration_s=duration_s, seed=seed, grace_s=2.0, warm=50)
    return report | {"rate": stream["rate"], "seed": seed}


def _spike(stack: Stack, plan: Plan, base: float, seed: int, deadline_s: float | None) -> dict[str, Any]:
    ends_s = plan.spike_at_s + plan.spike_s
    stream = {
        "rate": base,
        "arrivals": "spike",
        "factor": SPIKE,
        "at_s": plan.spike_at_s,
        "for_s": plan.spike_s,
        "deadline_s": deadline_s,
    }
    row = _offer(stack, stream, ends_s + plan.after_s, seed)
    before = _share(row, 1.0, plan.spike_at_s)
    return row | {
        "part": "spike",
        "deadline": deadline_s is not None,
        "goodput_before": before,
        "recovered_s": recovered(row["timeline"], since_s=ends_s, level=0.95 * before),
        "settled_per_s": _per_s(row, "in_time", plan.spike_at_s, ends_s),
    }


def recovered(timeline: Sequence[Mapping[str, Any]], *, since_s: float, level: float) -> float | None:
    """Seconds after ``since_s`` until goodput is at ``level`` over half a second, and from then on on average."""
    buckets = [bucket for bucket in timeline if bucket["at_s"] >= since_s - 1e-9]
    for index, bucket in enumerate(buckets):
        if _goodput(buckets[index : index + 2]) >= level and _goodput(buckets[index:]) >= level:
            return float(bucket["at_s"]) - since_s
    return None


def _goodput(buckets: Sequence[Mapping[str, Any]]) -> float:
    offered = sum(bucket["offered"] for bucket in buckets)
    return sum(bucket["in_time"] for bucket in buckets) / offered if offered else 0.0


def _share(row: Mapping[str, Any], since_s: float, until_s: float) -> float:
    return _goodput([b for b in row["timeline"] if since_s <= b["at_s"] < until_s])


def _per_s(row: Mapping[str, Any], what: str, since_s: float, until_s: float) -> float:
    return float(sum(b[what] for b in row["timeline"] if since_s <= b["at_s"] < until_s) / (until_s - since_s))


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bars, on the worst of the repeats."""
    peaks = [row for row in rows if row["part"] == "peak"]
    peak = max(row["settled_per_s"] for row in peaks)

    def over(name: str, side: str, times: float, deadline: bool, *, judged: bool) -> dict[str, Any]:
        wanted = ("over", side, times, deadline)
        found = [row for row in rows if (row["part"], row["side"], row.get("times"), row.get("deadline")) == wanted]
        value = min(row["settled_per_s"] for row in found) / peak if found else None
        return bar(name, value, 0.90, judged=judged, rows=[*peaks, *found])

    bars = []
    for deadline, words in ((False, "no deadlines"), (True, "deadlines")):
        for times in (2.0, 3.0):
            name = f"goodput at {times:g}x, {words}, x the peak"
            bars.append(over(name, ON, times, deadline, judged=times == 2.0))
            bars.append(over(f"{OFF}: {name}", OFF, times, deadline, judged=False))
        for side in (ON, OFF):
            spikes = [r for r in rows if r["part"] == "spike" and r["side"] == side and r["deadline"] == deadline]
            took_s = [row["recovered_s"] for row in spikes]
            worst = None if not took_s or None in took_s else max(took_s)
            prefix = "" if side == ON else f"{OFF}: "
            name = f"{prefix}back to 95 % after a spike, {words}, s"
            bars.append(bar(name, worst, 2.0, at_most=True, judged=side == ON, rows=spikes))
    refusing = [row for row in rows if row["side"] == ON and row["refusal_p99_ms"] is not None]
    p99 = max((row["refusal_p99_ms"] for row in refusing), default=None)
    bars.append(bar("refusal p99, ms", p99, 5.0, at_most=True, rows=refusing))
    low = peaks[0]["refused"] / max(1, peaks[0]["offered"])
    bars.append(bar("refused at the lowest rate, share", low, 0.0, at_most=True, rows=peaks[:1]))
    return bars


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status: 1 when a bar does not hold, 2 when nothing could be measured."""
    options = _arguments(argv)
    plan = QUICK if options.quick else Plan(repeats=options.repeats or Plan().repeats)
    try:
        about = facts(seed=1)
        if not about["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        rows = measure(plan, lambda text: print(f"{text} …", file=sys.stderr, flush=True))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bars = judge(rows)
    report = {"benchmark": "overload", "facts": about, "rows": rows, "bars": bars}
    return live.conclude(report, options, table=table(rows), draw=lambda path: plot.panels(panels(rows), path))


def panels(rows: Sequence[Mapping[str, Any]]) -> list[plot.Panel]:
    """Offered and in time over the course of a spike, with admission and without, for the first repeat."""
    out = []
    for deadline in (False, True):
        lines: dict[str, list[tuple[float, float | None]]] = {}
        for row in rows:
            if row["part"] != "spike" or row["seed"] != 1 or row["deadline"] != deadline:
                continue
            width = row["timeline"][1]["at_s"] - row["timeline"][0]["at_s"]
            lines.setdefault("offered", [(b["at_s"], b["offered"] / width) for b in row["timeline"]])
            lines[f"in time, {row['side']}"] = [(b["at_s"], b["in_time"] / width) for b in row["timeline"]]
        words = "with deadlines" if deadline else "without deadlines"
        out.append(plot.Panel(title=f"a spike, {words}", x="seconds", y="requests/s", lines=lines))
    return out


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a person: one line a run."""
    lines = [
        ["part", "side", "rate", "deadline", "in time/s", "refused", "p99 ms", "refusal p99", "recovered s", "void"]
    ]
    for row in rows:
        lines.append(
            [
                row["part"] if row["part"] != "over" else f"{row['times']:g}x",
                row["side"],
                f"{row['rate']:.0f}",
                "yes" if row.get("deadline") else "",
                f"{row['settled_per_s']:.0f}",
                f"{row['refused'] / max(1, row['offered']):.0%}",
                *("-" if row[name] is None else f"{row[name]:.1f}" for name in ("p99_ms", "refusal_p99_ms")),
                ""
                if "recovered_s" not in row
                else "never"
                if row["recovered_s"] is None
                else f"{row['recovered_s']:.2f}",
                "void" if row["void"] else "",
            ]
        )
    return live.columns(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = live.arguments(
        "overload.py", "interactive requests beyond capacity", quick="a smoke test: one short repeat"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="default 3")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
