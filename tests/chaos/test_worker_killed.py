"""``kill -9`` of workers while they work: nothing is lost, nothing is settled twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from penstock import JobState
from penstock.settings import Settings
from tests.chaos.audit import Audit, messages_held
from tests.chaos.load import Load
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import Worker, wait_for

JOBS, KILLS = 3000, 12


class Fleet:
    """Workers that are replaced when they are killed."""

    def __init__(self, start: Callable[..., Worker], size: int, rng: random.Random) -> None:
        self._start = start
        self._rng = rng
        self._started = 0
        self.kills = 0
        self.workers = [self._new(ready=True) for _ in range(size)]

    def _new(self, *, ready: bool = False) -> Worker:
        self._started += 1
        return self._start(f"fleet{self._started}", ready=ready)

    def kill_one_at_work(self, busy: Callable[[], list[str]]) -> None:
        """Kill a worker that holds running jobs, at a random moment of its batch; start another in its place."""

        def victims() -> list[Worker]:
            names = {instance.split("@")[0] for instance in busy()}
            return [worker for worker in self.workers if worker.name in names and worker.popen.poll() is None]

        victim = self._rng.choice(wait_for(victims, what="a worker that is at work"))
        # Not a wait for anything: the kill shall fall into any part of the batch, the claim or the commit.
        threading.Event().wait(self._rng.uniform(0, 0.03))
        victim.kill()
        self.kills += 1
        self.workers[self.workers.index(victim)] = self._new()


@pytest.mark.both_databases
@pytest.mark.timeout(300)
def test_killed_at_random_moments(
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
    redis_server: RedisServer,
    settings: Settings,
    jobs: int = JOBS,
    kills: int = KILLS,
) -> None:
    """A dozen kills while 3,000 jobs run: each job ends once, as it should, and the broker keeps no message of it."""
    load.pause_s = 0.01
    start_dispatcher()
    fleet = Fleet(worker_factory, 2, load.rng)
    load.submit(jobs)
    load.cancel_some(50)
    # The kills are spread over the whole run: each waits for its share of progress.
    for threshold in sorted(load.rng.sample(range(jobs // 50, jobs - jobs // 10), kills)):
        wait_for(lambda threshold=threshold: audit.settled() >= threshold, timeout_s=60, what=f"{threshold} settled")
        fleet.kill_one_at_work(audit.busy_workers)
    all_ended()
    ended = audit.verify(load.accepted, expected=load.expected)
    assert ended[JobState.SUCCEEDED] > jobs * 0.9
    # The kills did hit work: without that, the rest would say nothing.
    again = sum(1 for attempt in audit.attempts().values() if attempt > 1)
    assert (fleet.kills, again >= kills) == (kills, True)
    wait_for(lambda: messages_held(redis_server, settings.namespace) == (0, 0), what="the broker to be empty")


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 7))
def test_killed_at_random_moments_soak(
    seed: int,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
    redis_server: RedisServer,
    settings: Settings,
) -> None:
    """Twenty kills in 5,000 jobs, with other seeds."""
    load.seed, load.rng = seed, random.Random(seed)
    test_killed_at_random_moments(
        worker_factory, start_dispatcher, audit, load, all_ended, redis_server, settings, jobs=5000, kills=20
    )
