"""Runs of graphs that are data: no function, models by their names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import penstock
from penstock import AsyncClient, Client, Graph, IdempotencyConflict, InvalidInput, UnknownModel
from penstock.client._flow import SAFETY_S
from penstock.errors import NotSerializable
from penstock.registry import Registry
from penstock.settings import Settings
from tests.fixtures.models import echo, inc
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.runs import graph, out, step
from tests.fixtures.stopwatch import Stopwatch

X = {"$in": "x"}
PLUS = graph(step("one", X, model="inc"), step("all", [out("one"), 10], model="total"), output=out("all"))
PLUS_ONE = graph(step("a", X, model="inc@7"), output=out("a"))
MANY = graph(step("m", {"$item": 0}, model="inc", maps=True, over=X), output=out("m"))


@penstock.pipeline
def named(x: int) -> Any:
    """A pipeline that a graph may not call."""
    return inc(x)


@pytest.fixture
def sdk(settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any) -> Any:
    worker_factory("first")
    with Client(settings) as client:
        yield client


def test_a_graph_runs(sdk: Client) -> None:
    assert sdk.run(PLUS, {"x": 1}, result_timeout=PATIENCE_S) == 12
    assert [sdk.run(MANY, {"x": x}, result_timeout=PATIENCE_S) for x in ([], [5], [1, 2])] == [[], [6], [2, 3]]
    jobs = sdk.enqueue_many(PLUS, [{"x": n} for n in range(20)])
    assert [job.result(PATIENCE_S) for job in jobs] == [n + 11 for n in range(20)]
    assert jobs[0].job.graph == PLUS.digest and jobs[0].job.model == "test"


def test_a_run_that_ends_as_it_begins_is_not_waited_for(sdk: Client) -> None:
    nothing = graph(output=X)
    watch = Stopwatch()
    for given in ({"x": []}, {"x": []}):
        assert sdk.run(MANY, given, result_timeout=PATIENCE_S) == []
        assert sdk.run(nothing, given, result_timeout=PATIENCE_S) == []
        [job] = sdk.enqueue_many(nothing, [given])
        assert job.result(PATIENCE_S) == []
        assert asyncio.run(_nothing(sdk.settings)) == []
    assert watch.took_s < SAFETY_S


async def _nothing(settings: Settings) -> Any:
    async with AsyncClient(settings) as client:
        return await client.run(MANY, {"x": []}, result_timeout=PATIENCE_S)


def test_what_a_graph_names_is_checked(settings: Settings) -> None:
    """No worker has announced anything: the classes say what there is."""
    with Client(settings, models=[echo, inc]) as client:
        with pytest.raises(UnknownModel, match="step 'b': no model is named 'incc'") as caught:
            client.enqueue(graph(step("a", X, model="inc"), step("b", X, model="incc"), output=1), {"x": 1})
        assert "did you mean 'inc'?" in caught.value.fix
        with pytest.raises(InvalidInput, match="which is no model"):
            client.enqueue(graph(step("a", X, model="x" * 10_000), output=1), {"x": 1})
        with pytest.raises(InvalidInput, match="is no version"):
            client.enqueue(graph(step("a", X, model="inc@"), output=1), {"x": 1})
        with pytest.raises(InvalidInput, match="given no 'x'"):
            client.enqueue(PLUS_ONE, {})
        with pytest.raises(InvalidInput, match="wait for each other"):
            client.enqueue(graph(step("a", out("a"), model="inc"), output=1), {"x": 1})
        with pytest.raises(NotSerializable):
            client.enqueue(graph(output=float("nan")), {"x": 1})
        with pytest.raises(InvalidInput, match=r"input 1: .*no input 'y'"):
            client.enqueue_many(PLUS_ONE, [{"x": 1}, {"y": 1}])
        assert client.list() == []
        assert client.enqueue(PLUS_ONE, {"x": 1}).job.state == "running"


def test_a_graph_calls_models_and_no_pipelines(settings: Settings) -> None:
    with Client(settings) as client:
        client._registry = Registry([inc, named])
        with pytest.raises(InvalidInput, match="'named', which is a pipeline"):
            client.enqueue(graph(step("a", X, model="named"), output=1), {"x": 1})


def test_a_key_is_that_of_the_graph(settings: Settings) -> None:
    with Client(settings, models=[inc]) as client:
        first = client.enqueue(PLUS_ONE, {"x": 1}, idempotency_key="k")
        assert client.enqueue(PLUS_ONE, {"x": 1}, idempotency_key="k").id == first.id
        other = graph(step("a", X, model="inc@7"), output=[out("a")])
        with pytest.raises(IdempotencyConflict):
            client.enqueue(other, {"x": 1}, idempotency_key="k")


async def _asynchronously(settings: Settings) -> Any:
    async with AsyncClient(settings) as client:
        with pytest.raises(UnknownModel):
            await client.enqueue(Graph(name="g", inputs=[], steps=[step("a", 1, model="incc")], output=1), {})
        jobs = await client.enqueue_many(PLUS, [{"x": 1}])
        return [await client.run(PLUS, {"x": 5}, result_timeout=PATIENCE_S), await jobs[0].result(PATIENCE_S)]


def test_the_asynchronous_client_takes_graphs(sdk: Client) -> None:
    assert asyncio.run(_asynchronously(sdk.settings)) == [16, 12]
