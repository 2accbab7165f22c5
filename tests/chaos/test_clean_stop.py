"""SIGTERM under load: a clean stop costs nothing, not even a second execution."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from penstock.clock import monotonic_s
from penstock.job import JobState
from penstock.settings import Settings
from tests.chaos.audit import Audit, messages_held
from tests.chaos.conftest import LEASE_S
from tests.chaos.load import Load
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import Worker, wait_for

JOBS, STOPS = 1000, 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_none_runs_twice_after_a_clean_stop(
    number: signal.Signals,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
) -> None:
    """Three workers in turn are stopped while they work. Each leaves with status 0, holding nothing."""
    load.pause_s = 0.05  # three seconds of work: some is left for each of them, however late we look
    start_dispatcher()
    load.submit(JOBS, mixed=False)
    for stop in range(STOPS):
        worker = worker_factory(f"stopped{stop}")
        before = audit.settled()
        wait_for(lambda before=before: audit.settled() > before and audit.busy_workers(), what="work in progress")
        worker.signal(number)
        assert worker.wait() == 0, worker.output()[-3000:]
        assert "Traceback" not in worker.output()
        assert audit.busy_workers() == [], "a stopped worker left jobs running"
        # What it had claimed and not started is at the broker again, not with a dead consumer.
        assert not worker.registrations()
    worker_factory("last")
    all_ended()
    audit.verify(load.accepted, expected=load.expected)
    executions = audit.executions()
    assert len(executions) == JOBS
    twice = {key: count for key, count in executions.items() if count != 1}
    assert not twice, f"{len(twice)} jobs ran more than once: {list(twice.items())[:5]}"


def test_what_was_claimed_goes_back_at_once(
    worker_factory: Callable[..., Worker], audit: Audit, load: Load, redis_server: RedisServer, settings: Settings
) -> None:
    """A stopped worker's jobs are ready for others when it has left: nobody waits for a lease to run out."""
    load.pause_s = 0.05
    load.submit(3000, mixed=False)  # ten seconds of work
    worker = worker_factory("leaver")
    wait_for(lambda: audit.settled() > 0 and audit.busy_workers(), what="work in progress")
    started = monotonic_s()
    assert worker.stop() == 0
    assert monotonic_s() - started < 10 * LEASE_S
    left = sum(1 for state in audit.states().values() if state is not JobState.SUCCEEDED)
    assert left > 0, "the worker finished before it was stopped: the test says nothing"
    assert messages_held(redis_server, settings.namespace) == (left, 0)


def test_a_second_signal_does_not_lose_anything(
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
) -> None:
    """An impatient operator: SIGTERM, then SIGQUIT (Celery's cold shutdown). Jobs may run again; none is lost."""
    load.pause_s = 0.05
    start_dispatcher()
    load.submit(1000, mixed=False)
    worker = worker_factory("hurried")
    wait_for(lambda: audit.settled() > 0 and audit.busy_workers(), what="work in progress")
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGQUIT)
    worker.wait()
    worker_factory("successor")
    all_ended()
    audit.verify(load.accepted, expected=load.expected)
