"""Connects only to addresses that are allowed: the protection from server-side request forgery.

The check sits inside the connect, between resolving and connecting, and the very address that was checked is the one
connected to. A name that is public when looked at and private when connected to (DNS rebinding) therefore gains
nothing; nor does any spelling of an address, since it is judged as the resolver understands it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import httpcore2

from penstock.errors import WebhookRefused
from penstock.webhooks.address import IPAddress, refusal

#: Turns a host and a port into addresses, best first. Raises ``OSError`` for a name that does not resolve.
Resolve = Callable[[str, int], Awaitable[Sequence[IPAddress]]]

#: A name may resolve to more addresses than anyone can try within a timeout.
_MAX_ADDRESSES = 4


def system_resolver(executor: Executor) -> Resolve:
    """The operating system's resolver, run in ``executor``: a slow name server must not stall the event loop."""

    async def resolve(host: str, port: int) -> Sequence[IPAddress]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(executor, _getaddrinfo, host, port)
        return list(dict.fromkeys(ipaddress.ip_address(str(sockaddr[0])) for *_, sockaddr in found))

    return resolve


def _getaddrinfo(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """A network backend for httpcore's pool that connects to public addresses only.

    Raises ``WebhookRefused`` when none of a name's addresses is allowed; those that are not are passed over.
    """

    def __init__(
        self,
        resolve: Resolve,
        *,
        allow_private: bool = False,
        inner: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._inner = inner or httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's interface)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, judge and connect within ``timeout`` seconds in all."""
        end = time.monotonic() + (timeout if timeout is not None else 60.0)
        try:
            async with asyncio.timeout(end - time.monotonic()):
                addresses = await self._resolve(host, port)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"{host} did not resolve in time") from error
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} does not resolve") from error
        reasons = {address: refusal(address, allow_private=self._allow_private) for address in addresses}
        allowed = [address for address, reason in reasons.items() if reason is None][:_MAX_ADDRESSES]
        if not allowed:
            raise WebhookRefused(f"{host}: {next(iter(reasons.values()), 'no address')}")
        return await self._connect(allowed, port, end, local_address, socket_options)

    async def _connect(
        self,
        addresses: Sequence[IPAddress],
        port: int,
        end: float,
        local_address: str | None,
        socket_options: Iterable[Any] | None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectTimeout("no time left to connect")
        for position, address in enumerate(addresses):
            # Equal shares of what is left, so that one silent address (often IPv6) leaves time for the others.
            share_s = (end - time.monotonic()) / (len(addresses) - position)
            if share_s <= 0:
                break
            try:
                return await self._inner.connect_tcp(
                    str(address),
                    port,
                    timeout=share_s,
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Never: a webhook goes to a network address."""
        raise WebhookRefused("a webhook cannot go to a unix socket")

    async def sleep(self, seconds: float) -> None:
        """Used by httpcore between its own connect retries (which are off)."""
        await asyncio.sleep(seconds)
