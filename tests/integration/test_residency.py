"""Workers that cannot hold all the models they serve: real processes, nothing stuck."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock import Client
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.url import connect
from tests.fixtures.worker import Worker, wait_for

WorkerFactory = Callable[..., Worker]


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Settings of a worker with room for two models of three."""
    worker = settings.worker.model_copy(update={"memory": "2GiB"})
    return settings.model_copy(update={"models": ["tests.fixtures.roomy_models"], "worker": worker})


def test_jobs_of_every_model_run_on_one_worker_that_holds_two(small: Settings, worker_factory: WorkerFactory) -> None:
    worker_factory(settings=small)
    with Client(small) as client:
        assert client.run("a", 1, result_timeout=30) == ["a", 1, 0, 1]
        assert client.run("b", 1, result_timeout=30) == ["b", 1, 0, 1]
        assert client.run("c", 1, result_timeout=30) == ["c", 1, 0, 1], "one of the others made room"
        again = [client.run(name, 2, result_timeout=30) for name in ("a", "b")]
        assert sorted(out[2] for out in again) in ([0, 1], [1, 1]), "unload() was called before the second load"
        jobs = [job for name in ("a", "b", "c") * 3 for job in client.enqueue_many(name, range(5))]
        done = list(client.as_completed(jobs, timeout=120))
        assert {job.status for job in done} == {"succeeded"}


def test_two_workers_share_the_models_between_them(small: Settings, worker_factory: WorkerFactory) -> None:
    """Once each model is loaded somewhere, its jobs go there and nobody loads anything for them."""
    one = small.worker.model_copy(update={"memory": "1GiB"})
    workers = [worker_factory(settings=small.model_copy(update={"worker": one})) for _ in range(2)]
    assert len(workers) == 2
    with Client(small) as client, connect(small.broker) as redis:

        def held() -> set[str]:
            words = redis.hgetall(keys.residents(small.namespace)).values()
            return {name for word in words for name in word.decode().split()[1:]}

        assert client.run("b", 1, result_timeout=60)[0] == "b"
        assert client.run("c", 1, result_timeout=60)[0] == "c"
        wait_for(lambda: held() == {"b", "c"}, what="the two to be held")
        outputs = [client.run(name, 1, result_timeout=60) for name in ("b", "c") * 5]
        assert {(name, loads) for name, loads, _, _ in outputs} == {("b", 1), ("c", 1)}


def test_a_model_that_can_never_fit_is_refused_with_the_fix(small: Settings, worker_factory: WorkerFactory) -> None:
    tiny = small.worker.model_copy(update={"memory": "512MiB"})
    worker = worker_factory(settings=small.model_copy(update={"worker": tiny}), ready=False)
    assert worker.wait() != 0
    assert "PENSTOCK_WORKER__MEMORY" in worker.output()
    assert "Traceback" not in worker.output()
