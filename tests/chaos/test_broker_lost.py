"""The broker is killed and wiped while jobs run: accepted jobs are in SQL, so none is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.audit import Audit
from tests.chaos.load import Load
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import Worker, wait_for

JOBS, ROUNDS = 1400, 2


def kill(server: RedisServer) -> None:
    """``kill -9``: the append-only file may lack the last second."""
    server.kill()


def flush(server: RedisServer) -> None:
    """``FLUSHALL``, and the scripts too: queues, claims and leases are gone, the server is not."""
    server.flushall()


def lose(server: RedisServer) -> None:
    """The machine is gone with its disk; an empty one takes its place."""
    server.flushall()
    server.kill()


@pytest.mark.parametrize("strike", [kill, flush, lose])
def test_broker_lost_while_jobs_run(
    strike: Callable[[RedisServer], None],
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
    redis_server: RedisServer,
) -> None:
    """Two strikes; jobs submitted while the broker is away are accepted and run when it is back."""
    load.pause_s = 0.01
    start_dispatcher()
    worker_factory()
    for round in range(ROUNDS):
        before = len(load.accepted)
        load.submit(JOBS // (2 * ROUNDS))
        wait_for(lambda before=before: audit.settled() > before, what="some jobs of this round to be settled")
        strike(redis_server)
        load.submit(JOBS // (2 * ROUNDS))
        redis_server.start()
        if round % 2:
            load.cancel_some(10)
    all_ended()
    audit.verify(load.accepted, expected=load.expected)


@pytest.mark.both_databases
def test_worker_and_broker_lost_together(
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
    redis_server: RedisServer,
) -> None:
    """Neither can tell what the other held; SQL can."""
    load.pause_s = 0.1  # three seconds of work, so that we see it at work
    start_dispatcher()
    worker = worker_factory()
    load.submit(500)
    wait_for(lambda: audit.settled() > 50 and audit.busy_workers(), what="work in progress")
    worker.kill()
    lose(redis_server)
    redis_server.start()
    worker_factory()
    all_ended()
    audit.verify(load.accepted, expected=load.expected)


def test_dispatcher_killed(
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
    redis_server: RedisServer,
) -> None:
    """Two dispatchers relay after an outage and one is killed: what it had leased is relayed all the same."""
    load.pause_s = 0.002
    redis_server.kill()
    load.submit(1500)
    first, _second = start_dispatcher(), start_dispatcher()
    worker_factory(ready=False)
    redis_server.start()
    wait_for(lambda: audit.settled() > 100, what="jobs to be relayed and settled")
    first.kill()
    load.submit(500)
    all_ended()
    audit.verify(load.accepted, expected=load.expected)
