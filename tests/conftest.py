"""Fixtures for all tests: real servers, real databases, real processes."""

from __future__ import annotations

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.databases",
    "tests.fixtures.worker",
    "tests.fixtures.client",
    "tests.fixtures.cli",
    "tests.fixtures.store",
]
