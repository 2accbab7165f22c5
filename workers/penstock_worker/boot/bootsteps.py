"""Where our parts hang in Celery's worker: started and stopped with it, in the right order.

Worker blueprint: ``Serve`` comes after the pool and before the consumer, so models are loaded before the first
message is claimed, and at a stop the batches end while the broker connection is still open. Consumer blueprint:
``Feed`` comes before ``Tasks`` makes the strategies, and puts the intake where they and the transport find it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from celery import bootsteps
from celery.exceptions import WorkerTerminate
from kombu.asynchronous import get_event_loop

from penstock.clock import monotonic_s
from penstock.errors import PenstockError
from penstock.processes.agreed import EXIT_NOT_LOADED
from penstock_worker.execute.runner import exit_defective, exit_wedged
from penstock_worker.serving import Serving

log = structlog.get_logger(__name__)

#: How often running batches are compared with their timeouts, seconds.
WATCH_EVERY_S = 0.25


class Serve(bootsteps.StartStopStep):
    """Loads the models, runs the engine, drains it."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        worker.penstock = None
        super().__init__(worker, **kwargs)

    def start(self, worker: Any) -> None:
        """Bring the models up. A model that does not load ends the process with its error."""
        serving = Serving(worker.app, worker.app.penstock)
        try:
            serving.start(hostname=worker.hostname, wake=_wake_hub)
        except PenstockError as error:
            # Celery would print a traceback; `main` prints the error and its fix.
            worker.app.penstock.failure = error
            raise WorkerTerminate(EXIT_NOT_LOADED) from error
        worker.penstock = serving

    def stop(self, worker: Any) -> None:
        """Give back what has not started, finish what has, and leave. Celery's warm shutdown calls it."""
        if worker.penstock is not None:
            worker.penstock.stop()

    def terminate(self, worker: Any) -> None:
        """Celery's cold shutdown: the same, since it is bounded, and what it gives back need not be rescued."""
        self.stop(worker)


class Feed(bootsteps.StartStopStep):
    """Connects the consumer's channel with the engine."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        consumer.penstock_intake = consumer.penstock_runs = None
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """At each (re)connection: the strategies and the new channel find the intake."""
        serving = consumer.controller.penstock
        consumer.penstock_intake, consumer.penstock_runs = serving.engine.intake, serving.engine.runs
        serving.attach(consumer.connection.default_channel)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Posted calls run at the start of each turn of the hub; timeouts are watched by its timer."""
        serving = consumer.controller.penstock
        hub.on_tick.add(serving.engine.pump)
        serving.engine.call_later = hub.call_later
        started = monotonic_s()

        hub_pulse = consumer.app.penstock.hub

        def watch() -> None:
            hub_pulse.beat()
            if serving.engine.defective:
                log.error("ending this process after a defect", action="worker.defect")
                serving.abandon()
                exit_defective()
            try:
                wedged = serving.engine.check_timeouts()
            except PenstockError as error:
                log.warning("could not settle a timeout", action="batch.timeout.wait", error=error.message)
                return
            if wedged:
                log.error("ending this process", action="worker.wedged", lived_s=round(monotonic_s() - started))
                serving.abandon()
                exit_wedged()

        hub.call_repeatedly(WATCH_EVERY_S, watch)
        if consumer.heart is not None:
            consumer.heart.eventer = _Counting(consumer.heart.eventer, lambda: serving.holdings.running)


class _Counting:
    """Celery's event dispatcher for its heartbeats, which say how many tasks are active: ours are, too."""

    def __init__(self, eventer: Any, running: Callable[[], int]) -> None:
        self._eventer = eventer
        self._running = running

    def __getattr__(self, name: str) -> Any:
        return getattr(self._eventer, name)

    def send(self, type: str, *, active: int = 0, **fields: Any) -> Any:
        return self._eventer.send(type, active=active + self._running(), **fields)


def _wake_hub() -> None:
    """Make the hub leave its poll; from any thread."""
    hub = get_event_loop()
    if hub is not None:
        hub.call_soon(_nothing)


def _nothing() -> None:
    """The hub has left its poll: its next turn runs what was posted."""
