"""PURE: the bars of ``benchmarks/pipeline.py``, and the figures that they are judged by."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.live import bar
from benchmarks.measure import percentile

#: An edge beside an idle ``client.run``, p50 and p99, both as multiples of its p50.
EDGE_P50, EDGE_P99 = 0.8, 3.0
#: A run beside the list schedule, once its edges are taken off.
MAKESPAN = 1.05
#: A thousand runs beside stock's canvases, and their batches beside those of plain jobs.
DEVICE_RATE, NOOP_RATE, FILL = 8.0, 4.0, 0.9
#: A map beside as many plain jobs: how quickly they are there, and how quickly all is done.
RELEASE, WHOLE = 0.5, 0.7
GROWTH_BYTES, JOIN_S = 50 * 10**6, 0.1
#: One step's message.
MESSAGE_BYTES = 2048


def quantile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile; ``None`` of nothing."""
    return percentile(sorted(values), percent) if values else None


def ratio(one: float | None, other: float | None) -> float | None:
    """``one / other``; ``None`` where one of them was not measured."""
    return one / other if one is not None and other else None


def of_pairs(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The median of ratios, each of one round; ``None`` of nothing."""
    ratios = [one / other for one, other in pairs if other]
    return statistics.median(ratios) if ratios and len(ratios) == len(pairs) else None


def edge_bars(trips_s: Sequence[float], edges_s: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Of edges by their condition, beside the idle round trips of the same run."""
    trip = quantile(trips_s, 50)
    bars = []
    for condition, found in edges_s.items():
        for percent, limit in ((50, EDGE_P50), (99, EDGE_P99)):
            value = ratio(quantile(found, percent), trip)
            bars.append(bar(f"edge p{percent}, {condition}, x client.run's p50", value, limit, at_most=True))
    return bars


def makespan_bar(
    case: str, spans_s: Sequence[float], *, schedule_s: float, edge_s: float | None, depth: int
) -> dict[str, Any]:
    """The median run without an edge for each step of its longest way, over what the schedule says."""
    value = None
    if spans_s and edge_s is not None:
        value = (statistics.median(spans_s) - edge_s * depth) / schedule_s
    return bar(f"makespan, {case}, without its edges, x list schedule", value, MAKESPAN, at_most=True)


def flood_bars(
    kind: str,
    rates: Sequence[tuple[float, float]],
    fills: Sequence[tuple[float, float]],
    *,
    ended: Sequence[float],
    limit: float,
) -> list[dict[str, Any]]:
    """Pairs of one round each: runs per second and stock's, mean batch sizes of runs' steps and of plain jobs.

    ``ended`` are the shares of what ended well.
    """
    bars = [
        bar(f"runs of six {kind} steps, ended well", min(ended, default=None), 1.0),
        bar(f"runs of six {kind} steps, x stock's canvases", of_pairs(rates), limit),
    ]
    if fills:
        bars.append(bar(f"batch size of {kind} steps, x plain jobs'", of_pairs(fills), FILL))
    return bars


def map_bars(
    *,
    released: Sequence[tuple[float, float]],
    whole: Sequence[tuple[float, float]],
    joins_s: Sequence[float],
    growth_bytes: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Pairs of one round each, seconds: of ``enqueue_many`` and of the map."""
    bars = [
        bar("map: released, x enqueue_many's rate", of_pairs(released), RELEASE),
        bar("map: all of it, x the rate of enqueue_many and drain", of_pairs(whole), WHOLE),
        bar("map: join behind the last element, s", max(joins_s, default=None), JOIN_S, at_most=True),
    ]
    for role, grown in growth_bytes.items():
        bars.append(bar(f"map: growth of the {role}, bytes", grown, GROWTH_BYTES, at_most=True))
    return bars


def redeploy_bars(
    *, runs: int, in_flight: Sequence[int], good: float, again: int, unclean: int
) -> list[dict[str, Any]]:
    """``in_flight`` when each worker was stopped, ``good`` the share of jobs that ended well, ``again`` the calls of
    steps beyond one each, ``unclean`` the workers that did not leave by themselves.
    """
    return [
        bar("redeploy: runs in flight when the first worker is stopped", in_flight[0] if in_flight else None, runs),
        bar("redeploy: ended well", good, 1.0),
        bar("redeploy: finished steps that run again", again, 0, at_most=True),
        bar("redeploy: workers that have to be killed", unclean, 0, at_most=True),
    ]


def message_bars(sizes: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """The largest message of each graph."""
    return [
        bar(f"largest message, {case}, bytes", max(each, default=None), MESSAGE_BYTES, at_most=True)
        for case, each in sizes.items()
    ]
