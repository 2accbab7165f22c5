"""Celery's canvas, once with plain Celery tasks and once with penstock models: the same expectations.

The program that builds the canvases knows nothing of penstock: it only has task names and queues. Plain tasks run in
a stock Celery worker on kombu's own transport, models in a penstock worker.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from celery import Celery, chain, chord, group, signature
from celery.exceptions import TaskRevokedError

from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.url import connect, for_kombu
from tests.fixtures import celeryapps
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Process, Worker, wait_for


@dataclass
class Bench:
    """One of the two worlds."""

    name: str
    app: Celery
    marks: redis_py.Redis
    tmp: Path
    settings: Settings

    def s(self, task: str, *args: Any, **options: Any) -> Any:
        """A signature of the task under test."""
        if self.name == "penstock":
            name, queue = f"{self.settings.namespace}.{task}", f"{self.settings.namespace}.{task}.interactive"
        else:
            name, queue = f"plain.{task}", "plain"
        return signature(name, args=args, app=self.app, options={"queue": queue, **options})

    def plain(self, task: str, *args: Any) -> Any:
        """A signature of a task that always runs in the stock worker."""
        return signature(f"plain.{task}", args=args, app=self.app, options={"queue": "plain"})

    def marked(self, key: str, count: int = 1) -> list[str]:
        """What the marking tasks left under ``key``, once there is as much as expected."""
        wait_for(lambda: self.marks.llen(key) >= count, what=f"{count} marks under {key}")
        return [value.decode() for value in self.marks.lrange(key, 0, -1)]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """On one database only: what is tested here is Celery's part; the store's is the same on both."""
    return sqlite_url


@pytest.fixture(params=["celery", "penstock"])
def bench(
    request: pytest.FixtureRequest,
    settings: Settings,
    plain_worker: Process,
    worker_factory: Callable[..., Worker],
    tmp_path: Path,
) -> Iterator[Bench]:
    url = for_kombu(settings.broker).url
    app = Celery("producer", broker=url, backend=url, set_as_current=False)
    if request.param == "penstock":
        worker_factory()
        request.getfixturevalue("dispatcher")
    marks = connect(settings.broker)
    yield Bench(request.param, app, marks, tmp_path, settings)
    marks.close()
    celeryapps.close(app)


def test_a_result(bench: Bench):
    result = bench.s("inc", 1).apply_async()
    assert result.get(timeout=PATIENCE_S) == 2
    assert result.state == "SUCCESS"


def test_many_results(bench: Bench):
    results = [bench.s("inc", n).apply_async() for n in range(50)]
    assert [r.get(timeout=PATIENCE_S) for r in results] == [n + 1 for n in range(50)]


def test_a_failure_reaches_the_caller_with_its_type(bench: Bench):
    with pytest.raises(ValueError, match="no good: 7"):
        bench.s("fail", 7).apply_async().get(timeout=PATIENCE_S)


def test_chain(bench: Bench):
    assert chain(bench.s("inc", 1), bench.s("inc"), bench.s("inc")).apply_async().get(timeout=PATIENCE_S) == 4


def test_chain_through_both_worlds(bench: Bench):
    mixed = chain(bench.plain("inc", 1), bench.s("inc"), bench.plain("inc"), bench.s("inc"))
    assert mixed.apply_async().get(timeout=PATIENCE_S) == 5


def test_a_failing_chain_stops_there(bench: Bench):
    result = chain(bench.s("inc", 1), bench.s("fail"), bench.s("inc")).apply_async()
    with pytest.raises(ValueError, match="no good"):
        result.parent.get(timeout=PATIENCE_S)
    assert result.parent.parent.get(timeout=PATIENCE_S) == 2


def test_group(bench: Bench):
    result = group(bench.s("inc", n) for n in range(20)).apply_async()
    assert result.get(timeout=PATIENCE_S) == [n + 1 for n in range(20)]


def test_chord(bench: Bench):
    result = chord([bench.s("inc", n) for n in range(20)], bench.s("total")).apply_async()
    assert result.get(timeout=PATIENCE_S) == sum(n + 1 for n in range(20))


def test_chord_of_chains_inside_a_chain(bench: Bench):
    parts = [chain(bench.s("inc", n), bench.s("inc")) for n in range(5)]
    result = chain(chord(parts, bench.s("total")), bench.s("inc")).apply_async()
    assert result.get(timeout=PATIENCE_S) == sum(n + 2 for n in range(5)) + 1


def test_a_failing_part_fails_the_chord(bench: Bench):
    result = chord([bench.s("inc", 1), bench.s("fail", 2)], bench.s("total")).apply_async()
    with pytest.raises(Exception, match="no good"):
        result.get(timeout=PATIENCE_S)


def test_link(bench: Bench):
    key = f"link:{uuid.uuid4()}"
    bench.s("inc", 1).apply_async(link=bench.plain("mark", key))
    assert bench.marked(key) == ["2"]


def test_link_to_the_task_under_test(bench: Bench):
    key = f"link:{uuid.uuid4()}"
    bench.plain("inc", 1).apply_async(link=bench.s("inc").set(link=bench.plain("mark", key)))
    assert bench.marked(key) == ["3"]


def test_link_error(bench: Bench):
    result = bench.s("fail", 1).apply_async(link_error=bench.plain("mark_error"))
    with pytest.raises(ValueError):
        result.get(timeout=PATIENCE_S)
    assert bench.marked(f"error:{result.id}") == ["failed"]


def test_retry_succeeds_in_the_end_and_calls_back_once(bench: Bench):
    key = f"retry:{uuid.uuid4()}"
    path = bench.tmp / uuid.uuid4().hex
    result = bench.s("flaky", [str(path), 2]).apply_async(link=bench.plain("mark", key))
    assert result.get(timeout=PATIENCE_S) == 3
    assert bench.marked(key) == ["3"]
    assert len(path.read_text().splitlines()) == 3


def test_countdown(bench: Bench):
    before = datetime.now(UTC)
    result = bench.s("inc", 1).apply_async(countdown=1.0)
    assert result.get(timeout=PATIENCE_S) == 2
    assert datetime.now(UTC) - before >= timedelta(seconds=0.9)


def test_expires(bench: Bench):
    result = bench.s("inc", 1).apply_async(expires=datetime.now(UTC) - timedelta(seconds=5))
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=PATIENCE_S)


def test_revoke(bench: Bench):
    result = bench.s("inc", 1).apply_async(countdown=2.0)
    bench.app.control.revoke(result.id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=PATIENCE_S)


def test_ignored_result_still_calls_back(bench: Bench):
    key = f"ignored:{uuid.uuid4()}"
    bench.s("inc", 1).apply_async(ignore_result=True, link=bench.plain("mark", key))
    assert bench.marked(key) == ["2"]


@pytest.mark.parametrize("bench", ["penstock"], indirect=True)
def test_a_foreign_message_becomes_a_job(bench: Bench):
    """``send_task`` by a program that has no penstock: row and all."""
    result = bench.app.send_task(
        f"{bench.settings.namespace}.upper", args=["hello"], queue=f"{bench.settings.namespace}.upper.background"
    )
    assert result.get(timeout=PATIENCE_S) == "HELLO"
    store = Store.open(bench.settings.database)
    job = store.get(result.id)
    assert (job.model, job.lane, job.status, job.input, job.output) == (
        "upper",
        "background",
        "succeeded",
        "hello",
        "HELLO",
    )
    assert job.attempt == 1
    store.close()


@pytest.mark.parametrize("bench", ["penstock"], indirect=True)
def test_what_is_no_exception_reaches_the_caller_as_one(bench: Bench):
    with pytest.raises(Exception, match="PanicException: panicked at 7"):
        bench.s("panic", 7).apply_async().get(timeout=PATIENCE_S)


@pytest.mark.parametrize("bench", ["penstock"], indirect=True)
@pytest.mark.parametrize("absurd", ["unprintable", "not utf-8"])
def test_an_error_without_a_text_reaches_the_caller(bench: Bench, absurd: str):
    result = bench.s("absurd", absurd).apply_async(link_error=bench.plain("mark_error"))
    with pytest.raises(Exception, match=r"Unprintable|caf"):
        result.get(timeout=PATIENCE_S)
    assert bench.marked(f"error:{result.id}") == ["failed"]


@pytest.mark.parametrize("bench", ["penstock"], indirect=True)
def test_a_foreign_message_is_validated(bench: Bench):
    with pytest.raises(Exception, match="does not fit model 'upper'"):
        bench.s("upper", 42).apply_async().get(timeout=PATIENCE_S)
