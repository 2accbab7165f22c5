"""Pipelines and steps in Celery's canvases, both ways: as runs of the client, and sent by a program without penstock.

Plain tasks run in a stock Celery worker, all else in penstock workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py
from celery import Celery, chain, chord, group, signature
from celery.canvas import chunks, xmap, xstarmap
from celery.exceptions import TaskRevokedError

from penstock import Client, JobFailed
from penstock.lane import PIPELINES, queue_name
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.url import connect
from penstock_cli.stranded import why
from tests.fixtures import celeryapps
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Process, Worker, unrefused, wait_for

#: What the workers that know it serve; each call of ``noted`` is written down.
SERVED = '''
import os, time
from pathlib import Path
from types import SimpleNamespace
import penstock

@penstock.model(name="inc", max_size=16)
def inc(batch: list[int]) -> list[int]:
    return [value + 1 for value in batch]

@penstock.model(name="fail")
def fail(batch: list[object]) -> list[object]:
    raise ValueError(f"no good: {batch[0]}")

@penstock.step(pool="default")
def tell(values: list[object]) -> list[object]:
    return values

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
def approved(value: int):
    """Waits for a word."""
    return [value, penstock.wait_for("go")]

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


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    opened = Store.open(settings.database)
    yield opened
    opened.close()


def marked(marks: redis_py.Redis, key: str, count: int = 1) -> list[str]:
    """What the tasks of the stock worker left under ``key``."""
    wait_for(lambda: marks.llen(key) >= count, what=f"{count} marks under {key}")
    return [value.decode() for value in marks.lrange(key, 0, -1)]


def holds_nothing(settings: Settings, marks: redis_py.Redis) -> bool:
    """Whether no message is in a queue of ours, or in a worker's hands."""
    of_ours = [*marks.scan_iter(f"{settings.namespace}.*", _type="list")]
    return not of_ours and not [*marks.scan_iter(f"{settings.namespace}:*unacked:*", _type="hash")]


def test_they_are_sent_by_plain_celery(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, program: Program,
    plain_worker: Process, store: Store,
) -> None:  # fmt: skip
    worker_factory()
    sent = {name: canvas.apply_async() for name, (canvas, _) in shapes(program).items()}
    expected = {name: value for name, (_, value) in shapes(program).items()}
    assert {name: result.get(timeout=PATIENCE_S) for name, result in sent.items()} == expected
    job = store.get(sent["alone"].id)
    assert (job.model, job.lane, job.status, job.input, job.output) == (
        "scaled", "interactive", "succeeded", {"value": 1, "by": 10}, 20,
    )  # fmt: skip
    assert job.graph is not None and job.canvas is not None
    assert [step.model for step in store.list(run=job.id)] == ["inc"]
    assert sent["alone"].state == "SUCCESS"


def test_a_failure_reaches_callers_links_and_chords(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, program: Program,
    plain_worker: Process, marks: redis_py.Redis, store: Store,
) -> None:  # fmt: skip
    worker_factory()
    program.run("scaled", 4).apply_async(link=program.plain("mark", "linked"))
    assert marked(marks, "linked") == ["50"]
    errback = program.plain("mark_error")
    cases = {
        "no good: 2": program.run("failing", 1),
        "input 'value' does not fit pipeline 'scaled'": program.run("scaled", "one"),
        "takes no 'bye'": program.run("scaled", 1, bye=2),
        "no model is named 'nosuch'": program.run("nosuch", 1),
        "missing a required argument: 'left'": program.s("minus", right=1),
    }
    for words, canvas in cases.items():
        result = canvas.apply_async(link_error=errback)
        with pytest.raises(Exception, match=words):
            result.get(timeout=PATIENCE_S)
        assert marked(marks, f"error:{result.id}") == ["failed"]
        job = store.get(result.id)
        assert job.status == "failed" and job.error is not None and words in job.error["message"]
    with pytest.raises(Exception, match="no good: 3"):
        chord([program.run("scaled", 1), program.run("failing", 2)], program.plain("total")).apply_async().get(
            timeout=PATIENCE_S
        )
    stopped = chain(program.run("failing", 1), program.plain("mark", "never")).apply_async()
    with pytest.raises(Exception, match="no good: 2"):
        stopped.parent.get(timeout=PATIENCE_S)
    assert not marks.exists("never")
    wait_for(lambda: holds_nothing(settings, marks), what="no message to be left")


@pytest.mark.parametrize("lost", [False, True])
def test_celery_is_told_by_whatever_worker_there_is_after_the_end(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, program: Program,
    marks: redis_py.Redis, store: Store, sdk: Client, lost: bool,
) -> None:  # fmt: skip
    """A client ends the run while there is no worker, whose message may be lost at that."""
    first = worker_factory()
    held = program.run("approved", 1)
    sent = chord([held, program.run("scaled", 1)], program.s("tell")).apply_async()
    parts = sent.parent.children
    wait_for(lambda: store.get_many([parts[0].id]), what="it to be a run")
    assert parts[1].get(timeout=PATIENCE_S, disable_sync_subtasks=False) == 20
    first.stop()
    sdk.signal(parts[0].id, "go", "yes")
    assert store.get(parts[0].id).output == [1, "yes"]
    queue = held.options["queue"]
    assert marks.llen(queue) == 1, "its message, once more"
    if lost:
        marks.delete(queue)
    worker_factory()
    assert sent.get(timeout=PATIENCE_S) == [[1, "yes"], 20]
    assert parts[0].get(timeout=PATIENCE_S, disable_sync_subtasks=False) == [1, "yes"]


def test_a_chord_of_many_pipelines(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, program: Program
) -> None:
    """More than are taken at a time, by two workers."""
    worker_factory()
    worker_factory()
    sent = chord([program.run("scaled", n) for n in range(300)], program.s("tell")).apply_async()
    assert sent.get(timeout=PATIENCE_S) == [(n + 1) * 10 for n in range(300)]


def test_a_worker_that_does_not_know_a_pipeline_runs_what_was_announced(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, program: Program, tmp_path: Path
) -> None:
    worker_factory("knowing").stop()
    other = tmp_path / "other_module.py"
    other.write_text(OTHER)
    worker_factory("other", settings=settings.model_copy(update={"models": [str(other)]}))
    assert program.run("scaled", 1).apply_async().get(timeout=PATIENCE_S) == 20
    with pytest.raises(Exception, match="'minus' is a model, and no pipeline"):
        program.run("minus", 1).apply_async().get(timeout=PATIENCE_S)


def test_a_message_that_comes_again_and_a_worker_that_is_killed_make_no_second_run(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, program: Program,
    plain_worker: Process, marks: redis_py.Redis, store: Store, tmp_path: Path,
) -> None:  # fmt: skip
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    first = worker_factory("first")
    held = program.run("held", 1, str(ledger), str(gate))
    canvas = chain(held, program.plain("mark", "after"))
    sent = canvas.apply_async()
    id = sent.parent.id
    wait_for(lambda: ledger.exists() and ledger.read_text(), what="the first step to be done")
    program.app.send_task(
        held.task, args=[5, "nowhere", "nowhere"], task_id=id, queue=held.options["queue"]
    )  # its id is that run's
    wait_for(lambda: not marks.llen(held.options["queue"]), what="the twin to be taken")
    assert len(store.list(run=id)) == 2
    first.kill_all()
    worker_factory("second")
    gate.touch()
    assert sent.parent.get(timeout=PATIENCE_S) == 2
    assert marked(marks, "after") == ["2"]
    assert ledger.read_text() == "1\n"
    program.app.send_task(held.task, args=[7, "nowhere", "nowhere"], task_id=id, queue=held.options["queue"])
    wait_for(lambda: holds_nothing(settings, marks), what="no message to be left")
    assert store.get(id).output == 2 and marked(marks, "after") == ["2"]
    assert len([job for job in store.list() if job.model == "held"]) == 1


def test_a_run_is_ended_by_whoever_and_celery_hears_of_it(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, program: Program,
    plain_worker: Process, marks: redis_py.Redis, store: Store, sdk: Client, tmp_path: Path,
) -> None:  # fmt: skip
    """By the dispatcher at its deadline, by a client, by `revoke`, before it was taken."""
    worker_factory()
    gate = tmp_path / "gate"

    def held(n: int, **options: Any) -> Any:
        return program.run("held", n, str(tmp_path / f"ledger{n}"), str(gate)).apply_async(**options)

    late = held(1, expires=1.5)
    with pytest.raises(TaskRevokedError):
        late.get(timeout=PATIENCE_S)
    assert store.get(late.id).status == "expired"
    cancelled = held(2)
    wait_for(lambda: store.get_many([cancelled.id]), what="it to be a run")
    sdk.get(cancelled.id).cancel()
    with pytest.raises(TaskRevokedError):
        cancelled.get(timeout=PATIENCE_S)
    recalled = held(3)
    wait_for(lambda: store.get_many([recalled.id]), what="it to be a run")
    program.app.control.revoke(recalled.id)
    with pytest.raises(TaskRevokedError):
        recalled.get(timeout=PATIENCE_S)
    program.app.control.revoke("before", reply=True, timeout=PATIENCE_S, limit=2)
    with pytest.raises(TaskRevokedError):
        held(6, task_id="before").get(timeout=PATIENCE_S)
    wait_for(lambda: store.get_many(["before"]), what="it to be a job")
    wait_for(lambda: store.get("before").status == "cancelled", what="its end")
    assert not store.list(run="before")
    early = held(4, countdown=600)
    wait_for(lambda: store.get_many([early.id]), what="it to be a run")
    assert store.get(early.id).status == "accepted" and not store.list(run=early.id)
    program.app.control.revoke(early.id)
    with pytest.raises(TaskRevokedError):
        early.get(timeout=PATIENCE_S)
    gate.touch()
    assert held(5, countdown=0.5).get(timeout=PATIENCE_S) == 6
    wait_for(lambda: holds_nothing(settings, marks), what="no message to be left")


def test_a_run_is_whose_its_message_says_and_can_be_started_again(
    settings: Settings, worker_factory: Callable[..., Worker], dispatcher: Any, program: Program,
    plain_worker: Process, marks: redis_py.Redis, store: Store, sdk: Client, tmp_path: Path,
) -> None:  # fmt: skip
    worker_factory()
    said = {"penstock": {"tenant": "acme", "tags": {"run": "7"}}}
    result = program.run("failing", 1).apply_async(
        priority=6, time_limit=30, link_error=program.plain("mark_error"), **said
    )
    with pytest.raises(Exception, match="no good: 2"):
        result.get(timeout=PATIENCE_S)
    job = store.get(result.id)
    assert (job.tenant, job.tags, job.priority, job.timeout_s) == ("acme", {"run": "7"}, 6, 30.0)
    assert {step.tenant for step in store.list(run=job.id)} == {"acme"}
    assert [each.id for each in sdk.list(tag="run=7")] == [job.id]
    assert len(marked(marks, f"error:{result.id}")) == 1
    sdk.get(job.id).retry()
    assert len(marked(marks, f"error:{result.id}", 2)) == 2, "Celery is told of the second end, too"
    refused = program.run("scaled", "one").apply_async(**said)
    with pytest.raises(Exception, match="does not fit"):
        refused.get(timeout=PATIENCE_S)
    first = store.get(refused.id)
    sdk.get(refused.id).retry()
    wait_for(lambda: store.get(refused.id).attempt > first.attempt, what="it to be refused again")
    again = wait_for(lambda: store.get(refused.id).state.is_terminal and store.get(refused.id), what="its end")
    assert (again.error, again.tenant) == (first.error, "acme")
    wait_for(lambda: holds_nothing(settings, marks), what="no message to be left")


def test_doctor_says_where_messages_of_pipelines_belong(
    settings: Settings, worker_factory: Callable[..., Worker], store: Store
) -> None:
    worker_factory()
    app: Any = SimpleNamespace(settings=settings, store=store)
    told = {name: why(f"penstock.{name}.background", app) for name in ("scaled", PIPELINES, "inc")}
    assert told["scaled"].endswith("have your program send its messages to penstock._pipelines.background")
    assert told[PIPELINES].startswith("start a worker, which takes the calls of all pipelines")
    assert told["inc"].startswith("no open job is left of it: `penstock queue purge inc`; if a Celery program has sent")
    assert "start a worker that serves 'inc'" in told["inc"]
