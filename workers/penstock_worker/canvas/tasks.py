"""The Celery task behind each model.

The batch runs first; then Celery traces each canvas member through ``run``, which returns or raises what the batch
found for it. So chains, groups, chords, callbacks, errbacks and results come from Celery itself.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Celery, Task

from penstock.errors import ConfigError, safe_text
from penstock.lane import PIPELINES, task_name
from penstock.model import Model

if TYPE_CHECKING:
    Base = Task[Any, Any]
else:  # generic only in the type stubs
    Base = Task

_current = threading.local()
_NOTHING = object()


class CanvasTask(Base):
    """A task that never computes: it hands out the outcome of the member that is being traced."""

    abstract = True
    Strategy = "penstock_worker.boot.strategy:model_strategy"
    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    #: Our rows carry the attempts; Celery's own limit must not end them early.
    max_retries = None

    @property
    def backend(self) -> Any:
        """The app's result backend."""
        backend = super().backend
        return _SuccessOnly(backend) if getattr(_current, "succeeded", False) else backend

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The outcome set by ``traced``; raises it when it is an exception."""
        outcome = getattr(_current, "outcome", _NOTHING)
        if outcome is _NOTHING:
            # Celery's map, starmap and chunks call tasks, which no batch has run for.
            raise ConfigError(
                f"{self.name} is a model or a pipeline: it cannot be called inside another task",
                fix="use group(…) of signatures instead of map, starmap or chunks",
            )
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def take(self, consumer: Any, message: Any, request: Any) -> None:
        """Take a message of this task. Raises when no job can be made of it."""
        raise NotImplementedError


class ModelTask(CanvasTask):
    """One model's task."""

    abstract = True
    penstock_model: type[Model]

    def take(self, consumer: Any, message: Any, request: Any) -> None:
        """To the batches of the model."""
        consumer.penstock_intake.take_request(self.penstock_model, message, request)


class PipelineTask(CanvasTask):
    """The task of all pipelines: which one is called is in the message."""

    abstract = True

    def take(self, consumer: Any, message: Any, request: Any) -> None:
        """It becomes a run, or tells Celery of one that has ended."""
        consumer.penstock_runs.take(message, request)


class traced:
    """Context in which ``CanvasTask.run`` gives ``outcome``: by the call, not by task id, since a redelivered twin
    can be in the same batch.

    When ``succeeded``, the trace raises ``Unfinished`` instead of writing down a failure: that can only be Celery's
    own, say a callback that could not be published.
    """

    def __init__(self, outcome: Any, *, succeeded: bool) -> None:
        self.outcome = outcome
        self.succeeded = succeeded

    def __enter__(self) -> None:
        _current.outcome = self.outcome
        _current.succeeded = self.succeeded

    def __exit__(self, *exc: object) -> None:
        del _current.outcome
        _current.succeeded = False


class Unfinished(BaseException):
    """Celery could not do its part for a job that has succeeded. No ``Exception``: its trace would handle it."""


class _SuccessOnly:
    """A result backend to which nothing fails."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def mark_as_failure(self, task_id: str, exc: BaseException, *args: Any, **kwargs: Any) -> NoReturn:
        raise Unfinished(f"{type(exc).__name__}: {safe_text(exc)}") from exc


def register(app: Celery, namespace: str, model: type[Model]) -> ModelTask:
    """Make ``model`` a task of ``app``."""
    cls = type(
        f"{model.__name__}Task",
        (ModelTask,),
        {
            "name": task_name(namespace, model.name),
            "__doc__": model.__doc__,
            "__module__": __name__,
            "penstock_model": model,
            "Strategy": ModelTask.Strategy,
        },
    )
    task: ModelTask = app.register_task(cls())
    return task


def register_pipelines(app: Celery, namespace: str) -> PipelineTask:
    """Make the task of all pipelines one of ``app``."""
    attributes = {"name": task_name(namespace, PIPELINES), "__module__": __name__, "Strategy": PipelineTask.Strategy}
    task: PipelineTask = app.register_task(type("PipelinesTask", (PipelineTask,), attributes)())
    return task


class Strategies(dict[Any, Any]):
    """Celery's table of who takes the messages of a task. Of a name in our namespace that this worker does not serve it
    is the task of all pipelines: nothing else is sent to the queues that it consumes."""

    def __missing__(self, name: Any) -> Any:
        head, dot, _ = name.rpartition(".") if isinstance(name, str) else ("", "", "")
        pipelines = task_name(head, PIPELINES)
        if not dot or name == pipelines or pipelines not in self:
            raise KeyError(name)
        return self[pipelines]
