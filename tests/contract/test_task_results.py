"""Results of plain tasks in whatever Celery keeps them in: written by Celery's own backends, read by the dispatcher."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from structlog.testing import capture_logs

from penstock.dispatch.tasks.backends import Backend, backend_of
from penstock.dispatch.tasks.results import Results
from penstock.dispatch.tasks.watch import Watch
from penstock.errors import ConfigError, Unreachable
from penstock.job import JobState
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Settled
from penstock.transport.url import for_kombu
from tests.contract.test_store_tasks import run_of, send
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.stopwatch import Stopwatch

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

KINDS = ["redis", "db+sqlite", "db+postgresql", "file"]
MakeResults = Callable[..., Results]


def told_of(settings: Settings, url: str, **options: Any) -> Settings:
    """The settings of a dispatcher that is told of the tasks' backend."""
    celery = settings.celery.model_copy(update={"task_result_url": url, "task_result_options": options})
    return settings.model_copy(update={"celery": celery})


@pytest.fixture
def url(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> str:
    """What the tasks' app has as ``result_backend``."""
    match request.param:
        case "redis":
            return str(for_kombu(settings.broker).url)
        case "db+sqlite":
            return f"db+sqlite:///{tmp_path / 'results.db'}"
        case "db+postgresql":
            return "db+" + request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://", 1)
    (tmp_path / "results").mkdir()
    return f"file://{tmp_path / 'results'}"


def app_of(url: str, **options: Any) -> Any:
    app: Any = Celery("shop", backend=url, set_as_current=False)
    app.conf.update(options)
    return app


@pytest.fixture
def app(url: str) -> Iterator[Any]:
    app = app_of(url)
    yield app
    if url.startswith("redis"):
        app.backend.client.close()
    app.close()


@pytest.fixture
def make_results(settings: Settings) -> Iterator[MakeResults]:
    made: list[Results] = []

    def make(url: str, *, round_s: float = 60.0, answer_s: float = 60.0, **options: Any) -> Results:
        made.append(Results(told_of(settings, url, **options), round_s=round_s, answer_s=answer_s))
        return made[-1]

    yield make
    for results in made:
        results.close()


def new_id() -> str:
    return str(uuid.uuid4())


class Watched:
    """A store, and the duty that asks for its tasks."""

    def __init__(self, settings: Settings, results: Results) -> None:
        self.store = Store.open(settings.database)
        self.told: list[Settled] = []
        stopping = threading.Event()
        self.watch = Watch(self.store, settings, results, stopping=stopping, tell=self.told.extend)

    def sent(self, *, overdue: bool = False) -> tuple[str, str]:
        """A run, and its task, which was sent."""
        run, id = run_of(self.store)
        assert send(self.store, id, until=1.0 if overdue else 1e11) == {id}
        return run, id

    def code(self, run: str) -> str | None:
        job = self.store.get(run)
        return (job.error or {}).get("code") if job.state.is_terminal else job.state.value


@pytest.fixture
def watched(settings: Settings) -> Iterator[Callable[[Results], Watched]]:
    made: list[Watched] = []

    def make(results: Results) -> Watched:
        made.append(Watched(settings, results))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_ends_are_the_same_wherever_they_are_kept(url: str, app: Any, make_results: MakeResults) -> None:
    """What calls nothing (revoked, expired), and what does; nothing of what goes on, or of which nothing is kept."""
    results = make_results(url)
    keep = app.backend.store_result
    written: dict[str, Callable[[str], Any]] = {
        "null": lambda id: keep(id, None, "SUCCESS"),
        "text": lambda id: keep(id, "é\x00\u2028", "SUCCESS"),
        "many": lambda id: keep(id, {"a": [1, 2.5, None, {"b": "x" * 100_000}]}, "SUCCESS"),
        "date": lambda id: keep(id, datetime(2026, 1, 2, tzinfo=UTC), "SUCCESS"),
        "nan": lambda id: keep(id, [float("nan")], "SUCCESS"),
        "raised": lambda id: keep(id, ValueError("no", 1), "FAILURE"),
        "own": lambda id: keep(id, type("NoStock", (Exception,), {})("none left"), "FAILURE"),
        "expired": lambda id: app.backend.mark_as_revoked(id, "expired"),
        "revoked": lambda id: app.backend.mark_as_revoked(id, "revoked"),
        "terminated": lambda id: app.backend.mark_as_revoked(id, "terminated"),
        "started": lambda id: app.backend.mark_as_started(id, pid=1, hostname="h"),
        "retried": lambda id: keep(id, ValueError("again"), "RETRY"),
        "nothing": lambda id: None,
    }
    ids = {name: new_id() for name in written}
    for name, write in written.items():
        write(ids[name])
    names = {id: name for name, id in ids.items()}
    with capture_logs() as logs:
        assert results.check()
        ends, asked = results.ends([(id, 3) for id in ids.values()])
    assert asked == len(ids) and {end.attempt for end in ends.values()} == {3} and not logs
    found = {names[id]: end for id, end in ends.items()}
    assert {name: json.loads(end.output) for name, end in found.items() if end.output is not None} == {
        "null": None,
        "text": "é\x00\u2028",
        "many": {"a": [1, 2.5, None, {"b": "x" * 100_000}]},
        "date": {"__type__": "datetime", "__value__": "2026-01-02T00:00:00+00:00"},  # as `link` brings it
    }
    errors = {name: (end.error["code"], end.error["message"]) for name, end in found.items() if end.error is not None}
    assert errors.pop("nan")[0] == "invalid_output"
    assert errors == {
        "raised": ("task_failed", "ValueError: no, 1"),
        "own": ("task_failed", "NoStock: none left"),
        "expired": ("task_revoked", "the task was not begun before it expired"),
        "revoked": ("task_revoked", "the task was revoked"),
        "terminated": ("task_revoked", "the task was terminated"),
    }


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_many_are_asked_for_and_those_that_nobody_knows_are_lost(
    url: str, app: Any, make_results: MakeResults, watched: Callable[[Results], Watched]
) -> None:
    now = watched(make_results(url))
    ended, lost, goes_on = now.sent(overdue=True), now.sent(overdue=True), now.sent()
    app.backend.store_result(ended[1], 7, "SUCCESS")
    others = [(new_id(), 1) for _ in range(1000)]
    assert now.watch._results.ends([*others, (ended[1], 1)]).asked == 1001
    now.watch.look()
    assert now.store.get(ended[0]).output == 7
    assert (now.code(lost[0]), now.code(goes_on[0])) == ("task_lost", "running")
    assert {row.id for row in now.told} == {*ended, *lost}


@pytest.mark.parametrize("url", ["db+sqlite", "file"], indirect=True)
def test_a_walk_goes_on_in_the_next_round_and_nobody_is_lost_who_was_not_asked_for(
    url: str,
    app: Any,
    make_results: MakeResults,
    watched: Callable[[Results], Watched],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounds without any time: each asks for one piece."""
    monkeypatch.setattr("penstock.dispatch.tasks.readers.PIECE", 1)
    now = watched(make_results(url, round_s=0.0))
    overdue = [now.sent(overdue=True) for _ in range(3)]
    last = now.sent()
    app.backend.store_result(last[1], 7, "SUCCESS")
    app.backend.store_result(overdue[2][1], 8, "SUCCESS")
    for round in range(1, 4):
        now.watch.look()
        states = [now.store.get(run).state for run, _ in overdue]
        assert sum(state.is_terminal for state in states) == round
    assert sorted(map(str, (now.code(run) for run, _ in overdue))) == ["None", "task_lost", "task_lost"]
    assert now.store.get(last[0]).state is JobState.RUNNING
    now.watch.look()
    assert now.store.get(last[0]).output == 7
    later = now.sent(overdue=True)
    now.watch.look()  # the walk begins anew
    assert now.code(later[0]) == "task_lost"


# Backends that are away, or no use -----------------------------------------------------------------------------------


def test_what_cannot_be_read_is_said_once_and_nobody_is_lost(
    settings: Settings, tmp_path: Path, make_results: MakeResults, watched: Callable[[Results], Watched]
) -> None:
    file = tmp_path / "results.db"
    results = make_results(f"db+sqlite:///{file}")
    now = watched(results)
    run, id = now.sent(overdue=True)
    with capture_logs() as logs:
        now.watch.look()
        now.watch.look()
        assert not file.exists(), "nothing is made there"
        sqlite3.connect(file).close()
        now.watch.look()  # there are no tables yet
    [said] = logs
    assert said["action"] == "tasks.no_results" and f"there is no file {file}" in said["error"]
    assert "PENSTOCK_CELERY__TASK_RESULT_URL" in said["fix"] and now.code(run) == "running"
    app_of(f"db+sqlite:///{file}").backend.store_result(id, 7, "SUCCESS")
    with capture_logs() as logs:
        now.watch.look()
    assert [each["action"] for each in logs] == ["tasks.results"], "it is back"
    assert now.store.get(run).output == 7


@pytest.mark.parametrize(
    ("url", "error", "fix"),
    [
        ("db+nosuch://user:s3cret@host/db", "nosuch", "install"),
        ("db+mysql+pymysql://user:s3cret@host/db", "pymysql", "install"),
        ("db+postgresql+psycopg://user:s3cret@127.0.0.1:1/db", "refused", "start it"),
        ("mongodb://user:s3cret@127.0.0.1:1/db", "pymongo", "install"),
        ("redis://:s3cret@127.0.0.1:1/0", "refused", "start it"),
        ("sentinel://127.0.0.1:1/0", "master_name", "correct"),
        ("file:///nowhere/at/all", "make sure that it exists", "correct"),
        ("nosuch://user:s3cret@host", "nosuch", "correct"),
        ("django-db", "", "correct"),
        ("s3cret", "", "correct"),
    ],
)
def test_the_warning_names_what_to_do_and_no_secret(
    url: str, error: str, fix: str, make_results: MakeResults, watched: Callable[[Results], Watched]
) -> None:
    now = watched(make_results(url))
    run, _ = now.sent(overdue=True)
    with capture_logs() as logs:
        now.watch.look()
        now.watch.look()
        with pytest.raises(Unreachable):
            now.watch._results.ends([(new_id(), 1)])
        with pytest.raises(Unreachable):
            now.watch._results.check()
    [said] = logs
    assert error.lower() in said["error"].lower() and fix in said["fix"], said
    assert "PENSTOCK_CELERY__TASK_RESULT_URL" in said["fix"] and "s3cret" not in str(logs)
    assert now.code(run) == "running"


@pytest.mark.parametrize(
    "url",
    [
        "rpc://",
        "cache+memory://",
        "cache+memory",
        "disabled",
        "db+sqlite://",
        "db+sqlite:///",
        "db+sqlite:///:memory:",
        "db+sqlite+pysqlite:///:memory:",
    ],
)
def test_one_that_nobody_can_ask_is_named_and_time_decides(
    url: str, settings: Settings, watched: Callable[[Results], Watched]
) -> None:
    with capture_logs() as logs:
        results = Results(told_of(settings, url))
        now = watched(results)
        run, _ = now.sent(overdue=True)
        other, _ = now.sent()
        now.watch.look()
    said, lost = logs
    scheme = url.partition("://")[0]
    assert said["action"] == "tasks.nobodys_results" and f", {scheme}://, " in said["error"]
    with pytest.raises(ConfigError, match="nobody hears"):
        results.check()
    assert "result_backend" in said["fix"] and lost["action"] == "tasks.lost"
    assert (now.code(run), now.code(other)) == ("task_lost", "running")


@pytest.mark.parametrize("form", ["db+postgresql+psycopg://user@127.0.0.1:{}/db"])
def test_one_that_hangs_holds_up_nobody(
    form: str, make_results: MakeResults, watched: Callable[[Results], Watched]
) -> None:
    """A server that takes the connection and says nothing: the first look waits for its time, the next ones do not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        results = make_results(form.format(server.getsockname()[1]), round_s=0.05, answer_s=0.1)
        now = watched(results)
        run, _ = now.sent(overdue=True)
        with capture_logs() as logs:
            first = Stopwatch()
            now.watch.look()
            assert first.took_s < 5
            threads = threading.active_count()
            for _ in range(20):
                now.watch.look()
            assert threading.active_count() <= threads, "it is asked by one thread, however long it takes"
        assert [each["action"] for each in logs] == ["tasks.no_results"] and "does not answer" in logs[0]["error"]
        assert now.code(run) == "running"
        results.close()
        hung = results._asking
        assert hung is not None and hung.daemon, "nor does the dispatcher's end"
    hung.join(60)


# What is there ---------------------------------------------------------------------------------------------------


def old_rows(file: Path, rows: dict[str, tuple[str, bytes | None]]) -> str:
    """As a Celery before 5.7 writes them."""
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY, task_id TEXT, status TEXT, result BLOB)")
        db.executemany(
            "INSERT INTO celery_taskmeta (task_id, status, result) VALUES (?, ?, ?)",
            [(id, *row) for id, row in rows.items()],
        )
    db.close()
    return f"db+sqlite:///{file}"


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_pickles_of_an_older_celery_are_read_and_never_run(tmp_path: Path, make_results: MakeResults) -> None:
    mark = tmp_path / "ran"
    failure = {"exc_type": "ValueError", "exc_message": ("no",), "exc_module": "builtins"}
    results = make_results(
        old_rows(
            tmp_path / "old.db",
            {
                "value": ("SUCCESS", pickle.dumps({"a": [1, "é"], "b": (1, 2)})),
                "nan": ("SUCCESS", pickle.dumps(float("nan"))),
                "null": ("SUCCESS", None),
                "failed": ("FAILURE", pickle.dumps(failure)),
                "expired": ("REVOKED", pickle.dumps({"exc_type": "TaskRevokedError", "exc_message": ["expired"]})),
                "evil": ("SUCCESS", pickle.dumps(Evil(mark))),
                "date": ("SUCCESS", pickle.dumps(datetime(2026, 1, 1))),
                "cut": ("SUCCESS", pickle.dumps([1, 2, 3])[:-3]),
                "yaml": ("SUCCESS", b"- 1\n- a: 2\n"),
            },
        )
    )
    names = ["value", "nan", "null", "failed", "expired", "evil", "date", "cut", "yaml"]
    with capture_logs() as logs:
        ends = results.ends([(name, 1) for name in names]).ends
        results.ends([("evil", 1)])
    assert not mark.exists()
    assert {name: end.output for name, end in ends.items()} == {
        "value": '{"a":[1,"é"],"b":[1,2]}', "nan": None, "null": "null", "failed": None, "expired": None,
    }  # fmt: skip
    assert (ends["failed"].error or {})["message"] == "ValueError: no"
    assert "expired" in (ends["expired"].error or {})["message"]
    [said] = logs
    assert said["action"] == "tasks.unreadable_result" and "result_serializer" in said["fix"]


@pytest.mark.parametrize("url", ["redis", "file"], indirect=True)
@pytest.mark.parametrize("serializer", ["pickle", "yaml"])
def test_results_of_another_serializer_are_named(
    url: str, app: Any, make_results: MakeResults, serializer: str, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    other = app_of(url, result_serializer=serializer, accept_content=[serializer, "json"])
    id = new_id()
    value = Evil(mark) if serializer == "pickle" else {"a": 1}
    other.backend.store_result(id, value, "SUCCESS")
    with capture_logs() as logs:
        assert make_results(url).ends([(id, 1)]) == ({}, 1)
    assert [each["action"] for each in logs] == ["tasks.unreadable_result"] and not mark.exists()
    if url.startswith("redis"):
        other.backend.client.close()


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_the_apps_own_settings_about_results_are_known(url: str, make_results: MakeResults) -> None:
    options: dict[str, Any] = {
        "redis": {"result_backend_transport_options": {"global_keyprefix": "shop-"}},
        "db+sqlite": {"database_table_names": {"task": "shop_results"}, "result_extended": True},
        "db+postgresql": {"database_engine_options": {"pool_recycle": 60, "connect_args": {"connect_timeout": 9}}},
        "file": {"result_extended": True},
    }[next(kind for kind in KINDS if url.startswith(kind))]
    if "database_table_names" in options:  # Celery renames its one table for the whole process
        with sqlite3.connect(url.partition(":///")[2]) as db:
            db.execute("CREATE TABLE shop_results (id INTEGER, task_id TEXT, status TEXT, result BLOB, name TEXT)")
            db.execute("INSERT INTO shop_results VALUES (1, 'one', 'SUCCESS', '7', 'shop.inc')")
        db.close()
    else:
        app = app_of(url, **options)
        app.backend.store_result("one", 7, "SUCCESS")
        if url.startswith("redis"):
            app.backend.client.close()
    [end] = make_results(url, **options).ends([("one", 1)]).ends.values()
    assert end.output == "7"


def test_a_postgres_that_is_stopped_and_comes_back(
    postgres_server: PostgresServer, postgres_url: str, make_results: MakeResults
) -> None:
    """Without the driver that the program has: its URL names none."""
    app_of("db+" + postgres_url.replace("postgresql://", "postgresql+psycopg://", 1)).backend.store_result(
        "one", 7, "SUCCESS"
    )
    results = make_results("db+" + postgres_url)
    assert results.ends([("one", 1)]).ends["one"].output == "7"
    postgres_server.stop()
    try:
        with pytest.raises(Unreachable, match="result backend"):
            results.ends([("one", 1)])
    finally:
        postgres_server.start()
    assert results.ends([("one", 1)]).ends["one"].output == "7"


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("db+postgresql://user:pw@host:5/name?sslmode=require", "db+postgresql://user:…@host:5/name?sslmode=require"),
        ("db+sqlite:////var/results.db", "db+sqlite:////var/results.db"),
        ("db+mysql://user:pw@host/name", "db+mysql://…"),
        ("redis://:pw@host/1", "redis://:…@host/1"),
        ("file:///var/results", "file:///var/results"),
        ("mongodb://user:pw@host/db", "mongodb://…"),
        ("rpc", "rpc://…"),
        ("hunter2", "(no URL, not shown)"),
    ],
)
def test_no_secret_is_shown(url: str, where: str) -> None:
    backend = Backend(url, "X")
    assert backend.where == where and "pw" not in repr(backend)


def test_the_backend_is_that_of_the_settings(settings: Settings) -> None:
    assert (backend_of(settings).url, backend_of(settings).variable) == (settings.broker, "PENSTOCK_BROKER_URL")
    with_results = settings.model_copy(update={"result_url": "redis://h/1"})
    assert (backend_of(with_results).url, backend_of(with_results).variable) == ("redis://h/1", "PENSTOCK_RESULT_URL")
    told = backend_of(told_of(with_results, "db+sqlite:///x", database_short_lived_sessions=True))
    assert (told.url, told.variable) == ("db+sqlite:///x", "PENSTOCK_CELERY__TASK_RESULT_URL")
    assert told.options == {"database_short_lived_sessions": True}
