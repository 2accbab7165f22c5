"""PURE: from raw values to medians, ratios and bars. No clock, no process, nothing printed.

A ratio is made within one repeat, where both sides ran next to each other, and the median is taken over the
repeats: a machine that is slow for a minute then slows both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

STOCK, SQLITE, POSTGRES = "celery", "penstock-sqlite", "penstock-postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One value that was measured."""

    mode: str
    side: str
    metric: str
    repeat: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A goal: the ratio of two metrics must be at least (or at most) ``bar``.

    The ratio is ``penstock / stock``, or ``stock / penstock`` when ``inverse`` (how many times cheaper).
    A bar that is not ``judged`` is reported and does not decide the exit status.
    """

    name: str
    penstock: tuple[str, str]
    stock: str
    bar: float
    at_most: bool = False
    inverse: bool = False
    judged: bool = True

    def holds(self, value: float) -> bool:
        """Whether ``value`` reaches the goal."""
        return value <= self.bar if self.at_most else value >= self.bar


BARS = (
    Bar(name="drain, SQLite, x stock", penstock=(SQLITE, "drain_per_s"), stock="drain_per_s", bar=10.0),
    Bar(name="drain, Postgres, x stock", penstock=(POSTGRES, "drain_per_s"), stock="drain_per_s", bar=8.0),
    Bar(
        name="enqueue_many, SQLite, times cheaper than apply_async",
        penstock=(SQLITE, "many_us"),
        stock="many_us",
        bar=12.0,
        inverse=True,
    ),
    Bar(
        name="enqueue_many, Postgres, times cheaper than apply_async",
        penstock=(POSTGRES, "many_us"),
        stock="many_us",
        bar=12.0,
        inverse=True,
        judged=False,
    ),
    Bar(
        name="enqueue / (apply_async + commit), SQLite",
        penstock=(SQLITE, "single_mean_us"),
        stock="single_sqlite_mean_us",
        bar=1.0,
        at_most=True,
    ),
    Bar(
        name="enqueue / (apply_async + commit), Postgres",
        penstock=(POSTGRES, "single_mean_us"),
        stock="single_postgres_mean_us",
        bar=1.0,
        at_most=True,
    ),
    Bar(
        name="idle round trip p50 / stock, SQLite",
        penstock=(SQLITE, "round_trip_p50_us"),
        stock="round_trip_p50_us",
        bar=1.0,
        at_most=True,
    ),
    Bar(
        name="idle round trip p50 / stock, Postgres",
        penstock=(POSTGRES, "round_trip_p50_us"),
        stock="round_trip_p50_us",
        bar=1.0,
        at_most=True,
        judged=False,
    ),
)


def rows(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """One row per mode, side and metric: the median and every raw value, in the order of the repeats."""
    grouped: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        grouped.setdefault((sample.mode, sample.side, sample.metric), []).append(sample)
    return [
        {
            "mode": mode,
            "side": side,
            "metric": metric,
            "median": statistics.median(sample.value for sample in group),
            "values": [sample.value for sample in sorted(group, key=lambda sample: sample.repeat)],
        }
        for (mode, side, metric), group in grouped.items()
    ]


def judge(samples: Sequence[Sample], *, judged_mode: str, bars: Sequence[Bar] = BARS) -> list[dict[str, Any]]:
    """Every bar in every mode that was measured. Only bars of ``judged_mode`` can be judged.

    A bar without samples does not hold: what was not measured was not shown.
    """
    verdicts = []
    for mode in dict.fromkeys([judged_mode, *(sample.mode for sample in samples)]):
        for bar in bars:
            ratios = _ratios([sample for sample in samples if sample.mode == mode], bar)
            value = statistics.median(ratios) if ratios else None
            verdicts.append(
                {
                    "name": bar.name,
                    "mode": mode,
                    "value": value,
                    "values": ratios,
                    "bar": bar.bar,
                    "at_most": bar.at_most,
                    "judged": bar.judged and mode == judged_mode,
                    "holds": value is not None and bar.holds(value),
                }
            )
    return verdicts


def _ratios(samples: Sequence[Sample], bar: Bar) -> list[float]:
    ours = _by_repeat(samples, *bar.penstock)
    stock = _by_repeat(samples, STOCK, bar.stock)
    pairs = [(ours[repeat], stock[repeat]) for repeat in sorted(ours.keys() & stock.keys())]
    return [theirs / mine if bar.inverse else mine / theirs for mine, theirs in pairs]


def _by_repeat(samples: Sequence[Sample], side: str, metric: str) -> Mapping[int, float]:
    return {sample.repeat: sample.value for sample in samples if (sample.side, sample.metric) == (side, metric)}


def failed(verdicts: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the judged bars that do not hold."""
    return [verdict["name"] for verdict in verdicts if verdict["judged"] and not verdict["holds"]]


def as_samples(mode: str, side: str, repeat: int, values: Mapping[str, float]) -> list[Sample]:
    """A session's values as samples."""
    return [Sample(mode=mode, side=side, metric=metric, repeat=repeat, value=value) for metric, value in values.items()]


def raw(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """The samples as JSON objects."""
    return [asdict(sample) for sample in samples]
