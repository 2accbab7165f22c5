"""The wall clock is set forward and back under a dispatcher, by a clock that the test owns: real store, real broker.

Leases are judged by the dispatcher's monotonic clock, so no jump takes a living worker's jobs away or leaves a dead
one's where they are. What was due when it came is due after any jump; what somebody delayed, and deadlines, go by the
wall clock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import clock
from penstock.dispatch.reconciler import Reconciler
from penstock.dispatch.relay import Relay
from penstock.job import JobState
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.publisher import Publisher
from penstock.transport.url import connect
from tests.fixtures.store import T0, make_job

TTL_S = 30.0
HOUR_S = 3600.0
JUMPS = [-HOUR_S, 1e6]


class Clocks:
    """Both clocks of the dispatcher's machine. ``jump`` sets the wall clock; time passes on both."""

    def __init__(self) -> None:
        self.wall, self.mono = T0, 1000.0

    def now(self) -> float:
        return self.wall

    def monotonic_s(self) -> float:
        return self.mono

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.mono += seconds

    def jump(self, seconds: float) -> None:
        self.wall += seconds


class Desk:
    """A dispatcher's services, turned by hand."""

    def __init__(self, settings: Settings, clocks: Clocks) -> None:
        self.clocks = clocks
        self.store = Store.open(settings.database)
        self.publisher = Publisher(settings.broker, settings.namespace)
        self.redis = connect(settings.broker, timeout_s=60.0)
        self.relay = Relay(self.store, self.publisher, settings.dispatcher)
        self.reconciler = Reconciler(self.store, self.publisher, self.redis, settings, stopping=threading.Event())

    def runs(self, seconds: float) -> None:
        """Let time pass, with turns on the way."""
        for _ in range(int(seconds)):
            self.clocks.passes(1.0)
            self.relay.turn()
            self.reconciler.turn()

    def state(self, id: str) -> JobState:
        return self.store.get(id).state

    def close(self) -> None:
        self.redis.close()
        self.publisher.close()
        self.store.close()


@pytest.fixture
def desk(broker_url: str, database_url: str, namespace: str, tmp_path: Path) -> Iterator[Desk]:
    clocks = Clocks()
    settings = Settings.load(
        home=tmp_path, broker_url=broker_url, database_url=database_url, namespace=namespace, models=[],
        lease={"ttl_s": TTL_S}, dispatcher={"reconcile_every_s": 1.0},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", clocks.now)
        patch.setattr(clock, "monotonic_s", clocks.monotonic_s)
        desk = Desk(settings, clocks)
        yield desk
        desk.close()


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_jump_takes_no_living_workers_jobs_and_leaves_no_dead_ones(desk: Desk, jump_s: float) -> None:
    """The workers are on other machines, whose clocks are right."""
    theirs = T0
    for name in ("alive", "dead"):
        desk.store.register_worker(name, name=name, pool="default", lease_until=theirs + TTL_S, now=theirs, info={})
    jobs = {name: make_job(deadline_at=None) for name in ("alive", "dead")}
    desk.store.insert(list(jobs.values()))
    desk.store.mark_queued([job.id for job in jobs.values()], now=T0)
    for name, job in jobs.items():
        assert desk.store.claim([job.id], worker=name, now=theirs).claimed
    desk.clocks.jump(jump_s)
    for _ in range(8):  # 80 s
        theirs += 10.0
        assert desk.store.heartbeat("alive", lease_until=theirs + TTL_S, now=theirs), "it has lost its lease"
        desk.runs(10.0)
    assert desk.state(jobs["alive"].id) is JobState.RUNNING
    assert desk.state(jobs["dead"].id) in (JobState.ACCEPTED, JobState.QUEUED)


@pytest.mark.parametrize("jump_s", JUMPS)
def test_what_is_submitted_after_a_jump_is_published(desk: Desk, jump_s: float) -> None:
    """And what was accepted before it and never published; what was delayed waits."""
    before, delayed = make_job(), make_job(available_at=T0 + 60.0)
    desk.store.insert([before, delayed])
    desk.clocks.jump(jump_s)
    after = make_job(accepted_at=clock.now(), available_at=clock.now())
    desk.store.insert([after])
    desk.runs(10.0)
    assert desk.state(after.id) is JobState.QUEUED
    assert desk.state(before.id) is JobState.QUEUED
    assert desk.state(delayed.id) is (JobState.QUEUED if jump_s > 0 else JobState.ACCEPTED)


def test_a_callback_that_was_due_before_a_jump_is_sent_and_a_later_try_waits(desk: Desk) -> None:
    jobs = [make_job(webhook=f"https://example.com/{n}", deadline_at=T0 + 1.0) for n in range(2)]
    desk.store.insert(jobs)
    desk.clocks.passes(2.0)
    desk.store.expire(now=clock.now(), limit=10)
    (tried,) = desk.store.take_deliveries(now=clock.now(), limit=1, lease_s=1.0)
    desk.store.record_delivery(
        tried.id, now=clock.now(), outcome="retry", next_at=clock.now() + 60.0, status_code=500, error=None
    )
    desk.clocks.jump(-HOUR_S)
    desk.runs(10.0)
    (due,) = desk.store.take_deliveries(now=clock.now(), limit=10, lease_s=1.0)
    assert due.id != tried.id
