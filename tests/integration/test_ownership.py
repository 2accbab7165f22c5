"""Two databases and one namespace: the first has it, the second is told, whatever becomes of the broker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

import penstock_migrations
from penstock import Client
from penstock.dispatch.daemon import Dispatcher
from penstock.dispatch.ownership import Ownership
from penstock.errors import BrokerUnavailable, NamespaceTaken
from penstock.job import JobState
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import inspect, keys, owner
from penstock.transport.owner import Owner
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_versions import said


@pytest.fixture
def other(settings: Settings, tmp_path: Path) -> Settings:
    """The same broker and namespace with a database of its own."""
    url = f"sqlite:///{tmp_path / 'other.db'}"
    penstock_migrations.upgrade(url)
    return settings.model_copy(update={"database_url": url, "home": tmp_path / "other"})


@pytest.fixture
def ownership(broker: redis.Redis) -> Iterator[Callable[[Settings], Ownership]]:
    stores: list[Store] = []

    def make(settings: Settings) -> Ownership:
        stores.append(Store.open(settings.database))
        return Ownership(settings, stores[-1], broker)

    yield make
    for store in stores:
        store.close()


def test_an_identity_is_made_once_and_another_in_each_database(
    settings: Settings, other: Settings, database_url: str
) -> None:
    def identity(url: str) -> str:
        store = Store.open(url)
        try:
            return store.identity()
        finally:
            store.close()

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(identity, [database_url] * 8))
    assert len(found) == 1 and identity(other.database) not in found


def test_the_first_has_the_namespace(
    settings: Settings, other: Settings, ownership: Callable[[Settings], Ownership], broker: redis.Redis
) -> None:
    mine, theirs = ownership(settings), ownership(other)
    theirs.compare()
    assert owner.owner(broker, settings.namespace) is None, "who only looks takes nothing"
    mine.claim()
    mine.claim()
    for look in (theirs.claim, theirs.compare, theirs.confirm):
        with pytest.raises(NamespaceTaken, match="belongs to another database") as caught:
            look()
        assert "PENSTOCK_NAMESPACE" in caught.value.fix and "take-over" in caught.value.fix
        assert not caught.value.retryable
    elsewhere = ownership(other.model_copy(update={"namespace": "elsewhere"}))
    elsewhere.claim()
    ownership(settings).claim()  # another process of the same deployment


def test_after_a_wipe_one_of_many_has_it(
    settings: Settings, other: Settings, ownership: Callable[[Settings], Ownership], broker: redis.Redis
) -> None:
    both = [ownership(one) for one in (settings, other)] * 4
    both[0].claim()

    def claims(one: Ownership) -> bool:
        try:
            one.claim()
        except NamespaceTaken:
            return False
        return True

    for _ in range(10):
        broker.flushall()
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(claims, both))
        assert won == [won[0], not won[0]] * 4


@pytest.mark.parametrize("damage", ["text", '{"database": 7}', b"\xff", "list"], ids=str)
def test_a_mark_that_cannot_be_read_is_none(
    settings: Settings, ownership: Callable[[Settings], Ownership], broker: redis.Redis, damage: Any
) -> None:
    key = keys.owner(settings.namespace)
    broker.lpush(key, "x") if damage == "list" else broker.set(key, damage)
    ownership(settings).claim()
    found = owner.owner(broker, settings.namespace)
    assert found is not None and found.database


def test_a_client_of_another_database_publishes_nothing(
    settings: Settings,
    other: Settings,
    ownership: Callable[[Settings], Ownership],
    broker: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ownership(settings).claim()
    with Client(settings=other) as client, caplog.at_level(logging.ERROR):
        job = client.enqueue("echo", "a")
        assert job.status == JobState.ACCEPTED
        with pytest.raises(NamespaceTaken):
            client.check()
    assert "belongs to another database" in caplog.text and "take-over" in caplog.text
    assert inspect.queues(broker, settings.namespace) == []
    with Client(settings=settings) as client:
        client.enqueue("echo", "a")
    assert len(inspect.queues(broker, settings.namespace)) == 1


def test_a_dispatcher_refuses_and_one_that_runs_treats_the_broker_as_away(
    settings: Settings, other: Settings, ownership: Callable[[Settings], Ownership], broker: redis.Redis
) -> None:
    ours, late = Dispatcher(settings), Dispatcher(other)
    ours.start()
    try:
        with pytest.raises(NamespaceTaken):
            late.start()
        theirs = ownership(other)
        before = theirs.take()
        assert before is not None and before.database != theirs._identity().database
        wait_for(lambda: not ours._reconciler._broker.up, what="it to notice")
        with Client(settings=settings) as client:
            job = client.enqueue("echo", "a", delay=0.01)
            wait_for(lambda: not ours._relay._broker.up, what="the relay to be refused")
            assert job.refresh().status == JobState.ACCEPTED and not inspect.queues(broker, settings.namespace)
            # It takes up its work again by itself.
            ownership(settings).take()
            wait_for(lambda: job.refresh().status == JobState.QUEUED, what="the job to be published")
    finally:
        ours.stop()
        late.stop()


def test_workers_refuse_and_stop(
    settings: Settings,
    other: Settings,
    worker_factory: Callable[..., Worker],
    ownership: Callable[[Settings], Ownership],
    broker: redis.Redis,
) -> None:
    owner.take(broker, settings.namespace, Owner("gone", "the one before"))
    refused = worker_factory("refused", ready=False)
    assert refused.wait() != 0
    assert "belongs to another database: the one before" in refused.output() and "fix:" in refused.output()
    assert "Traceback" not in refused.output()

    assert "belongs to another database" in said(settings, "doctor")[0]
    assert "confirm with --yes" in said(settings, "db", "take-over")[1]
    assert "taken over from the one before" in said(settings, "db", "take-over", "--yes")[1]
    assert "is this database's" in said(settings, "doctor")[0]

    works = worker_factory("works")
    with Client(settings=settings) as client:
        assert client.run("echo", "a", result_timeout=PATIENCE_S) is not None
    broker.flushall()
    wait_for(lambda: owner.owner(broker, settings.namespace), what="the worker to mark it again")
    ownership(other).take()
    assert works.wait() != 0
    assert "belongs to another database" in works.output()


def test_a_broker_that_is_away_refuses_nobody(
    settings: Settings, ownership: Callable[[Settings], Ownership], redis_server: Any
) -> None:
    one = ownership(settings)
    redis_server.stop()
    with pytest.raises(BrokerUnavailable) as caught:
        one.claim()
    assert not isinstance(caught.value, NamespaceTaken)
    dispatcher = Dispatcher(settings)
    dispatcher.start()
    redis_server.start()
    wait_for(lambda: dispatcher._ownership._ours, what="the dispatcher to find the broker")
    dispatcher.stop()
