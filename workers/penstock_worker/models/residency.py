"""Brings models in and out of a device that cannot hold all that its worker serves.

Only with the setting ``worker.memory``; without it everything is loaded at the start and stays. A thread of its own
looks a few times per second at what waits at the broker, asks ``policy.residency`` and obeys: loading takes seconds,
and the device goes on with the other models meanwhile. Workers tell each other through Redis what they hold, and what
they load for as long as that takes.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
import structlog

from penstock import clock, usercode
from penstock.errors import ConfigError, ModelLoadFailed
from penstock.lane import LANES, queue_name
from penstock.model import Model
from penstock.policy.latency import LatencyBook
from penstock.policy.residency import Holding, change, first
from penstock.service import ThreadService
from penstock.stepwise import StepModel
from penstock.transport import inspect, residents
from penstock_worker.models.loader import load_model, probe
from penstock_worker.schedule.batcher import Batcher

log = structlog.get_logger(__name__)

#: Seconds between looks, and how long a worker's word counts.
LOOK_S, FRESH_S = 0.25, 5.0
#: While a model is loaded nobody looks: so often the word is given again then, seconds.
REPEAT_S = 1.0
#: After so long others do not count on a load any more, seconds: it may hang, and the jobs wait.
LOADING_MOST_S = 600.0
#: Before a model that did not load is tried again, seconds.
RETRY_S = 30.0
#: How long ``stop`` waits for a model that is being loaded, seconds.
STOP_S = 30.0
#: Half-life of the request rates, seconds.
RATE_HALF_S = 30.0


class Residency(ThreadService):
    """The models that are loaded now are ``models``: shared with the runner, changed only here."""

    def __init__(
        self,
        classes: Mapping[str, type[Model]],
        *,
        budget: int,
        device: str,
        latency: LatencyBook,
        namespace: str,
        worker: str,
        client: redis.Redis,
    ) -> None:
        super().__init__("residency")
        self.models: dict[str, Model] = {}
        self._classes = classes
        self._sizes = {name: cls.resources.memory_bytes or 0 for name, cls in classes.items()}
        #: Bytes of device memory for models.
        self.budget = budget
        self._device = device
        self._latency = latency
        self._namespace = namespace
        self._worker = worker
        self._client = client
        self._batcher: Batcher | None = None
        self._parked = False
        # The device thread holds on to step-wise models between their steps.
        self._pinned = {name for name, cls in classes.items() if issubclass(cls, StepModel)}
        self._load_s = dict.fromkeys(classes, 1.0)
        self._since: dict[str, float] = {}
        self._waiting_since: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}
        self._rates = dict.fromkeys(classes, 0.0)
        self._counted: dict[str, int] = {}
        self._looked_at = clock.monotonic_s()
        pinned = sum(self._sizes[name] for name in self._pinned)
        for name, size in self._sizes.items():
            if size + (0 if name in self._pinned else pinned) > budget:
                raise ConfigError(
                    f"model {name!r} needs {size:,} bytes of memory, and worker.memory is {budget:,}"
                    + (f", of which step-wise models keep {pinned:,}" if pinned else ""),
                    fix="raise PENSTOCK_WORKER__MEMORY, or serve it in another pool",
                )

    def load_first(self) -> None:
        """Load what fits, in the order in which the models were named. Raises ``ModelLoadFailed``."""
        order = sorted(self._sizes.items(), key=lambda pair: pair[0] not in self._pinned)
        for name in first(order, self.budget):
            try:
                self._load(name)
            except BaseException:
                self._unsay()  # others would count on it for a while
                raise

    def feed(self, batcher: Batcher) -> None:
        """``batcher`` claims only for what is loaded. Before ``start``."""
        self._batcher = batcher
        batcher.set_resident(self.models)

    def park(self, parked: bool) -> None:
        """Keep what is loaded as it is, and say that others cannot count on it; or go on."""
        self._parked = parked
        if parked:
            self._unsay()

    def stop(self, timeout_s: float | None = STOP_S) -> bool:
        """End the thread. A model that is being loaded is waited for."""
        ended = super().stop(timeout_s)
        self._unsay()
        self._client.close()
        return ended

    def run(self) -> None:
        """Look after look."""
        for _ in self.turns(LOOK_S, at_once=False):
            try:
                if self._parked:
                    self._unsay()  # what was said in the meantime
                else:
                    self.look()
            except (redis.RedisError, OSError) as error:
                log.debug("could not look at the queues", action="residency.wait", error=str(error))

    def look(self) -> None:
        """One look at the queues, and at most one change."""
        assert self._batcher is not None
        holdings = self._holdings(self._batcher)
        wanted = change(holdings, self.budget)
        if wanted is None or wanted.drain:
            self._batcher.drain(() if wanted is None else wanted.drain)
            return
        for name in wanted.evict:
            # Something may have been claimed for it since we looked.
            if not self._batcher.release_model(name):
                return
            self._evict(name)
        try:
            self.waiting(lambda: self._load(wanted.load))
        except ModelLoadFailed as error:
            self._failed_at[wanted.load] = clock.monotonic_s()
            log.error("model not loaded", action="model.load.error", model=wanted.load, error=error.message)
        self._batcher.set_resident(self.models)
        # Not before: more would have been claimed for what had to leave.
        self._batcher.drain(())
        self._tell()

    def _holdings(self, batcher: Batcher) -> list[Holding]:
        now = clock.monotonic_s()
        self._count(batcher, now)
        cold = [name for name in self._classes if name not in self.models]
        queues = {
            queue_name(self._namespace, name, lane, version): name
            for name in cold
            for lane in LANES
            for version in (None, self._classes[name].version)
            if (name, lane) not in batcher.room.left
        }
        waiting = dict.fromkeys(self._classes, 0)
        if queues:
            for queue, depth in inspect.ready(self._client, self._namespace, queues).items():
                waiting[queues[queue]] += depth
        others = self._others()
        self._tell()
        holdings = []
        for name in self._classes:
            pinned = name in self._pinned
            resident, used = name in self.models, pinned or batcher.uses(name)
            if resident or not (waiting[name] or used):
                self._waiting_since.pop(name, None)
            since = self._waiting_since.setdefault(name, now) if waiting[name] and not resident else now
            failed_at = self._failed_at.get(name)
            if failed_at is not None and now - failed_at < RETRY_S:
                continue
            holdings.append(
                Holding(
                    name=name,
                    size=self._sizes[name],
                    load_s=self._load_s[name],
                    rate=max(self._rates[name], waiting[name] / max(now - since, 1.0)),
                    resident=resident,
                    resident_s=now - self._since.get(name, now),
                    used=used,
                    pinned=pinned,
                    waiting=waiting[name],
                    waited_s=now - since,
                    elsewhere=name in others,
                )
            )
        return holdings

    def _count(self, batcher: Batcher, now: float) -> None:
        passed_s, self._looked_at = max(now - self._looked_at, 1e-3), now
        keep = 0.5 ** (passed_s / RATE_HALF_S)
        for name, count in batcher.served().items():
            new = count - self._counted.get(name, 0)
            self._counted[name] = count
            self._rates[name] = self._rates[name] * keep + (1.0 - keep) * new / passed_s

    def _others(self) -> set[str]:
        """What other workers hold, by what they said lately."""
        now = self._server_s()
        held: set[str] = set()
        for worker, word in residents.words(self._client, self._namespace).items():
            if worker != self._worker and now - word.at < FRESH_S:
                held.update(word.models)
                if word.loading is not None:
                    held.add(word.loading)
        return held

    def _server_s(self) -> float:
        """The server's time, Unix seconds: the one clock that all workers share."""
        client: Any = self._client
        seconds, micros = client.time()
        return float(seconds + micros / 1e6)

    def _tell(self, coming: str | None = None) -> None:
        names = list(self.models)
        used = sum(self._sizes[name] for name in names) + (self._sizes[coming] if coming is not None else 0)
        word = residents.Word(self._server_s(), names, used, self.budget, coming)
        residents.say(self._client, self._namespace, self._worker, word)

    def _unsay(self) -> None:
        try:
            residents.unsay(self._client, self._namespace, self._worker)
        except (redis.RedisError, OSError) as error:
            log.debug("could not say goodbye", action="residency.leave", error=str(error))

    @contextmanager
    def _telling(self, coming: str) -> Iterator[None]:
        """Say that it is coming, again and again for as long as the block takes: a word counts for ``FRESH_S`` only.

        The thread has ended when the block has, so that no word of it comes behind later ones.
        """
        over = threading.Event()
        until = clock.monotonic_s() + LOADING_MOST_S

        def say() -> None:
            try:
                self._tell(coming if clock.monotonic_s() < until else None)
            except (redis.RedisError, OSError) as error:
                log.debug("could not say what is loaded", action="residency.tell", error=str(error))

        def repeat() -> None:
            while not over.wait(REPEAT_S) and not self.stopping.is_set():
                say()

        say()
        thread = threading.Thread(target=repeat, name="penstock-residency-word", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # In and out -----------------------------------------------------------------------------------------------

    def _load(self, name: str) -> None:
        started = clock.monotonic_s()
        with self._telling(name):
            model = load_model(self._classes[name], self._device)
            self._latency.loaded(name)
            if not self._latency.line(name).seen:
                probe(model, self._latency)
        now = clock.monotonic_s()
        self._load_s[name], self._since[name] = now - started, now
        self.models[name] = model
        log.info("model loaded", action="model.load", model=name, device=self._device, load_s=now - started)

    def _evict(self, name: str) -> None:
        model: Any = self.models.pop(name)
        try:
            model.unload()
        except BaseException as error:
            if not usercode.is_its_own(error):
                raise
            log.exception("unload() raised", action="model.unload.error", model=name)
        del model
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.info("model evicted", action="model.evict", model=name)
