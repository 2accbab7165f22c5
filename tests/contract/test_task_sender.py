"""Plain tasks at a real broker: one message each, whoever dies when; stock workers read them, and we their returns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from penstock.dispatch.relay import Relay
from penstock.dispatch.tasks.results import Results
from penstock.dispatch.tasks.returns import Returns
from penstock.dispatch.tasks.sender import TaskSender
from penstock.dispatch.tasks.watch import Watch
from penstock.job import JobState
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.transport import keys
from penstock.transport.publisher import Publisher
from penstock.transport.url import for_kombu
from tests.contract.test_store_tasks import ARGS, ONE, run_of, task
from tests.fixtures.runs import begin, graph, open_steps, out

# Celery's backend, which writes results here as a worker does.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


class Bench:
    """A store, and what stands around it, without processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store.open(settings.database)
        self.publisher = Publisher(settings.broker, settings.namespace)
        self.redis = self.publisher.client
        self.told: list[Settled] = []
        self.sender = TaskSender(self.store, self.publisher, settings, tell=self.told.extend)
        self.results = Results(settings)
        self.returns = Returns(self.store, settings, self.results, tell=self.told.extend)
        stopping = threading.Event()
        self.watch = Watch(self.store, settings, self.results, stopping=stopping, tell=self.told.extend)
        self.queue = keys.returns(settings.namespace)

    def send(self, *ids: str) -> None:
        self.sender.send([self.store.get(id) for id in ids])

    def at_broker(self, queue: str = "shop") -> int:
        return int(self.redis.llen(queue))

    def back(self, app: Celery, name: str, *args: Any, **options: Any) -> None:
        """What a worker's callback does."""
        app.send_task(f"{self.settings.namespace}.task.{name}", args=args, queue=self.queue, **options)

    def close(self) -> None:
        self.returns.close()
        self.results.close()
        self.publisher.close()
        self.store.close()


@pytest.fixture
def bench(settings: Settings) -> Iterator[Bench]:
    bench = Bench(settings)
    yield bench
    bench.close()


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    url = for_kombu(settings.broker).url
    app = Celery("shop", broker=url, backend=url, set_as_current=False)
    yield app
    app.backend.client.close()
    app.close()


def test_the_message_is_a_stock_one(bench: Bench) -> None:
    options: dict[str, Any] = {"priority": 3, "time_limit": 9.0, "headers": {"mine": 1}, "expires": 60.0}
    run, id = run_of(bench.store, graph(task("a", ARGS, **options), output=out("a")))
    bench.send(id)
    assert (bench.at_broker(), bench.at_broker(keys.list_key("shop", 3))) == (0, 1)
    with Connection(for_kombu(bench.settings.broker).url) as connection, connection.SimpleQueue("shop") as queue:
        message = queue.get(timeout=5)
        message.ack()
    args, kwargs, embed = message.payload
    assert (args, kwargs, embed["chord"], embed["chain"]) == ([1], {}, None, None)
    headers = message.headers
    assert (headers["id"], headers["root_id"], headers["task"], headers["mine"]) == (id, run, "shop.a", 1)
    assert headers["timelimit"] == [9.0, None] and headers["expires"].startswith("2023-11-14T22:14:20")
    assert embed["callbacks"][0]["options"]["queue"] == bench.queue == embed["errbacks"][0]["options"]["queue"]
    assert embed["callbacks"][0]["args"] == [id, 1]


def test_a_message_is_sent_once_whoever_dies_before_it_is_noted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer dies behind the broker's answer; the dispatcher's relay takes its place, twice."""
    _, id = run_of(bench.store)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "tasks_sent", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            bench.send(id)
    assert (bench.at_broker(), bench.store.get(id).state) == (1, JobState.ACCEPTED)
    mark = f"{keys.task(bench.settings.namespace, id)}:0"
    assert bench.redis.ttl(mark) > 29 * 86400, "the database may be away for long"
    relay = Relay(bench.store, bench.publisher, bench.settings.dispatcher, tasks=bench.sender)
    relay.turn()
    relay.turn()
    job = bench.store.get(id)
    assert (bench.at_broker(), job.state, job.attempt) == (1, JobState.RUNNING, 1)
    assert 3500 < bench.redis.ttl(mark) <= 3600, "for who has looked before it was noted"


def test_what_two_have_sent_is_revoked_by_neither(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow producer, and the relay that takes its place meanwhile."""
    _, id = run_of(bench.store)
    revoked: list[str] = []
    monkeypatch.setattr(bench.sender, "revoke", revoked.extend)
    noted = Store.tasks_sent
    with monkeypatch.context() as patch:

        def slowly(store: Store, *args: Any, **options: Any) -> set[str]:
            patch.setattr(Store, "tasks_sent", noted)
            bench.send(id)
            return noted(store, *args, **options)

        patch.setattr(Store, "tasks_sent", slowly)
        bench.send(id)
    assert (revoked, bench.at_broker(), bench.store.get(id).state) == ([], 1, JobState.RUNNING)


def test_what_was_cancelled_while_it_was_sent_is_revoked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run, id = run_of(bench.store)
    revoked: list[str] = []
    monkeypatch.setattr(bench.sender, "revoke", revoked.extend)
    noted = Store.tasks_sent
    with monkeypatch.context() as patch:

        def cancelled_first(store: Store, *args: Any, **options: Any) -> set[str]:
            store.cancel(run, now=options["now"])
            return noted(store, *args, **options)

        patch.setattr(Store, "tasks_sent", cancelled_first)
        bench.send(id)
    assert revoked == [id] and bench.store.get(id).state is JobState.CANCELLED


def test_one_that_is_sent_again_has_another_message(bench: Bench) -> None:
    _, id = run_of(
        bench.store,
        graph(
            task(
                "a",
                ARGS,
                resend=True,
            ),
            output=out("a"),
        ),
        timeout_s=1e-9,
    )
    bench.send(id)
    bench.watch.look()
    assert bench.store.get(id).state is JobState.ACCEPTED
    bench.send(id)
    assert bench.at_broker() == 2


def test_one_that_is_given_nothing_it_can_take_fails(bench: Bench) -> None:
    wrong = graph(task("a", {"args": {"$get": [{"$in": "x"}, "y"]}, "kwargs": {}}), output=out("a"))
    for given, code in (({"x": 1}, "no_value"), ({"x": {"y": 1}}, "invalid_input")):
        run = begin(bench.store, wrong, given)
        bench.send(open_steps(bench.store, run)["a"])
        job = bench.store.get(run)
        assert job.error is not None and job.error["code"] == code
    assert bench.at_broker() == 0 and bench.told


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip"}, {"priority": 9}, {"priority": 4}, {"serializer": "json"}]
)
@pytest.mark.parametrize("protocol", [1, 2])
def test_returns_of_any_form_are_read(bench: Bench, app: Celery, options: Any, protocol: int) -> None:
    app.conf.task_protocol = protocol
    app.conf.broker_transport_options = {"priority_steps": list(range(10))}
    run, id = run_of(bench.store)
    bench.send(id)
    bench.back(app, "returned", {"x": [1, "é"]}, id, 1, **options)
    assert bench.returns.turn() == 0.0
    assert bench.store.get(run).output == {"x": [1, "é"]}
    assert not bench.redis.exists(*[f"{bench.queue}{keys.SEP}{step}" for step in range(10)], bench.queue)
    assert {row.id for row in bench.told} == {id, run}


def test_a_return_that_cannot_be_read_is_set_aside(bench: Bench, app: Celery) -> None:
    run, id = run_of(bench.store)
    bench.send(id)
    for junk in (b"{", b"[]", b'{"body": 1}', b'{"body": "W10=", "headers": {}, "properties": {}}'):
        bench.redis.lpush(bench.queue, junk)
    bench.back(app, "returned", 1)
    bench.back(app, "else", 1, id, 1)
    bench.back(app, "returned", 1, [id], 1)
    bench.back(app, "returned", 7, id, 1)
    bench.returns.turn()
    assert bench.store.get(run).output == 7
    assert (bench.redis.llen(bench.queue), bench.redis.llen(keys.dead(bench.settings.namespace))) == (0, 7)


@pytest.mark.parametrize(
    ("job", "attempt"), [("\0", 1), ("j" * 5000, 1), ("", 1), ("j", 2**31), ("j", 10**30), ("j", -1), ("j", True)]
)
def test_a_return_that_no_database_can_look_for_holds_up_nobody(
    bench: Bench, app: Celery, job: str, attempt: int
) -> None:
    run, id = run_of(bench.store)
    bench.send(id)
    for name in ("returned", "raised"):
        bench.back(app, name, 1, job, attempt)
    bench.back(app, "returned", 7, id, 1)
    assert bench.returns.turn() == 0.0
    assert bench.store.get(run).output == 7
    assert bench.redis.llen(bench.queue) == 0


@pytest.mark.parametrize("by", ["link", "backend"])
@pytest.mark.parametrize("value", [float("nan"), [{"a": float("-inf")}], "\ud800"])
def test_a_result_that_is_no_json_fails_its_step_at_once(bench: Bench, app: Celery, value: Any, by: str) -> None:
    run, id = run_of(bench.store)
    bench.send(id)
    if by == "link":
        bench.back(app, "returned", value, id, 1)
        bench.returns.turn()
    else:
        app.backend.store_result(id, value, "SUCCESS")
        bench.watch.look()
    job = bench.store.get(run)
    assert job.error is not None and job.error["code"] == "invalid_output" and "NaN" in job.error["message"]


def test_a_return_stays_until_it_is_settled(bench: Bench, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    run, id = run_of(bench.store)
    bench.send(id)
    bench.back(app, "returned", 7, id, 1)
    with monkeypatch.context() as patch:
        patch.setattr(bench.returns, "_remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            bench.returns.turn()
    assert (bench.redis.llen(bench.queue), bench.store.get(run).output) == (1, 7)
    told = len(bench.told)
    bench.returns.turn()
    assert (bench.redis.llen(bench.queue), len(bench.told)) == (0, told)


def test_a_result_that_is_too_long_fails_its_step(bench: Bench, app: Celery) -> None:
    run, id = run_of(bench.store)
    bench.send(id)
    bench.back(app, "returned", "x" * (bench.settings.job.max_output_bytes + 1), id, 1)
    bench.returns.turn()
    job = bench.store.get(run)
    assert job.error is not None and job.error["code"] == "invalid_output"
    assert "PENSTOCK_JOB__MAX_OUTPUT_BYTES" in job.error["message"]


def test_an_error_is_that_of_the_backend_where_it_has_one(bench: Bench, app: Celery) -> None:
    for stored, words in ((True, "ValueError: no"), (False, "its worker's log says what")):
        run, id = run_of(bench.store)
        bench.send(id)
        if stored:
            app.backend.store_result(id, ValueError("no"), "FAILURE")
        bench.back(app, "raised", id, id, 1)
        bench.returns.turn()
        job = bench.store.get(run)
        assert job.error is not None and job.error["code"] == "task_failed" and words in job.error["message"]


@pytest.mark.parametrize(
    ("result", "status", "code", "words"),
    [
        (7, "SUCCESS", None, ""),
        (ValueError("no", 1), "FAILURE", "task_failed", "ValueError: no, 1"),
        ("expired", "REVOKED", "task_revoked", "not begun before it expired"),
        ("revoked", "REVOKED", "task_revoked", "was revoked"),
        ("terminated", "REVOKED", "task_revoked", "was terminated"),
        (None, "STARTED", "", ""),
        (ValueError("again"), "RETRY", "", ""),
    ],
)
def test_the_backend_is_asked_for_those_that_call_nothing(
    bench: Bench, app: Celery, result: Any, status: str, code: str | None, words: str
) -> None:
    run, id = run_of(bench.store)
    bench.send(id)
    bench.watch.look()
    assert bench.store.get(run).state is JobState.RUNNING
    if status == "REVOKED":
        app.backend.mark_as_revoked(id, result)
    else:
        app.backend.store_result(id, result, status)
    bench.watch.look()
    job = bench.store.get(run)
    if code == "":
        assert job.state is JobState.RUNNING
    elif code is None:
        assert job.output == 7
    else:
        assert job.error is not None and job.error["code"] == code and words in job.error["message"]


def test_the_backends_word_comes_before_the_end_of_patience(bench: Bench, app: Celery) -> None:
    run, id = run_of(bench.store, timeout_s=1e-9)
    other, lost = run_of(bench.store, timeout_s=1e-9)
    bench.send(id, lost)
    app.backend.store_result(id, 7, "SUCCESS")
    bench.watch.look()
    assert bench.store.get(run).output == 7
    error = bench.store.get(other).error
    assert error is not None and error["code"] == "task_lost" and "resend" in error["message"]


def test_nobody_is_lost_while_the_backend_is_away(bench: Bench, settings: Settings) -> None:
    run, id = run_of(bench.store, timeout_s=1e-9)
    bench.send(id)
    away = settings.model_copy(update={"result_url": "redis://127.0.0.1:1/0"})
    results = Results(away)
    watch = Watch(bench.store, away, results, stopping=threading.Event(), tell=bench.told.extend)
    watch.look()
    results.close()
    assert bench.store.get(run).state is JobState.RUNNING
    assert ONE.steps[0].task is not None
