"""Pipelines that only workers know, and deployments that change them while runs are in flight."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import Client, InvalidInput, UnknownModel
from penstock.job import Job
from penstock.settings import Settings
from penstock.store import Store
from tests.fixtures.cli import MakePenstock
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.worker import Worker, wait_for

RUNS, WORKERS = 200, 2

#: Each call of a function or a model is written down.
SERVED = '''
import os
import penstock
from penstock import Model

def noted(name, value):
    with open({calls!r}, "a") as file:
        file.write(f"{{name}}\\n")
    return value

@penstock.step(pool="default")
def first(x: int) -> int:
    return noted("first", x + 1)

@penstock.step(pool="default")
def second(x: int) -> int:
    return noted("second", x * 10)

@penstock.step(pool="default")
def third(x: int) -> int:
    return noted("third", -x)

class Sum(Model):
    """Adds up."""
    name = "sum"
    version = "{version}"
    def predict(self, batch: list[list[int]]) -> list[int]:
        return [noted("sum", sum(each)) for each in batch]
'''
OLD = '''
@penstock.pipeline
def calculate(x: int, go: bool = True):
    """The old way."""
    begun = first(x)
    allowed = penstock.wait_for("go", after=begun)
    return {{"old": Sum([second(begun + allowed), begun]), "go": allowed}}
'''
#: A step is added, one is another one, and one is gone.
NEW = '''
@penstock.step(pool="default")
def added(x: int) -> int:
    return noted("added", x + 100)

@penstock.pipeline
def calculate(x: int):
    """The new way."""
    return {{"new": third(added(first(x)))}}
'''
#: A step is added, one has another name, and two are gone; what they call is served as it was.
ROLLED = '''
@penstock.step(pool="default")
def added(x: int) -> int:
    return noted("added", x + 100)

@penstock.step(pool="default")
def tenfold(x: int) -> int:
    return noted("tenfold", x * 10)

@penstock.pipeline
def calculate(x: int):
    """The new way."""
    return {{"new": tenfold(added(first(x)))}}
'''


@pytest.fixture
def deploy(settings: Settings, worker_factory: Callable[..., Worker], tmp_path: Path) -> Callable[..., Worker]:
    """Starts a worker that serves a module of this text."""

    def start(name: str, text: str, *, version: str = "1") -> Worker:
        module = tmp_path / f"{name}_module.py"
        module.write_text(text.format(calls=str(tmp_path / "calls"), version=version))
        # Nobody dies here: one that is only slow, on a busy machine, is not to be taken for dead.
        lease = settings.lease.model_copy(update={"ttl_s": 60.0})
        return worker_factory(name, settings=settings.model_copy(update={"models": [str(module)], "lease": lease}))

    return start


@pytest.fixture
def elsewhere(settings: Settings, make_penstock: MakePenstock) -> Any:
    """A shell that knows nothing but the servers."""
    return make_penstock({**settings.environ(), "PENSTOCK_MODELS": ""})


@pytest.fixture
def knowing_nothing(settings: Settings) -> Settings:
    return settings.model_copy(update={"models": []})


def steps_of(settings: Settings, runs: Sequence[str]) -> list[Job]:
    store = Store.open(settings.database)
    try:
        return [step for run in runs for step in store.list(run=run, limit=100)]
    finally:
        store.close()


@pytest.mark.usefixtures("dispatcher")
def test_a_shell_runs_what_workers_announced(deploy: Callable[..., Worker], elsewhere: Any) -> None:
    deploy("new", SERVED + NEW)
    [listed] = elsewhere("pipeline", "list", "--json").jsonl()
    assert listed == {"name": "calculate", "steps": 3, "inputs": ["x"], "description": "The new way."}
    shown = elsewhere("pipeline", "show", "calculate").out
    assert "x: int\n" in shown and "third = third" in shown
    ran = elsewhere("run", "calculate", '{"x": 1}')
    assert (ran.status, json.loads(ran.out), ran.err) == (0, {"new": -102}, "")
    id = elsewhere("submit", "calculate", '{"x": 2}').out.strip()
    assert elsewhere("job", "wait", id).json() == {"new": -103}
    assert elsewhere("job", "list", "--model", "calculate", "-q").out.split()[0] == id
    graph = elsewhere("pipeline", "show", "calculate", "--json").out
    assert json.loads(graph)["name"] == "calculate"
    for command, words in (
        (("run", "calculate", '{"y": 1}'), "no input 'y'"),
        (("submit", "calculate", '{"x": "one"}'), "valid integer"),
        (("submit", "calculate", "{}"), "given no 'x'"),
        (("job", "fork", id, "--input", "x=one"), "valid integer"),
        (("job", "fork", id, "--input", "y=1"), "no input 'y'"),
        (("submit", "calculte", "{}"), "did you mean 'calculate'?"),
        (("pipeline", "show", "calculte"), "did you mean 'calculate'?"),
        (("job", "list", "--model", "calculte"), "did you mean 'calculate'?"),
    ):
        refused = elsewhere(*command)
        assert refused.status == 2 and words in refused.err, refused.err
    models = elsewhere("model", "list", "--json").jsonl()
    assert [model["name"] for model in models] == ["added", "first", "second", "sum", "third"], "functions are models"
    assert {model["pool"] for model in models} == {"default"} and all(model["workers"] for model in models)


@pytest.mark.usefixtures("dispatcher")
def test_what_is_here_and_what_was_announced_are_told_apart(deploy: Callable[..., Worker], elsewhere: Any) -> None:
    deploy("new", SERVED + NEW)
    (elsewhere.folder / "mine.py").write_text((SERVED + OLD).format(calls="calls", version="1"))
    env = {"PENSTOCK_MODELS": "mine"}
    shown = elsewhere("pipeline", "show", "calculate", env=env)
    assert "The new way." in shown.out and "another graph in the modules here" in shown.err.replace("\n  ", " ")
    away = elsewhere("pipeline", "list", "--json", env=env | {"PENSTOCK_DATABASE_URL": "postgresql://127.0.0.1:1/no"})
    assert away.jsonl()[0]["description"] == "The old way." and "the modules here" in away.err.replace("\n  ", " ")


@pytest.mark.usefixtures("dispatcher")
def test_runs_in_flight_go_on_with_their_graph_when_another_is_deployed(
    deploy: Callable[..., Worker], knowing_nothing: Settings, tmp_path: Path
) -> None:
    """Worker after worker is stopped and replaced, while steps wait, are served and end."""
    old = [deploy(f"old-{number}", SERVED + OLD) for number in range(WORKERS)]
    with Client(knowing_nothing) as client:
        jobs = client.enqueue_many("calculate", [{"x": x} for x in range(RUNS)])
        part = RUNS // WORKERS
        for number, worker in enumerate(old):
            deploy(f"new-{number}", SERVED + ROLLED)
            for job in jobs[number * part : (number + 1) * part]:
                client.signal(job, "go", 0)
            jobs[number * part].result(PATIENCE_S)  # its neighbours are on their way
            assert worker.stop() == 0
        with Client(knowing_nothing) as later:  # this one knows the old graph for some seconds
            assert later.run("calculate", {"x": 1}, result_timeout=PATIENCE_S) == {"new": 1020}
            with pytest.raises(InvalidInput, match="no input 'go'"):
                later.enqueue("calculate", {"x": 1, "go": True})
        results = [job.result(PATIENCE_S) for job in jobs]
        assert results == [{"old": 11 * (x + 1), "go": 0} for x in range(RUNS)]
    rows = steps_of(knowing_nothing, [job.id for job in jobs])
    assert Counter(row.path for row in rows) == dict.fromkeys(("first", "go", "second", "sum"), RUNS)
    called = Counter((tmp_path / "calls").read_text().split())
    again = {"first": RUNS + 1, "second": RUNS, "sum": RUNS, "added": 1, "tenfold": 1}
    assert called == again, "no step ran again"


@pytest.mark.usefixtures("dispatcher")
def test_a_step_that_nobody_serves_any_more_is_told_and_goes_on_when_somebody_does(
    deploy: Callable[..., Worker], elsewhere: Any, knowing_nothing: Settings
) -> None:
    old = deploy("old", SERVED + OLD)
    pinned = {"name": "pinned", "inputs": [], "steps": [{"name": "a", "model": "sum@1", "input": [1]}], "output": 1}
    (elsewhere.folder / "pinned.json").write_text(json.dumps(pinned))
    with Client(knowing_nothing) as client:
        job = client.enqueue("calculate", {"x": 1})
        wait_for(lambda: len(steps_of(knowing_nothing, [job.id])) == 2, what="it to wait for a signal")
        assert old.stop() == 0
        deploy("new", SERVED.replace("second", "later") + NEW, version="2")
        client.signal(job, "go", 1)
        held = elsewhere("pipeline", "submit", "pinned.json").out.strip()

        for id, model in ((job.id, "second"), (held, "sum@1")):
            told = elsewhere("job", "get", id)
            assert f"no worker serves {model!r} now" in told.err.replace("\n  ", " ")
            assert f"no worker serves {model!r} now" in elsewhere("job", "get", id, "--json").err.replace("\n  ", " ")
            watching = elsewhere.start("job", "watch", id)
            try:
                watching.says(f"no worker serves {model!r} now")
            finally:
                watching.close()
        stats = elsewhere("queue", "stats", "--json").jsonl()
        rows = {row["model"]: row for row in stats if row["model"] and row["queued"]}
        counts = {name: (row["queued"], row["workers"]) for name, row in rows.items()}
        assert counts == {"second": (1, 0), "sum@1": (1, 0)}
        found = elsewhere("doctor", "--json").json()["findings"]
        warned = [each["detail"] for each in found if each["name"] == "queues" and each["status"] == "warning"]
        assert len(warned) == 2 and any(".second." in each for each in warned)

        deploy("old-again", SERVED + OLD)
        assert job.result(PATIENCE_S) == {"old": 32, "go": 1}
        assert client.get(held).result(PATIENCE_S) == 1
        with pytest.raises(UnknownModel):
            client.enqueue("secnd", 1)
