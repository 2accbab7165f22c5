"""Workloads for ``benchmarks/elastic.py``: public traces, and synthetic ones where those are not there.

A workload is a sequence of units of work, each with its arrival and its device seconds. The service model of all of
them: a worker is one device that takes the oldest waiting unit and needs that unit's device seconds for it, alone. What
batching saves is in those seconds (the time of a full batch, divided by its size). A unit is *late* when its result
comes more than the target after it arrived.

Folder of the traces (``--traces`` or ``PENSTOCK_TRACES``):

- ``azure-llm-2023/AzureLLMInferenceTrace_{conv,code}.csv`` of github.com/Azure/AzurePublicDataset (CC-BY 4.0; Patel et
  al., Splitwise, ISCA 2024): one row a request, with its tokens. A worker reads 4,000 and writes 200 tokens a second.
- ``servegen/{deepseek-r1,m-small,mm-image}-clients.csv`` from the chunks of github.com/alibaba/ServeGen (Apache-2.0;
  Xiang et al., arXiv 2505.09999): a row per client and 600 s, with a rate and the family of its gaps. Gaps are drawn
  and scaled to fill the window, as ServeGen does. The device seconds of a request are the same for all.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
READ_PER_S, WRITE_PER_S = 4000.0, 200.0
WINDOW_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Units of work in the order of their arrival."""

    name: str
    arrivals: Floats
    work_s: Floats
    target_s: float
    #: Requests in one unit: where there are a thousand a second, those that a worker batches go together.
    unit: int = 1

    @property
    def span_s(self) -> float:
        """From the beginning to the last arrival."""
        return float(self.arrivals[-1])

    @property
    def need(self) -> float:
        """Workers that do nothing but work."""
        return float(self.work_s.sum()) / self.span_s

    def part(self, begin_s: float, end_s: float) -> Workload:
        """What arrives between two times, counted from the first."""
        inside = (self.arrivals >= begin_s) & (self.arrivals < end_s)
        return Workload(
            name=self.name,
            arrivals=self.arrivals[inside] - begin_s,
            work_s=self.work_s[inside],
            target_s=self.target_s,
            unit=self.unit,
        )


def azure(folder: Path, name: str, *, target_s: float) -> Workload:
    """An hour of requests with their tokens."""
    with (folder / "azure-llm-2023" / f"AzureLLMInferenceTrace_{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = np.array([datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows])
    read = np.array([float(row["ContextTokens"]) for row in rows])
    written = np.array([float(row["GeneratedTokens"]) for row in rows])
    return Workload(
        name=name, arrivals=times - times[0], work_s=read / READ_PER_S + written / WRITE_PER_S, target_s=target_s
    )


def servegen(
    folder: Path, name: str, *, seed: int, request_s: float, target_s: float, hours: tuple[float, float], unit: int = 1
) -> Workload:
    """Some hours of many clients, drawn with a seed."""
    with (folder / "servegen" / f"{name}-clients.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    begin, end = hours[0] * 3600.0, hours[1] * 3600.0
    windows: dict[float, list[dict[str, str]]] = {}
    for row in rows:
        if begin <= (at := float(row["window_start_s"])) < end:
            windows.setdefault(at, []).append(row)
    rng = np.random.default_rng(seed)
    parts = []
    for at in sorted(windows):
        together = np.sort(np.concatenate([_gaps(rng, row) for row in windows[at]]))
        parts.append(together[::unit] + (at - begin))
    arrivals = np.concatenate(parts)
    work_s = np.full(len(arrivals), request_s * unit)
    return Workload(name=name, arrivals=arrivals, work_s=work_s, target_s=target_s, unit=unit)


def _gaps(rng: np.random.Generator, row: dict[str, str]) -> Floats:
    count = round(float(row["rate_per_s"]) * WINDOW_S)
    if not count:
        return np.empty(0)
    shape, scale = float(row["arg1"]), float(row["arg2"])
    draws = rng.gamma(shape, scale, count + 1) if row["family"] == "Gamma" else scale * rng.weibull(shape, count + 1)
    times = np.cumsum(draws)
    # The last gap leads out of the window.
    return np.asarray(times[:-1] * (WINDOW_S / times[-1])) if times[-1] > 0 else rng.uniform(0, WINDOW_S, count)


def synthetic(name: str, *, seed: int, hours: float, burst: float) -> Workload:
    """Requests of 0.5 s, eight devices' worth: half a day's wave in each hour, and every ten minutes on average a step
    to ``burst`` times as much for one to four minutes. Gaps have a squared coefficient of variation of 4.
    """
    rng = np.random.default_rng(seed)
    span = hours * 3600.0
    rates = 16.0 * (1 + 0.4 * np.sin(np.arange(span) * 2 * np.pi / 3600.0))
    for at in rng.uniform(0, span, round(hours * 6)):
        rates[int(at) : int(at + rng.uniform(60, 240))] *= burst
    grown = np.concatenate([[0.0], np.cumsum(rates)])
    marks = np.cumsum(rng.gamma(0.25, 4.0, int(grown[-1])))
    arrivals = np.interp(marks[marks < grown[-1]], grown, np.arange(len(grown)))
    return Workload(name=name, arrivals=arrivals, work_s=np.full(len(arrivals), 0.5), target_s=5.0)


def workloads(folder: Path | None, *, seed: int, quick: bool) -> dict[str, Callable[[], Workload]]:
    """Makers of the workloads by name. ``quick`` takes a piece of each."""
    if folder is None:
        hours = 0.2 if quick else 4.0
        return {
            "synthetic-waves": lambda: synthetic("synthetic-waves", seed=seed, hours=hours, burst=1.5),
            "synthetic-bursts": lambda: synthetic("synthetic-bursts", seed=seed, hours=hours, burst=4.0),
        }

    def drawn(name: str, request_s: float, target_s: float, hours: tuple[float, float], unit: int = 1) -> Workload:
        begin, end = hours
        if quick:
            end = min(end, begin + 1.0)
        return servegen(folder, name, seed=seed, request_s=request_s, target_s=target_s, hours=(begin, end), unit=unit)

    return {
        "conv": lambda: azure(folder, "conv", target_s=10.0),
        "code": lambda: azure(folder, "code", target_s=10.0),
        "deepseek-r1": lambda: drawn("deepseek-r1", 0.5, 5.0, (0.0, 24.0)),
        "mm-image": lambda: drawn("mm-image", 0.8, 8.0, (0.0, 24.0)),
        # Of fourteen days, the one with the steepest rises of those without gaps.
        "m-small": lambda: drawn("m-small", 0.008, 2.0, M_SMALL_HOURS, unit=50),
    }


#: See ``workloads``: the sixth day.
M_SMALL_HOURS = (120.0, 144.0)
