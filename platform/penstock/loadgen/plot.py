"""Pictures of a report; matplotlib is imported here and only when one is wanted (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from penstock.errors import ConfigError, install

#: The kinds of files that can be written.
SUFFIXES = (".png", ".svg", ".pdf")


def check(path: str | Path) -> None:
    """Raise ``ConfigError`` when no picture could be written there: asked before a run, not after it."""
    if find_spec("matplotlib") is None:
        raise ConfigError("a plot needs matplotlib", fix=install("plot"))
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path} is no picture", fix=f"name a file that ends in {', '.join(SUFFIXES)}")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"the folder of {path} does not exist", fix="make it first")


def load(report: Mapping[str, Any], path: str | Path, *, title: str = "") -> None:
    """One run: offered and in time per second above, the 99th percentile of each moment below."""
    figure, (above, below) = _figure(2, path)
    line = report["timeline"]
    width = line[1]["at_s"] - line[0]["at_s"] if len(line) > 1 else report["duration_s"]
    at = [bucket["at_s"] for bucket in line]
    above.step(at, [bucket["offered"] / width for bucket in line], where="post", color="0.6", label="offered")
    above.step(at, [bucket["in_time"] / width for bucket in line], where="post", color="C0", label="in time")
    if any(bucket["refused"] for bucket in line):
        above.step(at, [bucket["refused"] / width for bucket in line], where="post", color="C3", label="refused")
    above.set_ylabel("requests/s")
    above.set_ylim(bottom=0)
    above.legend(loc="lower left")
    goodput = report["goodput"]
    above.set_title(
        title + ("" if goodput is None else f"  goodput {goodput:.2%}") + ("  VOID" if report["void"] else "")
    )
    below.plot(at, [bucket["p99_ms"] for bucket in line], color="C1", label="p99")
    if isinstance(report["target_ms"], (int, float)):
        below.axhline(report["target_ms"], color="C3", linestyle="--", label="target")
    below.set_ylabel("latency, ms")
    below.set_xlabel("intended send time, s")
    below.set_ylim(bottom=0)
    below.legend(loc="upper left")
    _save(figure, path)


def scenarios(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Several simulated worlds: goodput above, percentiles below."""
    figure, (above, below) = _figure(2, path)
    names = [_scenario(row) for row in rows]
    # By place, not by name: rows that differ in what the name leaves out must not fall on one another.
    above.bar(range(len(rows)), [row["goodput"] or 0.0 for row in rows], color="C0")
    above.set_xticks(range(len(rows)), names)
    above.set_ylabel("goodput")
    above.set_ylim(0, 1.02)
    places = range(len(rows))
    for index, percent in enumerate((50, 95, 99)):
        heights = [row[f"p{percent}_ms"] or 0.0 for row in rows]
        below.bar([place + (index - 1) * 0.27 for place in places], heights, width=0.25, label=f"p{percent}")
    below.set_xticks(list(places), names)
    below.set_yscale("log")
    below.set_ylabel("latency, ms")
    below.legend()
    _save(figure, path)


def _scenario(row: Mapping[str, Any]) -> str:
    dealt = row.get("partition", "shared")
    ways = [
        row["policy"],
        *([dealt] if dealt != "shared" else []),
        *([] if row.get("admission", True) else ["no admission"]),
    ]
    return f"{', '.join(ways)}\n{row['workers']} workers, {row['traffic']:g}x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Named lines of points ``(x, y)``, with an optional horizontal level; points without a value are left out."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float | None]]]
    level: float | None = None
    logarithmic: bool = False


def panels(shown: Sequence[Panel], path: str | Path) -> None:
    """Panels below one another, for benchmarks."""
    figure, drawn = _figure(len(shown), path)
    for panel, axes in zip(shown, drawn, strict=True):
        for name, points in panel.lines.items():
            kept = sorted((x, y) for x, y in points if y is not None)
            axes.plot([x for x, _ in kept], [y for _, y in kept], marker="o", markersize=3, label=name)
        if panel.level is not None:
            axes.axhline(panel.level, color="0.5", linestyle="--")
        if panel.logarithmic:
            axes.set_yscale("log")
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        axes.set_title(panel.title)
        if panel.lines:
            axes.legend()
    _save(figure, path)


def _figure(rows: int, path: str | Path) -> tuple[Any, Any]:
    check(path)
    # The class itself, not pyplot: no window system is looked for, and nothing is kept when we are done.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.2 + 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)
    return figure, [row[0] for row in axes]


def _save(figure: Any, path: str | Path) -> None:
    figure.savefig(path, dpi=110)
