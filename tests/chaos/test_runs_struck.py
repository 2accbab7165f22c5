"""Runs of pipelines while everything under them is killed: each ends well, and no step that has ended runs again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import penstock
from penstock import Client, JobState
from penstock.settings import Settings
from tests.chaos.audit import Audit
from tests.chaos.test_everything_at_once import Monkey
from tests.chaos.witnessed import Witnessed
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import Process, Worker, wait_for

#: Steps of a run: a, b, c, three parts and the end.
STEPS = 7
PARTS = ["/1", "/2", "/3"]


@penstock.pipeline
def struck(ledger: str, key: str, parts: list[str]) -> Any:
    """A diamond beside a map. Each step writes down the keys on its way, and gives its own."""

    def witness(own: Any) -> Any:
        return {"ledger": ledger, "key": own, "fate": "ok", "pause_s": 0.01}

    first = Witnessed(witness(key + "/a"))
    left, right = Witnessed(witness(first + "/b")), Witnessed(witness(first + "/c"))
    each = Witnessed.map(parts, lambda part: witness(first + part))
    last = Witnessed(witness(left + right))
    return {"last": last, "each": each}


def expected(key: str) -> dict[str, Any]:
    return {"last": f"{key}/a/b{key}/a/c", "each": [f"{key}/a{part}" for part in PARTS]}


class Runs:
    """Runs that were accepted, and what must hold of them in the end."""

    def __init__(self, client: Client, audit: Audit) -> None:
        self._client = client
        self._audit = audit
        self.keys: dict[str, str] = {}

    def submit(self, count: int) -> None:
        keys = [f"r{len(self.keys) + number}" for number in range(count)]
        given = [{"ledger": str(self._audit.ledger), "key": key, "parts": PARTS} for key in keys]
        handles = self._client.enqueue_many(struck, given)
        self.keys |= {handle.id: key for handle, key in zip(handles, keys, strict=True)}

    def wait(self, *, timeout_s: float = 120.0) -> None:
        count = len(self.keys) * (STEPS + 1)
        wait_for(
            lambda: self._audit.settled() >= count and not self._audit.open(),
            timeout_s=timeout_s,
            what=f"{count} jobs to end; settled {self._audit.settled()}, open {self._audit.open()}",
        )

    def verify(self) -> None:
        states = self._audit.states()
        assert Counter(states.values()) == {JobState.SUCCEEDED: len(self.keys) * (STEPS + 1)}
        self._audit._verify_changes(states)
        executions, attempts = self._audit.executions(), self._audit.attempts()
        for run, key in self.keys.items():
            assert self._client.get(run).output == expected(key)
            steps = self._client._runtime().store.list(run=run)
            assert len({step.path for step in steps}) == len(steps) == STEPS, "each step is one job"
            for step in steps:
                assert 1 <= executions[step.output] <= attempts[step.id], f"{step.path} ran after its end"


@pytest.fixture
def runs(client: Client, audit: Audit) -> Runs:
    return Runs(client, audit)


@pytest.fixture
def monkey(
    settings: Settings,
    request: pytest.FixtureRequest,
    worker_factory: Callable[..., Worker],
    start_dispatcher: Callable[[], Process],
    redis_server: RedisServer,
) -> Monkey:
    """Two workers, two dispatchers, and who strikes at them."""
    on_postgres = settings.database.startswith("postgresql")
    return Monkey(
        random.Random(1),
        start_worker=worker_factory,
        start_dispatcher=start_dispatcher,
        redis=redis_server,
        postgres=request.getfixturevalue("postgres_server") if on_postgres else None,
    )


OFTEN = ["kill_worker", "flush_redis"]
RARELY = [pytest.param(deed, marks=pytest.mark.soak) for deed in ("kill_dispatcher", "kill_redis")]


def strike(deed: Callable[[], object], audit: Audit, runs: Runs) -> None:
    """In the middle of sixty runs."""
    runs.submit(60)
    wait_for(lambda: audit.settled() > 100, what="work in progress")
    deed()
    runs.wait()
    runs.verify()


@pytest.mark.both_databases
@pytest.mark.parametrize("deed", [*OFTEN, *RARELY])
def test_one_strike(deed: str, monkey: Monkey, audit: Audit, runs: Runs) -> None:
    strike(getattr(monkey, deed), audit, runs)


@pytest.mark.both_databases
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_database_is_killed(monkey: Monkey, audit: Audit, runs: Runs) -> None:
    strike(monkey.kill_postgres, audit, runs)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_strike_after_strike(seed: int, monkey: Monkey, audit: Audit, runs: Runs) -> None:
    """Twelve strikes while five hundred runs are under way."""
    monkey._rng = random.Random(seed)
    deeds: list[str] = []
    for number in range(12):
        if number < 10:
            runs.submit(50)
        before = audit.settled()
        wait_for(lambda before=before: audit.settled() > before + 50, timeout_s=60, what=f"progress after {deeds}")
        deeds.append(monkey.strike())
    runs.wait(timeout_s=180)
    runs.verify()
