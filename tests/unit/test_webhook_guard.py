"""The guarded connect: what was judged is what is connected to, whatever a name resolves to later."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpcore2
import pytest

from penstock.errors import WebhookRefused
from penstock.webhooks.address import IPAddress
from penstock.webhooks.guard import GuardedBackend, Resolve, system_resolver

PUBLIC = "93.184.215.14"
ANSWER = [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]


class Network(httpcore2.AsyncNetworkBackend):
    """Records what is connected to; addresses in ``dead`` never answer."""

    def __init__(self, *dead: str) -> None:
        self.connected: list[str] = []
        self._dead = dead

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.connected.append(host)
        if host in self._dead:
            raise httpcore2.ConnectTimeout("silent")
        return httpcore2.AsyncMockStream(list(ANSWER))


def resolving(*answers: Sequence[str]) -> Resolve:
    """A resolver that gives one answer after the other."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[IPAddress]:
        return [ipaddress.ip_address(text) for text in left.pop(0)]

    return resolve


def post(backend: GuardedBackend, url: str, times: int = 1) -> None:
    async def run() -> None:
        for _ in range(times):
            async with httpcore2.AsyncConnectionPool(network_backend=backend) as pool:
                await pool.request("POST", url, content=b"{}")

    asyncio.run(run())


def test_a_rebound_name_gains_nothing() -> None:
    """It resolves to a public address when first asked and to loopback when asked again."""
    network = Network()
    backend = GuardedBackend(resolving([PUBLIC], ["127.0.0.1"]), inner=network)
    post(backend, "http://rebind.example/")
    with pytest.raises(WebhookRefused):
        post(backend, "http://rebind.example/")
    assert network.connected == [PUBLIC]


def test_a_name_is_resolved_once_per_connection() -> None:
    """Between the judgement and the connect nobody asks again: the address itself is connected to."""
    network = Network()
    post(GuardedBackend(resolving([PUBLIC]), inner=network), "http://once.example/")
    assert network.connected == [PUBLIC]


def test_forbidden_addresses_among_allowed_ones_are_passed_over() -> None:
    network = Network()
    post(GuardedBackend(resolving(["10.0.0.1", "::1", PUBLIC]), inner=network), "http://mixed.example/")
    assert network.connected == [PUBLIC]


def test_a_silent_address_leaves_time_for_the_next() -> None:
    network = Network("2606:4700:4700::1111")
    post(GuardedBackend(resolving(["2606:4700:4700::1111", PUBLIC]), inner=network), "http://dual.example/")
    assert network.connected == ["2606:4700:4700::1111", PUBLIC]


def test_a_name_with_countless_addresses_is_tried_a_few_times() -> None:
    addresses = [f"1.1.1.{number}" for number in range(1, 200)]
    network = Network(*addresses)
    with pytest.raises(httpcore2.ConnectTimeout):
        post(GuardedBackend(resolving(addresses), inner=network), "http://many.example/")
    assert len(network.connected) == 4


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ],
)
def test_no_spelling_of_this_machine_gets_through(host: str) -> None:
    """With the system's real resolver and a server that really listens on every interface."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        server.settimeout(0)
        with pytest.raises((WebhookRefused, httpcore2.ConnectError)):
            post(GuardedBackend(system_resolver(threads)), f"http://{host}:{server.getsockname()[1]}/")
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_name_that_does_not_resolve_is_a_connect_error() -> None:
    async def resolve(host: str, port: int) -> Sequence[IPAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(httpcore2.ConnectError, match="does not resolve"):
        post(GuardedBackend(resolve), "http://nowhere.example/")


def test_a_slow_resolver_is_bounded() -> None:
    async def resolve(host: str, port: int) -> Sequence[IPAddress]:
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> None:
        await GuardedBackend(resolve).connect_tcp("slow.example", 443, timeout=0.05)

    with pytest.raises(httpcore2.ConnectTimeout):
        asyncio.run(run())


def test_unix_sockets_are_refused() -> None:
    async def run() -> None:
        await GuardedBackend(resolving()).connect_unix_socket("/run/docker.sock")

    with pytest.raises(WebhookRefused):
        asyncio.run(run())
