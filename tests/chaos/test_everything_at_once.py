"""Soak: every fault in one run, in an order that a seed decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from penstock import StoreUnavailable
from penstock.settings import Settings
from tests.chaos.audit import Audit, messages_held
from tests.chaos.load import Load
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import Process, Worker, wait_for

STRIKES = 30


class Monkey:
    """Strikes at random. After each strike everything is started again, but nothing is waited for."""

    def __init__(
        self,
        rng: random.Random,
        *,
        start_worker: Callable[..., Worker],
        start_dispatcher: Callable[[], Process],
        redis: RedisServer,
        postgres: Any,
    ) -> None:
        self._rng = rng
        self._start_worker = start_worker
        self._start_dispatcher = start_dispatcher
        self._redis = redis
        self._postgres = postgres
        self._workers = [start_worker("m0"), start_worker("m1")]
        self._started = 2
        self._dispatchers = [start_dispatcher(), start_dispatcher()]

    def strike(self) -> str:
        """Do one of the bad things; its name."""
        deeds = [self.kill_worker, self.stop_worker, self.kill_dispatcher, self.kill_redis, self.flush_redis]
        if self._postgres is not None:
            deeds.append(self.kill_postgres)
        deed = self._rng.choice(deeds)
        deed()
        return deed.__name__

    def kill_worker(self) -> None:
        self._replace_worker(Worker.kill)

    def stop_worker(self) -> None:
        self._replace_worker(lambda worker: worker.stop())

    def kill_dispatcher(self) -> None:
        index = self._rng.randrange(len(self._dispatchers))
        self._dispatchers[index].kill()
        self._dispatchers[index] = self._start_dispatcher()

    def kill_redis(self) -> None:
        self._redis.kill()
        self._redis.start()

    def flush_redis(self) -> None:
        self._redis.flushall()

    def kill_postgres(self) -> None:
        self._postgres.kill()
        self._postgres.start()

    def _replace_worker(self, end: Callable[[Worker], object]) -> None:
        index = self._rng.randrange(len(self._workers))
        end(self._workers[index])
        self._workers[index] = self._start_worker(f"m{self._started}", ready=False)
        self._started += 1


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10, 15))
def test_everything_at_once(
    seed: int,
    settings: Settings,
    request: pytest.FixtureRequest,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Process],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
    redis_server: RedisServer,
) -> None:
    """Thirty strikes while jobs keep coming and some are cancelled."""
    load.rng = random.Random(seed)
    load.pause_s = 0.01
    on_postgres = settings.database.startswith("postgresql")
    monkey = Monkey(
        load.rng,
        start_worker=worker_factory,
        start_dispatcher=start_dispatcher,
        redis=redis_server,
        postgres=request.getfixturevalue("postgres_server") if on_postgres else None,
    )
    deeds = []
    for _ in range(STRIKES):
        load.submit(200)
        before = audit.settled()
        # Some progress between two strikes, unless the last one left nothing to make progress with.
        wait_for(lambda before=before: audit.settled() > before + 50, timeout_s=60, what=f"progress after {deeds}")
        deeds.append(monkey.strike())
        with suppress(StoreUnavailable):  # it may just have been restarted
            load.cancel_some(5)
    all_ended(timeout_s=180)
    audit.verify(load.accepted, expected=load.expected)
    wait_for(lambda: messages_held(redis_server, settings.namespace) == (0, 0), what="the broker to be empty")
