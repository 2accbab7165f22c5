"""What a dispatcher tells at a scrape: how deep the queues are now, and what it has settled itself.

The depths are read when they are asked for and not before; several dispatchers tell the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import redis
import structlog

from penstock.errors import StoreUnavailable
from penstock.lane import LANES, full_name, queue_name
from penstock.settings import Settings
from penstock.store import Store
from penstock.telemetry.metrics import JOBS_IN_FLIGHT, QUEUE_DEPTH, REACHABLE
from penstock.telemetry.tally import Row, Sample, Settlements
from penstock.transport import inspect
from penstock.transport.url import connect

log = structlog.get_logger(__name__)


class Gauges:
    """``settled`` on the dispatcher's threads, ``samples`` on the endpoint's. A server that is away is no error."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._namespace = settings.namespace
        self._store = store
        # Of its own: a scrape and the reconciler must not wait for each other.
        self._client = connect(settings.broker)
        self._models: list[str] = []
        self._asked: set[tuple[str, str]] = set()
        self._settlements = Settlements()

    def settled(self, rows: Sequence[Row]) -> None:
        """Rows that the dispatcher has ended (expired, lost) or put back."""
        self._settlements.count(rows)

    def samples(self) -> Iterator[Sample]:
        """Everything, now. Models that were ever announced have series, also with nothing waiting."""
        yield from self._settlements.samples()
        try:
            self._models = sorted(self._store.models())
            yield REACHABLE, ("database",), 1
        except StoreUnavailable:
            # The models that were known stay: the broker's depths matter most when something is away.
            yield REACHABLE, ("database",), 0
        places = {
            queue_name(self._namespace, model, lane, version): (full_name(model, version), str(lane))
            for model, version in self._lines()
            for lane in LANES
        }
        try:
            depths = inspect.depths(self._client, self._namespace, places)
        except (redis.RedisError, OSError) as error:
            log.debug("depths cannot be read", action="metrics.broker", error=str(error))
            yield REACHABLE, ("broker",), 0
            return
        yield REACHABLE, ("broker",), 1
        for queue, place in places.items():
            yield QUEUE_DEPTH, place, depths[queue].ready
            yield JOBS_IN_FLIGHT, place, depths[queue].claimed

    def _lines(self) -> Iterator[tuple[str, str | None]]:
        """Models, and those of their versions that somebody has asked for since this dispatcher began to tell."""
        with suppress(StoreUnavailable):
            self._asked |= {(count.model, count.version) for count in self._store.asked() if count.version}
        yield from ((model, None) for model in self._models)
        yield from sorted(self._asked)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
