"""Counts between two scrapes: plain numbers that the hot path adds to, and that the endpoint reads when it is asked.

Nothing here knows Prometheus (``exposition`` does), so adding costs a dictionary entry and no import.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Protocol

from penstock.job import JobState
from penstock.telemetry.metrics import JOBS_REQUEUED, JOBS_SETTLED, Metric

_kind = attrgetter("model", "lane", "state")

#: Tenants that have series of their own in one process; the later ones share ``OTHER``.
MOST_TENANTS = 200
OTHER = "other"


class Histogram:
    """How often values fell into each bucket. One thread adds, any may read: a reader may miss the newest value."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        #: Per bucket, not cumulative; the last one is for what is above every bound.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one value, in the metric's unit."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


Sample = tuple[Metric, tuple[str, ...], "float | Histogram"]
#: Called at each scrape, from a thread of the endpoint.
Source = Callable[[], Iterable[Sample]]


class Fold:
    """Label values that others choose, bounded: the first ``most`` keep their names, the rest become ``OTHER``."""

    def __init__(self, most: int = MOST_TENANTS) -> None:
        self._most = most
        self._labels: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """The label of a name; always one that can be written as UTF-8."""
        label = self._labels.get(name)
        if label is None:
            if len(self._labels) >= self._most:
                return OTHER
            label = self._labels[name] = name.encode(errors="backslashreplace").decode()
        return label


class Row(Protocol):
    """What is counted of a job whose state was changed."""

    @property
    def model(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def state(self) -> JobState: ...


class Settlements:
    """How attempts ended, by model, lane and state. Any thread."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, JobState], int] = {}
        self._mutex = threading.Lock()

    def count(self, rows: Iterable[Row]) -> None:
        """Rows as the store gave them back."""
        counts = self._counts
        with self._mutex:
            for kind in map(_kind, rows):
                counts[kind] = counts.get(kind, 0) + 1

    def samples(self) -> Iterator[Sample]:
        """The counts until now."""
        with self._mutex:
            counts = dict(self._counts)
        for (model, lane, state), count in counts.items():
            if state.is_terminal:
                yield JOBS_SETTLED, (model, str(lane), state.value), count
            else:
                yield JOBS_REQUEUED, (model, str(lane)), count
