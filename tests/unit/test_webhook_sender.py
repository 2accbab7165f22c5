"""One POST over real sockets: every part of it is bounded."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from penstock.settings import WebhookSettings
from penstock.webhooks.sender import Answer, Sender
from tests.fixtures.certificate import certificate_of
from tests.fixtures.patience import PATIENCE_S

BODY = '{"a":"ü"}'


@contextmanager
def server(
    talk: Callable[[socket.socket], None], *, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[bytes]]]:
    """A raw server on loopback: reads one request, then lets ``talk`` answer."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def serve() -> None:
            connection, _ = listening.accept()
            connection.settimeout(10)
            # The sender may hang up.
            with suppress(OSError), tls.wrap_socket(connection, server_side=True) if tls else connection as connection:
                request = b""
                while not request.endswith(BODY.encode()):  # head and body may come in two pieces
                    if not (piece := connection.recv(65536)):
                        return
                    request += piece
                requests.append(request)
                talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/hook?token=t0p", requests
        finally:
            with suppress(OSError), socket.create_connection(listening.getsockname(), 1):
                pass  # ends a wait for a connection that nobody made
            thread.join(PATIENCE_S)


def answering(text: str) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(text.replace("\n", "\r\n").encode())


def post(url: str, *, timeout_s: float = 5.0, allow_private: bool = True) -> Answer:
    async def run() -> Answer:
        sender = Sender(WebhookSettings(timeout_s=timeout_s, allow_private=allow_private))
        try:
            return await sender.post(url, BODY, {"webhook-id": "msg_1"})
        finally:
            await sender.aclose()

    return asyncio.run(run())


def test_an_answer() -> None:
    with server(answering("HTTP/1.1 204 No Content\n\n")) as (url, requests):
        assert post(url) == Answer(status=204)
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook?token=t0p HTTP/1.1\r\n")
    assert b"content-type: application/json" in head.lower()
    assert b"webhook-id: msg_1" in head.lower()
    assert b"user-agent: penstock/" in head.lower()
    assert body == BODY.encode()


def test_an_error_and_its_retry_after() -> None:
    with server(answering("HTTP/1.1 503 Busy\nRetry-After: 7\ncontent-length: 0\n\n")) as (url, _):
        assert post(url) == Answer(status=503, retry_after="7", error="HTTP 503")


def test_redirects_are_not_followed() -> None:
    with server(answering("HTTP/1.1 200 OK\ncontent-length: 0\n\n")) as (target, reached):
        redirect = f"HTTP/1.1 307 Elsewhere\nlocation: {target}\ncontent-length: 0\n\n"
        with server(answering(redirect)) as (url, _):
            assert post(url).status == 307
        assert reached == []


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(answering("HTTP/1.1 200 OK\ncontent-length: 0\n\n")) as (proxy, reached):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        with server(answering("HTTP/1.1 200 OK\ncontent-length: 0\n\n")) as (url, _):
            assert post(url).status == 200
        assert reached == []


def test_an_answer_that_drips_is_cut_off() -> None:
    """Each byte comes in time, the whole does not: the limit is on the delivery, not on one read."""
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not stop.wait(0.02):
            connection.sendall(b".")

    with server(drip) as (url, _):
        begin = time.monotonic()
        answer = post(url, timeout_s=0.3)
        stop.set()
    assert answer.status is None
    assert answer.error == "no complete answer within 0.3 s"
    assert time.monotonic() - begin < 3


def test_silence_is_cut_off() -> None:
    done = threading.Event()
    with server(lambda connection: assert_(done.wait(PATIENCE_S))) as (url, _):
        answer = post(url, timeout_s=0.2)
        done.set()
    assert answer.status is None


def assert_(value: bool) -> None:
    assert value


def test_an_endless_answer_is_not_read() -> None:
    """The status counts; what follows is neither kept nor waited for."""
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            sent += connection.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    with server(flood) as (url, _):
        assert post(url).status == 200
    assert sent < 50_000_000


@pytest.mark.parametrize(
    "talk",
    [
        answering("SSH-2.0-OpenSSH_9\n"),
        answering("HTTP/1.1 9999 What\n\n"),
        answering("HTTP/1.1 200 OK\ncontent-length: banana\n\n"),
        answering("HTTP/1.1 200 OK\n" + "x-header: " + "y" * 300_000 + "\n\n"),
        lambda connection: None,
    ],
    ids=["ssh", "status", "length", "huge header", "hang up"],
)
def test_nonsense_is_an_error_and_nothing_more(talk: Callable[[socket.socket], None]) -> None:
    with server(talk) as (url, _):
        answer = post(url)
    assert answer.status is None
    assert answer.error
    assert "t0p" not in answer.error


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    answer = post(f"http://127.0.0.1:{port}/")
    assert answer.status is None
    assert not answer.refused


def test_private_addresses_are_refused_unless_allowed() -> None:
    with server(answering("HTTP/1.1 200 OK\ncontent-length: 0\n\n")) as (url, reached):
        assert post(url, allow_private=False).refused
        assert post(url.replace("http:", "https:"), allow_private=False).refused
        assert post(url.replace("http://127.0.0.1", "https://localhost"), allow_private=False).refused
    assert reached == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `hook.example`, and its key."""
    return certificate_of("hook.example", tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize(
    ("host", "trusted", "status"),
    [("hook.example", True, 200), ("other.example", True, None), ("hook.example", False, None)],
    ids=["its name", "another name", "unknown authority"],
)
def test_tls_verifies_the_name_although_an_address_is_connected_to(
    certificate: tuple[Path, Path], host: str, trusted: bool, status: int | None
) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(*certificate)
    ours = ssl.create_default_context(cafile=str(certificate[0])) if trusted else None

    async def resolve(name: str, port: int) -> list[ipaddress.IPv4Address]:
        return [ipaddress.IPv4Address("127.0.0.1")]

    async def run(url: str) -> Answer:
        sender = Sender(WebhookSettings(allow_private=True), resolve=resolve, tls=ours)
        try:
            return await sender.post(url, BODY, {})
        finally:
            await sender.aclose()

    with server(answering("HTTP/1.1 200 OK\ncontent-length: 0\n\n"), tls=theirs) as (url, requests):
        answer = asyncio.run(run(url.replace("http://127.0.0.1", f"https://{host}")))
    assert answer.status == status
    assert len(requests) == (1 if status else 0)
    assert status or "certificate" in str(answer.error).lower()
