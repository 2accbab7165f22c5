"""One worker's life: load, register, run, drain, leave. What the bootsteps call."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog
from celery.platforms import EX_OK
from celery.worker import state as worker_state

from penstock import __version__, clock
from penstock.dispatch.background import Background
from penstock.errors import PenstockError, StoreUnavailable, Unreachable
from penstock.lane import Lane
from penstock.model import Model, bytes_of
from penstock.pipelines.announced import announcement
from penstock.pipelines.writing.pipeline import Pipeline
from penstock.policy.latency import LatencyBook
from penstock.policy.pools import Place
from penstock.service import Pulse, turned
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.store.workers import versions_of
from penstock.telemetry.exposition import Endpoint
from penstock.telemetry.probes import Probes
from penstock.transport.url import connect, parse
from penstock.waiting import until_reachable
from penstock_worker.canvas.revoker import Revoker
from penstock_worker.ceiling import hold_to
from penstock_worker.engine import Engine
from penstock_worker.execute.device import choose_device, kind_of
from penstock_worker.item import Item
from penstock_worker.models.latency import LatencyMemory
from penstock_worker.models.loader import announce, load_models
from penstock_worker.models.residency import Residency
from penstock_worker.parking import Parkable, Parking
from penstock_worker.report.announcer import Announcer
from penstock_worker.report.celeryevents import CeleryEvents
from penstock_worker.report.followups import FollowUps
from penstock_worker.report.heartbeat import Heartbeat
from penstock_worker.report.holdings import Holdings
from penstock_worker.report.meter import Meter
from penstock_worker.report.names import instance_name, lives, namesake
from penstock_worker.report.tenure import Tenure
from penstock_worker.report.usage import Usage
from penstock_worker.report.wire import Wire
from penstock_worker.schedule.lanes import LaneDuty
from penstock_worker.slot import HeldSlot

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: How often a wait is interrupted to look for a signal, seconds.
LOOK_S = 0.1
#: How long a process that ends itself waits for the database to take the outcomes at hand, seconds.
ABANDON_S = 5.0


def _pause(seconds: float) -> None:
    """Sleep, unless Celery's signal handlers say that the worker is to stop: then it ends as from a warm shutdown."""
    until = clock.monotonic_s() + seconds
    while clock.monotonic_s() < until:
        worker_state.maybe_shutdown()
        turned()
        time.sleep(LOOK_S)


@dataclass(slots=True)
class Plan:
    """What a worker process is to serve; the Celery app carries it as ``app.penstock``."""

    settings: Settings
    models: Mapping[str, type[Model]]
    pool: str
    #: What it announces and does not run: pipelines are run by the workers of their steps.
    pipelines: Mapping[str, Pipeline] = field(default_factory=dict)
    #: The pool of each model, by the settings.
    places: Mapping[str, Place] = field(default_factory=dict)
    #: Bytes of memory that the process may take; ``None``: no bound.
    memory: int | None = None
    #: Its name in this life; empty: it is to make one.
    instance: str = ""
    #: What it was started for, if for that.
    slot: HeldSlot | None = None
    #: Why the worker could not start; ``main`` prints it.
    failure: PenstockError | None = None
    #: Whether it can stop, or has stopped, cleanly: everything ended or was given back. It begins with nothing.
    drained: bool = True
    #: Of the thread that Celery's event loop runs on.
    hub: Pulse = field(default_factory=Pulse)


class Serving:
    """Everything of ours in one worker process."""

    def __init__(self, app: Any, plan: Plan) -> None:
        self._app = app
        self._plan = plan
        self._settings = settings = plan.settings
        self._classes = plan.models
        self._store = Store.open(settings.database)
        self._followups = FollowUps(settings, self._store)
        self._wire = Wire(settings.broker, settings.namespace)
        self._channel: Any = None
        self._heartbeat: Heartbeat | None = None
        self._memory: LatencyMemory | None = None
        self._residency: Residency | None = None
        self._metrics: Endpoint | None = None
        self._probes = Probes(stuck_after_s=settings.metrics.stuck_after_s, starting="its models are not loaded yet")
        self._usage: Usage | None = None
        self._tenure: Tenure | None = None
        self._lanes: LaneDuty
        self._background = Background("penstock-parking")
        self.engine: Engine
        self.parking: Parking

    def start(self, *, hostname: str, wake: Callable[[], None]) -> None:
        """Load the models, then tell the others.

        Raises ``ModelLoadFailed``, ``StoreUnavailable``, or ``ConfigError`` when the metrics cannot be served.
        """
        settings = self._settings
        # Before anything is loaded, and after all is imported: what that takes is known then.
        hold_to(self._plan.memory, self._plan.pool)
        self._plan.hub.own()
        self._plan.hub.rest()  # until the event loop turns: loading may take as long as it likes
        self._probes.watch_pulse("hub", self._plan.hub)
        self._patiently(self._store.check)
        self._tenure = tenure = Tenure(settings, self._store, lost=lambda error: self._stop_for(error, wake))
        tenure.begin()
        latency = LatencyBook()
        # Before the models are loaded, which takes long: a port that is taken is told at once.
        meter = self._serve_metrics(latency)
        device = choose_device(settings.worker.device)
        versions = {name: cls.version for name, cls in self._classes.items()}
        memory = LatencyMemory(self._store, latency, versions, kind_of(device))
        self._patiently(memory.recall)
        self._memory = memory
        worker = self._plan.instance or instance_name(hostname)
        events = CeleryEvents(
            hostname=hostname,
            db=parse(settings.broker).db,
            tick=self._app.clock.forward,
            exchange=self._app.conf.event_exchange,
        )
        memory_text = settings.worker.memory
        if memory_text is None:
            loaded = load_models(self._classes.values(), device, latency)
        else:
            self._residency = Residency(
                self._classes,
                budget=bytes_of(memory_text, f"worker.memory is {memory_text!r}"),
                device=device,
                latency=latency,
                namespace=settings.namespace,
                worker=worker,
                client=connect(settings.broker),
            )
            self._residency.load_first()
            loaded = self._residency.models
        announcer = Announcer(self._wire, namespace=settings.namespace, worker=worker, events=events, meter=meter)
        self.engine = Engine(
            settings,
            self._app,
            self._store,
            loaded,
            classes=self._classes,
            worker=worker,
            announcer=announcer,
            wire=self._wire,
            wake=wake,
            latency=latency,
            pipelines=self._plan.pipelines.values(),
        )
        self.holdings = Holdings(self.engine, namespace=settings.namespace, hostname=hostname, pid=os.getpid())
        self._revoker = Revoker(self._store, told=self._revoked)
        charges = self.engine.charges
        self._usage = Usage(charges.spent, charges.done, self._wire, namespace=settings.namespace)
        models = announce(self._classes, self._plan.places)
        self._lanes = LaneDuty(
            settings.worker.lane,
            versions_of(models),
            others=lambda lane: self._store.taking(lane, beside=worker, now=clock.now()),
            leave=self._leave,
        )
        self._heartbeat = Heartbeat(
            self._store,
            worker=worker,
            name=hostname,
            pool=self._plan.pool,
            info={
                "models": models,
                "pipelines": {name: announcement(each) for name, each in self._plan.pipelines.items()},
                "device": device,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "version": __version__,
                "memory": None if self._residency is None else self._residency.budget,
            }
            | ({"metrics": self._metrics.address} if self._metrics is not None else {})
            | ({"slot": self._plan.slot.id} if self._plan.slot is not None else {}),
            lease=settings.lease,
            # One that is parked takes nothing: nobody is to count on it.
            lane=lambda: "" if self.engine.intake.parked else self._lanes.lane,
            also=(self._lanes.look, tenure.keep, self._wire.flush, memory.keep),
        )
        others: list[Parkable] = [self._heartbeat] if self._residency is None else [self._residency, self._heartbeat]
        self.parking = Parking(self.engine, _GivesBack(self), *others)
        if self._plan.slot is not None:
            self._plan.slot.begin(drain=lambda: self._stop(wake), park=self.parking.set)
        self._patiently(self._heartbeat.start)
        self._look_for_namesakes(worker, hostname)
        self._plan.drained = False
        self.engine.start()
        self._usage.start()
        if self._residency is not None:
            self._residency.feed(self.engine.batcher)
            self._residency.start()
        # What a worker holds from its start, modules above all, is looked through no more: the first full collection
        # took a tenth of a second, in the middle of somebody's request.
        gc.collect()
        gc.freeze()
        self._probes.watch(*self.engine.services, self._heartbeat)
        if self._residency is not None:
            self._probes.watch(self._residency)
        if self._plan.slot is not None:
            self._probes.watch(self._plan.slot)
        self._probes.ask(lambda: self.engine.unreturned(settings.metrics.stuck_after_s))
        self._probes.ready()
        if self._plan.slot is not None:
            self._plan.slot.ready()
        log.info("worker ready", action="worker.ready", worker=worker, device=device, models=list(loaded))

    def _look_for_namesakes(self, worker: str, name: str) -> None:
        """Jobs are done all the same; who asks for one of two by its name gets either, or both."""
        try:
            other = namesake(self._store.workers(), instance=worker, name=name, now=clock.now(), lives=lives)
        except StoreUnavailable:
            return
        if other is not None:
            log.warning(
                "another worker has this name: Flower shows one of them, remote control reaches both",
                action="worker.name_taken",
                name=name,
                pid=other,
                fix="give each a name: `penstock worker --name NAME`",
            )

    def _serve_metrics(self, latency: LatencyBook) -> Meter | None:
        if self._settings.metrics.port is None:
            return None
        meter = Meter(self._classes, latency)
        self._metrics = Endpoint(self._settings.metrics, meter.samples, pages=self._probes.pages)
        self._metrics.start()
        return meter

    def _patiently(self, call: Callable[[], T]) -> T:
        """With a database that is away at the start: a worker that ends then is not started again, and a model may have
        taken minutes to load. A signal ends the wait."""

        def tell(error: Unreachable, again_s: float) -> None:
            log.warning(
                "waiting for the database", action="service.wait", again_s=again_s, error=error.message, fix=error.fix
            )

        return until_reachable(call, tell=tell, pause=_pause)

    def _stop_for(self, error: PenstockError, wake: Callable[[], None]) -> None:
        """Have the hub end this worker; ``main`` says why. From any thread."""
        self._plan.failure = error
        self._stop(wake)

    def _stop(self, wake: Callable[[], None]) -> None:
        """Have the hub end this worker as a signal would. From any thread."""
        worker_state.should_stop = EX_OK  # type: ignore[assignment]
        wake()

    def _revoked(self, jobs: Sequence[Settled], celerys: set[str]) -> None:
        """Tell who waits; Celery's own waiters, too, although a canvas goes on only with its member's message."""
        self.engine.announcer.changed(jobs)
        for job in jobs:
            if job.id in celerys and job.state.is_terminal:
                self._app.backend.mark_as_revoked(job.id, reason="revoked", store_result=True)

    def revoke(self, ids: Sequence[str], unknown: Callable[[Sequence[str]], object] | None = None) -> None:
        """Cancel jobs for Celery's remote control. ``unknown`` hears of ids that are no job's, on the hub thread."""

        def tell(left: Sequence[str]) -> None:
            if unknown is not None:
                unknown(left)

        self._revoker.revoke(ids, lambda left: self.engine.post(partial(tell, left)))

    def _leave(self, lanes: frozenset[tuple[str, Lane]]) -> None:
        self.engine.batcher.leave(lanes)
        self._narrow()

    def _narrow(self) -> None:
        """Fewer queues are wanted: a wait for messages that is out was sent with more."""

        def look() -> None:
            if self._channel is not None:
                self._channel.reconsider()

        self.engine.post(look)

    def keep_to(self, lane: Lane | None, for_s: float) -> str:
        """Do the jobs of one lane only for so long, or of both; what is so now, for a person. On the hub thread."""
        return self._lanes.tell(lane, for_s)

    def park(self, parked: bool) -> str:
        """For Celery's remote control: park or wake this worker, soon, unless it has a slot; the answer in words."""
        slot = self._plan.slot
        if slot is not None:
            slot.wake()
            return f"{slot.id} says whether it consumes, and is looked at now"
        self._background.later(0.0, partial(self.parking.set, parked))
        return "parks" if parked else "wakes"

    def look(self) -> bool:
        """Look at the slot now; whether there is one."""
        slot = self._plan.slot
        if slot is not None:
            slot.wake()
        return slot is not None

    def attach(self, channel: Any) -> None:
        """Have the transport feed the engine from now on."""
        self._channel = channel
        self.engine.intake.source = lambda: channel.unacked_name
        channel.set_sink(self.engine.intake)

    def stop(self) -> None:
        """Drain: idempotent, bounded by ``worker.drain_s``."""
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is None:
            return
        self._probes.ends()
        self._give_back(self.engine.close_intake())
        if self._residency is not None:
            self._residency.stop()
        self._plan.drained = self.engine.drain(self._settings.worker.drain_s)
        if not self._plan.drained:
            log.warning("not everything ended in time; its leases will run out", action="worker.drain_timeout")
        heartbeat.stop()
        if self._memory is not None:
            self._memory.keep()
        if self._usage is not None:
            self._usage.stop()
        if self._metrics is not None:
            self._metrics.stop()
        if self._tenure is not None:
            self._tenure.end()
        self._revoker.stop()
        self._background.close()
        self._followups.close()
        self._wire.close()
        self._store.close()

    def abandon(self) -> None:
        """Before the process is ended by force: what has not started goes back, and the lease ends now."""
        self._give_back(self.engine.close_intake())
        self.engine.settle_pending(ABANDON_S)
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def give_back_buffered(self) -> None:
        """Parked, on the hub thread: what has not begun is for others. What a claim that is out brings, too."""
        if not self.parking.parked or self._channel is None:
            return
        items = self.engine.take_back()
        # Without any as well: it ends the wait that is out, whose claim was made by the quotas of before.
        self._hand_to_broker(items)
        for item in items:
            if item.request is not None:  # kombu and Celery count it as here
                self._channel.qos.release(item.tag)
                worker_state.task_ready(item.request)

    def _give_back(self, items: list[Item]) -> None:
        if items and self._channel is not None:
            self._hand_to_broker(items)

    def _hand_to_broker(self, items: list[Item]) -> None:
        try:
            self._channel.give_back([item.tag for item in items])
        except Exception as error:
            # Redis is away: the lease runs out and the messages are restored.
            log.warning("could not give back", action="worker.give_back", count=len(items), error=str(error))


class _GivesBack:
    """A part of parking: what was claimed before."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def park(self, parked: bool) -> None:
        """Have the hub do it."""
        if parked:
            self._serving.engine.post(self._serving.give_back_buffered)
