"""Benchmarks that are made of parts: what a part found, and the run of those that are asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import live
from benchmarks.facts import facts
from benchmarks.processes import BenchmarkError

from penstock.telemetry.logs import configure_logs


@dataclass(slots=True)
class Part:
    """What one part found: figures for people, and its bars."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, case: str, figure: str, value: float | None, unit: str = "", **more: Any) -> None:
        """One more figure; ``more`` is what it was made of."""
        self.rows.append({"case": case, "figure": figure, "value": value, "unit": unit, **more})

    def at_most(self, name: str, value: float | None, limit: float, **more: Any) -> None:
        """A bar from above."""
        self.bars.append(live.bar(name, value, limit, at_most=True, **more))

    def at_least(self, name: str, value: float | None, limit: float, **more: Any) -> None:
        """A bar from below."""
        self.bars.append(live.bar(name, value, limit, **more))


def arguments(program: str, what: str, parts: Collection[str], *, quick: str, seed: str) -> argparse.ArgumentParser:
    """Those of ``live.arguments``, with ``--part`` and ``--seed``, of which ``seed`` says what it draws."""
    parser = live.arguments(program, what, quick=quick)
    parser.add_argument("--part", action="append", choices=list(parts), help="default: all")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help=seed)
    return parser


def run(
    name: str,
    parts: Collection[str],
    options: argparse.Namespace,
    measure: Callable[[str], Part],
    *,
    plan: Mapping[str, Any],
    about: Callable[[Collection[str]], Mapping[str, Any]] = lambda measured: {},
) -> int:
    """Measure the parts that are asked for, and report them; the exit status: 0 when every bar holds, 1 when one does
    not, 2 when the measurement itself failed.

    ``about`` is what is to be known of the parts that were measured, beside the facts.
    """
    live.stop_on_sigterm()
    configure_logs("warning")  # to stderr: what is printed is the report
    found: dict[str, Part] = {}
    try:
        machine = facts(seed=options.seed)
        if not machine["quiet"]:
            print("warning: other programs keep this machine busy; these figures say little", file=sys.stderr)
        for part in dict.fromkeys(options.part or parts):
            found[part] = measure(part)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = report_of(name, parts, found, {**machine, **about(found)}, plan)
    return live.conclude(report, options, table=table(report["rows"]), draw=lambda path: None)


def report_of(
    name: str, parts: Collection[str], found: Mapping[str, Part], about: Mapping[str, Any], plan: Mapping[str, Any]
) -> dict[str, Any]:
    """The one report; each row and each bar names its part. The bars come last."""
    return {
        # One file a part where only some were measured.
        "benchmark": name if len(found) == len(parts) else "-".join([name, *found]),
        "facts": dict(about),
        "plan": dict(plan),
        "rows": [{"part": part, **row} for part, each in found.items() for row in each.rows],
        "bars": [{"part": part, **verdict} for part, each in found.items() for verdict in each.bars],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a person: one line a figure."""
    lines = [["part", "case", "figure", "value", ""]]
    for row in rows:
        value = "-" if row["value"] is None else f"{row['value']:,.4g}"
        lines.append([row["part"], row["case"], row["figure"], value, row["unit"]])
    return live.columns(lines)
