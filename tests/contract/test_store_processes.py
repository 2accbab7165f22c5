"""Many processes write at once, and some are killed: nobody sees "database is locked", nothing is half done."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator

import pytest

from penstock.job import JobState
from penstock.store import Store
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import W, add, register

#: Inserts jobs in chunks and settles everything that it can claim; prints how many it inserted and settled.
WRITER = """
    import sys
    from penstock.job import JobState, NewJob, Outcome, new_id
    from penstock.store import Store

    url, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = Store.open(url)
    store.register_worker(name, name=name, pool="p", lease_until=1e12, now=1.0, info={})
    print("ready", flush=True)
    sys.stdin.readline()
    inserted = settled = 0
    for number in range(rounds):
        jobs = [
            NewJob(id=new_id(), model="m", version="1", input="1", lane="background", accepted_at=1.0, available_at=1.0)
            for _ in range(20)
        ]
        inserted += len(store.insert(jobs))
        due = [job.id for job in store.take_due(now=100.0 + number, limit=20, lease_s=0.5)]
        store.mark_queued(due, now=2.0)
        claimed = store.claim(due, worker=name, now=3.0).claimed
        done = JobState.SUCCEEDED
        outcomes = [Outcome(id=id, attempt=c.attempt, state=done, output="1") for id, c in claimed.items()]
        settled += len(store.settle(outcomes, worker=name, now=4.0))
        print(inserted, settled, flush=True)
"""


class Writer:
    def __init__(self, url: str, name: str, rounds: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), url, name, str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> tuple[int, int]:
        out, err = self.process.communicate(timeout=100)
        assert self.process.returncode == 0, err
        inserted, settled = out.splitlines()[-1].split()
        return int(inserted), int(settled)


@pytest.fixture
def start(database_url: str) -> Iterator[object]:
    started: list[Writer] = []

    def start(count: int, rounds: int) -> list[Writer]:
        writers = [Writer(database_url, f"p{number}", rounds) for number in range(count)]
        started.extend(writers)
        for writer in writers:
            writer.ready()
        for writer in writers:
            writer.go()
        return writers

    yield start
    for writer in started:
        if writer.process.poll() is None:
            writer.process.kill()
        writer.process.communicate()


def test_many_processes_write_at_once(store: Store, start) -> None:  # type: ignore[no-untyped-def]
    results = [writer.result() for writer in start(5, 40)]
    states = Counter(job.state for job in store.list(limit=100_000))
    assert sum(states.values()) == sum(inserted for inserted, _ in results) == 5 * 40 * 20
    assert states[JobState.SUCCEEDED] == sum(settled for _, settled in results)


def test_processes_that_are_killed_leave_nothing_half_done(store: Store, start) -> None:  # type: ignore[no-untyped-def]
    """``kill -9`` at arbitrary points: each chunk is stored or is not, and the others are not held up."""
    for _ in range(3):
        writers = start(3, 10_000)
        for writer in writers:
            assert writer.process.stdout is not None
            for _ in range(3):
                assert writer.process.stdout.readline(), writer.process.communicate()[1]
            writer.process.kill()
            writer.process.wait(PATIENCE_S)
    jobs = store.list(limit=100_000)
    assert len(jobs) % 20 == 0
    assert len(jobs) >= 3 * 3 * 3 * 20
    register(store, W)
    # The next writer does not wait for the dead.
    add(store, 5)
    assert store.rescue(now=1e13, max_losses=9) is not None
    assert all(job.state is not JobState.RUNNING for job in store.list(limit=100_000))
