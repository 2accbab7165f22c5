"""Admission with real workers, a real broker and client processes that offer too much."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import Client, JobState
from penstock.clock import monotonic_s
from penstock.errors import Overloaded
from penstock.lane import Lane, queue_name
from penstock.policy.admission import FRESH_S
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport import keys, work
from penstock.transport.url import connect
from tests.fixtures.client import until
from tests.fixtures.models import echo, nap
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import clean_environ, wait_for

#: One job's time on the device, seconds. Four run at once, 27 a second: fewer than one client offers, on a busy machine
#: too.
NAP_S = 0.15

#: Submits interactive naps with a deadline, as fast as it is let, until its input ends; then says what happened.
#: Of the first that is refused it tells at once.
FLOOD = """
import json, sys, threading, time
from penstock import Client
from penstock.errors import Overloaded
from penstock.lane import queue_name

stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
accepted, refused, took = [], [], []
with Client() as client:
    print("ready", flush=True)
    while not stop.is_set():
        began = time.perf_counter()
        try:
            accepted.append(client.enqueue("nap", float(sys.argv[2]), deadline=1.5, tenant=sys.argv[1]).id)
        except Overloaded as error:
            if not refused:
                print("over", flush=True)
            refused.append(error.retry_after)
            took.append(time.perf_counter() - began)
        stop.wait(0.004)
json.dump({"accepted": accepted, "refused": refused, "took": took}, sys.stdout)
"""


class Flood:
    """One client process."""

    def __init__(self, settings: Settings, tenant: str = "default") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FLOOD, tenant, str(NAP_S)],
            env={**clean_environ(), **settings.environ(), "PENSTOCK_MODELS": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hear("ready")

    def over(self) -> None:
        """Wait until more is offered than can be done in time."""
        self._hear("over")

    def _hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def end(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return dict(json.loads(out.strip().splitlines()[-1]))


@pytest.fixture
def sdk(settings: Settings) -> Any:
    with Client(settings.model_copy(update={"models": []})) as client:
        yield client


def warm(client: Client, count: int = 8) -> None:
    """Enough batches that the worker knows its model."""
    for _ in range(count):
        client.run("nap", NAP_S, result_timeout=PATIENCE_S)


def flood(client: Client) -> None:
    """More than the worker can do while a test goes on, on a busy machine too: half a minute of naps."""
    client.enqueue_many("nap", [NAP_S] * 800, lane="interactive")


def refused(client: Client, **options: Any) -> Overloaded | None:
    try:
        client.enqueue("nap", NAP_S, **options)
    except Overloaded as error:
        return error
    return None


def test_two_processes_offer_too_much(
    settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any, sdk: Client, tmp_path: Path
) -> None:
    """Some are refused at once, the accepted ones keep their deadline, background is untouched, and it ends."""
    worker_factory()
    warm(sdk)
    background = sdk.enqueue_many("echo", range(200))
    floods = [Flood(settings), Flood(settings)]
    floods[0].over()
    began = monotonic_s()
    until(lambda: monotonic_s() - began > 2.0)
    told = [flood.end() for flood in floods]
    ids = [id for one in told for id in one["accepted"]]
    advice = [seconds for one in told for seconds in one["refused"]]
    with connect(settings.broker) as client:
        queue = queue_name(settings.namespace, "nap", Lane.INTERACTIVE)
        assert work.Watch(client, settings.namespace).look([queue]).spent[queue].refused == len(advice)
    assert len(advice) > 0.3 * len(ids), "far more is offered than can be done"
    assert min(advice) > 0
    # The median: on a busy machine a process may be put aside for longer than any decision takes.
    assert statistics.median(t for one in told for t in one["took"]) < 0.005
    store = Store.open(settings.database)
    jobs = wait_for(lambda: _ended(store, ids), what="the accepted jobs to end")
    # A refused job was not stored.
    assert len(store.list(model="nap", limit=100_000)) == len(ids) + 8
    store.close()
    in_time = sum(job.state is JobState.SUCCEEDED for job in jobs)
    assert in_time >= 0.8 * len(jobs), f"{in_time} of {len(jobs)}"
    assert [job.result(PATIENCE_S) for job in background] == list(range(200))
    # Nothing is left of it: all are admitted again.
    assert until(lambda: refused(sdk) is None)
    assert all(sdk.run("nap", 0.01, deadline=5.0, result_timeout=PATIENCE_S) == 0.01 for _ in range(10))


@pytest.mark.parametrize("flood", ["default", "flood"])
def test_a_light_tenant_is_admitted_beside_a_flood(
    settings: Settings, worker_factory: Callable[..., Any], sdk: Client, flood: str
) -> None:
    """Its wait depends on its own share; the flood's own jobs are refused meanwhile."""
    worker_factory()
    warm(sdk)
    other = Flood(settings, flood)
    other.over()
    sdk.look("nap")
    fates = []
    began = monotonic_s()
    while monotonic_s() - began < 2.0:
        fate = refused(sdk, tenant="light", deadline=1.5)
        fates.append(fate)
        if fate is None:
            until(
                lambda: (
                    not sdk.list(tenant="light", status="accepted") and not sdk.list(tenant="light", status="queued")
                )
            )
    told = other.end()
    assert len(fates) >= 4
    assert sum(fate is not None for fate in fates) <= 1
    assert len(told["refused"]) > 0.3 * len(told["accepted"])


def _ended(store: Store, ids: list[str]) -> list[Any]:
    jobs = []
    for start in range(0, len(ids), 500):
        jobs += store.get_many(ids[start : start + 500]).values()
    return jobs if all(job.state.is_terminal for job in jobs) else []


@penstock.pipeline
def echoed(seconds: float) -> Any:
    """A nap behind something quick."""
    return nap(echo(seconds))


@penstock.pipeline
def perhaps(seconds: float) -> Any:
    """A nap if it is a long one."""
    return penstock.when(echo(seconds) > 1000, nap(seconds), seconds)


def test_who_is_never_refused(settings: Settings, worker_factory: Callable[..., Any], sdk: Client) -> None:
    """Background, bulk, delayed jobs, and repeats of a stored job are accepted while others are refused."""
    worker_factory()
    warm(sdk)
    first = sdk.enqueue("nap", NAP_S, idempotency_key="once", deadline=600.0)
    flood(sdk)
    sdk.look("nap")
    error = until(lambda: refused(sdk, deadline=0.5))
    assert error.reason == "overload"
    assert error.retryable
    assert "background" in error.fix
    assert sdk.enqueue("nap", NAP_S, idempotency_key="once", deadline=0.5).id == first.id
    assert refused(sdk, lane="background") is None
    assert refused(sdk, delay=600.0, deadline=601.0) is None
    with pytest.raises(Overloaded):  # one of its steps could not be served in time
        sdk.enqueue(echoed, {"seconds": NAP_S}, deadline=0.5)
    assert sdk.enqueue(perhaps, {"seconds": NAP_S}, deadline=0.5).id, "what only a branch needs is no reason"
    assert refused(sdk, deadline=600.0) is None
    assert refused(sdk, deadline=-1.0) is None  # stored, and ends as expired
    assert len(sdk.enqueue_many("nap", [0.01] * 5, lane="interactive", deadline=0.1)) == 5
    until(lambda: refused(sdk, deadline=0.5))
    with Client(
        settings.model_copy(update={"admission": settings.admission.model_copy(update={"enabled": False})})
    ) as c:
        c.look("nap")
        assert refused(c, deadline=0.5) is None


def test_a_dead_worker_s_word_ages_out(settings: Settings, worker_factory: Callable[..., Any], sdk: Client) -> None:
    worker = worker_factory()
    warm(sdk)
    flood(sdk)
    until(lambda: refused(sdk, deadline=0.5))
    worker.kill()
    began = monotonic_s()
    until(lambda: refused(sdk, deadline=0.5) is None, timeout_s=FRESH_S + 10)
    assert monotonic_s() - began < FRESH_S + 5
    job = sdk.enqueue("nap", NAP_S)
    assert job.refresh().state in (JobState.ACCEPTED, JobState.QUEUED)


def test_a_worker_takes_its_word_back(settings: Settings, worker_factory: Callable[..., Any], sdk: Client) -> None:
    worker = worker_factory()
    warm(sdk)
    with connect(settings.broker) as broker:
        assert broker.hlen(keys.load(settings.namespace, "nap")) == 1
        worker.stop()
        assert broker.hlen(keys.load(settings.namespace, "nap")) == 0


def test_the_command_line_says_when_to_come_back(
    settings: Settings, worker_factory: Callable[..., Any], sdk: Client
) -> None:
    worker_factory()
    warm(sdk)
    flood(sdk)
    until(lambda: refused(sdk, deadline=0.5))
    done = subprocess.run(
        [sys.executable, "-m", "penstock_cli", "submit", "nap", str(NAP_S), "--deadline", "500ms", "--json"],
        env={**clean_environ(), **settings.environ()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "overloaded"
    assert error["retry_after"] > 0
    assert "try again in" in error["fix"]
