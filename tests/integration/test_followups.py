"""What follows a model runs in the user's own workers, whatever their queues are called."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signals

from penstock import routes
from penstock.settings import Settings
from penstock.signatures import model_signature
from penstock.transport.url import connect
from tests.fixtures import celeryapps
from tests.fixtures.cli import Penstock
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Process, Worker, wait_for


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is tested here is Celery's part."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"celery": settings.celery.model_copy(update={"default_queue": "strangers"})})


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    """The user's app: it knows no task, and its default queue is not Celery's."""
    with celeryapps.program("shop", settings.broker) as app:
        app.conf.update(task_default_queue="plain", task_routes={"nobody.*": "lonely"})
        app.set_current()
        yield app
        Celery("default").set_current()


@pytest.fixture
def strange() -> Iterator[Callable[[], None]]:
    """Makes this program one without penstock."""

    def forget() -> None:
        signals.before_task_publish.disconnect(dispatch_uid=routes.__name__)

    yield forget
    from penstock import app as ours

    routes.install(lambda: ours.plain_settings().namespace, ours.sender)


def test_what_follows_a_model(
    app: Celery,
    settings: Settings,
    start_plain: Callable[[str, bool], Process],
    worker_factory: Callable[..., Worker],
    strange: Callable[[], None],
) -> None:
    start_plain("plain,strangers", True)
    worker_factory()

    def inc(x: Any = None, model: str = "inc") -> Any:
        return model_signature(model, () if x is None else (x,), {})

    def whence(**options: Any) -> Any:
        return app.signature("plain.whence", options=options)

    def all_ways() -> list[Any]:
        """Where the follow-up of each kind of canvas came from, by its queue."""
        linked, failed = str(uuid.uuid4()), str(uuid.uuid4())
        inc(1).apply_async(link=whence(task_id=linked))
        inc(1, "fail").apply_async(link_error=whence(task_id=failed))
        sent = [
            chain(inc(1), whence()).apply_async(),
            chain(inc(1), inc(), whence()).apply_async(),
            chord([inc(1), inc(2)], whence()).apply_async(),
            chain(inc(1), group(whence(), chain(inc(), whence()))).apply_async(),
            app.AsyncResult(linked),
            app.AsyncResult(failed),
        ]
        return [result.get(timeout=PATIENCE_S) for result in sent]

    ways: list[Any] = ["plain", "plain", "plain", ["plain", "plain"], "plain", "plain"]
    assert all_ways() == ways
    # A task of the user's that becomes a group of models: its worker publishes, and knows penstock.
    replaced = app.signature("plain.fan_out", args=("penstock.inc", "penstock.inc.interactive", [1, 2]))
    assert replaced.apply_async().get(timeout=PATIENCE_S) == [2, 3]
    # What nobody knows goes where the app's routes say.
    with connect(settings.broker) as broker:
        chain(inc(1), app.signature("nobody.knows")).apply_async()
        wait_for(lambda: broker.llen("lonely") == 1, what="a message for nobody")

        # Producers without penstock: the worker's setting says where.
        strange()
        assert all_ways() == [
            [_strange(each) for each in way] if isinstance(way, list) else _strange(way) for way in ways
        ]
        assert replaced.apply_async().get(timeout=PATIENCE_S) == [2, 3]
        chain(inc(1), app.signature("nobody.knows_it_either")).apply_async()
        # A model without a queue, sent by a worker, goes to its own.
        bare = chain(inc(1), app.signature("penstock.inc"), whence()).apply_async()
        assert bare.get(timeout=PATIENCE_S) == "strangers"
        assert broker.llen("lonely") == 1
        assert broker.llen("penstock.default") == 0


def _strange(queue: str) -> str:
    return queue.replace("plain", "strangers")


def test_queues_that_nobody_consumes_are_named(
    app: Celery, settings: Settings, start_plain: Callable[[str, bool], Process], tmp_path: Path
) -> None:
    """By the two commands that a person types when nothing comes back: those of Celery programs, too."""
    penstock = Penstock(tmp_path, settings.environ())
    start_plain("plain", False)
    app.send_task("nobody.knows", queue="lonely")
    app.send_task("nobody.knows", queue="celery", priority=6)
    model_signature("inc", (1,), {}).apply_async()
    with connect(settings.broker) as broker:
        broker.lpush("penstock.default", b"{}")
    named = {"lonely": 1, "celery": 1, "penstock.inc.interactive": 1, "penstock.default": 1}
    rows = penstock("queue", "stats", "--json").jsonl()
    assert {row["queue"]: row["ready"] for row in rows if "queue" in row} == named
    found = [row for row in penstock("doctor", "--json").json()["findings"] if row["name"] == "queues"]
    assert {name for row in found for name in named if f" in {name}:" in row["detail"]} == set(named), found
    assert all(row["fix"] for row in found)
    # With a consumer, none is: what a busy one has not taken yet is no fault.
    with connect(settings.broker) as broker:
        for name in (*named, "celery\x06\x166"):
            broker.delete(name)
        broker.lpush("plain\x06\x169", b"{}")  # a list that kombu serves last
    assert "queue" not in str(penstock("queue", "stats", "--json").out)
