"""Calls of the model with every fault confined: one result or exception per value.

Which items to call it with is `policy.bisect`'s decision; here the calls are made and what they raise is read. A wrong
number of results is the model's fault whatever the batch, and fails all of that call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Any

import structlog

from penstock.errors import ModelRaised, OutOfMemory, WrongResultCount, safe_text
from penstock.model import Model
from penstock.policy.bisect import PROBES, Answer, Search, Verdict
from penstock.results import results_of
from penstock_worker.ceiling import who
from penstock_worker.execute.device import is_out_of_memory
from penstock_worker.report.logcontext import raised

log = structlog.get_logger(__name__)


class Untried(ModelRaised):
    """So many items of the batch failed alike that this one was not tried alone; it gets another attempt."""

    retryable = True


class Prediction:
    """One batch's calls. ``on_call`` hears which positions go onto the device, before each call."""

    def __init__(self, model: Model, values: list[Any], *, on_call: Callable[[range], None] | None = None) -> None:
        self._model = model
        self._values = values
        self._on_call = on_call
        self._results: list[Any] = [None] * len(values)
        self._last: BaseException | None = None
        #: Positions of each call, and whether the device had no memory for it.
        self.calls: list[tuple[range, bool]] = []

    def run(self) -> list[Any]:
        """A result or an exception for each value. Raises nothing that the model raises."""
        search = Search(len(self._values))
        plan = search.plan()
        try:
            part = next(plan)
            while True:
                part = plan.send(self._answer(part))
        except StopIteration:
            pass
        for position in search.condemned:
            self._results[position] = self._untried()
        return self._results

    def sizes(self) -> list[tuple[range, bool]]:
        """The calls that say something about sizes: one that held an item which does not fit alone does not."""
        misfits = {part[0] for part, oom in self.calls if oom and len(part) == 1}
        return [(part, oom) for part, oom in self.calls if not (oom and misfits.intersection(part))]

    def _answer(self, part: range) -> Answer:
        values = self._values[part.start : part.stop]
        if self._on_call is not None:
            self._on_call(part)
        try:
            results = results_of(self._model.name, self._model.predict(values), len(values))
        except WrongResultCount as wrong:
            results = [wrong] * len(values)
        except BaseException as error:
            return self._fault(part, error)
        self.calls.append((part, False))
        self._results[part.start : part.stop] = results
        return Answer(Verdict.FINE)

    def _fault(self, part: range, error: BaseException) -> Answer:
        oom = is_out_of_memory(error)
        self.calls.append((part, oom))
        likeness = _likeness(error)
        if len(part) == 1:
            log.warning("model raised", action="model.raise", model=self._model.name, **raised(error))
            self._last = error
            if oom:
                self._last = OutOfMemory(f"{who(error)} no memory for this item alone: {safe_text(error)}")
            self._results[part.start] = self._last
        if oom:
            # The traceback's frames hold the tensors that did not fit.
            error.__traceback__ = None
            release_memory()
        return Answer(Verdict.NO_MEMORY if oom else Verdict.RAISED, likeness)

    def _untried(self) -> BaseException:
        if isinstance(self._last, OutOfMemory):
            return OutOfMemory(f"the device has no memory for {PROBES} items of this batch alone; not tried")
        text = f"{type(self._last).__name__}: {safe_text(self._last)}" if self._last else "it raised"
        return Untried(f"{text} (of {PROBES} other items in this batch; this one was not tried alone)")


def predict_each(model: Model, values: list[Any]) -> list[Any]:
    """``predict`` with every fault confined: one result or exception per value."""
    return Prediction(model, values).run()


def _likeness(error: BaseException) -> Hashable:
    """The same for faults of one kind at one place; messages differ by the input that they quote."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), None if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def release_memory() -> None:
    """Give what the allocator holds unused back to the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
