"""Tenants beside real workers: shares, accounts, caps, and what a killed worker leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import clock
from penstock.dispatch.tenants import push
from penstock.job import Job, JobState
from penstock.lane import queue_name
from penstock.policy.fairness import Terms
from penstock.settings import Settings
from penstock.transport import inspect
from penstock.transport.tenants import used_s
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_worker import Desk

WorkerFactory = Callable[..., Worker]


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    desk = Desk(settings)
    yield desk
    desk.close()


def agree(desk: Desk, broker: redis.Redis, tenant: str, terms: Terms) -> None:
    desk.store.set_tenant(tenant, terms, now=clock.now())
    push(desk.settings, desk.store, broker)


def device_s(jobs: list[Job]) -> float:
    """What the ledgers say that these jobs have taken."""
    return sum((job.ledger.compute_s or 0.0) / (job.batch_size or 1) for job in jobs)


def test_a_flood_does_not_stand_before_a_light_tenant(desk: Desk, worker_factory: WorkerFactory) -> None:
    # Long enough that being put aside for a moment does not count as device time to speak of.
    flood = desk.submit("nap", *([0.05] * 80), tenant="flood")
    light = desk.submit("nap", *([0.05] * 8), tenant="light")
    worker_factory()
    last = max(job.ledger.started_at or 0.0 for job in desk.wait(light))
    before = [job for job in desk.wait(flood) if (job.ledger.started_at or 0.0) <= last]
    assert len(before) <= 12, "as many as the light one's, and a batch more"


def test_every_tenants_device_time_is_accounted(
    desk: Desk, worker_factory: WorkerFactory, broker: redis.Redis, settings: Settings
) -> None:
    worker_factory()
    desk.wait(desk.submit("nap", *([0.02] * 4)))  # alone: not charged, but accounted
    ids = {tenant: desk.submit("nap", *([0.02] * 10), tenant=tenant) for tenant in ("a", "b", "default")}
    jobs = {tenant: desk.wait(some) for tenant, some in ids.items()}
    wait_for(desk.broker_is_empty, what="all acknowledgements")
    used = used_s(broker, settings.namespace)
    for tenant in ("a", "b"):
        assert used[tenant] == pytest.approx(device_s(jobs[tenant]), rel=0.05)
    assert used["default"] > device_s(jobs["default"])


def test_a_cap_holds_through_the_death_of_a_worker(
    desk: Desk, worker_factory: WorkerFactory, broker: redis.Redis, settings: Settings, dispatcher: Any, tmp_path: Path
) -> None:
    agree(desk, broker, "capped", Terms(cap=3))
    ran = tmp_path / "ran"
    queue = queue_name(settings.namespace, "ledgered", "interactive")
    ids = desk.submit("ledgered", *([str(ran), n, 0.05] for n in range(40)), tenant="capped")
    first = worker_factory()
    wait_for(ran.exists, what="the first batch")
    first.kill()
    held = inspect.tenants(broker, settings.namespace, [queue])[queue]["capped"]
    assert held.claimed <= 3
    worker_factory()
    jobs = desk.wait(ids)
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert max(job.batch_size or 0 for job in jobs) <= 3
    wait_for(desk.broker_is_empty, what="the broker to hold nothing")
    (after,) = desk.wait(desk.submit("ledgered", [str(ran), 99], tenant="capped"))
    assert after.state is JobState.SUCCEEDED
