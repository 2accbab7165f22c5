"""Runs under attack, through real workers and a real dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import penstock
from penstock import Client, InvalidInput, JobFailed, clock
from penstock.dispatch.tenants import push
from penstock.policy.fairness import Terms
from penstock.settings import Settings
from penstock.store import Store
from tests.fixtures.models import echo, fail, inc, total
from tests.fixtures.patience import PATIENCE_S


@penstock.pipeline
def fan(values: list[int]) -> Any:
    """Some at a time."""
    return total(inc.map(values))


@penstock.pipeline
def chosen(x: int) -> Any:
    """A choice, and what stands in for it."""
    return penstock.fallback(penstock.when(inc(x) > 0, echo("yes"), echo("no")), echo("neither"))


@penstock.pipeline
def twice(text: str) -> Any:
    """More than its steps give."""
    return [echo(text), echo(text)]


@penstock.pipeline
def later(x: int) -> Any:
    """Its end is the dispatcher's to see."""
    return [x, penstock.sleep(0.2)]


@penstock.pipeline
def broken(x: int) -> Any:
    """Fails."""
    return inc(fail(x))


@pytest.fixture
def sdk(settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any) -> Iterator[Client]:
    worker_factory("first")
    with Client(settings) as client:
        yield client


def test_something_stands_in_for_a_choice(sdk: Client) -> None:
    assert sdk.run(chosen, {"x": 1}, result_timeout=PATIENCE_S) == "yes"


def test_a_number_that_json_has_not_is_refused(settings: Settings) -> None:
    with Client(settings) as client, pytest.raises(InvalidInput):
        client.enqueue(fan, {"values": [float("nan")]})


def test_the_steps_of_a_tenant_with_a_cap(sdk: Client, settings: Settings, broker: redis.Redis) -> None:
    store = Store.open(settings.database_url)
    store.set_tenant("capped", Terms(weight=1.0, cap=1), now=clock.now())
    push(settings, store, broker)
    store.close()
    jobs = [sdk.enqueue(fan, {"values": list(range(20))}, tenant=tenant) for tenant in ("capped", "other")]
    assert [job.result(PATIENCE_S) for job in jobs] == [210, 210]


def test_a_run_that_the_dispatcher_ends_is_pushed_and_streamed(sdk: Client) -> None:
    job = sdk.enqueue(later, {"x": 1})
    events = list(job.stream())
    assert [event.state for event in events][-1] == "succeeded"
    assert [event.state for event in events] == ["accepted", "running", "succeeded"]
    assert sdk.run(later, {"x": 1}, result_timeout=PATIENCE_S) == [1, None]


def test_a_stream_goes_on_behind_a_retry(sdk: Client) -> None:
    job = sdk.enqueue(broken, {"x": 1})
    first = list(job.stream())
    assert first[-1].state == "failed"
    job.retry()
    assert [event.state for event in job.stream(after=first[-1].cursor)][-1:] == ["failed"]


def test_an_output_has_the_limit_of_outputs(
    settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any
) -> None:
    small = settings.model_copy(update={"job": settings.job.model_copy(update={"max_output_bytes": 1000})})
    worker_factory("first", settings=small)
    with Client(small) as client:
        job = client.enqueue(twice, {"text": "x" * 900})
        with pytest.raises(JobFailed, match="bytes"):
            job.result(PATIENCE_S)
