"""Canvases of models and plain Celery tasks, run by the client: the tasks by a stock worker that knows no penstock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from celery import Celery, chain, chord, group, signature
from celery.canvas import chunks, xmap, xstarmap

from penstock import Client, InvalidInput, JobFailed
from penstock.dispatch.daemon import Dispatcher
from penstock.job import JobState
from penstock.lane import queue_name, task_name
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import keys
from penstock.transport.url import connect, for_kombu, parse
from penstock_cli.runview import views
from tests.fixtures.cli import Penstock
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Process, clean_environ, unrefused, wait_for

#: Where the stock worker keeps results: for tests that ask for them.
KEPT = pytest.mark.parametrize("kept", ["redis", "db+sqlite", "file"], indirect=True)


@pytest.fixture
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """The ``result_backend`` of the program, where it is not the broker."""
    match getattr(request, "param", "redis"):
        case "db+sqlite":
            return f"db+sqlite:///{tmp_path / 'results.db'}"
        case "file":
            (tmp_path / "results").mkdir()
            return f"file://{tmp_path / 'results'}"
    return None


@pytest.fixture
def settings(settings: Settings, kept: str | None) -> Settings:
    celery = settings.celery.model_copy(update={"task_result_url": kept})
    return unrefused(settings).model_copy(update={"celery": celery})


@pytest.fixture
def marks(settings: Settings) -> Iterator[redis_py.Redis]:
    client = connect(settings.broker, timeout_s=PATIENCE_S)
    yield client
    client.close()


@pytest.fixture
def shop(settings: Settings) -> Iterator[Celery]:
    """The producer's app: it has the program's settings, and none of its tasks."""
    url = for_kombu(settings.broker).url
    app = Celery("shop", broker=url, backend=url, set_as_current=False)
    app.conf.task_default_queue = "shop"
    yield app
    app.close()


@pytest.fixture
def stock(settings: Settings, kept: str | None, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """``stock()`` starts a stock worker of the program; ``backend=False``: one that keeps no results."""
    started: list[Process] = []
    url, socket = for_kombu(settings.broker).url, parse(settings.broker)

    def start(*options: str, pool: str = "solo", backend: bool = True, late: bool = False) -> Process:
        name = f"shop{len(started)}"
        env = clean_environ() | {
            "SHOP_BROKER": url,
            "SHOP_BACKEND": (kept or url) if backend else "",
            "SHOP_MARKS": f"unix://{socket.path}?db={socket.db}" if socket.path else settings.broker,
            "SHOP_LATE": "1" if late else "",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [sys.executable, "-m", "celery", "-A", "tests.fixtures.task_program", "worker", "-P", pool]
        command += ["-Q", "shop", "--without-gossip", "--without-mingle", "-n", f"{name}@%h", "-l", "INFO", *options]
        process = Process(command, env=env, log=tmp_path / f"{name}.log")
        started.append(process)
        wait_for(lambda: "ready." in process.output() or process.popen.poll() is not None, what="the stock worker")
        return process

    yield start
    for process in started:
        process.kill()
        sys.stdout.write(process.output()[-3000:])


class Signs:
    """Signatures of the program's tasks, and of models."""

    def __init__(self, app: Celery, namespace: str) -> None:
        self.app, self._namespace = app, namespace

    def t(self, task: str, *args: Any, immutable: bool = False, options: Any = None, **kwargs: Any) -> Any:
        return signature(
            f"shop.{task}", args=args, kwargs=kwargs, app=self.app, immutable=immutable, options=options or {}
        )

    def m(self, model: str, *args: Any, immutable: bool = False) -> Any:
        options = {"queue": queue_name(self._namespace, model, "interactive")}
        name = task_name(self._namespace, model)
        return signature(name, args=args, app=self.app, immutable=immutable, options=options)

    def g(self, *members: Any) -> Any:
        return group(list(members), app=self.app)


@pytest.fixture
def signs(shop: Celery, settings: Settings) -> Signs:
    return Signs(shop, settings.namespace)


def test_values(
    signs: Signs, stock: Callable[..., Process], worker_factory: Callable[..., Any], dispatcher: Any, sdk: Client
) -> None:
    """What Celery's own worker would give for the same canvas."""
    stock()
    worker_factory()
    t, m, g = signs.t, signs.m, signs.g
    shapes: dict[str, tuple[Any, Any]] = {
        "one": (t("inc", 1), 2),
        "model, task": (chain(m("inc", 1), t("inc")), 3),
        "task, model": (chain(t("inc", 1), m("inc")), 3),
        "partial": (chain(t("echo", 1), t("echo", 2, 3)), [1, 2, 3]),
        "named": (t("echo", x=1), {"x": 1}),
        "named behind a result": (chain(m("echo", 1), t("echo", x=1)), {"x": 1}),
        "immutable": (chain(m("echo", 1), t("echo", 5, immutable=True), m("inc")), 6),
        "ignored results pass": (chain(t("quiet", 2), t("inc"), t("quiet")), 210),
        "group": (g(t("inc", 1), m("inc", 2), t("echo", 3)), [2, 3, 3]),
        "group of one": (g(t("inc", 1)), [2]),
        "group of none": (g(), []),
        "wide": (g(*(t("inc", n) for n in range(60))), list(range(1, 61))),
        "wide behind": (chain(m("echo", 1), g(*(t("echo", n) for n in range(3)))), [[1, 0], [1, 1], [1, 2]]),
        "wide and immutable": (chain(m("echo", 1), g(*(t("echo", n, immutable=True) for n in range(3)))), [0, 1, 2]),
        "chord": (chord([t("inc", 1), m("inc", 2)], t("total")), 5),
        "chord of tasks": (chord([t("inc", n) for n in range(9)], m("total")), 45),
        "chord of none": (chord([], t("echo", 1)), [[], 1]),
        "nested": (
            chain(t("inc", 0), g(chain(m("inc"), t("inc")), chord([t("inc"), m("echo")], t("total"))), t("total")),
            6,
        ),
        "map": (xmap(t("inc"), [1, 2]), [2, 3]),
        "starmap": (xstarmap(t("echo"), [(1, 2), (3,)]), [[1, 2], 3]),
        "starmap behind": (chain(m("echo", 1), xstarmap(t("echo"), [(1, 2)])), [[1, 2]]),
        "chunks": (chunks(t("inc"), [(1,), (2,), (3,)], 2), [[2, 3], [4]]),
        "replaced": (chain(t("replaced", 1), m("inc")), 4),
        "replaced by many": (chain(t("replaced_by_many", 1), t("total")), 5),
        "retried": (t("flaky", "retried", 2), 3),
        "nothing": (chain(t("echo", None), t("echo")), None),
    }
    jobs = {name: (sdk.enqueue(shape), value) for name, (shape, value) in shapes.items()}
    assert {name: job.result(PATIENCE_S) for name, (job, _) in jobs.items()} == {
        name: value for name, (_, value) in jobs.items()
    }


@KEPT
def test_a_failure_is_the_runs(
    signs: Signs, stock: Callable[..., Process], dispatcher: Any, sdk: Client, marks: redis_py.Redis
) -> None:
    """With the exception, and the step; what waits beside it is cancelled and revoked."""
    worker = stock()
    t = signs.t
    job = sdk.enqueue(chain(t("inc", 1), t("fail"), t("mark", "after")))
    with pytest.raises(JobFailed, match="ValueError: no good: 2"):
        job.result(PATIENCE_S)
    assert job.error is not None and (job.error["step"], job.error["code"]) == ("shop.fail", "task_failed")
    # One that its worker does not know calls nothing, either.
    unknown = sdk.enqueue(t("nowhere"))
    with pytest.raises(JobFailed, match=r"NotRegistered: shop\.nowhere"):
        unknown.result(PATIENCE_S)
    # In a header: stock Celery lets the siblings run.
    held = sdk.enqueue(chord([t("hold", 1, "held"), t("fail"), t("mark", 1, "sibling")], t("mark", "body")))
    marks.blpop(["held:began"], timeout=PATIENCE_S)
    del worker
    assert held.refresh().state is JobState.RUNNING
    marks.rpush("held:go", "1")
    with pytest.raises(JobFailed, match="no good"):
        held.result(PATIENCE_S)
    assert not marks.exists("body", "after")


def test_links_are_side_branches_and_what_is_written_behind_a_task_waits_for_it(
    settings: Settings,
    signs: Signs,
    stock: Callable[..., Process],
    worker_factory: Callable[..., Any],
    dispatcher: Any,
    sdk: Client,
    marks: redis_py.Redis,
) -> None:
    stock()
    worker_factory()
    t, m = signs.t, signs.m
    linked = sdk.enqueue(chain(t("inc", 1).set(link=[t("mark", "linked"), m("inc")]), t("inc")))
    assert linked.result(PATIENCE_S) == 3
    assert marks.lrange("linked", 0, -1) == [b"2"]
    broken = sdk.enqueue(chain(t("inc", 1).set(link=t("fail")), t("inc")))
    with pytest.raises(JobFailed, match="no good: 2"):
        broken.result(PATIENCE_S)
    # Neither is given what is before it, and each waits for it.
    job = sdk.enqueue(chain(t("hold", 1, "held"), m("inc", 5, immutable=True), t("mark", 7, "last", immutable=True)))
    marks.blpop(["held:began"], timeout=PATIENCE_S)
    with closing(Store.open(settings.database)) as store:
        shown = views(store.get(job.id), store.run_standing(job.id))
    assert [(one.name, one.calls, one.status) for one in shown] == [
        ("shop.hold", "shop.hold", "running"),
        ("inc", "inc", "pending"),
        ("shop.mark", "shop.mark", "pending"),
    ]
    marks.rpush("held:go", "1")
    assert job.result(PATIENCE_S) == 7


def sent(sdk: Client, run: Any) -> Any:
    """The one task of a run, once it was sent."""
    return wait_for(lambda: [one for one in sdk.list(run=run.id) if one.status == "running"], what="it to be sent")[0]


@KEPT
def test_what_calls_nothing_is_noticed(
    signs: Signs, stock: Callable[..., Process], dispatcher: Any, sdk: Client, marks: redis_py.Redis, shop: Celery
) -> None:
    """Revoked and expired tasks, by the result backend."""
    t = signs.t
    expired = sdk.enqueue(t("echo", 1, options={"expires": 0}))
    told = sdk.enqueue(t("request", options={"expires": 600, "time_limit": 50, "headers": {"mine": 7}}))
    sent(sdk, expired)
    worker = stock("-c", "1", pool="threads", late=True)  # its main thread listens while a task runs
    with pytest.raises(JobFailed, match="before it expired"):
        expired.result(PATIENCE_S)
    assert expired.error is not None and expired.error["code"] == "task_revoked"
    said = told.result(PATIENCE_S)
    assert (said["root_id"], said["queue"], said["timelimit"], said["mine"]) == (told.id, "shop", [50, None], 7)
    assert said["id"] == sdk.list(run=told.id)[0].id and said["expires"]
    # One that waits behind another, revoked by somebody else.
    held = sdk.enqueue(t("hold", 1, "first"))
    marks.blpop(["first:began"], timeout=PATIENCE_S)
    behind = sdk.enqueue(t("mark", 1, "behind"))
    step = sent(sdk, behind)
    shop.control.revoke(step.id)
    wait_for(lambda: f"Tasks flagged as revoked: {step.id}" in worker.output(), what="the worker to hear of it")
    marks.rpush("first:go", "1")
    assert held.result(PATIENCE_S) == 1
    with pytest.raises(JobFailed, match="the task was revoked"):
        behind.result(PATIENCE_S)
    assert not marks.exists("behind")


def test_a_task_alone_is_run_by_its_signature(shop: Celery, sdk: Client) -> None:
    def same(x: int) -> int:
        return x

    task = shop.task(same, name="shop.same")
    with pytest.raises(InvalidInput, match="is a plain Celery task") as caught:
        sdk.enqueue(task, 1)
    assert "task.s(…)" in caught.value.fix


def test_a_queue_that_nobody_consumes_is_named(
    signs: Signs, dispatcher: Any, sdk: Client, settings: Settings, marks: redis_py.Redis, tmp_path: Path
) -> None:
    """Also where no producer of Celery's has ever declared it, and what stood where its name is kept was broken."""
    penstock = Penstock(tmp_path, settings.environ())
    marks.set(keys.task_queues(settings.namespace), "broken")
    run = sdk.enqueue(signs.t("echo", 1, options={"queue": "nowhere", "priority": 3}))
    sent(sdk, run)
    assert marks.llen(keys.list_key("nowhere", 3)) == 1
    rows = penstock("queue", "stats", "--json").jsonl()
    assert [(row["queue"], row["ready"]) for row in rows if "queue" in row] == [("nowhere", 1)]
    run.cancel()


def test_a_countdown_counts_from_the_parents_end(
    signs: Signs, stock: Callable[..., Process], dispatcher: Any, sdk: Client
) -> None:
    stock()
    t = signs.t
    job = sdk.enqueue(chain(t("inc", 1), t("inc", options={"countdown": 0.6}), t("inc")))
    assert job.result(PATIENCE_S) == 4
    jobs = [one.refresh() for one in sdk.list(run=job.id)]
    first, second, third = sorted(jobs, key=lambda one: one.ledger.accepted_at)
    assert second.ledger.accepted_at == first.ledger.settled_at
    assert (second.ledger.started_at or 0) - second.ledger.accepted_at >= 0.6
    assert third.ledger.accepted_at == second.ledger.settled_at


def test_without_a_result_backend_values_and_failures_pass(
    signs: Signs, stock: Callable[..., Process], dispatcher: Any, sdk: Client
) -> None:
    stock(backend=False)
    t = signs.t
    assert sdk.run(chain(t("inc", 1), t("quiet"), t("inc")), result_timeout=PATIENCE_S) == 21
    job = sdk.enqueue(t("fail"))
    with pytest.raises(JobFailed, match="its worker's log says what"):
        job.result(PATIENCE_S)


def test_a_cancelled_run_revokes_its_tasks(
    signs: Signs, stock: Callable[..., Process], dispatcher: Any, sdk: Client, marks: redis_py.Redis
) -> None:
    worker = stock(pool="threads")  # its main thread listens while a task runs
    t = signs.t
    held = sdk.enqueue(t("hold", 1, "held"))
    marks.blpop(["held:began"], timeout=PATIENCE_S)
    [step] = sdk.list(run=held.id)
    held.cancel()
    assert held.refresh().state is JobState.CANCELLED
    wait_for(lambda: f"Tasks flagged as revoked: {step.id}" in worker.output(), what="the worker to hear of it")
    # Whoever runs it goes on, and what it gives is late.
    marks.rpush("held:go", "1")
    marks.blpop(["held:ended"], timeout=PATIENCE_S)
    assert sdk.run(t("inc", 1), result_timeout=PATIENCE_S) == 2
    assert [one.status for one in sdk.list(run=held.id)] == ["cancelled"]


@pytest.mark.parametrize(
    ("kept", "resend"),
    [("redis", False), ("redis", True), ("db+sqlite", False), ("file", False), ("file", True)],
    indirect=["kept"],
)
def test_a_worker_that_is_killed(
    signs: Signs,
    stock: Callable[..., Process],
    dispatcher: Any,
    sdk: Client,
    marks: redis_py.Redis,
    resend: bool,
) -> None:
    """Celery acknowledges early: nobody has the task any more. It is lost, or sent again where it may run twice."""
    worker = stock()
    said = {"penstock": {"timeout": 1.5, "resend": resend}}
    job = sdk.enqueue(chain(signs.t("hold", 1, "held", options=said), signs.t("inc")))
    marks.blpop(["held:began"], timeout=PATIENCE_S)
    worker.kill()
    stock()
    if not resend:
        with pytest.raises(JobFailed, match="nobody has heard of the task"):
            job.result(PATIENCE_S)
        assert job.error is not None and (job.error["code"], job.error["step"]) == ("task_lost", "shop.hold")
        job.retry()
    marks.blpop(["held:began"], timeout=PATIENCE_S)
    marks.rpush("held:go", "1")
    assert job.result(PATIENCE_S) == 2


@KEPT
def test_a_killed_child_is_told_by_its_worker(
    signs: Signs, stock: Callable[..., Process], dispatcher: Any, sdk: Client, marks: redis_py.Redis
) -> None:
    stock("-c", "1", pool="prefork")
    job = sdk.enqueue(signs.t("die"))
    with pytest.raises(JobFailed, match="WorkerLostError"):
        job.result(PATIENCE_S)


def test_returns_wait_for_a_dispatcher(
    settings: Settings, signs: Signs, stock: Callable[..., Process], sdk: Client, marks: redis_py.Redis
) -> None:
    """The first tasks are sent by the client; without a dispatcher nobody hears of their ends, and nothing is lost."""
    stock()
    job = sdk.enqueue(signs.g(signs.t("mark", 1, "ran"), signs.t("mark", 2, "ran")) | signs.t("total"))
    wait_for(lambda: marks.llen("ran") == 2, what="the tasks to run")
    assert job.refresh().state is JobState.RUNNING
    service = Dispatcher(settings)
    service.start()
    assert job.result(PATIENCE_S) == 3
    service.stop()


def test_a_broker_that_was_away_gets_its_tasks(
    settings: Settings, signs: Signs, stock: Callable[..., Process], marks: redis_py.Redis
) -> None:
    """A producer that cannot send, and dies: the dispatcher sends what is in SQL."""
    away = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.task_default_queue = "shop"
    with Client(away) as client:
        id = client.enqueue(chain(signature("shop.inc", (1,), app=app), signature("shop.inc", app=app))).id
    app.close()
    stock()
    service = Dispatcher(settings)
    service.start()
    with Client(settings) as client:
        assert client.get(id).result(PATIENCE_S) == 3
    service.stop()
