"""What one worker counts for its metrics. Only made when somebody may ask: see ``metrics.port``.

The device thread and the settler add a handful of numbers per batch; everything else (series, quantiles, text) is
made at the scrape. Where the hot path calls, it asks ``is not None`` first: without metrics that is all it costs.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from operator import attrgetter

from penstock.model import Model
from penstock.policy.latency import LatencyBook
from penstock.stepwise import StepModel
from penstock.telemetry import metrics as m
from penstock.telemetry.tally import Fold, Histogram, Row, Sample, Settlements
from penstock_worker.item import Run

_arrived, _place, _device_s = attrgetter("arrived_at"), attrgetter("lane", "tenant"), attrgetter("device_s")

#: Shown of the prediction error.
QUANTILES = (0.5, 0.99)


class _Batches:
    """One model's batches."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.reasons: dict[str, int] = {}
        self.size = Histogram(m.BATCH_SIZE.bounds)
        self.fill = Histogram(m.BATCH_FILL.bounds)
        self.wait_s = Histogram(m.BATCH_WAIT.bounds)
        self.duration_s = Histogram(m.BATCH_DURATION.bounds)

    def samples(self, model: str) -> Iterator[Sample]:
        for reason, count in self.reasons.copy().items():
            yield m.BATCHES, (model, reason), count
        yield m.BATCH_SIZE, (model,), self.size
        yield m.BATCH_FILL, (model,), self.fill
        yield m.BATCH_WAIT, (model,), self.wait_s
        yield m.BATCH_DURATION, (model,), self.duration_s


class _Steps:
    """One step-wise model's steps."""

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}
        self.size = Histogram(m.STEP_SIZE.bounds)
        self.duration_s = Histogram(m.STEP_DURATION.bounds)

    def samples(self, model: str) -> Iterator[Sample]:
        for reason, count in self.reasons.copy().items():
            yield m.BATCHES, (model, reason), count
        yield m.STEP_SIZE, (model,), self.size
        yield m.STEP_DURATION, (model,), self.duration_s


class Meter:
    """``ran`` and ``stepped`` on the device thread, ``settled`` on any thread, ``samples`` on the endpoint's."""

    def __init__(self, models: Mapping[str, type[Model]], latency: LatencyBook) -> None:
        self._latency = latency
        self._batches = {
            name: _Batches(cls.batching.max_size) for name, cls in models.items() if not issubclass(cls, StepModel)
        }
        self._steps = {name: _Steps() for name, cls in models.items() if issubclass(cls, StepModel)}
        self._settlements = Settlements()
        self._device_s: dict[tuple[str, str, str], float] = {}
        self._tenant = Fold()
        self._mutex = threading.Lock()

    def ran(self, run: Run) -> None:
        """A batch has run, whatever came of it."""
        if not run.live:
            return
        batch, size = run.batch, len(run.live)
        mine = self._batches[batch.model.name]
        mine.reasons[batch.reason] = mine.reasons.get(batch.reason, 0) + 1
        mine.size.observe(size)
        mine.fill.observe(size / mine.max_size)
        mine.wait_s.observe(batch.taken_mono - min(map(_arrived, run.live)))
        mine.duration_s.observe(run.ended_mono - batch.taken_mono)

    def begun(self, model: str, reason: str) -> None:
        """Sequences of a step-wise model began together, joined a group, or go on as one after a split."""
        mine = self._steps[model]
        mine.reasons[reason] = mine.reasons.get(reason, 0) + 1

    def stepped(self, model: str, size: int, took_s: float) -> None:
        """A step of so many sequences took so long, seconds."""
        mine = self._steps[model]
        mine.size.observe(size)
        mine.duration_s.observe(took_s)

    def settled(self, rows: Iterable[Row], runs: Collection[Run]) -> None:
        """Rows whose state has changed, and the runs whose items know by now what they took of the device."""
        self._settlements.count(rows)
        with self._mutex:
            for run in runs:
                self._spent(run)

    def _spent(self, run: Run) -> None:
        shares: dict[tuple[str, str], float] = {}
        for place, seconds in zip(map(_place, run.live), map(_device_s, run.live), strict=True):
            shares[place] = shares.get(place, 0.0) + seconds
        for (lane, tenant), seconds in shares.items():
            if seconds:
                key = (run.batch.model.name, lane, self._tenant(tenant))
                self._device_s[key] = self._device_s.get(key, 0.0) + seconds

    def samples(self) -> Iterator[Sample]:
        """Everything, now."""
        for name, batches in self._batches.items():
            yield from batches.samples(name)
        for name, steps in self._steps.items():
            yield from steps.samples(name)
        yield from self._settlements.samples()
        with self._mutex:
            spent = self._device_s.copy()
        for (model, lane, tenant), seconds in spent.items():
            yield m.DEVICE_SECONDS, (model, str(lane), tenant), seconds
        yield from self._learned()

    def _learned(self) -> Iterator[Sample]:
        for (model, key), line in self._latency.items():
            # Keys are the models' own and without bound; the line of all of them stands for the model.
            if key or not line.seen:
                continue
            yield m.LATENCY_ALPHA, (model,), line.alpha
            yield m.LATENCY_BETA, (model,), line.beta
            yield m.LATENCY_MARGIN, (model,), line.margin
            yield m.LATENCY_BATCHES, (model,), line.seen
            for quantile in QUANTILES:
                error = line.error(quantile)
                if error is not None:
                    yield m.PREDICTION_ERROR, (model, f"{quantile:g}"), error
