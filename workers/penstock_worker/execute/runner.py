"""One batch as named steps: claim, prepare, predict, conclude. Settling is the settler's.

Runs on the device thread, the only thread that touches the model; the first two steps may have been made ahead by the
stager, while the device was busy with the batch before. SQL decides what may run: a job that was cancelled
or expired, or whose message was delivered twice, is not in the claim's answer and never reaches the model.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import structlog

from penstock import clock
from penstock.codec import codec_of
from penstock.model import Model
from penstock.policy.memory import Call
from penstock.processes.agreed import EXIT_DEFECTIVE, EXIT_WEDGED
from penstock_worker.execute.outcome import Concluder
from penstock_worker.execute.prediction import Prediction
from penstock_worker.item import Batch, Item, Run
from penstock_worker.report.logcontext import calling

log = structlog.get_logger(__name__)


class Superseded(Exception):
    """The model returned after all, but too late: the watchdog has settled its batch and ends the process."""


class Runner:
    """Takes a batch through its steps. ``claimer`` and ``on_started`` are the worker's sides of store and broker."""

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        claim: Callable[[Batch], Run],
        concluder: Concluder,
        on_started: Callable[[Run], None],
        recheck: Callable[..., None] | None = None,
    ) -> None:
        self._models = models
        self.claim = claim
        #: See ``Claimer.recheck``.
        self._recheck = recheck
        self._concluder = concluder
        self.announce = on_started
        self._numbers = itertools.count(1)
        #: The run that is on the device now; the watchdog reads it from the hub thread.
        self.current: Run | None = None

    def run(self, batch: Batch) -> Run:
        """All steps; never raises for what a model or an input does. ``Superseded`` when the watchdog was first."""
        run = batch.claimed or self.stage(batch)
        if batch.claimed is not None and self._recheck is not None:
            self._recheck(run, since_s=clock.monotonic_s() - batch.claimed_mono)
        if run.live:
            run.started_at, run.started_mono = clock.now(), clock.monotonic_s()
            self.current = run
            try:
                self.announce(run)
                self.predict(run)
                if not run.take():
                    raise Superseded
            finally:
                self.current = None
            self.conclude(run)
        return run

    def stage(self, batch: Batch) -> Run:
        """Everything that needs no device: claim and prepare."""
        run = self.claim(batch)
        if run.live:
            self.prepare(run)
        return run

    def prepare(self, run: Run) -> None:
        """Decode and validate the inputs; a faulty one fails alone."""
        codec = codec_of(run.batch.model)
        for item in run.live:
            item.read(codec)
        run.started_at, run.started_mono = clock.now(), clock.monotonic_s()

    def predict(self, run: Run) -> None:
        """Results or exceptions, one per live item."""
        good = [item for item in run.live if item.error is None]
        results = iter(self._predict(run, good) if good else ())
        run.results = [next(results) if item.error is None else item.error for item in run.live]
        run.ended_mono = clock.monotonic_s()
        run.compute_s = run.ended_mono - run.started_mono

    def _predict(self, run: Run, good: list[Item]) -> list[Any]:
        def on_call(part: range) -> None:
            # A batch that is bisected takes longer than one call; each call has the items' own timeouts.
            run.call = clock.monotonic_s(), good[part.start : part.stop]

        prediction = Prediction(self._models[run.batch.model.name], [item.value for item in good], on_call=on_call)
        with calling(self._models[run.batch.model.name], next(self._numbers), good):
            results = prediction.run()
        run.calls = [
            Call(len(part), sum(item.cost for item in good[part.start : part.stop]), oom)
            for part, oom in prediction.sizes()
        ]
        return results

    def conclude(self, run: Run) -> None:
        """Turn results into outcomes: succeeded, failed, or to be tried again."""
        run.outcomes = self._concluder.conclude(run, now=clock.now())


def overdue(run: Run | None, *, now_mono: float) -> tuple[list[Item], list[Item]]:
    """Split a running batch into the items of the current call that have outlived their timeout, and the others."""
    if run is None:
        return [], []
    since_mono, called = run.on_device
    elapsed_s = now_mono - since_mono
    late = [item for item in called if item.timeout_s is not None and elapsed_s > item.timeout_s]
    return late, [item for item in run.live if item not in late]


def exit_defective() -> NoReturn:
    """End this process at once, as a crash would."""
    os._exit(EXIT_DEFECTIVE)


def exit_wedged() -> NoReturn:
    """End this process at once: a thread that never returns cannot be stopped in any other way."""
    os._exit(EXIT_WEDGED)
