"""A model's Celery signature where Celery runs it in this process: ``task_always_eager``, ``apply()``, a plain call.

Everywhere else a signature names its model's task and no more, and Celery sends it by name: this task is then as good
as unknown, so that nothing of it is in a message.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Celery, Task, current_app

from penstock.codec import codec_of, item_from_call_of
from penstock.errors import ConfigError
from penstock.jsontext import loads
from penstock.model import Model
from penstock.payload import write_input, write_output
from penstock.pipelines.inputs import by_position
from penstock.results import results_of

if TYPE_CHECKING:
    from penstock.pipelines.writing.pipeline import Pipeline

    Base = Task[Any, Any]
else:  # generic only in the type stubs
    Base = Task

#: Models that are loaded in this process, by class.
_loaded: dict[type[Model], Model] = {}


class Inline(Base):
    """``model`` as a task that runs here; without a class (only a name is known) it says that it cannot."""

    abstract = True
    typing = False

    def __init__(self, name: str, model: type[Model] | Pipeline | None, sender: Callable[[], Celery | None]) -> None:
        self.name = name
        self._model = model
        self._sender = sender

    @property
    def _eager(self) -> bool:
        return bool((self._sender() or current_app).conf.task_always_eager)

    @property
    def apply_async(self) -> Any:
        """Run here, where Celery is eager; else a ``KeyError``, which makes Celery send by name."""
        if not self._eager:
            raise KeyError(self.name)
        return self._run_eagerly

    @property
    def AsyncResult(self) -> Any:
        """As above."""
        if not self._eager:
            raise KeyError(self.name)
        return (self._sender() or current_app).AsyncResult

    def apply(self, *args: Any, **options: Any) -> Any:
        """Run it here. Celery looks it up by name for that; a worker's own task of that name stays what it is."""
        app = self._sender() or current_app
        known = app.tasks.get(self.name)
        if known is not self and (known is None or isinstance(known, Inline)):
            app.tasks.pop(self.name, None)  # registered over it, Celery would warn
            app.register_task(self)
        return super().apply(*args, **options)

    def _run_eagerly(self, args: Any = None, kwargs: Any = None, *, link: Any = None, **options: Any) -> Any:
        options.pop("producer", None)
        return self.apply(args, kwargs, link=link, **options)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One item, validated as a worker would, through JSON as its client would have it."""
        if self._model is None:
            raise ConfigError(
                f"{self.name} cannot run in this process: only its name is known here",
                fix="make the signature of the model's class, Model.s(…), or send it without task_always_eager",
            )
        if not isinstance(self._model, type):
            return _run_through(self._model, args, kwargs)
        codec = codec_of(self._model)
        item = item_from_call_of(self._model, args, kwargs)
        given = write_input(codec.name, item, codec=codec, max_bytes=sys.maxsize)
        [result] = results_of(codec.name, _instance(self._model).predict([codec.decode(given)]), 1)
        if isinstance(result, BaseException):
            raise result
        return loads(write_output(result, "result", max_bytes=sys.maxsize))


def _run_through(pipeline: Pipeline, args: Any, kwargs: Any) -> Any:
    """All steps of a run, one after the other."""
    from penstock.testing import run_pipeline

    inputs = by_position(f"pipeline {pipeline.name!r}", pipeline.graph.inputs, args, kwargs)
    called = dict.fromkeys(pipeline.called.values())
    return run_pipeline(pipeline, inputs, models=[_instance(c) if isinstance(c, type) else c for c in called])


def _instance(cls: type[Model]) -> Model:
    model = _loaded.get(cls)
    if model is None:
        model = cls()
        model.load("cpu")
        _loaded[cls] = model
    return model


def no_maps(model: str, verb: str) -> NoReturn:
    """Celery runs these one item after the other in the worker that gets them; a model runs batches."""
    raise ConfigError(
        f"{verb}() of model {model!r} would run its items one after the other",
        fix=f"use group({model}.s(item) for item in items), or Client.enqueue_many({model!r}, items)",
    )
