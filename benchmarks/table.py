"""The report for people: tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report import POSTGRES, SQLITE, STOCK
from rich.console import Console
from rich.table import Table

#: Metric -> what it is called; in the order of the table. The others are CPU times, in a table of their own.
_NAMES = {
    "drain_per_s": "drain by one worker, jobs/s",
    "many_us": "bulk submission, µs/job (stock: apply_async)",
    "kombu_batch_us": "the same by kombu's batch, µs/job",
    "single_mean_us": "enqueue, µs",
    "single_p50_us": "enqueue p50, µs",
    "single_sqlite_mean_us": "apply_async + commit (SQLite), µs",
    "single_postgres_mean_us": "apply_async + commit (Postgres), µs",
    "round_trip_p50_us": "idle round trip p50, µs",
    "round_trip_p95_us": "idle round trip p95, µs",
}


def print_report(report: Mapping[str, Any]) -> None:
    """Print everything but the raw values, which ``--json`` has."""
    console = Console()
    about = report["facts"]
    console.print(f"{about['cpu']}, {about['cores']} cores, {about['platform']}, Python {about['python']}")
    console.print(", ".join(f"{name} {version}" for name, version in about["packages"].items()))
    console.print(f"{about['redis_server']}; {about['postgres_server']}; SQLite {about['sqlite']}")
    for mode, rates in report["stock_pools_per_s"].items():
        best = max(rates, key=rates.get)
        console.print(f"stock pools, {mode}: " + "; ".join(f"{name}: {rate:,.0f}/s" for name, rate in rates.items()))
        console.print(f"best of stock, {mode}: {best}")
    for mode in report["stock_pools_per_s"]:
        found = {(row["side"], row["metric"]): row["median"] for row in report["rows"] if row["mode"] == mode}
        console.print(_table(f"{mode}: medians of {report['plan']['repeats']}", _NAMES, found))
        cpu = dict.fromkeys(metric for _, metric in found if metric.startswith("cpu."))
        console.print(_table(f"{mode}: CPU, µs per job", {metric: metric[4:-3] for metric in cpu}, found))
    console.print(_bars(report["bars"]))


def _table(title: str, names: Mapping[str, str], found: Mapping[tuple[str, str], float]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for side in (STOCK, SQLITE, POSTGRES):
        table.add_column(side, justify="right")
    for metric, name in names.items():
        values = [found.get((side, metric)) for side in (STOCK, SQLITE, POSTGRES)]
        table.add_row(name, *("" if value is None else f"{value:,.0f}" for value in values))
    return table


def _bars(bars: list[dict[str, Any]]) -> Table:
    table = Table(title="bars", title_justify="left")
    for column in ("", "mode", "value", "bar", ""):
        table.add_column(column, justify="right" if column in ("value", "bar") else "left")
    for bar in bars:
        value = "none" if bar["value"] is None else f"{bar['value']:.2f}"
        verdict = "holds" if bar["holds"] else "DOES NOT HOLD"
        sign = "<=" if bar["at_most"] else ">="
        table.add_row(
            bar["name"], bar["mode"], value, f"{sign} {bar['bar']:g}", verdict if bar["judged"] else f"({verdict})"
        )
    return table
