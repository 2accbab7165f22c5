"""Canvas members whose servers go away, or refuse, between the model's end and Celery's part: finished later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, chain, signature

from penstock.errors import StoreUnavailable
from penstock.job import JobState, Outcome
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.url import connect
from penstock_worker.canvas import finisher as module
from penstock_worker.canvas.finisher import CanvasFinisher
from tests.fixtures import celeryapps
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.redis import RedisServer
from tests.fixtures.store import claim, end, make_job
from tests.fixtures.worker import Worker, wait_for


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def producer(settings: Settings) -> Iterator[Celery]:
    with celeryapps.program("producer", settings.broker) as app:
        yield app


def refuse(server: RedisServer, url: str, seen: Callable[[], bool]) -> None:
    """The server is out of memory: it answers, and takes nothing."""
    with connect(url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        wait_for(seen, timeout_s=PATIENCE_S, what="a callback to be refused")
        client.config_set("maxmemory", "0")


def vanish(server: RedisServer, url: str, seen: Callable[[], bool]) -> None:
    """The server is killed, and comes back with what it had written."""
    server.kill()
    wait_for(seen, timeout_s=PATIENCE_S, what="a callback to fail")
    server.start()


@pytest.mark.parametrize("strike", [refuse, vanish])
def test_a_callback_that_could_not_be_sent_is_sent_later(
    strike: Callable[..., None],
    settings: Settings,
    worker_factory: Callable[..., Worker],
    dispatcher: Any,
    redis_server: RedisServer,
    producer: Celery,
) -> None:
    worker = worker_factory()

    def task(name: str, *args: Any) -> Any:
        queue = f"{settings.namespace}.{name}.interactive"
        return signature(f"{settings.namespace}.{name}", args=args, app=producer, options={"queue": queue})

    second = chain(task("nap", 2.0), task("echo")).apply_async()
    first = second.parent.id
    store = Store.open(settings.database)
    wait_for(lambda: first in store.get_many([first]), what="the first step to be adopted")
    strike(redis_server, settings.broker, lambda: "canvas.again" in worker.output())

    def done() -> bool:
        jobs = store.get_many([first, second.id])
        return len(jobs) == 2 and all(job.state is JobState.SUCCEEDED for job in jobs.values())

    wait_for(done, timeout_s=PATIENCE_S, what="both steps")
    assert second.get(timeout=PATIENCE_S) == 2.0
    # Celery sends a member's callbacks before it stores its result; a failure that was none would be raised here.
    assert second.parent.get(timeout=PATIENCE_S) == 2.0
    wait_for(lambda: not store.unfinished_canvas(older_than=1e12, limit=10), what="the marks")
    assert worker.popen.poll() is None, "an outage is no defect"
    store.close()


class Hub:
    """Runs what is posted, as the hub thread does."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.end = threading.Event()

    def post(self, call: Callable[[], None]) -> None:
        call()

    def on_success(self, returned: Any) -> None:
        self.ended.append("acknowledged")
        self.end.set()


def member(store: Store, hub: Hub) -> tuple[Any, Outcome, Any]:
    """A canvas member that SQL holds as succeeded."""
    job = make_job(canvas='{"headers":{},"properties":{},"embed":null}')
    store.insert([job])
    claim(store, [job.id])
    end(store, [job.id])
    item = SimpleNamespace(id=job.id, request=hub, error=None)
    return item, Outcome(id=job.id, attempt=1, state=JobState.SUCCEEDED, output="1"), store.get(job.id)


def test_a_message_goes_only_after_its_mark(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_FIRST_S", 0.01)
    hub, away = Hub(), [1, 2, 3]
    finisher = CanvasFinisher(SimpleNamespace(backend=None), store, post=hub.post)  # type: ignore[arg-type]
    monkeypatch.setattr(finisher, "_trace", lambda *args, **kwargs: (0, None, 0.0))
    mark = store.mark_canvas_done

    def fail_first(ids: list[str]) -> None:
        if away:
            away.pop()
            assert not hub.ended
            raise StoreUnavailable("away")
        mark(ids)

    monkeypatch.setattr(store, "mark_canvas_done", fail_first)
    finisher.finish([member(store, hub)])
    assert hub.end.wait(PATIENCE_S)
    assert not store.unfinished_canvas(older_than=1e12, limit=10)


def test_a_member_that_never_can_be_finished_is_left_to_the_dispatcher(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded tries, and copies of a message that is in hand are not piled up."""
    monkeypatch.setattr(module, "AGAIN_FIRST_S", 0.001)
    hub, tries, dropped = Hub(), [], threading.Event()
    finisher = CanvasFinisher(SimpleNamespace(backend=None), store, post=hub.post)  # type: ignore[arg-type]
    monkeypatch.setattr(finisher, "_trace", lambda *args, **kwargs: tries.append(1))
    monkeypatch.setattr(finisher, "drop", lambda request: dropped.set())
    finisher.finish([member(store, hub)])
    assert dropped.wait(PATIENCE_S)
    assert len(tries) == module.TRIES
    assert not hub.ended
    assert len(store.unfinished_canvas(older_than=1e12, limit=10)) == 1
