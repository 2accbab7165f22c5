"""One attempt at one delivery: a POST whose every part is bounded.

Stands on httpcore's connection pool rather than on an HTTP client: there is no redirect to follow, no proxy or
certificate taken from the environment, no cookie to keep and no compressed answer to inflate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpcore2
import httpx2

from penstock import __version__
from penstock.errors import PenstockError, WebhookRefused
from penstock.settings import WebhookSettings
from penstock.webhooks.address import check_url
from penstock.webhooks.guard import GuardedBackend, Resolve, system_resolver

#: Read of an answer so that its connection can be used again; a longer one costs the connection. Nothing of it is
#: kept: what a receiver answers is not the submitter's to see.
_ANSWER_BYTES = 16 * 1024

_HEADERS = {"content-type": "application/json", "user-agent": f"penstock/{__version__}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a POST went. ``status`` is ``None`` when no answer came; ``error`` then says why, without secrets."""

    status: int | None = None
    retry_after: str | None = None
    error: str | None = None
    refused: bool = False


class Sender:
    """Posts to allowed addresses. Belongs to one event loop; close it there."""

    def __init__(
        self, settings: WebhookSettings, *, resolve: Resolve | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        # As many threads as deliveries: names that do not resolve must not queue up in front of others.
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="penstock-webhook-dns")
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls or httpx2.create_ssl_context(trust_env=False),
            max_connections=settings.concurrency,
            keepalive_expiry=5.0,
            network_backend=GuardedBackend(
                resolve or system_resolver(self._threads), allow_private=settings.allow_private
            ),
        )

    async def post(self, url: str, body: str, headers: Mapping[str, str]) -> Answer:
        """Try once, for at most ``timeout_s`` in all, however slowly the answer drips. Raises nothing."""
        try:
            check_url(url, self._settings.allow_private)
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._post(url, body.encode(), headers)
        except TimeoutError:
            return Answer(error=f"no complete answer within {self._settings.timeout_s:g} s")
        except WebhookRefused as error:
            return Answer(error=error.message, refused=True)
        except PenstockError as error:
            return Answer(error=error.message)
        except Exception as error:  # httpcore's and ssl's errors, and whatever a hostile answer provokes
            return Answer(error=f"{type(error).__name__}: {error}"[:300])

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        target = httpx2.URL(url)  # percent- and IDNA-encodes
        request_url = httpcore2.URL(
            scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
        )
        limit_s = self._settings.timeout_s
        timeouts = {"connect": limit_s, "read": limit_s, "write": limit_s, "pool": limit_s}
        async with self._pool.stream(
            "POST",
            request_url,
            headers=[*_HEADERS.items(), *headers.items()],
            content=body,
            extensions={"timeout": timeouts},
        ) as response:
            found = {name.lower(): value for name, value in response.headers}
            retry_after = found.get(b"retry-after")
            read = 0
            async for chunk in response.aiter_stream():
                read += len(chunk)
                if read > _ANSWER_BYTES:
                    break
            return Answer(
                status=response.status,
                retry_after=None if retry_after is None else retry_after.decode("latin-1"),
                error=None if 200 <= response.status < 300 else f"HTTP {response.status}",
            )

    async def aclose(self) -> None:
        """Close the connections. Look-ups that still run end by themselves."""
        await self._pool.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)
