"""The dashboard: real Flower over HTTP, beside a real worker."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.app import make_celery
from penstock.dashboard.guard import check, is_loopback
from penstock.errors import ConfigError
from penstock.settings import Settings
from tests.fixtures.cli import Penstock
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import wait_for

LOGIN = "ada:hunter2"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9", "[::1]"])
def test_this_machine_needs_no_login(host: str) -> None:
    assert is_loopback(host)
    check(Settings.load(dashboard={"host": host}))


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "10.0.0.1", "example.com", "::ffff:127.0.0.1.evil"])
def test_elsewhere_a_login_is_demanded(host: str) -> None:
    with pytest.raises(ConfigError, match="BASIC_AUTH"):
        check(Settings.load(dashboard={"host": host}))
    check(Settings.load(dashboard={"host": host, "basic_auth": LOGIN}))


@pytest.mark.parametrize("login", ["ada", "ada:", ":hunter2", ""])
def test_a_login_has_two_halves(login: str) -> None:
    with pytest.raises(ConfigError, match="user:password") as caught:
        check(Settings.load(dashboard={"basic_auth": login}))
    assert "hunter2" not in str(caught.value)


class Browser:
    """Fetches pages with a login."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, *, login: str | None = LOGIN) -> str:
        request = urllib.request.Request(f"{self.url}{path}")
        if login:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    def until(self, path: str, words: str) -> str:
        """Fetch until the page has these words. A task of which Flower has not heard yet is not found until then."""
        ends = time.monotonic() + PATIENCE_S
        page = ""
        while time.monotonic() < ends:
            try:
                page = self.get(path)
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                page = error.read().decode()
                error.close()
            if words in page:
                return page
            time.sleep(0.05)
        raise AssertionError(f"{path} never had {words!r}:\n{page}")

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))


@pytest.fixture(scope="module")
def browser(up: Penstock) -> Iterator[Browser]:
    running = up.start("dashboard", "--port", "0", env={"PENSTOCK_DASHBOARD__BASIC_AUTH": LOGIN})
    try:
        yield Browser(running.says("dashboard: ").split("dashboard: ")[1].strip())
        assert running.stop() == 0, running.text
    finally:
        running.close()


def test_a_stranger_is_refused(browser: Browser) -> None:
    for login in (None, "ada:wrong"):
        for path in ("/", "/tasks", "/broker", "/api/workers"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                browser.get(path, login=login)
            assert caught.value.code == 401
            caught.value.close()


def test_our_worker_is_listed(browser: Browser) -> None:
    assert "worker-default-1@" in browser.until("/workers", "worker-default-1@")


def test_a_job_is_a_task_with_its_true_state(browser: Browser, up: Penstock) -> None:
    browser.until("/workers", "worker-default-1@")  # it hears events by now
    good = up("run", "double", "21", "--json").json()["id"]
    bad = up("run", "moody", "bad", "--json").json()["id"]
    browser.until(f"/task/{good}", "SUCCESS")
    page = browser.until(f"/task/{bad}", "FAILURE")
    assert "worker-default-1@" in page
    tasks = browser.json("/api/tasks")
    assert tasks[good]["name"] == "penstock.double" and tasks[good]["state"] == "SUCCESS"
    assert "Worker" in browser.get("/tasks")


def test_the_broker_page_shows_the_true_length(browser: Browser, up: Penstock, make_gate: Callable[[], Path]) -> None:
    gates = [make_gate() for _ in range(3)]
    for gate in gates:
        up("submit", "slow", str(gate))
    up("tenant", "set", "gated", "--cap", "1")  # so that three stay at the broker, on lists of their own
    for _ in range(4):
        up("submit", "slow", str(gates[0]), "--tenant", "gated")
    page = browser.until("/broker", "penstock.slow.interactive")
    assert "penstock.double.background" in page
    try:
        # Nothing moves while the first one runs, once the worker has claimed what it may.
        wait_for(lambda: three_or_more(*lengths(browser, up)), what="Flower's figure to be ours, and three at least")
    finally:
        up("tenant", "set", "gated", "--reset")
    queues = browser.json("/api/queues/length")["active_queues"]
    assert {"penstock.slow.interactive", "penstock.double.interactive"} <= {queue["name"] for queue in queues}


def three_or_more(theirs: int, ours: int) -> bool:
    return theirs == ours >= 3


def lengths(browser: Browser, up: Penstock) -> tuple[int, int]:
    """What Flower says of the queue of slow interactive jobs, and what we say."""
    queues = browser.json("/api/queues/length")["active_queues"]
    theirs = next(queue["messages"] for queue in queues if queue["name"] == "penstock.slow.interactive")
    return int(theirs), up("queue", "stats", "--model", "slow", "--json").jsonl()[0]["ready"]


def test_it_listens_on_a_port_of_its_own(up: Penstock, browser: Browser) -> None:
    port = browser.url.rsplit(":", 1)[1]
    ended = up("dashboard", "--port", port)
    assert ended.status == 2 and "--port" in ended.err and "Traceback" not in ended.err


def post(browser: Browser, path: str, **body: Any) -> Any:
    request = urllib.request.Request(f"{browser.url}{path}", method="POST", data=json.dumps(body).encode())
    request.add_header("Authorization", f"Basic {base64.b64encode(LOGIN.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        error.close()
        return error.code, text


def test_a_result_is_that_of_the_job(browser: Browser, up: Penstock) -> None:
    """Clients' jobs have none in Celery's backend; SQL has."""
    good = up("run", "double", "21", "--json").json()["id"]
    bad = up("run", "moody", "bad", "--json").json()["id"]
    assert browser.json(f"/api/task/result/{good}") == {"task-id": good, "state": "SUCCESS", "result": 42}
    failed = browser.json(f"/api/task/result/{bad}")
    assert failed["state"] == "FAILURE" and "no mood" in failed["result"]
    assert browser.json("/api/task/result/nobody")["state"] == "PENDING"


def test_a_model_is_applied_through_its_queue_and_nothing_vanishes(browser: Browser, up: Penstock) -> None:
    assert post(browser, "/api/task/apply/penstock.double", args=[4], timeout=PATIENCE_S)["result"] == 8
    for verb in ("async-apply", "send-task"):
        sent = post(browser, f"/api/task/{verb}/penstock.double", args=[5], lane="background")
        assert browser.json(f"/api/task/result/{sent['task-id']}?timeout=60")["result"] == 10
        code, text = post(browser, f"/api/task/{verb}/penstock.doubel", args=[5])
        assert code == 404 and "double" in text
        code, text = post(browser, f"/api/task/{verb}/stranger.task")
        assert code == 400 and "queue" in text
        code, text = post(browser, f"/api/task/{verb}/penstock.double", args=[5], queue="celery")
        assert code == 400


def test_a_job_is_revoked_and_every_end_is_shown(browser: Browser, up: Penstock, make_gate: Callable[[], Path]) -> None:
    gate, gone = make_gate(), make_gate()
    running = up("submit", "slow", str(gate)).out.split()[-1]
    wait_for(lambda: up("job", "get", running, "--json").json()["status"] == "running", what="the job to run")
    browser.until(f"/task/{running}", "STARTED")
    later = up("submit", "slow", str(gate), "--delay", "3600").out.split()[-1]
    for id in (running, later):
        assert "Revoked" in post(browser, f"/api/task/revoke/{id}", terminate=True)["message"]
    assert up("job", "get", later, "--json").json()["status"] == "cancelled"
    gate.touch()
    browser.until(f"/task/{running}", "REVOKED")
    assert browser.json(f"/api/task/result/{running}")["state"] == "REVOKED"
    assert browser.json(f"/api/task/result/{later}")["state"] == "REVOKED"
    # One that its tenant's cap keeps at the broker: nobody but the dispatcher can end it.
    up("tenant", "set", "ending", "--cap", "1")
    holds = up("submit", "slow", str(gone), "--tenant", "ending").out.split()[-1]
    browser.until(f"/task/{holds}", "STARTED")
    late = up("submit", "slow", str(gone), "--deadline", "0.5", "--tenant", "ending").out.split()[-1]
    wait_for(lambda: up("job", "get", late, "--json").json()["status"] == "expired", what="the deadline")
    gone.touch()
    up("tenant", "set", "ending", "--reset")
    browser.until(f"/task/{holds}", "SUCCESS")


def test_nothing_is_offered_that_a_worker_cannot_do(browser: Browser) -> None:
    name = browser.until("/workers", "worker-default-1@").partition("worker-default-1@")[2].partition("<")[0].strip()
    page = browser.until(f"/worker/worker-default-1@{name}", "Worker pool options")
    for words in ("worker-pool-grow", "worker-pool-shrink", "worker-pool-autoscale", "worker-pool-restart"):
        assert words not in page
    code, text = post(browser, f"/api/worker/pool/grow/worker-default-1@{name}")
    assert code == 403 and "one device" in text
    code, text = post(browser, f"/api/task/rate-limit/penstock.double?workername=worker-default-1@{name}&ratelimit=1/m")
    assert code == 403 and "tenant" in text
    code, text = post(browser, f"/api/task/timeout/penstock.moody?workername=worker-default-1@{name}&soft=1")
    assert code == 403 and "interrupted" in text
    page = browser.until("/broker", "penstock.double.interactive")
    row = page.partition("penstock.double.interactive</td>")[2].partition("</tr>")[0]
    assert "Idle since" not in page and "—" not in row and "-</" not in row, row
    (worker,) = browser.json("/workers?json=1")["data"]
    ends = ("task-succeeded", "task-failed", "task-revoked", "task-retried")
    assert worker["task-received"] == sum(worker.get(kind, 0) for kind in ends)


def test_an_end_of_which_nobody_told_is_found_in_sql(browser: Browser, up: Penstock) -> None:
    id = up("submit", "slow", "never", "--delay", "3600").out.split()[-1]
    app = make_celery(Settings.load(home=up.home))
    with app.connection() as connection, app.events.Dispatcher(connection, hostname="gone@elsewhere") as events:
        events.send("task-received", uuid=id, name="penstock.slow", args="()", kwargs="{}", retries=0)
    browser.until(f"/task/{id}", "RECEIVED")
    up("job", "cancel", id)
    browser.until(f"/task/{id}", "REVOKED")
    app.close()
