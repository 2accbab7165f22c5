"""The dispatcher: relay, reconciler, returns of plain tasks and webhook deliveries as one service.

Any number may run beside each other; one is enough, and without any the fast path still publishes what producers
submit, but nothing is rescued, retried, expired or called back. It outlives its servers: with the broker or the
database away it goes on with what it can, and recovers by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress

import structlog

from penstock import clock
from penstock.dispatch import owed
from penstock.dispatch.gauges import Gauges
from penstock.dispatch.notices import tell
from penstock.dispatch.ownership import Ownership
from penstock.dispatch.reconciler import Reconciler
from penstock.dispatch.relay import Relay
from penstock.dispatch.tasks.results import Results
from penstock.dispatch.tasks.returns import Returns
from penstock.dispatch.tasks.sender import TaskSender
from penstock.dispatch.tasks.watch import Watch
from penstock.errors import ConfigError, NamespaceTaken, StoreUnavailable, Unreachable
from penstock.service import Loop
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.telemetry.exposition import Endpoint
from penstock.telemetry.probes import Probes
from penstock.transport.publisher import Publisher
from penstock.transport.url import connect
from penstock.webhooks import load_signer
from penstock.webhooks.deliverer import Deliverer

log = structlog.get_logger(__name__)

#: How long the reconciler waits for an answer of the broker, seconds: it reads long pages.
BROKER_TIMEOUT_S = 5.0
#: How often the database is tidied, seconds: so that its log never grows until a producer's commit has to.
TIDY_EVERY_S = 0.5


class Dispatcher:
    """Construct, then ``start`` or ``run``. Installs no signal handlers: whoever runs it calls ``stop`` from theirs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        # Reentrant, as a signal handler may call `stop` while its own thread is inside.
        self._changing = threading.RLock()
        self._store = Store.open(settings.database, pool_size=5)  # one per thread that uses it
        self._store.limit_outputs(settings.job.max_output_bytes)
        self._store.pin_versions(settings.run.pin)
        self._publisher = Publisher(settings.broker, settings.namespace)
        self._client = connect(settings.broker, timeout_s=BROKER_TIMEOUT_S)
        self._ownership = Ownership(settings, self._store, self._client)
        self._gauges = Gauges(settings, self._store) if settings.metrics.port is not None else None
        on_settled = self._gauges.settled if self._gauges is not None else None
        tasks = TaskSender(self._store, self._publisher, settings, tell=self._tell)
        self._store.revoke_by(tasks.revoke)
        self._store.finish_by(owed.sender(self._publisher))
        self._results = Results(settings)
        self._returns = Returns(self._store, settings, self._results, tell=self._tell)
        self._relay = Relay(
            self._store,
            self._publisher,
            settings.dispatcher,
            confirm=self._ownership.confirm,
            on_settled=on_settled,
            tasks=tasks,
        )
        self._reconciler = Reconciler(
            self._store,
            self._publisher,
            self._client,
            settings,
            stopping=self._stopping,
            claim=self._ownership.claim,
            on_settled=on_settled,
            watch=Watch(self._store, settings, self._results, stopping=self._stopping, tell=self._tell),
        )
        self._probes = Probes(stuck_after_s=settings.metrics.stuck_after_s)
        self._metrics = (
            Endpoint(settings.metrics, self._gauges.samples, pages=self._probes.pages)
            if self._gauges is not None
            else None
        )
        self._deliverer: Deliverer | None = None
        turns = {
            "relay": self._relay.turn,
            "reconciler": self._reconciler.turn,
            "returns": self._returns.turn,
            "tidy": self._tidy,
        }
        self._loops = [Loop(name, turn, stopping=self._stopping) for name, turn in turns.items()]
        self._closed = False

    def start(self) -> None:
        """Begin, in threads, and return. Does not wait for the servers to be there. Not again after ``stop``.

        Raises ``ConfigError`` when the metrics cannot be served, and ``NamespaceTaken`` when it can be seen that the
        broker's namespace belongs to another database. (Later that is as if the broker were away.)
        """
        with self._changing:
            if self._stopping.is_set():
                return
            try:
                self._ownership.claim()
            except NamespaceTaken:
                raise
            except Unreachable:
                pass  # each turn asks again
            if self._metrics is not None:
                self._metrics.start()
            self._deliverer = self._make_deliverer()
            if self._deliverer is not None:
                self._deliverer.start()
            for loop in self._loops:
                loop.start()
            self._probes.watch(*self._loops, *((self._deliverer,) if self._deliverer is not None else ()))
            self._probes.ready(self._beginning)
            log.info("dispatcher started", action="dispatcher_started", namespace=self._settings.namespace)

    @property
    def metrics(self) -> str:
        """``host:port`` where the metrics are served; empty where they are not."""
        return self._metrics.address if self._metrics is not None else ""

    def _beginning(self) -> str:
        return ", ".join(f"{loop.name} has not turned yet" for loop in self._loops if not loop.turned_once)

    def _tell(self, changed: Sequence[Settled]) -> None:
        if self._gauges is not None:
            self._gauges.settled(changed)
        tell(self._publisher, changed, now=clock.now())

    def _tidy(self) -> float:
        # A thread of its own: it may wait for the disk, and whoever rescues jobs must not.
        with suppress(StoreUnavailable):  # the others say so
            self._store.tidy()
        return TIDY_EVERY_S

    def run(self) -> None:
        """Start, and return once ``stop`` was called by a signal handler or another thread."""
        self.start()
        self._stopping.wait()
        self.stop()

    def stop(self) -> None:
        """Finish the batch at hand and end. Bounded by one turn of each part; can be called again."""
        self._stopping.set()
        self._probes.ends()
        with self._changing:
            if self._deliverer is not None:
                self._deliverer.stop()
            for loop in self._loops:
                loop.stop(None)
            if self._closed:
                return
            self._closed = True
            if self._metrics is not None:
                self._metrics.stop()
            if self._gauges is not None:
                self._gauges.close()
            self._returns.close()
            self._results.close()
            self._publisher.close()
            self._client.close()
            self._store.close()
            log.info("dispatcher stopped", action="dispatcher_stopped")

    def _make_deliverer(self) -> Deliverer | None:
        try:
            signer = load_signer(self._settings)
        except ConfigError as error:
            # The deliveries stay in SQL until a dispatcher with a key comes.
            log.warning("webhooks are not delivered", action="webhooks_off", error=error.message, fix=error.fix)
            return None
        return Deliverer(self._store, signer, self._settings.webhook, poll_s=self._settings.dispatcher.poll_s)
