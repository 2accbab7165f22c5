"""A worker's bound on its memory: real processes that take too much, and say so."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from penstock import Client
from penstock.errors import JobFailed
from penstock.settings import PoolSettings, Settings
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Worker

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is bounded on Linux only")

WorkerFactory = Callable[..., Worker]
MODELS = "tests.fixtures.hungry_models"


def bounded(settings: Settings, memory: str, model: str) -> Settings:
    pools = {"small": PoolSettings(models=[model], memory=memory)}
    retry = settings.retry.model_copy(update={"ooms": 0})
    return settings.model_copy(update={"models": [MODELS], "pools": pools, "retry": retry})


def test_what_is_too_large_fails_with_the_bound_and_the_worker_goes_on(
    settings: Settings, worker_factory: WorkerFactory
) -> None:
    own = bounded(settings, "2GiB", "hungry")
    worker = worker_factory(settings=own, args=("--pool", "small"))
    with Client(own) as client:
        assert client.run("hungry", 100, result_timeout=PATIENCE_S) == ""
        with pytest.raises(JobFailed) as caught:
            client.run("hungry", 3000, result_timeout=PATIENCE_S)
        said = str(caught.value)
        assert "this worker's bound of 2.00 GiB (pools.NAME.memory) leaves no memory for this item alone" in said
        assert client.run("hungry", 100, result_timeout=PATIENCE_S) == ""
    assert [each.instance for each in worker.registrations()] and worker.popen.poll() is None


def test_a_batch_that_is_too_large_together_runs_in_parts(settings: Settings, worker_factory: WorkerFactory) -> None:
    own = bounded(settings, "2GiB", "hungry")
    worker_factory(settings=own, args=("--pool", "small"))
    with Client(own) as client:
        jobs = client.enqueue_many("hungry", [400] * 16)
        assert [job.result(timeout=PATIENCE_S) for job in jobs] == [""] * 16


@pytest.mark.parametrize(
    ("memory", "model", "says"),
    [
        (
            "2GiB",
            "whale",
            ["model 'whale' did not load on cpu: MemoryError", "raise pools.NAME.memory, which is 2.00 GiB"],
        ),
        ("80MiB", "hungry", ["pools.small.memory is 80 MiB, and a worker has"]),
    ],
)
def test_a_model_or_a_worker_that_does_not_fit_says_what_to_raise(
    settings: Settings, worker_factory: WorkerFactory, memory: str, model: str, says: list[str]
) -> None:
    own = bounded(settings, memory, model)
    worker = worker_factory(settings=own, args=("--pool", "small"), ready=False)
    assert worker.wait() != 0
    assert [words for words in says if words not in worker.output()] == []


def test_who_names_no_pool_is_not_bounded(settings: Settings, worker_factory: WorkerFactory) -> None:
    own = settings.model_copy(
        update={"models": [f"{MODELS}:Hungry"], "pools": {"default": PoolSettings(memory="80MiB")}}
    )
    worker_factory(settings=own)
    with Client(own) as client:
        assert client.run("hungry", 200, result_timeout=PATIENCE_S) == ""
