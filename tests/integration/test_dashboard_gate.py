"""The dashboard's gate, over sockets: real Flower without a login, opened as far as Flower goes, under a prefix."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.fixtures.cli import Penstock
from tests.fixtures.patience import PATIENCE_S

#: One path per kind of handler: pages, Flower's API, metrics, static files, what is not there, what is no path.
PATHS = (
    "/", "/workers", "/tasks", "/broker", "/task/x", "/api/workers", "/api/tasks", "/api/queues/length",
    "/api/task/result/x", "/metrics", "/healthcheck", "/static/js/flower.js", "/static/nothing", "/login", "/nothing",
)  # fmt: skip


class Wire:
    """Speaks HTTP/1.1 byte by byte: no client library would send what attackers' browsers do."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc
        self.prefix = "/flower"

    def __call__(self, method: str, path: str, *headers: str, host: str | None = "", body: str = "") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Connection: close", *headers]
        if host is not None:
            lines.insert(1, f"Host: {host or self.host}")
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        name, port = self.host.rsplit(":", 1)
        with socket.create_connection((name, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1"))
            data = b""
            while part := connection.recv(65536):
                data += part
        return Answer(data.decode("utf-8", "replace"))


class Answer:
    def __init__(self, text: str) -> None:
        head, _, self.body = text.partition("\r\n\r\n")
        first, *rest = head.split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest if ": " in line)}


@pytest.fixture(scope="module")
def wire(up: Penstock) -> Iterator[Wire]:
    env = {
        "FLOWER_UNAUTHENTICATED_API": "true",  # and so allows every origin to read it
        "FLOWER_URL_PREFIX": "flower",
        "PENSTOCK_DASHBOARD__ALLOWED_HOSTS": "flower.example.com",
    }
    running = up.start("dashboard", "--port", "0", env=env)
    try:
        yield Wire(running.says("dashboard: ").split("dashboard: ")[1].strip())
        assert running.stop() == 0, running.text
    finally:
        running.close()


def test_a_name_that_was_made_to_point_here_reads_nothing(wire: Wire) -> None:
    for path in PATHS:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            answer = wire(method, wire.prefix + path, host="rebound.evil.example")
            assert answer.status == 421, (method, path)
            assert "penstock" not in answer.body.replace("PENSTOCK", "") or method == "HEAD"
            assert answer.headers["x-frame-options"] == "DENY"
    assert wire("GET", "/flower/tasks", host="localhost, rebound.evil.example").status >= 400
    assert wire("GET", "/flower/tasks", "Host: rebound.evil.example").status >= 400  # two of them
    assert wire("GET", "/flower/tasks", host=None).status >= 400
    assert wire("GET", "http://rebound.evil.example/flower/tasks", host="rebound.evil.example").status == 421
    assert wire("GET", "/flower/tasks", "X-Forwarded-Host: localhost", host="rebound.evil.example").status == 421


def test_its_own_names_do(wire: Wire) -> None:
    port = wire.host.rsplit(":", 1)[1]
    for host in ("", f"localhost:{port}", "flower.example.com", "[::1]:1"):
        assert wire("GET", "/flower/tasks", host=host).status == 200
        assert wire("GET", "/flower/healthcheck", host=host).body == "OK"
    # A proxy that ends TLS, with the page's host or its own.
    for host in ("", "flower.example.com"):
        page = ("Origin: https://flower.example.com", "Sec-Fetch-Site: same-origin")
        answer = wire("POST", "/flower/api/task/revoke/nobody", *page, host=host)
        assert answer.status == 200, answer.body


def test_every_answer_forbids_frames_foreign_scripts_and_caches(wire: Wire) -> None:
    for path in (*(wire.prefix + path for path in PATHS), "/", "/elsewhere"):
        answer = wire("GET", path)
        headers = answer.headers
        assert headers["x-frame-options"] == "DENY", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"].partition("script-src")[2].partition(";")[0]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        if "/static/" not in path:
            assert headers["cache-control"] == "no-store", path
    kept = re.search(r'src="([^"]*flower\.js[^"]*)"', wire("GET", "/flower/tasks").body)
    assert kept and "max-age" in wire("GET", kept[1]).headers["cache-control"]


def test_pages_of_other_sites_change_nothing_and_read_nothing(wire: Wire) -> None:
    for foreign in (("Origin: http://evil.example",), ("Origin: null",), ("Sec-Fetch-Site: cross-site",)):
        for path in ("task/revoke/x", "worker/shutdown/x", "task/send-task/penstock.double", "task/rate-limit/x"):
            assert wire("POST", f"{wire.prefix}/api/{path}", *foreign).status == 403
        for path in ("/api/tasks", "/metrics"):
            answer = wire("GET", wire.prefix + path, *foreign)
            assert answer.status == 403 and "penstock.double" not in answer.body
    visit = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
    assert wire("GET", "/flower/tasks", *visit).status == 200  # a link
    handshake = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
    assert wire("GET", "/flower/anything", *handshake, "Origin: http://evil.example").status == 403
