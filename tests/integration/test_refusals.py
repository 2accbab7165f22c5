"""Redis answers and refuses, for a while: a worker keeps its models, says why once, and goes on when it has passed."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
from celery.worker import state

from penstock.job import JobState
from penstock.settings import Settings
from penstock.transport.url import connect
from penstock_cli.up.stack import Stack
from penstock_worker.main import EXIT_DEFECT, exit_status, was_asked
from penstock_worker.serving import Plan
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_worker import Desk, desk  # noqa: F401

Refusal = Callable[[redis.Redis], Iterator[None]]


def a_replica(client: redis.Redis) -> Iterator[None]:
    client.replicaof("127.0.0.1", 1)
    yield
    client.replicaof("NO", "ONE")


def a_replica_without_its_master(client: redis.Redis) -> Iterator[None]:
    client.config_set("replica-serve-stale-data", "no")
    client.replicaof("127.0.0.1", 1)
    yield
    client.replicaof("NO", "ONE")
    client.config_set("replica-serve-stale-data", "yes")


def too_few_replicas(client: redis.Redis) -> Iterator[None]:
    client.config_set("min-replicas-to-write", 1)
    yield
    client.config_set("min-replicas-to-write", 0)


def a_disk_that_cannot_be_written(client: redis.Redis) -> Iterator[None]:
    # Redis 7 does not let its folder be set: in the place of the file stands a folder that is not empty.
    place = Path(client.config_get("dir")["dir"]) / client.config_get("dbfilename")["dbfilename"]
    place.unlink(missing_ok=True)
    (place / "taken").mkdir(parents=True)
    client.config_set("save", "3600 1000000")
    client.bgsave()
    wait_for(lambda: client.info()["rdb_last_bgsave_status"] == "err", what="a failed snapshot")
    yield
    shutil.rmtree(place)
    client.config_set("save", "")


def unblocked(client: redis.Redis) -> Iterator[None]:
    def waiting() -> list[str]:
        return [entry["id"] for entry in client.client_list() if entry["cmd"] == "blpop" and "b" in entry["flags"]]

    def one_ended() -> bool:
        return any(client.execute_command("CLIENT", "UNBLOCK", id, "ERROR") for id in waiting())

    wait_for(one_ended, what="a waiting worker")
    yield


def a_script_without_end(client: redis.Redis) -> Iterator[None]:
    client.config_set("lua-time-limit", 1)

    def run() -> None:
        with connect(url_of(client), timeout_s=60.0) as other, suppress(redis.RedisError):
            other.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()

    def busy() -> bool:
        try:
            client.ping()
        except redis.RedisError as error:
            return "BUSY" in str(error)
        return False

    wait_for(busy, what="a busy server")
    yield
    client.execute_command("SCRIPT", "KILL")
    thread.join()


def no_right_to_scripts(client: redis.Redis) -> Iterator[None]:
    client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
    yield
    client.execute_command("ACL", "SETUSER", "default", "+@all")


def another_password(client: redis.Redis) -> Iterator[None]:
    client.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield
    client.execute_command("ACL", "SETUSER", "default", "nopass")


REFUSALS: dict[str, Refusal] = {
    "READONLY": a_replica,
    "NOREPLICAS": too_few_replicas,
    "MISCONF": a_disk_that_cannot_be_written,
    "UNBLOCKED": unblocked,
    "BUSY": a_script_without_end,
    "NOPERM": no_right_to_scripts,
    "NOAUTH": another_password,
    "MASTERDOWN": a_replica_without_its_master,
}


def url_of(client: redis.Redis) -> str:
    return f"redis+socket://{client.connection_pool.connection_kwargs['path']}"


def causes(worker: Worker) -> list[str]:
    """What the worker has said of the broker, in order."""
    lines = worker.output().splitlines()
    return [line for line in lines if '"cause": ' in line]


@pytest.fixture
def admin(broker_url: str) -> Iterator[redis.Redis]:
    """One connection that stays: a new one would be refused like the worker's."""
    with connect(broker_url, timeout_s=5.0, replies=True) as client:
        yield client


@contextmanager
def refused(client: redis.Redis, refusal: Refusal) -> Iterator[None]:
    steps = refusal(client)
    next(steps)
    try:
        yield
    finally:
        for _ in steps:
            pass


@pytest.mark.timeout(180)
def test_a_worker_outlives_whatever_redis_refuses(
    desk: Desk,  # noqa: F811
    worker_factory: Callable[..., Worker],
    admin: redis.Redis,
):
    worker = worker_factory()
    (job,) = desk.wait(desk.submit("upper", "first"))
    for cause, refusal in REFUSALS.items():
        before = len(causes(worker))
        with refused(admin, refusal):
            wait_for(lambda c=cause: any(c in line for line in causes(worker)), what=f"the worker to say {cause}")
        (job,) = desk.wait(desk.submit("upper", cause.lower()))
        assert (job.state, job.output) == (JobState.SUCCEEDED, cause)
        said = [line for line in causes(worker)[before:] if f'"consumer.wait", "cause": "{cause}"' in line]
        assert len(said) <= 1, "one line per cause"
    assert worker.popen.poll() is None, "the same process, with the same models"
    assert len(desk.store.workers()) == 1
    assert worker.stop() == 0


def test_up_waits_for_a_broker_that_answers_and_takes_nothing(
    broker_url: str, sqlite_url: str, namespace: str, tmp_path: Path, admin: redis.Redis
):
    """A replica says PONG."""

    class Heard(Exception):
        pass

    def say(line: str) -> None:
        if "READONLY" in line:
            raise Heard(line)

    settings = Settings.load(
        home=tmp_path, broker_url=broker_url, database_url=sqlite_url, namespace=namespace, models=[]
    )
    with refused(admin, a_replica), pytest.raises(Heard, match="waiting for the broker"):
        Stack(settings, dashboard=False, say=say).start()


def test_a_stop_that_was_asked_for_before_the_worker_had_begun_is_clean(monkeypatch: pytest.MonkeyPatch):
    """Celery's flag after SIGTERM is the status 0, which is equal to False."""
    for name in ("should_stop", "should_terminate"):
        monkeypatch.setattr(state, name, None)
    assert not was_asked()
    monkeypatch.setattr(state, "should_stop", 0)
    assert was_asked()
    plan = Plan(Settings.load(), {}, "default")
    assert exit_status(1, asked=True, drained=plan.drained) == 0, "Ctrl-C while it waits for its servers"


@pytest.mark.parametrize(
    ("celerys", "asked", "drained", "status"),
    [
        (0, True, True, 0),  # SIGTERM
        (1, True, True, 0),  # Ctrl-C
        (None, True, True, 0),  # SIGQUIT
        (1, False, True, 1),  # an error that Celery cannot recover from, after a clean stop of ours
        (None, False, True, EXIT_DEFECT),  # the same, where Celery names no status
        (0, False, True, 0),  # the remote control's shutdown
    ],
)
def test_no_end_by_an_error_has_status_0(celerys: int | None, asked: bool, drained: bool, status: int):
    assert exit_status(celerys, asked=asked, drained=drained) == status
