"""A small receiver that verifies what it gets: behind ``penstock webhook listen``, for trying callbacks out.

Answers 204 to a message whose signature is valid and 401 to any other. Remembers the last message ids, since a
delivery may come twice. Not meant to face the internet.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from penstock.errors import ConfigError, SignatureInvalid
from penstock.webhooks.signing import Signer

#: Larger bodies than Standard Webhooks allows, and then some, are refused unread.
MAX_BODY_BYTES = 1 << 20
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request. ``event`` is the decoded body when the signature is valid, else ``problem`` says why not."""

    id: str | None
    event: Any = None
    problem: str | None = None
    repeated: bool = False

    @property
    def verified(self) -> bool:
        """Whether it carries a valid signature."""
        return self.problem is None


class Listener:
    """An HTTP server in a thread. ``on_message`` is called from request threads, one call at a time.

    ``on_message`` may return a status to answer with, in place of 204: to see how retries look, for instance.
    """

    def __init__(
        self,
        signer: Signer,
        on_message: Callable[[Received], int | None],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._signer = signer
        self._on_message = on_message
        self._address = (host, port)
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where to send webhooks, once started."""
        assert self._server is not None, "not started"
        host, port = self._server.server_address[:2]
        host = str(host)
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def start(self) -> None:
        """Bind and serve. Raises ``ConfigError`` when the port is taken."""
        listener = self

        class Handler(_Handler):
            def receive(self, body: bytes) -> int:
                return listener._receive(body, {name.lower(): value for name, value in self.headers.items()})

        try:
            self._server = _Server(self._address, Handler)
        except OSError as error:
            host, port = self._address
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", fix="choose another port") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="penstock-listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and close the port. Can be called again."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            server.server_close()

    def __enter__(self) -> Listener:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _receive(self, body: bytes, headers: dict[str, str]) -> int:
        message_id = headers.get("webhook-id")
        try:
            event = self._signer.verify(body, headers)
        except SignatureInvalid as error:
            with self._lock:
                self._on_message(Received(id=message_id, problem=error.message))
            return 401
        with self._lock:
            repeated = message_id in self._seen
            self._seen[str(message_id)] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            return self._on_message(Received(id=message_id, event=event, repeated=repeated)) or 204


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that hangs up is not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds of silence before a connection is given up
    protocol_version = "HTTP/1.1"

    def receive(self, body: bytes) -> int:
        raise NotImplementedError

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._answer(413 if length.isdigit() else 411)
            return
        self._answer(self.receive(self.rfile.read(int(length))))

    def _answer(self, status: int) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the callback prints what matters."""
