"""Pipelines and functions in canvases: called as Python calls them, in a run as by Celery in one process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import chunks, xmap, xstarmap

import penstock
from penstock.calltypes import schemas_of
from penstock.codec import codec_of
from penstock.dispatch.canvases import named_of
from penstock.dispatch.catalog import Target
from penstock.errors import InvalidInput, Rejected
from penstock.functions import Function
from penstock.jsontext import loads
from penstock.pipelines.announced import Announced, announcement
from penstock.pipelines.canvas.modeloptions import options_of
from penstock.pipelines.canvas.reading import Translated, translate
from penstock.pipelines.graph import Step
from penstock.pipelines.writing.pipeline import Pipeline
from penstock.testing import run_pipeline
from tests.fixtures import celeryapps


@penstock.model(name="inc")
def inc(batch: list[int]) -> list[int]:
    """One more."""
    return [value + 1 for value in batch]


@penstock.step
def minus(left: int, right: int = 1) -> int:
    """A function whose arguments have an order."""
    return left - right


@penstock.pipeline
def scaled(value: int, by: int = 10) -> Any:
    """(value + 1) * by, from two steps."""
    return inc(value) * by


@penstock.pipeline(max_parallel=2, budget=5.0)
def three() -> Any:
    """Takes nothing."""
    return inc(2)


app = Celery("program", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(name="penstock.inc", shared=False, lazy=False)
def _inc(value):
    return value + 1


@app.task(name="penstock.scaled", shared=False, lazy=False)
def _scaled(value, by=10):
    return (value + 1) * by


@app.task(name="penstock.three", shared=False, lazy=False)
def _three():
    return 3


app.task(name="penstock.minus", shared=False, lazy=False)(minus.function)


@pytest.fixture(scope="module", autouse=True)
def _current() -> Iterator[None]:
    with celeryapps.current(app):
        yield


def local(name: str) -> Target:
    """What a program knows that has imported them."""
    found: Any = {"inc": inc, "minus": minus, "scaled": scaled, "three": three}[name]
    if isinstance(found, Pipeline):
        return Target(name, pipeline=found)
    return Target(name, codec=codec_of(found.model if isinstance(found, Function) else found))


def announced(name: str) -> Target:
    """What one knows that has the database alone."""
    found: Any = {"inc": inc, "minus": minus, "scaled": scaled, "three": three}[name]
    if isinstance(found, Pipeline):
        return Target(name, pipeline=Announced(name, json.loads(json.dumps(announcement(found)))))
    return Target(name, info={"function": isinstance(found, Function), **schemas_of(found)._asdict()})


def translated(canvas: Any, find: Any = local) -> Translated:
    return translate(
        json.loads(json.dumps(canvas)),
        namespace="penstock",
        write=lambda name, item: loads(find(name).encode(item, 10_000)),
        find=lambda name: named_of(find(name)),
    )


def run(canvas: Any, find: Any) -> Any:
    graph, inputs, _ = translated(canvas, find)
    return run_pipeline(graph, inputs, models=[inc, minus])


def s(name: str, *args: Any, **kwargs: Any) -> Any:
    return app.signature(f"penstock.{name}", args=args, kwargs=kwargs)


def si(name: str, *args: Any, **kwargs: Any) -> Any:
    return app.signature(f"penstock.{name}", args=args, kwargs=kwargs, immutable=True)


def g(*members: Any) -> Any:
    return group(list(members), app=app)


@pytest.mark.parametrize("find", [local, announced])
@pytest.mark.parametrize(
    "canvas",
    [
        s("scaled", 1),
        s("scaled", value=1, by=3),
        s("scaled", 1, by=3),
        s("three"),
        s("minus", 9),
        s("minus", right=2, left=9),
        chain(s("inc", 1), s("scaled"), s("minus", 5), s("scaled", by=2), s("minus", right=7)),
        chain(s("inc", 1), si("scaled", 4), s("inc")),
        chain(s("inc", 1), si("three"), s("minus")),
        g(s("scaled", 1), s("minus", 4), s("three"), s("inc", 5)),
        g(s("scaled", 1), s("scaled", 2), s("scaled", 3)),
        g(s("scaled", value=1), s("scaled", value=2)),
        g(s("minus", 5, 2), s("minus", 6, 3)),
        g(si("three"), si("three")),
        chain(s("inc", 1), g(s("scaled", 2), s("scaled", 3))),
        chain(s("inc", 1), g(s("scaled"), s("minus", 2), si("scaled", 7))),
        chain(s("inc", 9), g(s("minus", 2), s("minus", 3))),
        chain(s("inc", 1), g(si("scaled", 2), si("scaled", 3))),
        chord([s("scaled", 1), s("minus", 4)], si("scaled", 4)),
        chord([chain(s("scaled", 1), s("minus")), chain(s("inc", 1), s("scaled", 3))], si("minus", 1)),
    ],
)
def test_values_are_those_of_calls(canvas: Any, find: Any) -> None:
    expected = json.loads(json.dumps(canvas.clone().apply().get()))
    assert run(canvas, find) == expected


@pytest.mark.parametrize("find", [local, announced])
@pytest.mark.parametrize(
    ("canvas", "value"),
    [
        (xmap(s("scaled"), [1, 2]), [20, 30]),
        (xmap(s("minus"), [1, 2]), [0, 1]),
        (xmap(s("scaled"), []), []),
        (xstarmap(s("scaled"), [(1, 2), (3,)]), [4, 40]),
        (xstarmap(s("minus"), [(5, 2), (3,)]), [3, 2]),
        (chunks(s("scaled"), [(1,), (2,), (3,)], 2), [[20, 30], [40]]),
        (chain(s("inc", 1), xmap(s("scaled"), [1, 2])), [20, 30]),
        (s("scaled", 1).set(link=s("minus")), 20),
    ],
)
def test_maps_and_links(canvas: Any, value: Any, find: Any) -> None:
    assert run(canvas, find) == value


def test_a_pipeline_is_one_run_within_and_a_group_of_them_one_map() -> None:
    graph, inputs, said = translated(chain(s("inc", 1), g(s("scaled", 2), s("scaled", 3)), si("three")))
    inner = Step(
        name="scaled",
        kind="run",
        graph=scaled.graph,
        over={"$in": "scaled"},
        maps=True,
        input={"value": {"$out": "inc"}, "by": {"$get": [{"$item": 0}, "by"]}},
    )
    assert graph.steps[1] == inner
    assert inputs == {"inc": 1, "scaled": [{"by": 2}, {"by": 3}]}
    three_inside = graph.steps[2].graph
    assert three_inside is not None
    assert (three_inside.max_parallel, three_inside.budget) == (2, None), "what it spends is the run's around it"
    assert [each.step for each in said] == ["inc", "scaled", "scaled", "three"]


@pytest.mark.parametrize(
    ("canvas", "words"),
    [
        (s("scaled", 1, 2, 3), "pipeline 'scaled' is given 3 arguments, and takes 2"),
        (chain(s("inc", 1), s("scaled", 1, 2)), "pipeline 'scaled' is given 3 arguments, and takes 2"),
        (s("scaled", 1, value=2), "given 'value' twice"),
        (chain(s("inc", 1), s("scaled", value=2)), "given 'value' twice"),
        (s("scaled", 1, bye=2), "takes no 'bye'"),
        (s("scaled", by=2), "is given no 'value'"),
        (s("scaled", "one"), "input 'value' does not fit pipeline 'scaled'"),
        (chain(s("inc", 1), s("scaled", "ten")), "input 'by' does not fit pipeline 'scaled'"),
        (chain(s("inc", 1), s("three")), "pipeline 'three' is given 1 arguments, and takes 0"),
        (s("minus"), "step 'minus' is given no 'left'"),
        (s("minus", 1, 2, 3), "step 'minus' is given 3 arguments"),
        (s("scaled", 1).set(queue="penstock.scaled.interactive"), "no queue of it"),
        (s("scaled", 1).set(link_error=s("inc")), "error callback"),
    ],
)
def test_a_call_that_python_would_refuse_is_refused(canvas: Any, words: str) -> None:
    for find in (local, announced):
        with pytest.raises(InvalidInput, match=words):
            translated(canvas, find)


def test_signatures_are_made_of_pipelines_and_functions() -> None:
    canvas = chain(
        scaled.using(tenant="x", delay=3, lane="background").s(1),
        minus.using(lane="background").s(2),
        scaled.si(value=2, lane="background"),
    )
    first, second, third = canvas.tasks
    assert (first.task, first.options["queue"]) == ("penstock.scaled", "penstock._pipelines.background")
    assert (second.task, second.options["queue"]) == ("penstock.minus", "penstock.minus.background")
    assert third.immutable and third.kwargs == {"value": 2}
    graph, inputs, said = translated(canvas)
    assert inputs == {"scaled": {"value": 1, "by": 10}, "minus": {"right": 2}, "scaled-2": {"value": 2, "by": 10}}
    assert options_of(said, {}, now=0.0) == {"lane": "background", "tenant": "x", "delay": 3.0}
    assert run(canvas, local) == 30 and len(graph.steps) == 3


def test_what_a_signature_cannot_say_is_told_where_it_is_written() -> None:
    for called in (scaled, minus):
        with pytest.raises(Rejected):
            called.using(lane="urgent")
        with pytest.raises(TypeError):
            called.using(budget=1.0)
        with pytest.raises(Rejected):
            called.s(object())


def test_options_of_a_step_may_be_named_before_it_is_called() -> None:
    patient = minus.using(retry=3, timeout=2.0)

    @penstock.pipeline
    def patiently(x: int) -> Any:
        return patient(x)

    assert (patiently.graph.steps[0].retry, patiently.graph.steps[0].timeout) == (3, 2.0)
    with pytest.raises(TypeError, match="retry"):
        patient.s(1)
    with pytest.raises(TypeError, match="whose options count"):
        penstock.pipeline(name="outer")(lambda x: scaled.using(lane="background"))


def test_an_eager_program_runs_them_itself() -> None:
    eager = Celery("eager", broker="memory://", backend="cache+memory://")
    eager.conf.update(task_always_eager=True, task_store_eager_result=False)
    with celeryapps.current(eager):
        assert scaled.s(1).apply_async().get() == scaled.delay(1).get() == scaled.apply((1,)).get() == 20
        assert minus.s(9).apply_async().get() == minus.apply((9,)).get() == 8
        assert chain(scaled.s(1), minus.s(right=5), scaled.s(by=2)).apply_async().get() == 32
        assert scaled.apply_async((1,), {"by": 3}, lane="background").get() == 6
        with pytest.raises(InvalidInput, match="does not fit pipeline 'scaled'"):
            scaled.s("one").apply_async().get()
    app.set_current()
