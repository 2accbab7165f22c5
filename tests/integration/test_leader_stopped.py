"""A leader whose process is stopped for longer than its lease, and goes on: nothing that it does has an effect."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from penstock.clock import monotonic_s
from penstock.errors import StoreTimeout
from penstock.policy.leadership import may_lead
from penstock.policy.liveness import Seen
from penstock.store import Store
from penstock.store.elastic import AUTOSCALER, Term
from tests.fixtures.worker import Process, clean_environ, wait_for

LEASE_S = 1.0
#: The leader's exit statuses.
DEPOSED, REFUSED = 3, 4

#: Leads, beats, and wants one more worker in each turn. Told to, it stops in the middle of a transaction, behind the
#: question whether it leads.
LEADER = """
import os, signal, sys, time
from pathlib import Path
from penstock.errors import Deposed, StoreUnavailable
from penstock.store import Store
from penstock.store.elastic import AUTOSCALER, NewSlot, leader

url, stop = sys.argv[1], Path(sys.argv[2])
store = Store.open(url)
term = store.elastic.lead(AUTOSCALER, "first", {})
asked = leader.insist
was_stopped = False

def insist(*given):
    global was_stopped
    asked(*given)
    if stop.exists():
        was_stopped = True
        os.kill(os.getpid(), signal.SIGSTOP)

leader.insist = insist
while True:
    try:
        store.elastic.change(term, add=[NewSlot(pool="gpu")], now=time.time())
    except Deposed:
        sys.exit(3)
    except StoreUnavailable:
        sys.exit(4)
    if was_stopped:
        sys.exit(0)
    store.elastic.beat(term)
    time.sleep(0.01)
"""


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


@pytest.fixture
def stop(tmp_path: Path) -> Path:
    """A file that has the leader stop in the middle of a transaction."""
    return tmp_path / "stop"


@pytest.fixture
def leader(store: Store, database_url: str, stop: Path, tmp_path: Path) -> Iterator[Process]:
    """A leader that has begun to want workers."""
    command = [sys.executable, "-c", LEADER, database_url, str(stop)]
    process = Process(command, env=clean_environ(), log=tmp_path / "leader.log")
    wait_for(lambda: len(store.elastic.slots()) > 2, what="a leader that leads")
    yield process
    process.kill()


def is_stopped(process: Process) -> bool:
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def take_over(store: Store) -> tuple[int, float]:
    """As a candidate does: the new epoch, and how long it took, seconds."""
    seen: Mapping[str, Seen] = {}
    began = monotonic_s()

    def look() -> Term | None:
        nonlocal seen
        leaders = store.elastic.leaderships()
        seen, may = may_lead(seen, leaders.values(), lease_s=LEASE_S, now=monotonic_s())
        try:
            return store.elastic.lead(AUTOSCALER, "second", leaders) if may else None
        except StoreTimeout:
            return None  # the stopped one holds the row: the server ends its session soon

    term: Term = wait_for(look, what="the candidate to lead")
    return term.epoch, monotonic_s() - began


def test_one_that_is_stopped_and_goes_on_writes_nothing(store: Store, leader: Process) -> None:
    leader.signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(leader), what="the leader to be stopped")
    epoch, took_s = take_over(store)
    assert epoch == 2
    assert took_s >= LEASE_S
    before = store.elastic.slots()
    leader.signal(signal.SIGCONT)
    assert leader.wait() == DEPOSED, leader.output()
    assert store.elastic.slots() == before
    leadership = store.elastic.leadership()
    assert leadership is not None and (leadership.holder, leadership.epoch) == ("second", 2)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_one_that_is_stopped_in_the_middle_of_a_transaction(store: Store, leader: Process, stop: Path) -> None:
    """It has asked, and leads. The server ends its session, so that what it was about to write is not written."""
    stop.touch()
    wait_for(lambda: is_stopped(leader), what="the leader to stop")
    epoch, _ = take_over(store)
    assert epoch == 2
    before = store.elastic.slots()
    leader.signal(signal.SIGCONT)
    assert leader.wait() == REFUSED, leader.output()
    assert store.elastic.slots() == before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_only_writer_of_a_file_cannot_be_deposed_meanwhile(store: Store, leader: Process, stop: Path) -> None:
    """SQLite's writer is alone: until it goes on, nobody can take over, and then it still leads."""
    stop.touch()
    wait_for(lambda: is_stopped(leader), what="the leader to stop")
    before = store.elastic.slots()
    with pytest.raises(StoreTimeout):
        store.elastic.lead(AUTOSCALER, "second", store.elastic.leaderships())
    leader.signal(signal.SIGCONT)
    assert leader.wait() == 0, leader.output()
    assert len(store.elastic.slots()) == len(before) + 1
