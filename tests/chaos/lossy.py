"""A proxy that loses answers: the server has done what it was asked, and the one who asked never hears of it."""

from __future__ import annotations

import random
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Relay(socketserver.BaseRequestHandler):
    server: LossyProxy

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as upstream:
            upstream.connect(str(self.server.target))
            other = {self.request: upstream, upstream: self.request}
            while not self.server.closing.is_set():
                readable, _, _ = select.select(list(other), [], [], 0.2)
                for source in readable:
                    data = source.recv(65536)
                    if not data or (source is upstream and self.server.loses()):
                        return  # both ends are closed; what was not forwarded is lost
                    other[source].sendall(data)


class LossyProxy(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Between a listening unix socket and ``target``. ``loss`` is the share of answers that are lost; it may change."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listen: Path, target: Path, *, rng: random.Random) -> None:
        self.target = target
        self.closing = threading.Event()
        self.loss = 0.0
        self.lost = 0
        self._rng = rng
        self._lock = threading.Lock()
        super().__init__(str(listen), _Relay)

    def loses(self) -> bool:
        """Whether the answer at hand is lost."""
        with self._lock:
            lost = self._rng.random() < self.loss
            self.lost += lost
            return lost

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that ends in the middle of a write is what this is about."""


@contextmanager
def lossy(listen: Path, target: Path, *, rng: random.Random) -> Iterator[LossyProxy]:
    """A running proxy."""
    with LossyProxy(listen, target, rng=rng) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), name="lossy-proxy")
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()
