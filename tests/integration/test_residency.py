"""Workers that cannot hold all the models they serve: real processes, nothing stuck."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from penstock import Client, clock
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import residents
from penstock.transport.url import connect
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Worker, clean_environ, wait_for

WorkerFactory = Callable[..., Worker]


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Settings of a worker with room for two models of three."""
    worker = settings.worker.model_copy(update={"memory": "2GiB"})
    return settings.model_copy(update={"models": ["tests.fixtures.roomy_models"], "worker": worker})


def test_jobs_of_every_model_run_on_one_worker_that_holds_two(small: Settings, worker_factory: WorkerFactory) -> None:
    worker_factory(settings=small)
    with Client(small) as client:
        assert client.run("a", 1, result_timeout=PATIENCE_S) == ["a", 1, 0, 1]
        assert client.run("b", 1, result_timeout=PATIENCE_S) == ["b", 1, 0, 1]
        assert client.run("c", 1, result_timeout=PATIENCE_S) == ["c", 1, 0, 1], "one of the others made room"
        again = [client.run(name, 2, result_timeout=PATIENCE_S) for name in ("a", "b")]
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
            return {name for word in residents.words(redis, small.namespace).values() for name in word.models}

        assert client.run("b", 1, result_timeout=60)[0] == "b"
        assert client.run("c", 1, result_timeout=60)[0] == "c"
        wait_for(lambda: held() == {"b", "c"}, what="the two to be held")
        outputs = [client.run(name, 1, result_timeout=60) for name in ("b", "c") * 5]
        assert {(name, loads) for name, loads, _, _ in outputs} == {("b", 1), ("c", 1)}


GIB = 2**30


def shown(settings: Settings, *argv: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "penstock_cli", *argv],
        env={**clean_environ(), **settings.environ(), "PENSTOCK_MODELS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()] if "--json" in argv else done.stdout


def test_a_flood_does_not_keep_another_model_out(small: Settings, worker_factory: WorkerFactory) -> None:
    """The flood's model always has work here; it is drained for the other one, and goes on after it."""
    one = small.worker.model_copy(update={"memory": "1GiB"})
    worker_factory(settings=small.model_copy(update={"worker": one}))
    with Client(small) as client:
        assert client.run("a", 1, result_timeout=60)[0] == "a"
        flood = client.enqueue_many("a", [0.2] * 6000)
        assert client.run("b", 1, result_timeout=60)[0] == "b"
        assert flood[-1].status != "succeeded", "the flood was over before"
        assert client.run("a", 2, result_timeout=60)[0] == "a"


def test_the_command_line_says_where_a_model_is(settings: Settings) -> None:
    """Loaded, on its way in, or not; and that nobody knows while the broker is away."""
    store, now = Store.open(settings.database), clock.now()
    models = {name: {"version": "1", "memory": GIB} for name in ("a", "b", "c")}

    def start(name: str, memory: int | None) -> None:
        info = {"models": models, "device": "cuda:0", "pid": 1, "memory": memory}
        store.register_worker(f"{name}-1", name=name, pool="p", lease_until=now + 600, now=now, info=info)

    start("small", 2 * GIB)
    start("large", None)
    start("silent", GIB)
    store.close()
    with connect(settings.broker) as redis:
        residents.say(redis, settings.namespace, "small-1", residents.Word(now, ["a"], 2 * GIB, 2 * GIB, "b"))
    found = {model["name"]: model for model in shown(settings, "model", "list", "--json")}
    states = {name: {place["worker"]: place["state"] for place in one["residency"]} for name, one in found.items()}
    assert states == {
        "a": {"small": "loaded", "large": "loaded", "silent": "unknown"},
        "b": {"small": "loading", "large": "loaded", "silent": "unknown"},
        "c": {"small": "not loaded", "large": "loaded", "silent": "unknown"},
    }
    assert {one["memory"] for one in found.values()} == {GIB}
    small = {"worker": "small", "device": "cuda:0", "state": "loading", "version": "1"}
    assert small | {"used": 2 * GIB, "memory": 2 * GIB} in found["b"]["residency"]
    assert "small (cuda:0): loading; 2.0 GiB of 2.0 GiB used by models" in shown(settings, "model", "show", "b")
    rows = [line.split()[:6] for line in shown(settings, "model", "list").splitlines()]
    assert ["b", "1", "default", "3", "1", "+1"] in rows
    counts = {row["model"]: row["loaded"] for row in shown(settings, "queue", "stats", "--json")}
    assert counts == {"a": 2, "b": 1, "c": 1}
    away = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    found = {model["name"]: model for model in shown(away, "model", "list", "--json")}
    assert {place["state"] for place in found["c"]["residency"]} == {"loaded", "unknown"}


def test_what_a_worker_says_is_what_is_shown(small: Settings, worker_factory: WorkerFactory) -> None:
    worker_factory(settings=small)

    def places() -> Any:
        return {model["name"]: model["residency"][0] for model in shown(small, "model", "list", "--json")}

    found = wait_for(lambda: (p := places())["a"]["state"] == "loaded" and p, what="its first word")
    assert {name: place["state"] for name, place in found.items()} == {"a": "loaded", "b": "loaded", "c": "not loaded"}
    assert {(place["used"], place["memory"]) for place in found.values()} == {(2 * GIB, 2 * GIB)}


def test_a_model_that_can_never_fit_is_refused_with_the_fix(small: Settings, worker_factory: WorkerFactory) -> None:
    tiny = small.worker.model_copy(update={"memory": "512MiB"})
    worker = worker_factory(settings=small.model_copy(update={"worker": tiny}), ready=False)
    assert worker.wait() != 0
    assert "PENSTOCK_WORKER__MEMORY" in worker.output()
    assert "Traceback" not in worker.output()
