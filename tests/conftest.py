"""Fixtures for all tests: real servers, real databases, real processes."""

from __future__ import annotations

import signal
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tests.fixtures import examples, redisprogram

# Shells start what runs in the background with SIGINT ignored, and so would everything that tests start be.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_configure = structlog.configure


def _uncached(**given: Any) -> None:
    _configure(**{**given, "cache_logger_on_first_use": False})


# Tests run commands in this process, and each sets up logging: no logger is to keep what one before has set, or the
# tests that listen to it hear nothing.
structlog.configure = _uncached

examples.register()
redisprogram.choose()

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.databases",
    "tests.fixtures.zygote",
    "tests.fixtures.worker",
    "tests.fixtures.plainworker",
    "tests.fixtures.client",
    "tests.fixtures.cli",
    "tests.fixtures.store",
    "tests.fixtures.runs",
    "tests.fixtures.warm",
]

#: A test that starts one of these takes seconds.
PROCESSES = frozenset({"worker_factory", "start_dispatcher", "start_plain", "nursery", "place_of_workers", "site"})
DATABASES = ("sqlite", "postgresql")


def pytest_runtest_setup() -> None:
    """Each test begins with the logging of a new process."""
    structlog.reset_defaults()


@pytest.fixture(scope="module", autouse=True)
def _kombus_own_transport() -> Iterator[None]:
    """A worker's app that was built in this process has put our transport in the place of kombu's: the strangers of the
    next module are to be strangers."""
    yield
    kombu = sys.modules.get("kombu.transport")
    if kombu is not None:
        stock = "kombu.transport.redis"
        kombu.TRANSPORT_ALIASES.update(
            redis=f"{stock}:Transport", rediss=f"{stock}:Transport", sentinel=f"{stock}:SentinelTransport"
        )
        kombu._transport_cache.clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes runs on one kind of database, by its name, unless it is marked ``both_databases``.

    ``make soak`` runs it on the other. The store's promises are tested on both, by ``tests/contract``.
    """
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        kind = params.get("database_url")
        if kind is None or item.get_closest_marker("both_databases") or not PROCESSES & set(item.fixturenames):  # type: ignore[attr-defined]
            continue
        if kind != DATABASES[zlib.crc32(item.nodeid.replace(kind, "").encode()) % 2]:
            item.add_marker(pytest.mark.soak)
