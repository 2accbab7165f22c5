"""Everything that an autoscaler tells others, as one service: its daemon says what it has decided, once a turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

import structlog

from penstock import clock
from penstock.autoscaler.front.board import Board, Standing
from penstock.autoscaler.front.ear import Ear
from penstock.autoscaler.front.follow import Follower
from penstock.autoscaler.front.gauges import samples
from penstock.autoscaler.front.pages import pages
from penstock.autoscaler.front.scaler import Scaler
from penstock.errors import ConfigError, StoreUnavailable
from penstock.policy.pools import place, want_announced
from penstock.settings import Settings
from penstock.store import Store
from penstock.telemetry.exposition import Endpoint
from penstock.telemetry.probes import Probes
from penstock.telemetry.tally import Sample

log = structlog.get_logger(__name__)

#: How long it is believed which models there are, seconds.
KNOWN_S = 5.0
#: A decision is too old to be told when three leaders could have followed each other without one.
LEASES = 3.0


class Desk:
    """``start``, then ``decided`` or ``follow`` once a turn, ``stop``. ``wake`` asks the daemon for a turn now.

    ``only`` are the pools that are looked after, if not all; ``given`` are models that are known before any worker has
    announced them.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        only: Collection[str] = (),
        wake: Callable[[], None] = lambda: None,
        given: Mapping[str, Mapping[str, Any]] | None = None,
        probes: Probes | None = None,
    ) -> None:
        autoscaler = settings.autoscaler
        self.board = Board(stale_s=max(LEASES * autoscaler.lease_s, LEASES * autoscaler.every_s))
        self._settings = settings
        self._store = store
        self._wake = wake
        self._given = given or {}
        self._follower = Follower(store.elastic, self.board, only=only, elsewhere=autoscaler.backend == "external")
        self._ear = Ear(settings.broker, settings.namespace, self._rung)
        self._scaler = Scaler(autoscaler.push, self.board, tuple(settings.pools))
        served = {**pages(self.board, tuple(settings.pools)), **(probes.pages if probes is not None else {})}
        self._endpoint = Endpoint(settings.metrics, self._samples, pages=served)
        self._models: Mapping[str, str] = {}
        self._known_at = float("-inf")

    def start(self) -> None:
        """Listen where the settings say. Raises ``ConfigError`` when that cannot be."""
        metrics, push = self._settings.metrics.port, self._settings.autoscaler.push.port
        if self._settings.autoscaler.backend == "external" and metrics is None and push is None:
            raise ConfigError(
                "autoscaler.backend is external, and nobody can ask what this autoscaler wants",
                fix="give it --metrics-port 9100 for KEDA's metrics-api and Prometheus, or autoscaler.push.port for"
                " KEDA's external-push",
            )
        self._endpoint.start()
        try:
            self._scaler.start()
        except ConfigError:
            self._endpoint.stop()
            raise
        self._ear.start()

    def stop(self) -> None:
        """Close all of it. Idempotent."""
        self._ear.stop()
        self._scaler.stop()
        self._endpoint.stop()

    @property
    def metrics(self) -> str:
        """``host:port`` of the page and the metrics; empty where they are not served."""
        return self._endpoint.address

    @property
    def push(self) -> str:
        """``host:port`` of the gRPC service; empty where it is not served."""
        return self._scaler.address

    def listens(self, timeout_s: float) -> bool:
        """Wait until the bells of the pools at zero are heard; for tests and benchmarks."""
        return self._ear.heard(timeout_s)

    def decided(self, standings: Mapping[str, Standing]) -> None:
        """What this process, which leads, has decided on all of its pools."""
        self.board.leads = True
        self.board.post(standings)
        self._listen()

    def follow(self) -> None:
        """Another process leads, or nobody: tell what SQL says. With the database away what is known grows old."""
        self.board.leads = False
        with suppress(StoreUnavailable):  # the daemon says so
            self._follower.turn()
        self._listen()

    def _listen(self) -> None:
        if clock.monotonic_s() - self._known_at > KNOWN_S:
            with suppress(StoreUnavailable):
                served = self._settings.served_pools()
                models = {**self._given, **self._store.models()}
                self._models = {name: place(want_announced(name, info), served).pool for name, info in models.items()}
                self._known_at = clock.monotonic_s()
        idle = set(self.board.at_zero())
        self._ear.listen({model: pool for model, pool in self._models.items() if pool in idle})

    def _rung(self, pool: str) -> None:
        self.board.ring(pool)
        self._wake()

    def _samples(self) -> Iterator[Sample]:
        return samples(self.board)
