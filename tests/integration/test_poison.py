"""Messages that cannot be read, in real workers' queues: they cost nobody but themselves anything."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import redis

from penstock import clock
from penstock.job import JobState, NewJob, new_id
from penstock.lane import queue_name
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.message import encode
from tests.fixtures.poison import DEEP, as_bytes, broken, samples
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_worker import Desk, desk  # noqa: F401


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is read is the same on both."""
    return sqlite_url


def test_live_jobs_end_beside_poison_and_the_worker_does_not(
    desk: Desk,  # noqa: F811
    settings: Settings,
    worker_factory: Callable[..., Worker],
    dispatcher: Any,
    broker: redis.Redis,
):
    choice = random.Random(7)
    queue = queue_name(settings.namespace, "upper", "interactive")
    kinds = samples(settings.namespace, "upper", "unknown.task")

    def poison(count: int) -> None:
        for _ in range(count):
            broker.lpush(queue, broken(choice.choice(kinds), choice))

    poison(40)
    first = desk.submit("upper", *"abc")
    worker = worker_factory()
    poison(40)
    broker.publish(f"/0.{settings.namespace}.celery.pidbox", as_bytes(DEEP))
    broker.publish("/0.celery.pidbox", as_bytes(DEEP))
    jobs = desk.wait(first + desk.submit("upper", *"defghi"))
    assert [job.output for job in jobs] == list("ABCDEFGHI")
    wait_for(desk.broker_is_empty, what="every message to be acknowledged or set aside")

    # The message of a known job: made anew, once.
    known = one("upper", "anew")
    desk.store.insert([known])
    message = json.loads(encode(known, settings.namespace))
    broker.lpush(queue, as_bytes(message | {"properties": DEEP}))
    desk.store.mark_queued([known.id], now=clock.now())
    # One of which every message is unreadable.
    headers = {name: value for name, value in message["headers"].items() if name != "penstock"}
    canvas = {"headers": headers | {"id": new_id(), "task": ["x"]}, "properties": {}, "embed": None}
    never = one("upper", "never", id=canvas["headers"]["id"], canvas=json.dumps(canvas))
    desk.store.insert([never])
    good, bad = desk.wait([known.id, never.id])
    assert (good.state, good.output) == (JobState.SUCCEEDED, "ANEW")
    assert (bad.state, bad.error["code"]) == (JobState.FAILED, "invalid_input")
    assert "no worker could read" in bad.error["message"]
    assert broker.llen(keys.dead(settings.namespace)) > 10
    assert worker.popen.poll() is None
    assert worker.stop() == 0
    assert "Unrecoverable" not in worker.output()


def one(model: str, text: str, **fields: Any) -> NewJob:
    now = clock.now()
    return NewJob(
        **{"id": new_id(), "version": "1", "lane": "interactive", "accepted_at": now, "available_at": now}
        | {"model": model, "input": json.dumps(text)}
        | fields
    )
