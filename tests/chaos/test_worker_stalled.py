"""A worker that is not dead but does not answer (a stopped virtual machine, a swapped-out process) and comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from penstock.settings import Settings
from tests.chaos.audit import Audit, messages_held
from tests.chaos.load import Load
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import Worker, wait_for


def test_a_worker_that_comes_back_from_the_dead_settles_nothing(
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Any],
    audit: Audit,
    load: Load,
    all_ended: Callable[..., None],
    redis_server: RedisServer,
    settings: Settings,
) -> None:
    """Its lease has run out and others have done its jobs: what it still has in hand is fenced off."""
    load.pause_s = 0.1  # four seconds of work, so that we see it at work twice
    start_dispatcher()
    zombie = worker_factory("zombie")
    load.submit(600, mixed=False)
    for _ in range(2):
        wait_for(lambda: zombie_holds(audit), what="the worker to be at work")
        zombie.signal(signal.SIGSTOP)
        held = audit.busy_workers()
        wait_for(lambda held=held: not set(held) & set(audit.busy_workers()), what="its jobs to be rescued")
        zombie.signal(signal.SIGCONT)
        before = audit.settled()
        # It is a worker like any other again: it has registered anew and goes on.
        wait_for(lambda before=before: audit.settled() > before + 30, what="it to work again")
    worker_factory("other")
    all_ended()
    audit.verify(load.accepted, expected=load.expected)
    wait_for(lambda: messages_held(redis_server, settings.namespace) == (0, 0), what="the broker to be empty")
    assert zombie.popen.poll() is None, zombie.output()[-3000:]


def zombie_holds(audit: Audit) -> bool:
    return any(instance.startswith("zombie@") for instance in audit.busy_workers())
