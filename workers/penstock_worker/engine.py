"""The worker's core: the device thread and what stands around it. Celery's bootsteps start and stop it.

::

    hub thread      transport -> intake -> batcher            acknowledgements of canvas members
    stager thread                          batcher -> claim of the next batch, while the device is busy
    device thread                          batcher -> claim -> predict -> settler (nothing else waits)
                                           with step-wise models: iteration -> sequences -> settler
    settler thread                                                        settler (under load)
    runs thread     Celery's calls of pipelines -> runs in SQL
    expirer thread                         batcher -> the end of those that were abandoned, in SQL
    recall thread                          asks SQL which running sequences are still wanted
    heartbeat thread                       leases in SQL, kept acknowledgements, the supervisor's pulse
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from penstock import clock
from penstock.dispatch.catalog import Catalog
from penstock.errors import PenstockError
from penstock.job import JobState, Outcome
from penstock.lane import Lane
from penstock.model import Model
from penstock.pipelines.writing.pipeline import Pipeline
from penstock.policy.batching import POLICIES, BatchingPolicy
from penstock.policy.latency import LatencyBook
from penstock.policy.overload import RetryBudget
from penstock.registry import Registry
from penstock.service import ThreadService
from penstock.settings import Settings
from penstock.stepwise import StepModel
from penstock.store import Store
from penstock_worker.canvas.finisher import CanvasFinisher
from penstock_worker.canvas.runs import RunIntake
from penstock_worker.execute.outcome import Concluder
from penstock_worker.execute.runner import Runner, Superseded, overdue
from penstock_worker.execute.settler import Settler, insist
from penstock_worker.item import Batch, Item, Run
from penstock_worker.report.announcer import Announcer
from penstock_worker.report.load import LoadReport
from penstock_worker.report.wire import Wire
from penstock_worker.schedule.batcher import Batcher
from penstock_worker.schedule.besides import Besides
from penstock_worker.schedule.ceilings import Ceilings
from penstock_worker.schedule.charges import Charges
from penstock_worker.schedule.claimer import Claimer
from penstock_worker.schedule.expirer import Expirer
from penstock_worker.schedule.intake import Intake, rivals, twins_of
from penstock_worker.schedule.stager import Stager
from penstock_worker.steps.iteration import Iteration
from penstock_worker.steps.recall import Recall
from penstock_worker.steps.sequences import Sequences
from penstock_worker.steps.stepping import StepWorker
from penstock_worker.watchdog import Watchdog

log = structlog.get_logger(__name__)


#: The start of a batch that is expected to take at most so long is told with its end, seconds.
SOON_OVER_S = 0.02
#: How long the end of a worker waits for a claim that is under way, seconds.
CLAIM_WAIT_S = 1.0


class Engine:
    """Runs batches of loaded models. ``wake`` makes the hub leave its poll; it may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        app: Any,
        store: Store,
        models: dict[str, Model],
        *,
        classes: Mapping[str, type[Model]] | None = None,
        worker: str,
        announcer: Announcer,
        wire: Wire,
        wake: Callable[[], None],
        policy: BatchingPolicy | None = None,
        latency: LatencyBook | None = None,
        pipelines: Iterable[Pipeline] = (),
    ) -> None:
        # With too little memory for all, ``models`` are those that are loaded now.
        self._classes = classes = classes or {name: type(model) for name, model in models.items()}
        self._settings = settings
        self._store = store
        self._worker = worker
        self._wire = wire
        self._wake = wake
        self._stopping = threading.Event()
        self._defect = False
        self._closing = False
        #: Whether a model returned after the watchdog had settled its batch.
        self._superseded = False
        self._posted: deque[Callable[[], None]] = deque()
        self.announcer = announcer
        self.batcher = Batcher(
            classes,
            policy or POLICIES[settings.worker.batching](),
            namespace=settings.namespace,
            prefetch_batches=settings.worker.prefetch_batches,
            lead_s=settings.worker.lead_s,
            target_s=settings.lanes.interactive.target,
            latency=latency,
            hungry=wake,
            weigh=self._weigh,
        )
        #: How long batches take here; shared with whoever keeps and shows it.
        self.latency = self.batcher.room.latency
        #: Calls a function on the hub thread after so many seconds; set when there is a hub.
        self.call_later: Callable[[float, Callable[[], None]], object] | None = None
        self.charges = Charges(classes, settings.namespace)
        self._canvas = CanvasFinisher(app, store, post=self.post)
        catalog = Catalog(settings, store, registry=Registry([*classes.values(), *pipelines]))
        #: Makes runs of Celery's calls of pipelines: those that this worker knows, and all that were announced.
        self.runs = RunIntake(
            settings,
            store,
            self._canvas,
            catalog,
            worker=worker,
            post=self.post,
            tell=lambda rows: announcer.send(announcer.settled(rows, {}, [])),
        )
        self.intake = Intake(
            self.batcher,
            announcer,
            classes,
            default_timeout_s=settings.job.timeout_s,
            target_s=settings.lanes.interactive.target,
            charges=self.charges.expected,
            one_of=rivals(classes, settings.namespace),
            twins=twins_of(classes, settings.namespace),
            max_input_bytes=settings.job.max_input_bytes,
            allow_private=settings.webhook.allow_private,
            besides=Besides(self.runs.quota, later=self._later, wake=wake),
        )
        self._retries = RetryBudget()
        self._concluder = Concluder(
            settings.retry, max_output_bytes=settings.job.max_output_bytes, interactive=self._retries
        )
        self.load = LoadReport(
            ((name, cls.batching) for name, cls in classes.items()),
            namespace=settings.namespace,
            worker=worker,
            target_s=settings.lanes.interactive.target,
            waiting=self.batcher.count,
            room=self.batcher.room.capacity,
            lead_s=lambda: self.batcher.room.lead_s,
            stepwise=[name for name, cls in classes.items() if issubclass(cls, StepModel)],
            held=self.batcher.room.begun_of,
            versions={name: cls.version for name, cls in classes.items()},
        )
        self.settler = Settler(
            store,
            announcer,
            self._canvas,
            worker=worker,
            busy=lambda: not self.batcher.room.empty or self._sequences.active,
            on_defect=self._on_defect,
            on_settled=self.batcher.room.settled_after,
        )
        store.leave_to(self.settler.go_on)
        self.runner = Runner(
            models,
            claim=(claimer := Claimer(store, worker=worker, insist=self._insist, dismiss=self._dismiss)),
            recheck=claimer.recheck,
            concluder=self._concluder,
            on_started=self._started,
        )
        self._stager = Stager(self.batcher, self.runner.stage, given_up=_Stopped, on_defect=self._on_defect)
        self._expirer = Expirer(
            self.batcher,
            classes,
            claimer.answer,
            settle=self.settler.hand_over,
            given_up=_Stopped,
            on_defect=self._on_defect,
        )
        self.ceilings = Ceilings(classes, limit=self.batcher.limit)
        steps = {name: model for name, model in models.items() if isinstance(model, StepModel)}
        self._sequences = Sequences(
            steps,
            runner=self.runner,
            concluder=self._concluder,
            worker=StepWorker(
                store,
                announcer,
                worker=worker,
                settle=self.settler.settle,
                insist=self._insist,
                wake=wake,
                put_back=self.batcher.put_back,
                kept=settings.progress,
                took=self._took,
            ),
            max_progress_bytes=settings.progress.max_bytes,
        )
        self._watchdog = Watchdog(
            store,
            announcer,
            self._canvas,
            worker=worker,
            classes=classes,
            current=lambda: self.runner.current,
            sequences=self._sequences,
            seize=lambda: self.batcher.seize(CLAIM_WAIT_S),
            charge=self.charges.spread,
        )
        self._recall = Recall(store, worker=worker, members=lambda: self._sequences.held)
        self._iteration = Iteration(
            steps,
            sequences=self._sequences,
            batcher=self.batcher,
            lanes=settings.lanes,
            namespace=settings.namespace,
            latency=self.latency,
            run_batch=self._run_batch,
            meter=announcer.meter,
        )
        self._stepwise = bool(steps)
        self._device = ThreadService("device", self._loop, stopping=self._stopping)

    # Life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the device thread and the settler."""
        self.settler.start()
        self._expirer.start()
        if self._stepwise:
            self._recall.start()
        else:
            self._stager.start()
        self._device.start()

    def park(self, parked: bool) -> None:
        """Claim nothing more, or go on with it; the models stay loaded, and what has begun runs. From any thread."""
        self.intake.parked = parked
        if parked:  # nobody is to count on it
            self._wire.send(self.load.farewell())
        self._wake()

    def take_back(self) -> list[Item]:
        """What was claimed and has not begun, to be given back to the broker; on the hub thread."""
        return self.batcher.pull(lambda _: True)

    def close_intake(self) -> list[Item]:
        """Begin to stop: no new batch starts. Returns what had not started, to be given back to the broker."""
        self._closing = True
        self.runs.stop()
        self._canvas.stop()
        return self.batcher.close()

    def drain(self, timeout_s: float) -> bool:
        """Wait for what runs and its settling; whether all of it ended in time. Called on the hub thread.

        Sequences that cannot end in time are given back at a step boundary.
        """
        until = clock.monotonic_s() + timeout_s
        # What is given back has to be settled, too.
        self._iteration.drain_until(until - min(2.0, timeout_s / 4))
        self._stopping.set()
        # The device thread may post to the hub while we wait for it, and we are the hub.
        while not self._device.join(0.05) and clock.monotonic_s() < until:
            self.pump()
        self._hand_back()
        self._await_expirer(CLAIM_WAIT_S)
        self._recall.stop()
        settled = self.settler.stop(max(0.1, until - clock.monotonic_s()))
        self._wire.send(self.load.farewell())
        self.pump()
        return settled and not self._device.alive and self._wire.flush()

    def settle_pending(self, timeout_s: float) -> None:
        """Before the process is ended by force: what earlier batches found must not be lost. On the hub thread."""
        self._hand_back()
        self._await_expirer(CLAIM_WAIT_S)
        if not self.settler.stop(timeout_s):
            log.warning("outcomes are lost with this process", action="settle.lost")
        self.pump()
        self._wire.flush()

    def _await_expirer(self, timeout_s: float) -> None:
        """What was ended in SQL should be told, too. It has no more to do, since the batcher is closed."""
        if self._expirer.alive and not self._expirer.join(timeout_s):
            log.warning("expired jobs may not be told of", action="expire.late")

    def _hand_back(self) -> None:
        """What was claimed ahead and will not run goes back to its queue, as it was."""
        run = self.batcher.seize(CLAIM_WAIT_S)
        if run is None:
            return
        now = clock.now()
        run.outcomes = [
            Outcome(id=item.id, attempt=item.attempt, state=JobState.ACCEPTED, available_at=now) for item in run.live
        ]
        if run.live or run.unfinished:
            self.settler.hand_over(run)

    @property
    def services(self) -> list[ThreadService]:
        """Those of its threads that run, for probes."""
        return [self._device, self.settler, self._expirer, self._recall if self._stepwise else self._stager]

    def unreturned(self, after_s: float) -> str:
        """Whether a model has not returned for so long after its jobs' timeouts, in words; else empty.

        The watchdog ends the process right after those, if it can. What comes before them, however long, is work.
        """
        mono = clock.monotonic_s() - after_s
        late, _ = overdue(self.runner.current, now_mono=mono)
        late = late or [member.item for member in self._sequences.overdue(now_mono=mono)]
        return f"model {late[0].model} has not returned since its jobs' timeout" if late else ""

    def _loop(self) -> None:
        self._device.pulse.rest()  # how long a batch may take is for its jobs' timeouts to say
        if not self._stepwise:
            while not self._superseded and (batch := self.batcher.take()) is not None:
                self._run_batch(batch)
            return
        while True:
            try:
                self._iteration.run()
                return
            except _Stopped:
                log.info("newcomers given up while the database is away", action="claim.stopped")
            except BaseException:
                log.exception("iteration failed", action="steps.error")
                self._on_defect()
                return

    def _run_batch(self, batch: Batch) -> Run | None:
        """One batch, whatever comes; ``None`` when it was given up."""
        # Room in the lines: the hub may claim more while this batch runs, at once or a little before its end.
        wait_s = self.batcher.claim_in_s()
        if wait_s is None:
            self._wake()
        elif not self.batcher.staging:  # the stager looks at the time itself
            self.post(partial(self._claim_later, wait_s))
        try:
            return self._run(batch)
        except Superseded:
            # The watchdog ends this process: nothing more may start.
            self._superseded = True
            log.warning("model returned too late", action="batch.late", model=batch.model.name)
        except _Stopped:
            log.info("batch given up while the database is away", action="claim.stopped", size=len(batch.items))
        except BaseException:
            log.exception("batch failed", action="batch.error", model=batch.model.name)
            self._on_defect()
        finally:
            if self._stepwise:
                self.batcher.finished()
        return None

    def _claim_later(self, wait_s: float) -> None:
        # Timers fire behind the loop's look at the quotas: it takes another turn to see them.
        self._later(wait_s, self._wake)

    def _later(self, wait_s: float, call: Callable[[], None]) -> None:
        if self.call_later is not None:
            self.call_later(wait_s, call)

    def _weigh(self, items: Sequence[Item]) -> None:
        try:
            inputs = self._store.inputs([item.id for item in items])
        except PenstockError as error:
            # They run at the cost of 1 each; the claim needs the database all the same, and waits for it.
            log.warning("inputs could not be weighed", action="intake.weigh", error=error.message)
            return
        self.intake.weigh_from(items, inputs)

    def _learn(self, run: Run) -> None:
        good = [item for item in run.live if item.error is None]
        if not good:
            return
        cost = sum(item.cost for item in good)
        background = sum(item.cost for item in good if item.lane is not Lane.INTERACTIVE) / (cost or 1.0)
        late = sum(item.cost for item in good if item.late) / (cost or 1.0)
        if run.batch.claimed is None:
            self.batcher.room.claimed_after(run.started_mono - run.batch.taken_mono)
        # A batch that was split, or lost members to cancellation, does not tell how long such a batch takes.
        # Nor does the first of a shape, in which the model compiles and allocates.
        clean = len(good) == len(run.batch.items) and not self.latency.first(
            run.batch.model.name, len(good), run.batch.key
        )
        self.batcher.learn(run.batch, cost=cost, background=background, late=late, busy_s=run.compute_s, clean=clean)

    def _run(self, batch: Batch) -> Run:
        alone = batch.items[0].suspect
        if alone:
            self.settler.quiesce()
        run = self.runner.run(batch)
        self.batcher.put_back(run.returned)
        self.charges.spread(run, run.compute_s)
        self.charges.book(run)
        # Before all that nobody waits for.
        if run.live or run.unfinished:
            self.settler.settle(run)
        if self.announcer.meter is not None:
            self.announcer.meter.ran(run)
        self.ceilings.learn(run)
        self._learn(run)
        self.load.ended(run, clock.now(), clock.monotonic_s() - batch.taken_mono)
        if alone or any(item.suspect for item in run.live):
            self.settler.quiesce()
        return run

    def _took(self, run: Run) -> None:
        """Sequences have left the device."""
        self.charges.took(run.live)
        self.charges.book(run)
        for item, outcome in zip(run.live, run.outcomes, strict=False):
            if outcome.state is JobState.SUCCEEDED:
                self.load.sequence_ended(item, run.compute_s)

    def _on_defect(self) -> None:
        self._defect = True

    @property
    def defective(self) -> bool:
        """Whether the process must end, since its jobs would stay claimed for as long as it lives.

        A step failed in a way that is neither the model's nor a server's fault, or a thread ended that nobody stopped.
        """
        return self._defect or not (
            self._closing
            or self._watchdog.wedged
            or (
                self._device.alive
                and self.settler.alive
                and self._expirer.alive
                and (self._stepwise or self._stager.alive)
            )
        )

    # Steps' helpers -------------------------------------------------------------------------------------------

    def _started(self, run: Run) -> None:
        suspect = any(item.suspect for item in run.live)
        if suspect and not run.batch.items[0].suspect:
            self.settler.quiesce()  # only SQL knew of it
        if not self._stepwise:
            self.batcher.began(suspect=suspect)
        soon_over = 0 < self.batcher.busy_s() <= SOON_OVER_S
        self.announcer.started(run, self.load.started(run, run.started_at), soon_over=soon_over)
        first = sum(item.lane is Lane.INTERACTIVE and item.failures == 0 for item in run.live)
        self._retries.accepted(first, run.started_at)
        members = [item for item in run.live if item.request is not None]
        if members:
            self._canvas.accepted(members, run.started_mono)

    def _dismiss(self, items: Sequence[Item], ended: Sequence[Any]) -> None:
        """Answer for messages that will not run: news of rows that were ended just now, for Celery's monitors of all
        that ended without running, and an acknowledgement for all."""
        news = self.announcer.settled(ended, {}, []) if ended else []
        news += self.announcer.dropped(items)
        self.announcer.send(news, self.announcer.acks(item for item in items if item.request is None))
        for item in items:
            if item.request is not None:
                self.post(partial(self._canvas.drop, item.request))

    def _insist(self, call: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            try:
                return call()
            except PenstockError:
                if self._stopping.is_set():
                    # Nothing has started yet: the broker still has the messages.
                    raise _Stopped from None
                raise

        return insist(attempt, self._stopping, "claim")

    # For who looks (``holdings``), on any thread ---------------------------------------------------------------

    def running(self) -> list[Item]:
        """What is on the device, or has begun there."""
        run = self.runner.current
        return [*(run.live if run is not None else ()), *(m.item for m in list(self._sequences.held.values()))]

    def waiting(self) -> list[Item]:
        """What was claimed and has not begun."""
        return self.batcher.held()

    @property
    def started_at(self) -> float | None:
        """Since when the batch on the device runs, Unix seconds."""
        run = self.runner.current
        return run.started_at if run is not None else None

    def post(self, call: Callable[[], None]) -> None:
        """Have the hub thread run ``call``."""
        self._posted.append(call)
        self._wake()

    def pump(self) -> None:
        """Run what was posted; only on the hub thread."""
        while self._posted:
            call = self._posted.popleft()
            try:
                call()
            except Exception:
                log.exception("posted call failed", action="hub.error")

    # A model that does not return -----------------------------------------------------------------------------

    def check_timeouts(self) -> bool:
        """Settle what has outlived its timeout; whether the device is wedged and the process must end."""
        self._wire.tell_held()
        if not self._watchdog.check():
            return False
        self.pump()
        self._wire.flush()
        return True


class _Stopped(Exception):
    """The worker stops while the database is away."""
