"""Fixtures for all tests: real servers, real databases, real processes."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# Shells start what runs in the background with SIGINT ignored, and so would everything that tests start be.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long one example takes says how busy the machine is, not whether the code is right. What hypothesis has set in CI
# stays. Fewer examples than its hundred: what needs more says so.
settings.register_profile(
    "penstock", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("penstock")

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.databases",
    "tests.fixtures.worker",
    "tests.fixtures.client",
    "tests.fixtures.cli",
    "tests.fixtures.store",
]
