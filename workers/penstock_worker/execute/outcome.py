"""From a result to an outcome, given the clock and a random number generator.

Decides per item whether it succeeded, failed, or is tried again, and writes the output as JSON.
"""

from __future__ import annotations

import random
from typing import Any

import structlog
from celery.exceptions import TaskPredicate

from penstock.errors import (
    MAX_TEXT_BYTES,
    ExecutionError,
    InvalidOutput,
    ModelRaised,
    OutOfMemory,
    Rejected,
    safe_text,
)
from penstock.job import JobState, Outcome
from penstock.lane import Lane
from penstock.payload import write_output
from penstock.pipelines.writing.expansion import Expansion
from penstock.policy.overload import RetryBudget
from penstock.policy.retry import Budgets, Cause, Spent, retry_at
from penstock_worker.item import Item, Run

log = structlog.get_logger(__name__)

#: Exceptions of the standard library that a second try may not meet; others say so with ``retryable = True``.
TRANSIENT = (ConnectionError, TimeoutError)


class Concluder:
    """Makes outcomes with one set of budgets and limits."""

    def __init__(
        self,
        budgets: Budgets,
        *,
        max_output_bytes: int,
        rng: random.Random | None = None,
        interactive: RetryBudget | None = None,
    ) -> None:
        self._budgets = budgets
        self._max_output_bytes = max_output_bytes
        self._rng = rng or random.Random()
        #: What interactive jobs may spend on retries together, so that they do not add to an overload.
        self._interactive = interactive

    def conclude(self, run: Run, *, now: float) -> list[Outcome]:
        """One outcome per live item, in order."""
        size, reason = len(run.live), run.batch.reason
        outcomes = []
        for item, result in zip(run.live, run.results, strict=True):
            outcome = self.outcome(item, result, now=now)
            outcome.started_at = run.started_at
            outcome.batch_wait_s = max(0.0, run.started_at - item.claimed_at)
            outcome.compute_s = run.compute_s
            outcome.batch_size = size
            outcome.batch_reason = reason
            outcomes.append(outcome)
        return outcomes

    def outcome(self, item: Item, result: Any, *, now: float) -> Outcome:
        """The outcome of one item whose model gave ``result``, which may be an exception."""
        if isinstance(result, Expansion):
            result = self._expanded(item, result)
            if isinstance(result, Outcome):
                return result
        if not isinstance(result, BaseException):
            try:
                text = write_output(
                    result,
                    "result",
                    max_bytes=self._max_output_bytes,
                    fix="return less, or raise PENSTOCK_JOB__MAX_OUTPUT_BYTES",
                )
                return Outcome(id=item.id, attempt=item.attempt, state=JobState.SUCCEEDED, output=text, step=item.step)
            except InvalidOutput as error:
                result = error
            except BaseException as error:  # whatever a foreign object's own methods raise
                result = InvalidOutput(f"the model's result cannot be written as JSON: {safe_text(error)}")
        return self._failure(item, result, now)

    def _expanded(self, item: Item, result: Expansion) -> Outcome | InvalidOutput:
        """A step that goes on as a run of the graph that it gave."""
        if not item.step:
            return InvalidOutput(f"model {item.model!r} returned more steps, which only a step of a run may do")
        try:
            given = write_output(dict(result.inputs), "inputs of more steps", max_bytes=self._max_output_bytes)
        except InvalidOutput as error:
            return error
        text = result.graph.to_json().decode()
        return Outcome(id=item.id, attempt=item.attempt, state=JobState.RUNNING, output=given, graph=text, step=True)

    def _failure(self, item: Item, error: BaseException, now: float) -> Outcome:
        record = error_record(error)
        item.error = sound(error)
        again_at = None
        oom = isinstance(error, OutOfMemory)
        if record["retryable"]:
            spent = Spent(failures=item.failures, ooms=item.ooms)
            cause = Cause.OOM if oom else Cause.FAILURE
            again_at = retry_at(cause, spent, self._budgets, now=now, rng=self._rng, deadline_at=item.deadline_at)
            if again_at is not None and self._interactive is not None and item.lane is Lane.INTERACTIVE:
                again_at += self._interactive.delay_s(now)
                if item.deadline_at is not None and again_at >= item.deadline_at:
                    again_at = None
        if again_at is None:
            return Outcome(id=item.id, attempt=item.attempt, state=JobState.FAILED, error=record, step=item.step)
        return Outcome(
            id=item.id,
            attempt=item.attempt,
            state=JobState.ACCEPTED,
            error=record,
            available_at=again_at,
            failures=0 if oom else 1,
            ooms=1 if oom else 0,
            step=item.step,
        )


def error_record(error: BaseException) -> dict[str, Any]:
    """What is stored of an error: code, message, retryable, and the exception's type. Never raises."""
    kind = safe_text(type(error).__name__)
    if isinstance(error, (ExecutionError, Rejected)):
        message = safe_text(getattr(error, "message", error))
        return {"code": error.code, "message": message, "retryable": _is_retryable(error), "type": kind}
    text = safe_text(error)
    record = ModelRaised(f"{kind}: {text}" if text else kind).as_dict()
    record["retryable"] = _is_retryable(error)
    record["type"] = kind
    return record


def _is_retryable(error: BaseException) -> bool:
    try:
        own = getattr(error, "retryable", None)
        return bool(own) if own is not None else isinstance(error, TRANSIENT)
    except BaseException:  # a property of the model's own class
        return False


def sound(error: BaseException) -> Exception:
    """``error`` itself where everybody can handle it, else a ``ModelRaised`` with what can be had of its text.

    Celery's trace, like most code, hands on what is no ``Exception`` instead of handling it, and writes its text down.
    """
    # Celery takes the second and third for its own.
    if isinstance(error, Exception) and not isinstance(error, (MemoryError, TaskPredicate)):
        try:
            if len(f"{error}{error!r}".encode()) <= 2 * MAX_TEXT_BYTES:
                return error
        except BaseException as own:
            log.debug("an error has no text", action="error.text", type=type(error).__name__, own=type(own).__name__)
    return ModelRaised(error_record(error)["message"])
