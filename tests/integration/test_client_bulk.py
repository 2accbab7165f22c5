"""Bulk verbs of both clients, on a real broker and both databases."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import closing

import pytest
import redis

import penstock
from penstock import AsyncClient, Client, clock
from penstock.dispatch import bulk
from penstock.dispatch.bulk import Bulk
from penstock.errors import InvalidInput, StoreUnavailable
from penstock.pipelines.graph import Graph
from penstock.settings import Settings
from penstock.store import Store
from tests.fixtures.client import MODELS, MiniWorker
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.stopwatch import Stopwatch

#: At least so many a second, of 100,000, beside live traffic.
BAR_PER_S = 5000


def test_a_run_that_fails_at_once_is_retried_once(client: Client, client_settings: Settings) -> None:
    graph = Graph(name="empty", inputs=["x"], steps=[], output={"$get": [{"$in": "x"}, "nothing"]})
    runs = client.enqueue_many(graph, [{"x": {}}] * 3)
    plain = client.enqueue("echo", 1)
    plain.cancel()
    for done in (client.retry_where(model="empty"), client.retry_where(model="empty", status="failed")):
        assert done.changed == dict.fromkeys((run.id for run in runs), "failed")
    with closing(Store.open(client_settings.database)) as store:
        assert [store.run_standing(run.id).generation for run in runs] == [2, 2, 2]
    assert list(client.retry_where(model="echo").changed) == [plain.id]


def test_thousands_are_cancelled_in_chunks_and_told(
    client: Client, client_settings: Settings, broker: redis.Redis
) -> None:
    jobs = client.enqueue_many("echo", range(3000), tags={"run": "7"})
    others = client.enqueue_many("echo", range(20), tags={"run": "8"})
    delayed = client.enqueue("upper", "x", tags={"run": "7"}, delay=3600)
    with Client(client_settings) as other:
        chunks: list[int] = []
        done = other.cancel_where(tag="run=7", model="echo", on_chunk=lambda part: chunks.append(len(part.changed)))
        assert Counter(done.changed.values()) == {"cancelled": 3000}
        assert len(chunks) >= 3 and max(chunks) <= 1000, "so that nobody waits long"
        assert set(done.changed) == {job.id for job in jobs}
        # Whoever waits hears of it by push, wherever it was cancelled.
        ended = Counter(job.status for job in client.as_completed(jobs, timeout=PATIENCE_S))
        assert ended == {"cancelled": 3000}
        assert other.cancel_where(tag=("run", "7"), model="echo").changed == {}, "again, it finds nothing"
        assert [job.refresh().status for job in (delayed, others[0])] == ["accepted", others[0].status]
        assert other.cancel_where(tag="run", older_than=3600).changed == {}
        named = other.cancel_many([*others, delayed.id, jobs[0], "nobody", "a\0b"])
        assert (len(named.changed), named.left, named.unknown) == (21, {jobs[0].id: "cancelled"}, ["nobody", "a\0b"])
    # Their messages fall out when they are claimed.
    worker = MiniWorker(client_settings)
    while worker.step(most=1000):
        pass
    assert worker.settled == 0
    again = client.retry_where(status="cancelled", tag="run=8")
    assert len(again.changed) == 20
    again.add(client.retry_many([jobs[0].id, others[0]]))
    assert (len(again.changed), len(again.left)) == (21, 1)
    while worker.step():
        pass
    assert worker.settled == 21, "published at once"
    worker.store.close()


@pytest.mark.parametrize(
    "filters",
    [{}, {"model": None}, {"status": "succeeded"}, {"status": "odd"}, {"older_than": -1}, {"older_than": "1h"},
     {"older_than": float("nan")}, {"tag": "=7"}, {"model": "a\0b"},
     {"model": ["a"]}, {"tag": 7}, {"tag": ("run",)}, {"lane": 1}],
)  # fmt: skip
def test_a_filter_that_means_everything_or_nothing_is_refused(client: Client, filters: dict[str, object]) -> None:
    job = client.enqueue("echo", 1)
    with pytest.raises(InvalidInput) as caught:
        client.cancel_where(**filters)  # type: ignore[arg-type]
    assert caught.value.fix
    for jobs in ([7], job.id, 7, None, {job.id: 1}):
        with pytest.raises(InvalidInput):
            client.cancel_many(jobs)  # type: ignore[arg-type]
    assert job.refresh().status in ("accepted", "queued")


def test_a_misspelt_filter_does_not_mean_more_jobs(client: Client) -> None:
    job = client.enqueue("echo", 1)
    for verb in (client.cancel_where, client.retry_where):
        with pytest.raises(TypeError, match="'modle'"):
            verb(tenant="default", modle="echo")  # type: ignore[call-arg]
    assert job.refresh().status in ("accepted", "queued")


def test_a_version_is_a_filter(client: Client) -> None:
    any_version, pinned, other = (client.enqueue(name, 1) for name in ("echo", "echo@2", "echo@3"))
    assert set(client.cancel_where(model="echo@2").changed) == {pinned.id}
    assert set(client.retry_where(model="echo@2").changed) == {pinned.id}
    assert client.retry_where(model="echo@3").changed == {}
    assert set(client.cancel_where(model="echo").changed) == {any_version.id, pinned.id, other.id}


def test_cut_off_it_goes_on_where_it_was(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = client.enqueue_many("echo", range(1500))
    heard: list[Bulk] = []
    real = Store.cancel_many

    def once(store: Store, *args: object, **options: object) -> object:
        if heard:
            raise StoreUnavailable("gone")
        return real(store, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "cancel_many", once)
        with pytest.raises(StoreUnavailable):
            client.cancel_many(jobs, on_chunk=heard.append)
    rest = client.cancel_many(jobs)
    assert set(rest.left) == set(heard[0].changed) and len(rest.changed) + len(rest.left) == 1500


def test_the_asyncio_client_has_them_too(client_settings: Settings) -> None:
    async def main() -> None:
        async with AsyncClient(client_settings, models=MODELS) as client:
            jobs = await client.enqueue_many("echo", range(50), tenant="acme")
            assert len((await client.cancel_many(jobs[:20])).changed) == 20
            assert len((await client.cancel_where(tenant="acme")).changed) == 30
            assert len((await client.retry_where(tenant="acme", status="cancelled")).changed) == 50
            assert len((await client.retry_many(jobs)).left) == 50

    asyncio.run(main())


def test_with_the_broker_away_it_does_not_wait_for_each_chunk(
    client: Client, client_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = client.enqueue_many("echo", range(1500))
    tries: list[float] = []

    def tell(*args: object, **options: object) -> bool:
        tries.append(clock.now())
        return False

    monkeypatch.setattr(bulk, "tell", tell)
    assert len(client.cancel_many(jobs).changed) == 1500
    assert len(tries) < 3


@pytest.mark.soak
def test_a_hundred_thousand_are_cancelled_beside_live_traffic(client_settings: Settings) -> None:
    """At 5,000 a second at least, and a submission beside it never waits for more than a chunk."""
    with penstock.Client(client_settings, models=MODELS) as client:
        for _ in range(10):
            client.enqueue_many("echo", range(10_000), tags={"flood": "1"})
        stop = threading.Event()
        waits: list[float] = []

        def live() -> None:
            while not stop.wait(0.005):
                start = clock.monotonic_s()
                client.enqueue("upper", "x")
                waits.append(clock.monotonic_s() - start)

        beside = threading.Thread(target=live)
        beside.start()
        watch = Stopwatch()
        done = client.cancel_where(tag="flood=1")
        took_s = watch.took_s
        stop.set()
        beside.join()
    assert len(done.changed) == 100_000
    assert 100_000 / took_s >= BAR_PER_S, took_s
    assert sorted(waits)[len(waits) * 99 // 100] < 0.25 and len(waits) > 50
