"""Graphs as canvases, where they are made of chains, groups and chords, and what is told where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from celery import Celery
from hypothesis import given, reject
from hypothesis import strategies as st

import penstock
from penstock.codec import item_from_call
from penstock.errors import ConfigError, InvalidInput, NoValue
from penstock.pipelines import memory
from penstock.pipelines.canvas.reading import translate
from penstock.pipelines.canvas.series import canvas_of
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.writing.trace import trace
from penstock.signatures import signature_of
from tests.fixtures import celeryapps
from tests.fixtures.calls import call, each

app = Celery("program", broker="memory://", backend="cache+memory://", set_as_current=False)
NAMES = "abcde"

for _name in NAMES:

    @app.task(name=f"penstock.{_name}", shared=False, lazy=False)
    def task(*args: Any, _name: str = _name, **kwargs: Any) -> Any:
        return [_name, item_from_call(args, kwargs)]


@pytest.fixture(scope="module", autouse=True)
def _current() -> Iterator[None]:
    with celeryapps.current(app):
        yield


def answers(step: Step, items: Sequence[Any]) -> list[Any]:
    return [[step.model, item] for item in items]


def by_celery(canvas: Any) -> Any:
    """What Celery gives for it, in this process."""
    sent = app.signature(json.loads(json.dumps(canvas)))
    return json.loads(json.dumps(sent.apply().get()))


def by_run(canvas: Any) -> Any:
    """What a run of it gives."""
    graph, inputs, _ = translate(canvas, namespace="penstock")
    return memory.run(graph, inputs, answers)


def shown(canvas: Any) -> str:
    """A canvas as it is written."""
    kind, kwargs = canvas["subtask_type"], canvas["kwargs"]
    if kind in ("chain", "group"):
        return f"{kind}({', '.join(map(shown, kwargs['tasks']))})"
    if kind == "chord":
        return f"chord([{', '.join(map(shown, kwargs['header']))}], {shown(kwargs['body'])})"
    name = canvas["task"].removeprefix("penstock.")
    return f"{name}{'!' if canvas['immutable'] else ''}({', '.join(map(repr, canvas['args']))})"


def diamond(x: int) -> Any:
    first = call("a", x)
    return call("d", [call("b", first), call("c", first, x)])


def meets_twice(x: int) -> Any:
    first = call("a", x)
    ways = [call("b", first), call("c", call("d", first)), call("e", 7)]
    again = [call("b", ways), call("c", ways)]
    return call("a", again, "end")


def fresh_inside(x: int) -> Any:
    first = call("a", x)
    return call("d", [call("b", first), call("c", [call("b", first), call("e", 8)]), call("e", 9)])


def nested(x: int) -> Any:
    first = call("a", x)
    second = call("b", first)
    return [[call("c", second), call("d", second)], call("e", first)]


@pytest.mark.parametrize(
    ("function", "inputs", "canvas"),
    [
        (lambda x: call("a", x), {"x": 1}, "a!(1)"),
        (lambda x: call("b", call("a", x, 2)), {"x": 1}, "chain(a!([1, 2]), b())"),
        (lambda x: call("b", call("a", {"k": x}), x + 1), {"x": 1}, "chain(a!({'k': 1}), b(2))"),
        (lambda x: [call("a", x), call("b", 2)], {"x": 1}, "group(a!(1), b!(2))"),
        (lambda x: [call("a", x)], {"x": 1}, "group(a!(1))"),
        (lambda x: call("b", [call("a", x)]), {"x": 1}, "chord([a!(1)], b())"),
        (diamond, {"x": 1}, "chain(a!(1), chord([b(), c(1)], d()))"),
        (meets_twice, {"x": 1}, "chain(a!(1), chord([b(), chain(d(), c()), e!(7)], chord([b(), c()], a('end'))))"),
        (fresh_inside, {"x": 1}, "chain(a!(1), chord([b(), chord([b(), e!(8)], c()), e!(9)], d()))"),
        (nested, {"x": 1}, "chain(a!(1), group(chain(b(), group(c(), d())), e()))"),
        (lambda x: call("b", each("a", x)), {"x": [1, 2]}, "chord([a!(1), a!(2)], b())"),
        (lambda x: call("b", each("a", x)), {"x": []}, "chord([], b())"),
        (lambda x: each("a", x), {"x": []}, "group()"),
        (lambda x: penstock.when(x, call("a", 1), call("b", 2)), {"x": True}, "a!(1)"),
        (lambda x: [call("c", call("a", x)), call("b", 2)], {"x": 1}, "group(chain(a!(1), c()), b!(2))"),
        (lambda x: call("d", [call("b", [call("a", x)]), call("c", 5)]), {"x": 1},
         "chord([chord([a!(1)], b()), c!(5)], d())"),
    ],
)  # fmt: skip
def test_a_graph_of_series_and_groups_is_a_canvas(function: Callable[..., Any], inputs: Any, canvas: str) -> None:
    graph = trace(function, name="test")
    made = signature_of(canvas_of(graph, inputs))
    assert shown(made) == canvas
    assert by_run(made) == by_celery(made) == memory.run(graph, inputs, answers)


def crossed(x: int) -> Any:
    one, two = call("a", x), call("b", x)
    return [call("c", [one, two]), call("d", one)]


@pytest.mark.parametrize(
    ("function", "inputs", "words"),
    [
        (crossed, {"x": 1}, "the ways a -> .*, a -> .* do not meet in one list"),
        (lambda x: [y := call("a", x), call("b", y)], {"x": 1}, "the ways a -> b, a -> the output do not meet"),
        (lambda x: call("b", call("a", x)["k"]), {"x": 1}, r"step 'b' takes an element of a result.*: a\.k"),
        (lambda x: call("b", call("a", x) + 1), {"x": 1}, "step 'b' computes with a result"),
        (lambda x: {"k": call("a", x)}, {"x": 1}, "the output makes an object of results"),
        (lambda x: penstock.when(call("a", x) == 1, 1, 2), {"x": 1}, "the output chooses by a result"),
        (lambda x: x, {"x": 1}, "the output is a constant"),
        (lambda x: call("b", x, call("a", x)), {"x": 1}, "step 'b' has a constant in a list of results"),
        (lambda x: each("b", call("a", x)), {"x": 1}, "step 'b' maps a result"),
        (lambda x: [call("b", x), call("a", x)][1], {"x": 1}, "'b' is used by nobody"),
        (lambda x: [[call("a", x), call("b", x)], call("c", x)], {"x": 1}, r"list \['a', 'b'\] stands in the list"),
        (lambda x: [call("b", call("a", x))] * 2, {"x": 1}, "would call 'b' twice"),
        (lambda x: [[call("c", y), call("d", y)] for y in [call("a", x)]], {"x": 1}, "list of one list"),
    ],
)  # fmt: skip
def test_what_no_canvas_has_is_named(function: Callable[..., Any], inputs: Any, words: str) -> None:
    graph = trace(function, name="test")
    with pytest.raises(ConfigError, match=words) as raised:
        signature_of(canvas_of(graph, inputs))
    assert "client.run" in raised.value.fix


@pytest.mark.parametrize(
    ("step", "output", "words"),
    [
        (Step(name="f", kind="wait", signal="go", input=1), {"$out": "f"}, "step 'f' is a wait"),
        (Step(name="f", kind="sleep", input=[1]), {"$out": "f"}, "step 'f' is a sleep"),
        (Step(name="f", model="a", retry=1, input=1), {"$out": "f"}, "step 'f' has a timeout or retries"),
        (Step(name="f", model="a", timeout=1.0, input=1), {"$out": "f"}, "step 'f' has a timeout or retries"),
        (Step(name="f", model="a", input=1), {"$else": [{"$out": "f"}, 1]}, "stands in"),
    ],
)
def test_what_only_runs_have_is_named(step: Step, output: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        canvas_of(Graph(name="test", inputs=[], steps=[step], output=output), {})


def test_a_map_of_no_list_has_no_canvas() -> None:
    with pytest.raises(NoValue, match="maps a text"):
        canvas_of(trace(lambda x: each("a", x), name="test"), {"x": "text"})


def test_a_long_chain_is_no_matter() -> None:
    def long(x: int) -> Any:
        value: Any = x
        for _ in range(1500):
            value = call("a", value)
        return value

    made = canvas_of(trace(long, name="test"), {"x": 1})
    assert len(signature_of(made)["kwargs"]["tasks"]) == 1500


@penstock.model(name="scorer")
def scorer(batch: list[list[str]]) -> list[float]:
    """How long texts are."""
    return [float(sum(map(len, texts))) for texts in batch]


@penstock.pipeline
def scored(text: str, also: str = "more") -> Any:
    """Two scores."""
    return [scorer([text]), scorer([also, text])]


def test_a_pipeline_has_the_canvas_of_its_inputs() -> None:
    made = scored.canvas(text="a")
    assert [dict(each) for each in made.tasks] == [
        {"task": "penstock.scorer", "args": ([*texts],), "kwargs": {}, "subtask_type": None, "immutable": True,
         "options": {"queue": "penstock.scorer.interactive"}}
        for texts in (["a"], ["more", "a"])
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="given no 'text'"):
        scored.canvas()
    with pytest.raises(InvalidInput, match="'text' does not fit"):
        scored.canvas(text=3)


# Random ones -----------------------------------------------------------------------------------------------------

_number = st.integers(0, 9)


def _call(first: bool) -> st.SearchStrategy[Any]:
    """A call of what comes before it and constants; ``first`` where nothing comes before."""
    own = st.lists(_number, min_size=1 if first else 0, max_size=2)
    return st.tuples(st.just("call"), st.sampled_from(NAMES), own)


_fixed = st.tuples(st.just("fixed"), st.sampled_from(NAMES), _number)


def _series(depth: int, first: bool, *, inner: bool, fresh: bool = False) -> st.SearchStrategy[Any]:
    """Calls and forks, one after the other; inside of a fork a call is first, of what came before or a fresh one."""
    begin = st.lists(_fixed if fresh else _call(first), min_size=1 if inner else 0, max_size=1)

    def more(head: list[Any]) -> st.SearchStrategy[Any]:
        fresh = first and not head
        if depth == 0:
            return _call(fresh).map(lambda call: [*head, call])
        using = _series(depth - 1, fresh, inner=True)
        others = st.lists(st.one_of(using, _series(depth - 1, fresh, inner=True, fresh=True)), min_size=1, max_size=2)
        fork = st.tuples(using, others).flatmap(lambda parts: st.permutations([parts[0], *parts[1]]))
        forks = st.tuples(st.just("fork"), fork)
        joined = st.tuples(forks, st.lists(_series(depth - 1, False, inner=False), max_size=1)).map(
            lambda parts: [*head, parts[0], *(part for rest in parts[1] for part in rest)]
        )
        return st.one_of(joined, _call(fresh).map(lambda call: [*head, call]), *([st.just(head)] if head else []))

    return begin.flatmap(more)


def _written(series: list[Any], value: Any) -> Any:
    """The calls of a series, made now; what comes out."""
    for kind, *rest in series:
        if kind == "call":
            name, own = rest
            value = call(name, *([] if value is None else [value]), *own)
        elif kind == "fixed":
            value = call(*rest)
        else:
            value = [_written(branch, value) for branch in rest[0]]
    return value


@given(series=_series(3, True, inner=False))
def test_random_graphs_of_series_and_groups_agree_three_ways(series: list[Any]) -> None:
    graph = trace(lambda: _written(series, None), name="test")
    try:
        made = signature_of(canvas_of(graph, {}))
    except ConfigError as error:
        # Lists in lists, with calls in them that are given nothing of what is before: some have a canvas that is not
        # found.
        assert "stands in the list" in str(error) and "'fixed'" in repr(series)
        reject()
    assert by_run(made) == by_celery(made) == memory.run(graph, {}, answers)
