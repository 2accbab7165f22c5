"""The pytest plugin that ``celery_suite.py`` runs Celery's tests with: it replaces the suite's worker.

The suite starts one worker, in a thread of the test process, which it also looks into. So each world is made there: the
same tests, the same producers, another worker.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import bootsteps
from celery.app.trace import setup_worker_optimizations
from celery.contrib.testing import worker as testing

WORLD = os.environ["COMPAT_WORLD"]
_start_worker = testing.start_worker

#: Tasks of the suite that a model can be: they compute from their arguments alone, nobody calls them as functions, and
#: hardly anybody mixes positional and keyword arguments.
AS_MODELS = (
    *("identity", "add", "mul", "add_not_typed", "tsum", "xsum", "delayed_sum", "raise_error", "fail"),
    *("return_exception", "print_unicode"),
)

if WORLD in ("transport", "penstock"):
    from penstock.transport.redis import install

    install()


@contextmanager
def start_worker(app: Any, *, pool: str, **options: Any) -> Iterator[Any]:
    """In the place of the suite's: the pool, and what the worker is made of, are the world's."""
    if WORLD in ("solo", "penstock"):
        app.steps["consumer"].add(Current)
    if WORLD == "penstock":
        with our_parts(app), _start_worker(app, pool="solo", **options) as worker:
            yield worker
    else:
        with _start_worker(app, pool="solo" if WORLD == "solo" else pool, **options) as worker:
            yield worker


testing.start_worker = start_worker


@pytest.fixture(scope="session", autouse=True)
def the_worker(celery_session_worker: Any) -> None:
    """Some tests need the worker and do not say so: tried again by themselves, they would wait for ever."""


@contextmanager
def our_parts(app: Any) -> Iterator[None]:
    """Make the suite's app that of a penstock worker, and run a dispatcher beside it."""
    import penstock_migrations
    from penstock.app import make_celery
    from penstock.dispatch.daemon import Dispatcher
    from penstock.settings import Settings
    from penstock_worker.boot.bootsteps import Feed, Serve
    from penstock_worker.canvas.results import bulk_url
    from penstock_worker.serving import Plan

    home = Path(os.environ["COMPAT_HOME"])
    settings = Settings.load(
        home=home,
        broker_url=os.environ["TEST_BROKER"],
        database_url=f"sqlite:///{home}/penstock.db",
        dispatcher={"poll_s": 0.1},
        worker={"device": "cpu"},
        job={"timeout_s": 120.0},
    )
    penstock_migrations.upgrade(settings.database)
    # All but the queues: the suite insists on its own.
    theirs = app.conf
    ours = make_celery(settings).conf
    for name in (
        *("task_acks_late", "task_reject_on_worker_lost", "task_track_started", "worker_send_task_events"),
        *("broker_transport_options", "result_backend_transport_options", "result_expires"),
        *("worker_prefetch_multiplier", "worker_enable_prefetch_count_reduction"),
        "worker_cancel_long_running_tasks_on_connection_loss",
    ):
        theirs[name] = ours[name]
    theirs["result_backend"] = bulk_url(os.environ["TEST_BACKEND"])
    if hasattr(app._local, "backend"):  # made by the configuration that the suite began with
        del app._local.backend
    models = {}
    for name in AS_MODELS:
        models[name] = cls = model_of(app.tasks[f"t.integration.tasks.{name}"])
        register_as(app, f"t.integration.tasks.{name}", cls)
    app.steps["worker"].add(Serve)
    app.steps["consumer"].add(Feed)
    app.steps["consumer"].add(ModelQueues)
    app.penstock = Plan(settings, models, "default")
    # As `celery worker` does, and the suite's worker does not. But the suite makes tasks while the worker runs.
    setup_worker_optimizations(app)
    app.use_fast_trace_task = False
    dispatcher = Dispatcher(settings)
    dispatcher.start()
    try:
        yield
    finally:
        dispatcher.stop()


class Current(bootsteps.StartStopStep):
    """Tasks of a solo pool run in the worker's thread: there, too, the worker's app is the current one."""

    def start(self, consumer: Any) -> None:
        consumer.app.set_current()


class ModelQueues(bootsteps.StartStopStep):
    """Consumes the models' own queues too: retries and what waits for its time come back there."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        from penstock.app import queues_of

        for name in consumer.app.penstock.models:
            for queue in queues_of("penstock", name):
                consumer.task_consumer.add_queue(queue)
        consumer.task_consumer.consume()


def model_of(task: Any) -> Any:
    """A model that does what the task does, item by item."""
    import penstock

    function: Callable[..., Any] = inspect.unwrap(task.run)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    one = len(parameters) == 1 and parameters[0].kind is not parameters[0].VAR_POSITIONAL

    def call(item: Any) -> Any:
        try:
            if isinstance(item, dict) and set(item) & {p.name for p in parameters}:
                return function(**item)
            return function(*item) if isinstance(item, list) and not one else function(item)
        except Exception as error:
            return error

    def predict(batch: list[Any]) -> list[Any]:
        return [call(item) for item in batch]

    predict.__doc__ = task.__doc__
    return penstock.model(name=task.name.rpartition(".")[2], max_size=16)(predict)


def register_as(app: Any, name: str, model: Any) -> None:
    """The model as a task of the suite's name."""
    from penstock_worker.canvas.tasks import ModelTask

    app.tasks.unregister(name)
    attributes = {"name": name, "penstock_model": model, "Strategy": ModelTask.Strategy, "__module__": __name__}
    app.register_task(type(f"{model.name}Task", (ModelTask,), attributes)())
