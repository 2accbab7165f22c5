"""What only shows in large numbers: a subscriber that never reads, and half a million queued jobs. ``make soak``."""

from __future__ import annotations

import os
import time

import pytest

import penstock
from penstock import clock
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.publisher import Publisher
from penstock.transport.url import connect
from tests.fixtures.client import MODELS, MiniWorker
from tests.fixtures.patience import PATIENCE_S

#: Fewer, for a look at whether the test itself works.
SHARE = float(os.environ.get("SOAK_SHARE", "1"))


@pytest.mark.soak
def test_a_subscriber_that_never_reads_holds_nobody_up(client_settings: Settings, running: MiniWorker) -> None:
    """What is pushed to it piles up at the broker until that cuts it off; everybody else is told at once meanwhile."""
    mute = connect(client_settings.broker, timeout_s=None)
    deaf = mute.pubsub()
    deaf.subscribe(keys.events(client_settings.namespace))
    publisher = Publisher(client_settings.broker, client_settings.namespace)
    event = {"state": "running", "ids": ["x" * 32] * 3000, "model": "", "at": clock.now(), "worker": "w"}
    with penstock.Client(client_settings, models=MODELS) as client:
        slowest = 0.0
        for n in range(int(4000 * SHARE)):  # 400 MB: far beyond what a server keeps for a subscriber
            publisher.notify({}, [event])
            if n % 50 == 0:
                began = time.monotonic()
                assert client.run("echo", n, result_timeout=PATIENCE_S) == n
                slowest = max(slowest, time.monotonic() - began)
        assert slowest < PATIENCE_S / 3
        assert client.check() is None
    publisher.close()
    deaf.close()
    mute.close()


@pytest.mark.soak
def test_half_a_million_queued_jobs(client_settings: Settings, mini: MiniWorker) -> None:
    """They are taken, an interactive one passes them, lists and counts answer, and all of them end."""
    count = int(500_000 * SHARE)
    with penstock.Client(client_settings, models=MODELS) as client:
        ids: list[str] = []
        for start in range(0, count, 50_000):
            ids += [job.id for job in client.enqueue_many("echo", range(start, min(count, start + 50_000)))]
        assert len(set(ids)) == count
        assert sum(row.count for row in mini.store.counts()) == count
        mini.start()
        assert client.run("echo", "first", result_timeout=PATIENCE_S) == "first"
        assert mini.settled < count, "it did not wait for them"
        assert len(client.list(limit=100)) == 100
        began, settled = time.monotonic(), mini.settled
        while mini.settled < count + 1:
            if time.monotonic() - began > PATIENCE_S:
                assert mini.settled > settled, "nothing has ended for long"
                began, settled = time.monotonic(), mini.settled
            time.sleep(0.1)
        assert client.get(ids[-1]).status == "succeeded"
        assert sum(row.count for row in mini.store.counts()) == 0
