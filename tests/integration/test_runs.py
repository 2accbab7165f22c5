"""Pipelines through real workers: written as functions, run as jobs, each step batched with everybody else's."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import Client, InvalidInput, JobFailed
from penstock.errors import IllegalTransition
from penstock.lane import Lane, queue_name
from penstock.settings import Settings
from penstock.transport import usage
from tests.fixtures.models import echo, fail, halve, inc, label, total
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import clean_environ, unrefused, wait_for


@penstock.pipeline
def diamond(x: int) -> Any:
    """Two ways that meet."""
    first = inc(x)
    left, right = inc(first), inc(first + 10)
    return {"sum": total([left, right]), "first": first}


@penstock.pipeline
def wide(values: list[int], extra: int = 5) -> Any:
    """One call for each value."""
    return total(inc.map(values)) + extra


@penstock.pipeline
def choose(x: int) -> Any:
    """One of two."""
    return penstock.when(inc(x) > 5, echo("big"), echo("small"))


@penstock.pipeline
def broken(x: int) -> Any:
    """Its second step raises."""
    return inc(fail(echo(x)))


@penstock.pipeline
def reviewed(x: int) -> Any:
    """A person decides, in the middle of it."""
    draft = label(inc(x))
    return penstock.when(penstock.wait_for("decision", timeout=60, after=draft) == "yes", draft, echo("refused"))


@penstock.pipeline
def careful(x: int) -> Any:
    """What may fail, and what stands in for it."""
    return penstock.fallback(fail(x), inc(x))


@penstock.pipeline
def odd_part(x: int) -> Any:
    """What is left of a number without its twos."""
    return inc(halve(x))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return unrefused(settings)


@pytest.fixture
def sdk(settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any) -> Iterator[Client]:
    worker_factory("first")
    with Client(settings) as client:
        yield client


def test_a_run_gives_its_output(sdk: Client) -> None:
    assert sdk.run(diamond, {"x": 1}, result_timeout=PATIENCE_S) == {"sum": 16, "first": 2}
    job = sdk.enqueue(diamond, {"x": 2}, tags={"a": "b"})
    assert job.result(PATIENCE_S) == {"sum": 18, "first": 3}
    assert [each.id for each in sdk.list(tag="a=b")] == [job.id]
    assert (job.refresh().model, job.status) == ("diamond", "succeeded")
    assert sorted(step.job.path or "" for step in sdk.list(run=job.id)) == ["inc", "inc-2", "inc-3", "total"]


@pytest.mark.parametrize("size", [0, 1, 300])
def test_a_map_is_as_wide_as_its_list(sdk: Client, size: int) -> None:
    given = {"values": list(range(size))}
    assert sdk.run(wide, given, result_timeout=PATIENCE_S) == sum(range(1, size + 1)) + 5


def test_a_condition_chooses(sdk: Client) -> None:
    assert [sdk.run(choose, {"x": x}, result_timeout=PATIENCE_S) for x in (3, 9)] == ["small", "big"]


def test_a_failed_step_fails_the_run(sdk: Client) -> None:
    job = sdk.enqueue(broken, {"x": 1})
    with pytest.raises(JobFailed, match="no good: 1"):
        job.result(PATIENCE_S)
    assert job.error is not None and job.error["step"] == "fail"
    assert sdk.list(limit=10)[0].id == job.id


def test_many_runs_survive_their_worker(sdk: Client, worker_factory: Callable[..., Any]) -> None:
    jobs = sdk.enqueue_many(diamond, [{"x": x} for x in range(200)])
    second = worker_factory("second")
    next(iter(sdk.as_completed(jobs, timeout=PATIENCE_S)))
    second.kill()
    assert [job.result(PATIENCE_S)["first"] for job in jobs] == list(range(1, 201))


def test_a_person_decides(sdk: Client) -> None:
    jobs = [sdk.enqueue(reviewed, {"x": x}) for x in range(3)]
    sdk.signal(jobs[0], "decision", "yes")  # perhaps before it is waited for
    sdk.signal(jobs[1].id, "decision", "no")
    assert [job.result(PATIENCE_S) for job in jobs[:2]] == [{"text": "number 1"}, "refused"]
    assert jobs[2].refresh().status == "running"
    sdk.signal(jobs[2], "decision", "yes", id="once")
    assert jobs[2].result(PATIENCE_S) == {"text": "number 3"}
    with pytest.raises(IllegalTransition):
        sdk.signal(jobs[2], "decision", "no")


def test_a_step_answers_with_steps(sdk: Client) -> None:
    assert [sdk.run(odd_part, {"x": x}, result_timeout=PATIENCE_S) for x in (7, 8, 40)] == [8, 2, 6]


def test_a_fork_of_a_run(sdk: Client) -> None:
    job = sdk.enqueue(diamond, {"x": 1})
    job.result(PATIENCE_S)
    again = job.fork(from_step="total")
    assert again.id != job.id and again.result(PATIENCE_S) == {"sum": 16, "first": 2}
    assert job.fork(inputs={"x": 2}).result(PATIENCE_S) == {"sum": 18, "first": 3}
    with pytest.raises(InvalidInput, match="the input 'x' does not fit pipeline 'diamond'"):
        job.fork(inputs={"x": "two"})


@penstock.pipeline(max_parallel=2)
def narrow(values: list[int]) -> Any:
    """A few at a time."""
    return total(inc.using(max_parallel=1).map(values)) + total([inc(1), inc(2), inc(3)])


def test_a_run_with_bounds_gives_what_another_gives(sdk: Client) -> None:
    jobs = sdk.enqueue_many(narrow, [{"values": list(range(size))} for size in (0, 1, 20)], max_parallel=3)
    assert [job.result(PATIENCE_S) for job in jobs] == [9, 10, 219]


def test_what_a_run_took_is_what_its_tenant_was_charged(sdk: Client, settings: Settings) -> None:
    jobs = sdk.enqueue_many(diamond, [{"x": x} for x in range(20)])
    costs = [job.wait(PATIENCE_S).cost() for job in jobs]
    for cost in costs:
        assert cost.by_model.keys() == {"inc", "total"} and cost.steps == 4
        assert 0 < cost.device_s == pytest.approx(sum(cost.by_model.values()))
        assert cost.critical_path[0] == "inc" and cost.critical_path[-1] == "total"
        assert cost.total_s is not None and cost.queue_s >= 0 and cost.run_s > 0
    queues = {queue_name(settings.namespace, model, Lane.BACKGROUND) for model in ("inc", "total")}
    client = sdk._runtime().publisher.client
    wait_for(
        lambda: (
            sum(usage.device_s(client, settings.namespace, queues).values())
            == pytest.approx(sum(cost.device_s for cost in costs))
        ),
        what="the worker to tell what queues have taken",
    )


def test_a_run_over_its_budget_fails(sdk: Client) -> None:
    job = sdk.enqueue(diamond, {"x": 1}, budget=0)
    with pytest.raises(JobFailed, match="its budget is 0"):
        job.result(PATIENCE_S)
    assert job.error is not None and job.error["code"] == "over_budget" and job.error["spent_s"] > 0
    assert sdk.run(diamond, {"x": 1}, budget=60, result_timeout=PATIENCE_S) == {"sum": 16, "first": 2}
    with pytest.raises(InvalidInput, match="is a model"):
        sdk.enqueue("inc", 1, budget=1)
    with pytest.raises(InvalidInput, match="max_parallel=0"):
        sdk.enqueue(diamond, {"x": 1}, max_parallel=0)


def test_something_stands_in_for_a_failure(sdk: Client) -> None:
    assert sdk.run(careful, {"x": 1}, result_timeout=PATIENCE_S) == 2


def test_a_cancelled_run_ends_at_once(settings: Settings) -> None:
    with Client(settings) as client:
        job = client.enqueue(diamond, {"x": 1})
        job.cancel()
        assert job.refresh().status == "cancelled"


def test_inputs_are_checked_by_name_and_type(settings: Settings) -> None:
    with Client(settings) as client:
        with pytest.raises(InvalidInput, match="no input 'y'"):
            client.enqueue(diamond, {"y": 1})
        with pytest.raises(InvalidInput, match="given no 'x'"):
            client.enqueue(diamond, {})
        with pytest.raises(InvalidInput, match="by name, not int"):
            client.enqueue(diamond, 1)
        with pytest.raises(InvalidInput, match="'x' does not fit"):
            client.enqueue(diamond, {"x": "one"})
        assert client.list() == []


def test_the_page_runs(settings: Settings, worker_factory: Callable[..., Any], dispatcher: Any, tmp_path: Path) -> None:
    """What docs/pipelines.md shows, as it stands there: definitions in a module that a worker serves, then the rest."""
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    defined = [block for block in blocks if "@penstock." in block]
    assert (len(defined), len(blocks)) == (4, 10)
    module = tmp_path / "shown.py"
    module.write_text("\n".join(defined))
    settings = settings.model_copy(update={"models": [str(module)]})
    worker_factory(settings=settings)
    program = ["from shown import *", "import penstock", *(block for block in blocks if block not in defined)]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        env={**clean_environ(), **settings.environ(), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
