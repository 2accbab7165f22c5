"""Fixtures for all tests: real servers, real databases, real processes."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long one example takes says how busy the machine is, not whether the code is right. (In CI hypothesis has a
# profile of its own, which says the same.)
settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if settings().deadline is not None:
    settings.load_profile("penstock")

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.databases",
    "tests.fixtures.worker",
    "tests.fixtures.client",
    "tests.fixtures.cli",
    "tests.fixtures.store",
]
