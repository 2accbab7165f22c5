"""Workers that keep to one lane: real processes, and no lane that starves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from penstock import Client
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import control
from penstock.transport.url import connect, for_kombu, parse
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Worker, wait_for

WorkerFactory = Callable[..., Worker]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The store's part is tested on both (``tests/contract``)."""
    return sqlite_url


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store.open(settings.database)
    yield store
    store.close()


def interactive_only(settings: Settings) -> Settings:
    return Settings.load(**{**dict(settings), "worker": {**settings.worker.model_dump(), "lane": "interactive"}})


def ran_by(client: Client, lane: str, count: int = 40) -> set[str]:
    """The names of the workers that have done so many jobs of a lane."""
    jobs = client.enqueue_many("echo", range(count), lane=lane)
    for job in jobs:
        job.result(timeout=PATIENCE_S)
    return {str(client.get(job.id).job.worker).split("@")[0] for job in jobs}


def keeps_to(store: Store, name: str, lane: str | None) -> bool:
    return any(worker.lane == lane for worker in store.workers() if worker.name.split("@")[0] == name)


def test_background_jobs_are_left_to_others_while_there_are_some(
    settings: Settings, worker_factory: WorkerFactory
) -> None:
    own = worker_factory("own", settings=interactive_only(settings))
    with Client(settings) as client:
        assert ran_by(client, "background", 10) == {"own"}, "alone, it does both"
        other = worker_factory("other")
        wait_for(lambda: "are left to other workers" in own.output(), what="the first to see the second")
        assert ran_by(client, "background") == {"other"}
        assert "own" in ran_by(client, "interactive", 200)
        other.kill()
        assert ran_by(client, "background", 10) == {"own"}, "when the other has died, nothing starves"


def test_where_all_keep_to_one_lane_the_other_is_done_all_the_same(
    settings: Settings, worker_factory: WorkerFactory, store: Store
) -> None:
    for name in ("one", "two"):
        worker_factory(name, settings=interactive_only(settings))
    wait_for(lambda: all(keeps_to(store, name, "interactive") for name in ("one", "two")), what="their words")
    with Client(settings) as client:
        assert ran_by(client, "background", 20)


def test_a_worker_is_told_for_a_while(settings: Settings, worker_factory: WorkerFactory, store: Store) -> None:
    told, other = worker_factory("told"), worker_factory("other")
    url = for_kombu(settings.broker).url
    app = Celery("stranger", broker=url, backend=url, set_as_current=False)
    [name] = [worker.name for worker in store.workers() if worker.name.startswith("told@")]

    def tell(**arguments: Any) -> dict[str, str]:
        # A connection of its own: kombu's pool outlives this test, and its server does not.
        with app.connection_for_write() as connection:
            answers = app.control.broadcast(
                "lane",
                destination=[name],
                arguments=arguments,
                reply=True,
                timeout=PATIENCE_S,
                limit=1,
                connection=connection,
            )
        return dict(answers[0][name])

    assert "use one of interactive, background" in tell(lane="fast")["error"]
    assert "is no time" in tell(lane="interactive", for_s=-1)["error"]
    assert "interactive jobs only, for 60 s" in tell(lane="interactive", for_s=60)["ok"]
    wait_for(lambda: "are left to other workers" in told.output(), what="the split")
    assert keeps_to(store, "told", "interactive")
    with Client(settings) as client:
        assert ran_by(client, "background") == {"other"}
        assert tell(lane="")["ok"] == "it does both"
        wait_for(lambda: keeps_to(store, "told", None), what="its word")
        message = control.command(
            "lane", {"lane": "interactive", "for_s": 1}, parse(settings.broker).db, destination=[name]
        )
        with connect(settings.broker) as broker:
            broker.publish(*message)  # as the autoscaler tells it
        wait_for(lambda: keeps_to(store, "told", "interactive"), what="what the autoscaler has told")
        wait_for(lambda: told.output().count("this worker takes both lanes") >= 1, what="the end of the split")
        other.kill()
        assert ran_by(client, "background", 10) == {"told"}
    app.close()
