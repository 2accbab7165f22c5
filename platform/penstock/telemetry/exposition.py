"""``/metrics`` over HTTP, for Prometheus: an endpoint that asks its source at each scrape, and may have other pages.

``prometheus_client`` writes the text; it is imported when an endpoint starts, and not before.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import structlog

from penstock.errors import ConfigError, install
from penstock.settings import MetricsSettings
from penstock.telemetry.metrics import Kind, Metric
from penstock.telemetry.pages import Page, with_pages
from penstock.telemetry.tally import Histogram, Source

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

log = structlog.get_logger(__name__)


class Endpoint:
    """One listener of this process. ``start`` it once; ``stop`` is idempotent."""

    def __init__(
        self, settings: MetricsSettings, source: Source, *, pages: Mapping[str, Page] = MappingProxyType({})
    ) -> None:
        self._settings = settings
        self._source = source
        self._pages = pages
        self._server: Any = None
        self._thread: threading.Thread | None = None
        #: ``host:port`` with the port that was really taken; empty while it does not listen.
        self.address = ""

    def start(self) -> None:
        """Listen, from a thread. Raises ``ConfigError`` when it cannot. Does nothing without a port in the settings."""
        host, port = self._settings.host, self._settings.port
        if port is None:
            return
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
        except ModuleNotFoundError as error:
            raise ConfigError(f"metrics.port is {port}, and {error}", fix=install("metrics")) from error
        registry = CollectorRegistry()
        registry.register(Collector(self._source))
        ProcessCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise ConfigError(
                f"metrics cannot be served at {_join(host, port)}: {error.strerror or error}",
                fix="give each process of this machine a port of its own: --metrics-port 9101, or 0 for any free one"
                if taken
                else "correct metrics.host (PENSTOCK_METRICS__HOST) or choose another --metrics-port",
            ) from error
        if self._pages:
            self._server.set_app(with_pages(self._server.get_app(), self._pages))
        self._thread.name = "penstock-metrics"
        self.address = _join(host, self._server.server_port)
        log.info("metrics are served", action="metrics.listen", url=f"http://{self.address}/metrics")

    def stop(self) -> None:
        """Close the port and end the thread."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        if self._thread is not None:
            self._thread.join(5.0)
        self.address = ""


class Collector:
    """The samples of a source as the families of ``prometheus_client``."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> list[Any]:
        """Nothing: otherwise the registry would ask the source already when this is registered."""
        return []

    def collect(self) -> Iterator[Family]:
        """One family per metric that has a sample."""
        families: dict[Metric, Any] = {}
        for metric, labels, value in self._source():
            family = families.get(metric)
            if family is None:
                family = families[metric] = _family(metric)
            if isinstance(value, Histogram):
                ends = [*map(str, metric.bounds), "+Inf"]
                total, counts = value.total, list(value.counts)
                family.add_metric(labels, list(zip(ends, accumulate(counts), strict=True)), total)
            else:
                family.add_metric(labels, value)
        yield from families.values()


def _family(metric: Metric) -> Any:
    from prometheus_client import core

    kinds = {
        Kind.COUNTER: core.CounterMetricFamily,
        Kind.GAUGE: core.GaugeMetricFamily,
        Kind.HISTOGRAM: core.HistogramMetricFamily,
    }
    return kinds[metric.kind](metric.name, metric.meaning, labels=metric.labels)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
