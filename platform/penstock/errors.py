"""Every error that penstock raises, in one tree.

Each class has a stable ``code`` (stored with the job, printed by the CLI, sent to webhooks), says whether trying
again can help (``retryable``), and carries a ``fix``: what to type or change next. ``str(error)`` is the message
followed by the fix.

::

    PenstockError
    ├── ConfigError            a setting is wrong or misspelt
    ├── Unreachable            a server does not answer            (CLI exit code 3)
    │   ├── BrokerUnavailable
    │   │   └── NamespaceTaken     the namespace there belongs to another database
    │   └── StoreUnavailable
    │       ├── StoreTimeout       it answers, but not in time
    │       ├── StoreRefused       it refuses this user, or does not exist: waiting does not help
    │       └── SchemaOutdated     the database needs `penstock db upgrade`
    ├── Rejected               the request cannot become a job     (CLI exit code 2)
    │   ├── UnknownModel
    │   ├── InvalidInput
    │   │   └── NotSerializable
    │   ├── TooLarge
    │   ├── IdempotencyConflict
    │   └── Overloaded         too much waits; come back in `retry_after` s  (CLI exit code 75)
    ├── JobNotFound
    ├── IllegalTransition      a state change that the life cycle forbids
    ├── Deposed                another leads by now: what this one asked for was not done
    ├── TooLittleHistory       less was recorded than a plan can be made of
    ├── JobUnsuccessful        raised by `job.result()`            (CLI exit code 1)
    │   ├── JobFailed
    │   ├── JobCancelled
    │   └── JobExpired
    ├── ResultTimeout          also a `TimeoutError`               (CLI exit code 4)
    ├── ExecutionError         why an attempt failed (stored in `job.error`)
    │   ├── ModelLoadFailed
    │   ├── ModelRaised
    │   ├── WrongResultCount
    │   ├── InvalidOutput
    │   ├── AttemptTimeout
    │   ├── NotStarted
    │   ├── OutOfMemory
    │   ├── NoValue            an expression of a pipeline has none
    │   ├── TooMuchWork        it would take too long to decide what a run does next
    │   ├── WaitTimeout        nobody sent the signal in time
    │   ├── NotServed          of a step: nobody has served its model, or that version, for too long
    │   ├── OverBudget
    │   ├── WorkerLost
    │   ├── Quarantined
    │   ├── TaskFailed         a plain Celery task in a run raised
    │   ├── TaskRevoked        it was revoked, or its message expired
    │   └── TaskLost           nobody has heard of it in time
    ├── WebhookRefused         the callback's address is not allowed
    └── SignatureInvalid       a received webhook is forged, damaged or too old
"""

from __future__ import annotations

from typing import Any, ClassVar

#: Longest text that is kept of an error, bytes: it is stored, pushed to clients and sent to webhooks.
MAX_TEXT_BYTES = 8 * 1024


def safe_text(error: object) -> str:
    """What ``error`` says, fit to be stored anywhere: valid Unicode of a bounded length. Never raises."""
    try:
        text = str(error)
        data = text.encode("utf-8", "backslashreplace")
    except BaseException as own:
        return f"(a {type(error).__name__} whose text cannot be had: its __str__ raised {type(own).__name__})"
    if len(data) > MAX_TEXT_BYTES:
        return f"{data[:MAX_TEXT_BYTES].decode(errors='ignore')}… ({len(data)} bytes)"
    return text if len(data) == len(text) else data.decode()


def install(extra: str) -> str:
    """What to type for an optional part of penstock, one that ``pyproject.toml`` names."""
    return f"install the extra `{extra}`: pip install '.[{extra}]' in penstock's checkout"


class PenstockError(Exception):
    """Base of all errors that penstock raises."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message

    def as_dict(self) -> dict[str, Any]:
        """The form that is stored with a job and printed by ``--json``."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable}


class ConfigError(PenstockError):
    """A setting is wrong, contradictory or misspelt."""

    code = "config"


class Unreachable(PenstockError):
    """A server that penstock needs does not answer."""

    code = "unreachable"
    retryable = True


class BrokerUnavailable(Unreachable):
    """Redis does not answer. Accepted jobs are safe in SQL and are published when it is back."""

    code = "broker_unavailable"


class NamespaceTaken(BrokerUnavailable):
    """Redis answers, but its namespace is another database's: the two would take each other's messages."""

    code = "namespace_taken"
    retryable = False


class StoreUnavailable(Unreachable):
    """The database does not answer. Nothing was accepted."""

    code = "store_unavailable"


class StoreTimeout(StoreUnavailable):
    """The database did not finish in time: a statement was too slow, or somebody else held what it needs."""

    code = "store_timeout"


class StoreRefused(StoreUnavailable):
    """The database refuses: a wrong password, no such database, a user without rights. It does not pass by itself."""

    code = "store_refused"
    retryable = False


class SchemaOutdated(StoreUnavailable):
    """The database answers, but its tables are missing, older or newer than this penstock."""

    code = "schema_outdated"
    retryable = False


class Rejected(PenstockError):
    """The request cannot become a job; nothing was stored."""

    code = "rejected"


class UnknownModel(Rejected):
    """No model or pipeline of this name is registered."""

    code = "unknown_model"


class InvalidInput(Rejected):
    """The input does not fit the model's declared item type."""

    code = "invalid_input"


class NotSerializable(InvalidInput):
    """The value cannot be written as JSON."""

    code = "not_serializable"


class TooLarge(Rejected):
    """The value is larger than the configured limit."""

    code = "too_large"


class IdempotencyConflict(Rejected):
    """The idempotency key was used before with another body."""

    code = "idempotency_conflict"


class Overloaded(Rejected):
    """An interactive job was refused: it could not be done in time. ``retry_after`` is in seconds.

    ``reason`` is ``"overload"`` (too much is waiting now), or ``"deadline"``: the deadline is shorter than the model
    takes on an idle system, and the same request would be refused again.
    """

    code = "overloaded"
    retryable = True
    #: What an HTTP service in front should answer, with ``retry_after`` as its ``Retry-After``.
    http_status: ClassVar[int] = 429

    def __init__(self, message: str, *, retry_after: float, reason: str = "overload", fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.retry_after = retry_after
        self.reason = reason

    def as_dict(self) -> dict[str, Any]:
        """The common form, with ``retry_after`` and ``reason``."""
        return {**super().as_dict(), "retry_after": self.retry_after, "reason": self.reason}


class JobNotFound(PenstockError):
    """No job has this id: it never existed or was pruned after its retention."""

    code = "job_not_found"


class IllegalTransition(PenstockError):
    """The life cycle of a job does not allow this change of state."""

    code = "illegal_transition"


class Deposed(PenstockError):
    """Another leads by now, so nothing was changed. It is no fault: whoever gets it stops leading."""

    code = "deposed"


class TooLittleHistory(PenstockError):
    """Less was recorded than what a plan can be made of."""

    code = "too_little_history"


class JobUnsuccessful(PenstockError):
    """The job ended without an output. ``job_id`` names it, ``error`` is what was stored."""

    code = "job_unsuccessful"

    def __init__(self, message: str, *, job_id: str, error: dict[str, Any] | None = None, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.job_id = job_id
        self.error = error or {}


class JobFailed(JobUnsuccessful):
    """The model failed on this job, or its retries ran out."""

    code = "failed"


class JobCancelled(JobUnsuccessful):
    """The job was cancelled before it had a result."""

    code = "cancelled"


class JobExpired(JobUnsuccessful):
    """The job's deadline passed before it had a result."""

    code = "expired"


class ResultTimeout(PenstockError, TimeoutError):
    """The wait ended before the job did. The job goes on."""

    code = "timeout"
    retryable = True


class ExecutionError(PenstockError):
    """Why one attempt at a job failed."""

    code = "execution"


class ModelLoadFailed(ExecutionError):
    """``load()`` or the warm-up raised."""

    code = "model_load_failed"


class ModelRaised(ExecutionError):
    """``predict()`` raised, or returned an exception for this item."""

    code = "model_raised"


class WrongResultCount(ExecutionError):
    """``predict()`` returned another number of results than it was given items."""

    code = "wrong_result_count"


class InvalidOutput(ExecutionError):
    """The model's result cannot be written as JSON or is larger than the limit."""

    code = "invalid_output"


class AttemptTimeout(ExecutionError):
    """The attempt ran longer than its timeout. It is not tried again: a model that hangs costs a device."""

    code = "attempt_timeout"


class NotStarted(ExecutionError):
    """Its deadline passed, or it was cancelled, between the claim and the start."""

    code = "not_started"


class OutOfMemory(ExecutionError):
    """The device had no memory for this item alone."""

    code = "out_of_memory"
    retryable = True


class NoValue(ExecutionError):
    """An expression of a pipeline has no value: an element that is not there, operands that do not fit."""

    code = "no_value"


class TooMuchWork(ExecutionError):
    """A run's graph and values make it too much work to decide what comes next."""

    code = "too_much_work"


class WaitTimeout(ExecutionError):
    """A run waited for a signal that nobody sent in time."""

    code = "wait_timeout"


class NotServed(ExecutionError):
    """A step waited for a model, or for a version of it, that no worker has served for ``run.unserved_wait_s``."""

    code = "not_served"


class OverBudget(ExecutionError):
    """A run's steps took more of the devices than its budget. ``spent_s`` and ``budget_s`` are device seconds."""

    code = "over_budget"

    def __init__(self, *, spent_s: float, budget_s: float) -> None:
        super().__init__(
            f"the run took {spent_s:.4g} device seconds, and its budget is {budget_s:.4g}: a retry goes on from there"
            " with as much again"
        )
        self.spent_s, self.budget_s = spent_s, budget_s

    def as_dict(self) -> dict[str, Any]:
        """The common form, with ``spent_s`` and ``budget_s``."""
        return {**super().as_dict(), "spent_s": self.spent_s, "budget_s": self.budget_s}


class WorkerLost(ExecutionError):
    """The worker that ran the job died."""

    code = "worker_lost"
    retryable = True


class Quarantined(ExecutionError):
    """Workers died while they ran nothing but this job, so that it is kept from killing more of them."""

    code = "quarantined"


class TaskFailed(ExecutionError):
    """A plain Celery task in a run raised, or its worker gave up on it."""

    code = "task_failed"


class TaskRevoked(ExecutionError):
    """A plain Celery task in a run was revoked, or nobody began with it before it expired."""

    code = "task_revoked"


class TaskLost(ExecutionError):
    """A plain Celery task in a run did not come back in time: its message or its worker is gone, or it still runs."""

    code = "task_lost"


class WebhookRefused(PenstockError):
    """A callback address that must not be connected to (a private network, plain http, a redirect)."""

    code = "webhook_refused"


class SignatureInvalid(PenstockError):
    """A received webhook that no signing key accounts for, or that is too old."""

    code = "signature_invalid"
