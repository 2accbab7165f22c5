"""Celery's remote control of a worker of models: each command does what it says, or says that it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from penstock import Client, clock
from penstock.errors import JobCancelled, JobExpired
from penstock.job import JobState
from penstock.settings import Settings
from penstock.transport.url import for_kombu
from tests.fixtures import celeryapps
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Worker, wait_for


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is cancelled is cancelled on both (``tests/contract``)."""
    return sqlite_url


class Monitor:
    """A stranger's Celery app that controls, inspects, and hears events."""

    def __init__(self, settings: Settings) -> None:
        url = for_kombu(settings.broker).url
        self.app = Celery("stranger", broker=url, backend=url, set_as_current=False)
        self.app.conf.event_queue_prefix = f"{settings.namespace}.celeryev"
        self.namespace = settings.namespace
        self.events: list[dict[str, Any]] = []

    def tell(self, command: str, **arguments: Any) -> Any:
        """The one worker's answer."""
        (answer,) = self.app.control.broadcast(command, arguments=arguments, reply=True, timeout=PATIENCE_S, limit=1)
        return next(iter(answer.values()))

    def send(self, model: str, value: Any, **options: Any) -> Any:
        queue = f"{self.namespace}.{model}.interactive"
        return self.app.send_task(f"{self.namespace}.{model}", args=[value], queue=queue, **options)

    def heard(self, kind: str) -> dict[str, dict[str, Any]]:
        return {event["uuid"]: event for event in self.events if event["type"] == kind}

    @contextmanager
    def listening(self) -> Iterator[None]:
        ready, done = threading.Event(), threading.Event()

        def listen() -> None:
            with self.app.connection() as connection:
                receiver = self.app.events.Receiver(connection, handlers={"*": self.events.append})
                with receiver.consumer_context() as (own, _, _):
                    ready.set()
                    while not done.is_set():
                        with suppress(TimeoutError):
                            own.drain_events(timeout=0.5)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        assert ready.wait(PATIENCE_S)
        try:
            yield
        finally:
            done.set()
            thread.join(PATIENCE_S)

    def close(self) -> None:
        celeryapps.close(self.app)


@pytest.fixture
def monitor(settings: Settings) -> Iterator[Monitor]:
    monitor = Monitor(settings)
    with monitor.listening():
        yield monitor
    monitor.close()


def test_what_a_worker_is_told_it_does_or_refuses(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, monitor: Monitor, tmp_path: Path
) -> None:
    worker = worker_factory()
    wait_for(lambda: monitor.app.control.ping(timeout=1.0), what="the worker to listen")
    task, queue = f"{settings.namespace}.gated", f"{settings.namespace}.gated.interactive"
    for command, arguments in (
        ("rate_limit", {"task_name": task, "rate_limit": "1/m"}),
        ("time_limit", {"task_name": task, "soft": 1.0}),
        ("time_limit", {"task_name": task, "hard": -1}),
        ("time_limit", {"task_name": task, "hard": "soon"}),
        ("pool_grow", {"n": 1}),
        ("pool_shrink", {"n": 1}),
        ("autoscale", {"max": 3, "min": 1}),
        ("pool_restart", {"reload": False}),
        ("cancel_consumer", {"queue": queue}),
        ("add_consumer", {"queue": f"{settings.namespace}.elsewhere.background"}),
        ("revoke_by_stamped_headers", {"headers": {}}),
    ):
        answer = monitor.tell(command, **arguments)
        assert set(answer) == {"error"} and "Traceback" not in answer["error"], (command, answer)
    assert "tenant" in monitor.tell("rate_limit", task_name=task, rate_limit="1/m")["error"]
    assert "600 s" in monitor.tell("time_limit", task_name=f"{settings.namespace}.inc", hard=600)["ok"]
    # What is no model's is Celery's own.
    assert monitor.tell("rate_limit", task_name="celery.accumulate", rate_limit="1/m")["ok"]
    assert monitor.tell("time_limit", task_name="nobody", hard=1)["error"] == "unknown task"

    with Client(settings) as client:
        gates = [tmp_path / f"gate-{number}" for number in range(9)]
        running = client.enqueue("gated", str(gates[0]))
        wait_for(lambda: running.refresh().state is JobState.RUNNING, what="the first to run")
        waiting, again = (client.enqueue("gated", str(gate)) for gate in gates[1:3])
        late = client.enqueue("gated", str(gates[3]), lane="background", deadline=0.5)
        overdue_at = clock.now() + 0.5
        member, other = (monitor.send("gated", str(gate)) for gate in gates[4:6])
        stamped = monitor.send("gated", str(gates[6]), stamped_headers=["batch"], batch="b-7")

        # What it holds is listed, where it is.
        assert [entry["id"] for entry in monitor.tell("active")] == [running.id]
        wait_for(lambda: monitor.tell("reserved"), what="the next to be claimed")
        assert {entry["id"] for entry in monitor.tell("reserved")} <= {waiting.id, again.id}
        entry = monitor.tell("query_task", ids=[running.id, "nobody"])[running.id]
        assert entry[0] == "active" and entry[1]["name"] == task and entry[1]["time_start"]
        next_id = monitor.tell("reserved")[0]["id"]
        assert monitor.tell("query_task", ids=next_id)[next_id][0] == "reserved"
        assert monitor.tell("stats")["penstock"]["gated"]["running"] == 1

        wait_for(
            lambda: any(e["type"] == "worker-heartbeat" and e["active"] == 1 for e in monitor.events), what="a beat"
        )

        # Revoked is cancelled: in SQL, at once, whoever sent it and whatever it does now.
        assert "ok" in monitor.tell("revoke", task_id=[waiting.id, again.id, member.id])
        assert "ok" in monitor.tell("revoke", task_id=running.id, terminate=True, signal="SIGKILL")
        assert "ok" in monitor.tell("revoke_by_stamped_headers", headers={"batch": ["b-7"]}, terminate=True)
        for job in (waiting, again):
            with pytest.raises(JobCancelled):
                job.result(timeout=PATIENCE_S)
        with pytest.raises(TaskRevokedError):
            member.get(timeout=PATIENCE_S)
        wait_for(lambda: running.refresh().status == "cancelling", what="the running one to be asked to stop")
        # And nothing but that: somebody may run it again.
        again.retry()
        wait_for(lambda: clock.now() > overdue_at, what="the deadline to pass")
        for number in (0, 2, 5):
            gates[number].touch()
        with pytest.raises(JobCancelled):
            running.result(timeout=PATIENCE_S)
        assert again.result(timeout=PATIENCE_S) == str(gates[2])
        with pytest.raises(JobExpired):
            late.result(timeout=PATIENCE_S)
        assert other.get(timeout=PATIENCE_S) == str(gates[5])
        with pytest.raises(TaskRevokedError):
            stamped.get(timeout=PATIENCE_S)

        # Monitors hear of every end, also of jobs that never ran.
        ended = {running.id, waiting.id, late.id, member.id, stamped.id}
        wait_for(lambda: set(monitor.heard("task-revoked")) >= ended, what="the news of those that did not run")
        assert monitor.heard("task-revoked")[late.id]["expired"]
        assert {again.id, other.id} <= set(monitor.heard("task-succeeded"))
        assert "ok" in monitor.tell("disable_events")
        quiet = client.enqueue("echo", 1)
        assert quiet.result(timeout=PATIENCE_S) == 1
        monitor.tell("enable_events")
        loud = client.enqueue("echo", 2)
        wait_for(lambda: loud.id in monitor.heard("task-succeeded"), what="events again")
        assert quiet.id not in monitor.heard("task-succeeded")
    assert worker.popen.poll() is None
