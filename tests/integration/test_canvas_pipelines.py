"""Pipelines and steps in Celery's canvases, both ways: as runs of the client, and sent by a program without penstock.

Plain tasks run in a stock Celery worker, all else in penstock workers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from celery import Celery, chain, chord, group, signature
from celery.canvas import chunks, xmap, xstarmap

from penstock import Client, JobFailed
from penstock.lane import PIPELINES, queue_name
from penstock.settings import Settings
from penstock.transport.url import connect, for_kombu, parse
from tests.fixtures import celeryapps
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Process, Worker, clean_environ, unrefused, wait_for

#: What the workers that know it serve; each call of ``noted`` is written down.
SERVED = '''
import os, time
from pathlib import Path
import penstock

@penstock.model(name="inc", max_size=16)
def inc(batch: list[int]) -> list[int]:
    return [value + 1 for value in batch]

@penstock.model(name="fail")
def fail(batch: list[object]) -> list[object]:
    raise ValueError(f"no good: {batch[0]}")

@penstock.step(pool="default")
def minus(left: int, right: int = 1) -> int:
    return left - right

@penstock.step(pool="default")
def noted(value: int, path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{value}\\n")
    return value

@penstock.step(pool="default")
def gate(value: int, path: str) -> int:
    while not Path(path).exists():
        time.sleep(0.01)
    return value

@penstock.pipeline
def scaled(value: int, by: int = 10):
    """(value + 1) * by"""
    return inc(value) * by

@penstock.pipeline
def failing(value: int):
    """Fails in its second step."""
    return fail(inc(value))

@penstock.pipeline
def held(value: int, ledger: str, path: str):
    """Notes what it has done, and is held before its end."""
    return inc(gate(noted(value, ledger), path))
'''

#: A pipeline that is announced, and not in the modules of the workers that are left.
OTHER = """
import penstock

@penstock.model(name="inc", max_size=16)
def inc(batch: list[int]) -> list[int]:
    return [value + 1 for value in batch]
"""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """On one database only: what is tested here is Celery's part; the store's is the same on both."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    module = tmp_path / "served_module.py"
    module.write_text(SERVED)
    return unrefused(settings).model_copy(update={"models": [str(module)]})


@pytest.fixture
def sdk(settings: Settings) -> Iterator[Client]:
    """It knows what was announced."""
    with Client(settings.model_copy(update={"models": []})) as client:
        yield client


@pytest.fixture
def marks(settings: Settings) -> Iterator[redis_py.Redis]:
    client = connect(settings.broker)
    yield client
    client.close()


@pytest.fixture
def plain_worker(settings: Settings, tmp_path: Path) -> Iterator[Process]:
    url = for_kombu(settings.broker).url
    socket = parse(settings.broker)
    env = clean_environ() | {
        "PLAIN_BROKER": url,
        "PLAIN_BACKEND": url,
        "PLAIN_MARKS": f"unix://{socket.path}?db={socket.db}" if socket.path else settings.broker,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = Process(
        [
            *(sys.executable, "-m", "celery", "-A", "tests.fixtures.plain_tasks", "worker", "-P", "solo"),
            *("-Q", "plain", "--without-gossip", "--without-mingle", "-n", "plain@%h", "-l", "INFO"),
        ],
        env=env,
        log=tmp_path / "plain.log",
    )
    wait_for(lambda: "ready." in process.output() or process.popen.poll() is not None, what="the stock worker")
    yield process
    process.kill()
    sys.stdout.write(process.output()[-2000:])


class Program:
    """A Celery program that knows names and queues, and nothing of penstock."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        self.app = app
        self.settings = settings

    def s(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Of a model or a step."""
        return self._sign(name, name, args, kwargs)

    def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Of a pipeline."""
        return self._sign(name, PIPELINES, args, kwargs)

    def plain(self, task: str, *args: Any) -> Any:
        """Of a task of the stock worker."""
        return signature(f"plain.{task}", args=args, app=self.app, options={"queue": "plain"})

    def _sign(self, name: str, place: str, args: Any, kwargs: Any) -> Any:
        namespace = self.settings.namespace
        queue = queue_name(namespace, place, "interactive")
        return signature(f"{namespace}.{name}", args=args, kwargs=kwargs, app=self.app, options={"queue": queue})


@pytest.fixture
def program(settings: Settings) -> Iterator[Program]:
    with celeryapps.program("program", settings.broker) as app:
        yield Program(settings, app)


def shapes(of: Program) -> dict[str, tuple[Any, Any]]:
    """Canvases, and what they give."""
    s, run, plain, app = of.s, of.run, of.plain, of.app
    return {
        "alone": (run("scaled", 1), 20),
        "by name": (run("scaled", by=3, value=1), 6),
        "a step": (s("minus", 9, right=2), 7),
        "chain": (chain(s("inc", 1), run("scaled", 2), s("minus", 1), plain("inc")), 6),
        "around plain": (chain(plain("inc", 1), run("scaled"), plain("inc")), 31),
        "pipelines": (chain(run("scaled", 1), run("scaled"), run("scaled", by=2)), 422),
        "group": (group([run("scaled", 1), s("minus", 9), plain("inc", 1), s("inc", 1)], app=app), [20, 8, 2, 2]),
        "alike": (group([run("scaled", n) for n in range(20)], app=app), [(n + 1) * 10 for n in range(20)]),
        "chord": (chord([run("scaled", n) for n in range(5)], plain("total")), 150),
        "body": (chain(group([s("inc", 1)], app=app), run("scaled", 2).set(immutable=True)), 30),
        "nested": (
            chain(run("scaled", 0), group([run("scaled", 1), chain(s("minus", 2), plain("inc"))]), plain("total")),
            11 + 9,
        ),
    }  # fmt: skip


def test_pipelines_and_steps_are_members_of_canvases_that_are_runs(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, sdk: Client, program: Program,
    plain_worker: Process,
) -> None:  # fmt: skip
    worker_factory()
    shaped = shapes(program)
    jobs = {name: sdk.enqueue(canvas) for name, (canvas, _) in shaped.items()}
    assert {n: job.result(PATIENCE_S) for n, job in jobs.items()} == {n: value for n, (_, value) in shaped.items()}
    assert sdk.run(xmap(program.run("scaled"), [1, 2]), result_timeout=PATIENCE_S) == [20, 30]
    assert sdk.run(xstarmap(program.s("minus"), [(5, 2), (3,)]), result_timeout=PATIENCE_S) == [3, 2]
    assert sdk.run(chunks(program.run("scaled"), [(1,), (2, 1), (3,)], 2), result_timeout=PATIENCE_S) == [[20, 3], [40]]
    failed = sdk.enqueue(chain(program.s("inc", 1), program.run("failing"), program.s("inc")))
    with pytest.raises(JobFailed, match="no good: 3"):
        failed.result(PATIENCE_S)
    assert failed.error is not None and failed.error["step"] == "failing/fail"
