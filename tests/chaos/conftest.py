"""Chaos: real processes are killed, real servers wiped, and the witnesses are asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock import Client
from penstock.settings import Settings
from tests.chaos.audit import Audit
from tests.chaos.load import Load
from tests.fixtures.worker import Process, clean_environ, wait_for

#: How long a worker may be silent until its jobs are rescued, seconds: short, so that tests are.
LEASE_S = 2.0


@pytest.fixture
def settings(broker_url: str, database_url: str, tmp_path: Path) -> Settings:
    """A deployment that notices quickly, and forgives the loss of as many workers as a test kills."""
    return Settings.load(
        home=tmp_path / "home",
        broker_url=broker_url,
        database_url=database_url,
        models=[str(Path(__file__).parent / "witnessed.py")],
        lease={"ttl_s": LEASE_S},
        retry={"losses": 100, "kills": 100, "backoff_s": 0.05, "backoff_max_s": 0.2},
        dispatcher={"poll_s": 0.1, "publish_grace_s": 0.5, "reconcile_every_s": 0.5},
        worker={"device": "cpu", "drain_s": 20.0},
        # The tests count what was accepted, and overload the one slow worker on purpose.
        admission={"enabled": False},
    )


@pytest.fixture
def audit(settings: Settings, tmp_path: Path) -> Audit:
    """The witnesses, installed."""
    audit = Audit(settings.database, tmp_path / "ledger")
    audit.install()
    return audit


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A producer."""
    with Client(settings) as client:
        yield client


@pytest.fixture
def load(client: Client, audit: Audit) -> Load:
    """A workload, seeded."""
    return Load(client, audit.ledger, seed=1)


@pytest.fixture
def start_dispatcher(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """``start_dispatcher()`` starts a dispatcher process; all are stopped after the test."""
    started: list[Process] = []

    def start() -> Process:
        process = Process(
            [sys.executable, "-m", "penstock_cli", "dispatcher"],
            env={**clean_environ(), **settings.environ()},
            log=tmp_path / f"dispatcher-{len(started)}.log",
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.stop()
        sys.stdout.write(f"--- {process.log.name}\n{process.output()[-3000:]}\n")


@pytest.fixture
def all_ended(audit: Audit, load: Load) -> Callable[..., None]:
    """``all_ended()`` waits, within bounds, until every accepted job has ended."""

    def wait(*, timeout_s: float = 90.0) -> None:
        wait_for(
            lambda: audit.settled() >= len(load.accepted) and not audit.open(),
            timeout_s=timeout_s,
            what=f"{len(load.accepted)} jobs to end; settled {audit.settled()}, open {audit.open()}",
        )

    return wait
