"""KEDA's protocol for external scalers over gRPC: ``external`` and ``external-push`` triggers.

One thread with an event loop of its own, whatever the number of streams. KEDA asks ``GetMetricSpec`` (the target: one
worker of the metric is one worker), ``GetMetrics`` and ``IsActive`` as often as it polls, and holds a stream of
``StreamIsActive`` open, on which it is told at once that a pool without workers needs one.

How KEDA takes what goes wrong decides what is done here. An error of ``GetMetrics`` or ``IsActive`` leaves the workers
as they are (unless its ``fallback`` says otherwise), so what is not known is an error. A stream that *fails* is opened
again after a pause that doubles up to a minute, one that *ends* after two seconds: so while nothing is known a stream
says nothing, and at the end of this process it ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from penstock.autoscaler.front import wire
from penstock.autoscaler.front.board import Board, Desired
from penstock.errors import ConfigError, install
from penstock.poolsettings import PushSettings

if TYPE_CHECKING:
    import grpc

log = structlog.get_logger(__name__)

SERVICE = "externalscaler.ExternalScaler"
#: What a trigger's metadata calls the pool.
POOL = "pool"
#: A worker that is wanted is a worker: the HPA divides the metric by this.
TARGET = 1
#: How often a stream looks without having been told, seconds: a ring counts only for a while.
LOOK_S = 1.0
#: Calls at a time, streams included, and the longest request, bytes.
MOST_CALLS, MOST_BYTES = 1000, 64 * 1024
#: How long calls may take to end when this process does, seconds.
GRACE_S = 1.0

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, and not shared
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.keepalive_time_ms", 30_000),  # whoever vanished without a word is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class Scaler:
    """Construct, ``start`` once, ``stop``. ``named`` are the pools of the settings."""

    def __init__(self, settings: PushSettings, board: Board, named: Collection[str]) -> None:
        self._settings = settings
        self._board = board
        self._named = named
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._streams: set[asyncio.Event] = set()
        self._started: threading.Event = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="penstock-push-scaler", daemon=True)
        #: ``host:port`` with the port that was really taken; empty while it does not listen.
        self.address = ""

    def start(self) -> None:
        """Listen. Raises ``ConfigError`` when it cannot. Does nothing without a port in the settings."""
        if self._settings.port is None:
            return
        try:
            import grpc.aio  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"autoscaler.push.port is {self._settings.port}, and {error}", fix=install("grpcio")
            ) from error
        self._thread.start()
        self._started.wait()
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        log.info("KEDA's external-push is served", action="push.listen", address=self.address)

    def stop(self) -> None:
        """End the streams and close the port. Idempotent."""
        if self._thread.is_alive():
            self._call(self._closing.set)
            self._thread.join()
        self.address = ""

    def _call(self, function: Callable[[], object]) -> None:
        """Call something on the loop's thread, if it still runs."""
        loop = self._loop
        with suppress(RuntimeError):  # it has ended
            if loop is not None:
                loop.call_soon_threadsafe(function)

    # On the loop's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            server = await self._listen()
        except Exception as error:
            self._failed = error
            return
        unsubscribe = self._board.subscribe(lambda: self._call(self._wake))
        self._started.set()
        try:
            await self._closing.wait()
        finally:
            unsubscribe()
            self._wake()
            await server.stop(GRACE_S)

    async def _listen(self) -> grpc.aio.Server:
        import grpc

        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
        handlers: dict[str, Any] = {
            "IsActive": grpc.unary_unary_rpc_method_handler(self._is_active),
            "StreamIsActive": grpc.unary_stream_rpc_method_handler(self._stream_is_active),
            "GetMetricSpec": grpc.unary_unary_rpc_method_handler(self._metric_spec),
            "GetMetrics": grpc.unary_unary_rpc_method_handler(self._metrics),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        host, port = self._settings.host, self._settings.port
        place = f"[{host}]" if ":" in host else host
        credentials = _credentials(self._settings)
        try:
            if credentials is None:
                taken = server.add_insecure_port(f"{place}:{port}")
            else:
                taken = server.add_secure_port(f"{place}:{port}", credentials)
        except RuntimeError as error:
            raise _refused(f"{place}:{port}") from error
        if not taken:
            raise _refused(f"{place}:{port}")
        await server.start()
        self.address = f"{place}:{taken}"
        return server

    def _wake(self) -> None:
        for stream in self._streams:
            stream.set()

    async def _is_active(self, request: bytes, context: Any) -> bytes:
        answer = await self._answered(request, context)
        if answer.active is None:
            await self._unknown(context, answer)
        return wire.is_active(bool(answer.active))

    async def _stream_is_active(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        pool = await self._pool(wire.scaled_object, request, context)
        changed = asyncio.Event()
        self._streams.add(changed)
        told: bool | None = None
        try:
            while not self._closing.is_set():
                changed.clear()
                active = self._board.answer(pool).active
                if active is not None and active is not told:
                    told = active
                    yield wire.is_active(active)
                await _within(changed.wait(), LOOK_S)
        finally:
            self._streams.discard(changed)

    async def _metric_spec(self, request: bytes, context: Any) -> bytes:
        pool = await self._pool(wire.scaled_object, request, context)
        return wire.metric(_metric_of(pool), TARGET)

    async def _metrics(self, request: bytes, context: Any) -> bytes:
        pool = await self._pool(lambda data: wire.metrics_request(data)[0], request, context)
        answer = self._board.answer(pool)
        if answer.workers is None:
            await self._unknown(context, answer)
        return wire.metric(_metric_of(pool), answer.workers or 0)

    async def _answered(self, request: bytes, context: Any) -> Desired:
        return self._board.answer(await self._pool(wire.scaled_object, request, context))

    async def _pool(self, read: Callable[[bytes], wire.ScaledObject], request: bytes, context: Any) -> str:
        """The pool that is asked for; ends the call with an error where there is none."""
        import grpc

        try:
            asker = read(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request cannot be read: {error}")
            raise AssertionError("abort raises") from error
        pool = asker.metadata.get(POOL, "")
        if not pool:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f'the trigger of {asker.namespace}/{asker.name} names no pool: write `{POOL}: "gpu"` into its metadata',
            )
        known = {*self._named, *(self._board.pools or ())}
        if pool not in known and self._board.pools is not None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no pool {pool[:100]!r}; there are: {', '.join(sorted(known))}"
            )
        return pool

    async def _unknown(self, context: Any, answer: Desired) -> None:
        import grpc

        await context.abort(grpc.StatusCode.UNAVAILABLE, answer.why)


def _metric_of(pool: str) -> str:
    return f"penstock-{pool}"


async def _within(waiting: Awaitable[Any], seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting


def _refused(place: str) -> ConfigError:
    return ConfigError(
        f"gRPC cannot be served at {place}: the port is taken, or the address is not this machine's",
        fix="choose another autoscaler.push.port (PENSTOCK_AUTOSCALER__PUSH__PORT), or 0 for any free one",
    )


def _credentials(settings: PushSettings) -> Any:
    """TLS, where the settings name a certificate; with a client CA only those with a certificate of it may ask."""
    import grpc

    if settings.certificate is None or settings.key is None:
        return None
    pair = (_read(settings.key), _read(settings.certificate))
    if settings.client_ca is None:
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials([pair], root_certificates=_read(settings.client_ca), require_client_auth=True)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}",
            fix="correct autoscaler.push.certificate, .key and .client_ca: they are files in PEM form",
        ) from error
