"""The client with a real worker process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from penstock import AsyncClient, Client, JobState
from penstock.errors import InvalidInput, JobCancelled, JobExpired, JobFailed
from penstock.settings import Settings
from penstock.testing import assert_settled
from tests.fixtures.client import until
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import unrefused


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return unrefused(settings)


@pytest.fixture
def sdk(settings: Settings, worker_factory: Callable[..., Any]) -> Iterator[Client]:
    """A client without the models' classes: it knows them from the worker."""
    worker_factory()
    with Client(settings.model_copy(update={"models": []})) as client:
        yield client


def test_results_failures_and_the_ledger(sdk: Client) -> None:
    assert sdk.run("upper", "hello", result_timeout=PATIENCE_S) == "HELLO"
    with pytest.raises(InvalidInput, match="does not fit"):
        sdk.enqueue("upper", 5)  # by the schema that the worker announced, since the class is not here
    assert not sdk.list(model="upper", status="failed"), "nothing was stored"
    with pytest.raises(JobFailed, match="no good"):
        sdk.run("fail", 1, result_timeout=PATIENCE_S)
    job = assert_settled(sdk.enqueue("inc", 1), timeout=PATIENCE_S)
    assert job.output == 2
    ledger = job.ledger
    assert ledger.claimed_at is not None
    assert ledger.started_at is not None
    assert ledger.settled_at is not None
    assert ledger.accepted_at <= ledger.started_at <= ledger.settled_at


def test_a_flood_beside_questions(sdk: Client) -> None:
    jobs = sdk.enqueue_many("echo", range(2000))

    def ask(n: int) -> Any:
        return sdk.run("upper", f"q{n}", result_timeout=PATIENCE_S)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(40)))
    assert answers == [f"Q{n}" for n in range(40)]
    assert sorted(job.result() for job in sdk.as_completed(jobs, timeout=PATIENCE_S)) == list(range(2000))


def test_coroutines(settings: Settings, worker_factory: Callable[..., Any]) -> None:
    worker_factory()

    async def main() -> None:
        async with AsyncClient(settings) as client:
            answers = await asyncio.gather(*(client.run("inc", n, result_timeout=PATIENCE_S) for n in range(500)))
            assert answers == [n + 1 for n in range(500)]

    asyncio.run(asyncio.wait_for(main(), 90))


def test_a_running_job_is_cancelled_and_another_expires(sdk: Client) -> None:
    job = sdk.enqueue("nap", 2.0)
    until(lambda: job.refresh().state is JobState.RUNNING)
    assert job.cancel() == "cancelling"
    with pytest.raises(JobCancelled):
        job.result(PATIENCE_S)
    late = sdk.enqueue("nap", 0.8, deadline=0.4)
    with pytest.raises(JobExpired):
        late.result(PATIENCE_S)


def test_a_stream_follows_retries(sdk: Client, dispatcher: Any, tmp_path: Path) -> None:
    job = sdk.enqueue("flaky", [str(tmp_path / "tries"), 1])
    states = [(event.state, event.data["attempt"]) for event in job.stream()]
    assert states[0] == (JobState.ACCEPTED, 0)
    assert states[-1] == (JobState.SUCCEEDED, 2)
    assert job.output == 2
