"""``/healthz`` and ``/readyz`` of real processes: while they load, are busy, are cut off, are stuck, and end."""

from __future__ import annotations

import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from penstock.app import make_celery
from penstock.dispatch.daemon import Dispatcher
from penstock.job import JobState
from penstock.processes.agreed import EXIT_WEDGED
from penstock.settings import Settings
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.ports import free_port
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_worker import Desk

WorkerFactory = Callable[..., Worker]

#: After so long at one turn a thread is stuck, here, seconds: more than any wait for a server that refuses.
STUCK_S = 3.0

#: A model whose weights come when they may, and a remote command that keeps the hub's thread.
MODELS = '''
import time
from pathlib import Path
from celery.worker.control import control_command
from penstock import Batching, Model

class Gated(Model):
    """Waits for the files that its items name; at its start for one of its own."""
    name = "gated"
    batching = Batching(max_size=8)
    def load(self, device):
        while not Path({gate!r}).exists():
            time.sleep(0.01)
    def predict(self, batch):
        while not all(Path(path).exists() for path in batch):
            time.sleep(0.01)
        return batch

@control_command()
def keep_the_hub(state):
    while not Path({hub!r}).exists():
        time.sleep(0.01)
    return {{"ok": True}}
'''


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Files by name that are not there yet; they are when the test ends."""
    made: list[Path] = []

    def file(name: str) -> Path:
        made.append(tmp_path / name)
        return made[-1]

    yield file
    for path in made:
        path.touch()


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    module = tmp_path / "probed.py"
    module.write_text(MODELS.format(gate=str(tmp_path / "weights"), hub=str(tmp_path / "hub")))
    metrics = {"port": free_port(), "stuck_after_s": STUCK_S}
    return Settings.load(**settings.model_dump(exclude={"metrics", "models"}), metrics=metrics, models=[str(module)])


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    desk = Desk(settings)
    yield desk
    desk.close()


class Probe:
    """Asks one process."""

    def __init__(self, settings: Settings) -> None:
        self._url = f"http://127.0.0.1:{settings.metrics.port}"

    def ask(self, page: str) -> tuple[int, str]:
        """Status and text; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"{self._url}{page}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode().strip()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode().strip()
        except OSError as error:
            return 0, str(error)

    def both(self) -> tuple[int, int]:
        """The status of ``/healthz``, and of ``/readyz``."""
        return self.ask("/healthz")[0], self.ask("/readyz")[0]

    def stays(self, expected: tuple[int, int], *, seconds: float = STUCK_S + 1.0) -> None:
        """Both answer so all the time, for longer than a thread may be at one turn."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.both() == expected, (self.ask("/healthz"), self.ask("/readyz"))
            time.sleep(0.05)


@pytest.fixture
def probe(settings: Settings) -> Probe:
    return Probe(settings)


def test_a_worker_lives_while_it_loads_and_is_ready_when_it_is_warm_and_not_while_it_drains(
    worker_factory: WorkerFactory, probe: Probe, desk: Desk, files: Callable[[str], Path]
) -> None:
    weights, work = files("weights"), files("work")
    worker = worker_factory(ready=False)
    wait_for(lambda: probe.both()[0], what="the worker to listen")
    probe.stays((200, 503))
    assert probe.ask("/readyz") == (503, "its models are not loaded yet")
    weights.touch()
    wait_for(lambda: probe.both() == (200, 200), what="the worker to be ready")
    worker.wait_ready()

    job = desk.submit("gated", str(work))
    desk.wait(job, JobState.RUNNING)
    worker.popen.terminate()
    wait_for(lambda: probe.ask("/readyz") == (503, "stopping"), what="the worker to drain")
    assert probe.ask("/healthz") == (200, "ok")
    work.touch()
    assert worker.wait() == 0
    assert desk.wait(job)[0].state is JobState.SUCCEEDED


def test_a_busy_worker_is_ready(
    worker_factory: WorkerFactory, probe: Probe, desk: Desk, files: Callable[[str], Path]
) -> None:
    files("weights").touch()
    worker_factory()
    work = files("work")
    job = desk.submit("gated", str(work))
    desk.wait(job, JobState.RUNNING)
    probe.stays((200, 200))
    work.touch()
    assert desk.wait(job)[0].state is JobState.SUCCEEDED


def test_a_worker_lives_and_stays_ready_without_its_broker(
    worker_factory: WorkerFactory, probe: Probe, desk: Desk, redis_server: RedisServer, files: Callable[[str], Path]
) -> None:
    files("weights").touch()
    worker = worker_factory()
    wait_for(lambda: probe.both() == (200, 200))
    redis_server.stop()
    wait_for(lambda: "consumer.wait" in worker.output(), what="the worker to miss the broker")
    probe.stays((200, 200))
    redis_server.start()
    work = files("work")
    work.touch()
    assert desk.wait(desk.submit("gated", str(work)))[0].state is JobState.SUCCEEDED


class TestWithoutItsDatabase:
    """Of Postgres, which refuses."""

    @pytest.fixture
    def database_url(self, postgres_url: str) -> str:
        return postgres_url

    def test_a_worker_lives_and_stays_ready(
        self, worker_factory: WorkerFactory, probe: Probe, postgres_server: PostgresServer, files: Callable[[str], Path]
    ) -> None:
        files("weights").touch()
        worker = worker_factory()
        wait_for(lambda: probe.both() == (200, 200))
        postgres_server.kill()
        wait_for(lambda: "heartbeat.wait" in worker.output(), what="the worker to miss the database")
        probe.stays((200, 200))

    def test_a_device_that_is_stuck_is_told_where_the_watchdog_cannot_end_it(
        self,
        worker_factory: WorkerFactory,
        probe: Probe,
        desk: Desk,
        postgres_server: PostgresServer,
        files: Callable[[str], Path],
    ) -> None:
        files("weights").touch()
        worker = worker_factory()
        desk.wait(desk.submit("gated", str(files("never")), timeout_s=2.0), JobState.RUNNING)
        postgres_server.kill()
        wait_for(lambda: probe.ask("/healthz")[0] == 503, what="the device to be told of")
        assert probe.ask("/healthz")[1] == "model gated has not returned since its jobs' timeout"
        assert probe.ask("/readyz") == (200, "ok"), "busy, for all that it knows"
        postgres_server.start()
        assert worker.wait() == EXIT_WEDGED, "the watchdog ends it as soon as it can settle"

    def test_a_dispatcher_lives_without_its_database_and_is_stuck_with_one_that_hangs(
        self, settings: Settings, probe: Probe, postgres_server: PostgresServer
    ) -> None:
        dispatcher = Dispatcher(settings)
        dispatcher.start()
        try:
            wait_for(lambda: probe.both() == (200, 200), what="the dispatcher's first turns")
            postgres_server.kill()
            probe.stays((200, 200))
            postgres_server.start()
            wait_for(lambda: probe.both() == (200, 200))
            postgres_server.pause()
            try:
                wait_for(lambda: probe.ask("/healthz")[0] == 503, what="a turn that takes too long")
                assert "has been at one turn for" in probe.ask("/healthz")[1]
            finally:
                postgres_server.resume()
            wait_for(lambda: probe.both() == (200, 200), what="the dispatcher to go on")
        finally:
            dispatcher.stop()
        assert probe.both() == (0, 0)


def test_a_database_that_is_locked_keeps_nobody_from_living(
    worker_factory: WorkerFactory, probe: Probe, sqlite_url: str, files: Callable[[str], Path]
) -> None:
    files("weights").touch()
    worker = worker_factory()
    wait_for(lambda: probe.both() == (200, 200))
    path = sqlite_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN EXCLUSIVE")
        wait_for(lambda: "heartbeat.wait" in worker.output(), what="the worker to miss the database")
        assert probe.ask("/readyz")[0] == 200
        stranger.execute("ROLLBACK")
    wait_for(lambda: probe.both() == (200, 200))


def test_a_hub_that_does_not_turn_is_dead(
    settings: Settings, worker_factory: WorkerFactory, probe: Probe, files: Callable[[str], Path]
) -> None:
    """Somebody's remote command does not return: nothing is claimed any more, and nobody would notice."""
    files("weights").touch()
    hub = files("hub")
    worker_factory()
    wait_for(lambda: probe.both() == (200, 200))
    celery: Any = make_celery(settings)
    wait_for(lambda: celery.control.ping(timeout=0.5), what="the worker to hear")
    celery.control.broadcast("keep_the_hub")
    wait_for(lambda: probe.ask("/healthz")[0] == 503, what="the hub to be told of")
    assert probe.ask("/healthz")[1].startswith("thread hub has been at one turn for")
    hub.touch()
    wait_for(lambda: probe.both() == (200, 200), what="the hub to turn again")
    celery.close()
