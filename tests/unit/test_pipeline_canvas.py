"""Canvases as graphs: the values that Celery would give, the steps that make them, and what is refused.

The values of the table are those of a Celery 5.7 worker on Redis, where nothing else is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import _chain, chunks, maybe_unroll_group, xmap, xstarmap
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.codec import item_from_call
from penstock.errors import InvalidInput, NotSerializable
from penstock.pipelines import memory
from penstock.pipelines.canvas.modeloptions import options_of
from penstock.pipelines.canvas.reading import Translated, translate
from penstock.pipelines.graph import Step
from tests.fixtures import celeryapps

app = Celery("program", broker="memory://", backend="cache+memory://", set_as_current=False)


def answer(name: str, item: Any) -> list[Any]:
    """What the models of these tests give: who they are and what they got."""
    return [name, item]


for _name in "abcde":

    @app.task(name=f"penstock.{_name}", shared=False, lazy=False)
    def task(*args: Any, _name: str = _name, **kwargs: Any) -> Any:
        return answer(_name, item_from_call(args, kwargs))


@pytest.fixture(scope="module", autouse=True)
def _current() -> Iterator[None]:
    with celeryapps.current(app):
        yield


def s(name: str, *args: Any, **kwargs: Any) -> Any:
    """A signature as a program without penstock makes it."""
    return app.signature(f"penstock.{name}", args=args, kwargs=kwargs)


def si(name: str, *args: Any, **kwargs: Any) -> Any:
    return app.signature(f"penstock.{name}", args=args, kwargs=kwargs, immutable=True)


def g(*members: Any) -> Any:
    return group(list(members), app=app)


def unfolded(*steps: Any) -> Any:
    """A chain as it is written, which ``chain()`` would simplify."""
    return _chain(*steps, app=app)


def translated(canvas: Any) -> Translated:
    """Of the object and of its JSON alike."""
    result = translate(canvas, namespace="penstock")
    assert translate(json.loads(json.dumps(canvas)), namespace="penstock") == result
    return result


def run(canvas: Any) -> Any:
    """What a run of it gives, models being ``answer``."""
    graph, inputs, _ = translated(canvas)

    def call(step: Step, items: Sequence[Any]) -> list[Any]:
        return [answer(step.model or "", item) for item in items]

    return memory.run(graph, inputs, call)


A, B = ["a", 1], ["b", 2]
AB = [A, B]


@pytest.mark.parametrize(
    ("canvas", "value"),
    [
        (s("a", 1), A),
        (s("a"), ["a", []]),
        (s("a", 1, 2), ["a", [1, 2]]),
        (s("a", x=1), ["a", {"x": 1}]),
        (chain(s("a", 1), s("b")), ["b", A]),
        (s("a", 1) | s("b", 2) | s("c"), ["c", ["b", [A, 2]]]),
        (chain(s("a", 1), s("b", 2), si("c", 3)), ["c", 3]),
        (chain(s("a", 1), si("b", x=2)), ["b", {"x": 2}]),
        (chain(chain(s("a", 1), s("b")), chain(s("c"), s("d"))), ["d", ["c", ["b", A]]]),
        (unfolded(unfolded(s("a", 1), unfolded()), unfolded(s("b"), s("c"))), ["c", ["b", A]]),
        (unfolded(s("a", 1), unfolded(si("b", 2), s("c"))), ["c", B]),
        # Groups.
        (g(), []),
        (g(s("a", 1)), [A]),
        (g(s("a", 1), s("b", 2)), AB),
        (g(g(s("a", 1), s("b", 2)), s("c", 3)), [A, B, ["c", 3]]),
        (g(g(), s("a", 1), unfolded()), [A]),
        (g(chain(s("a", 1), g(s("b"), s("c"))), s("d", 4)), [[["b", A], ["c", A]], ["d", 4]]),
        (g(chain(s("a", 1), g(s("b"), s("c")))), [["b", A], ["c", A]]),
        (g(chord([s("a", 1), s("b", 2)], g(s("c"), s("d")))), [["c", AB], ["d", AB]]),
        # Groups in chains.
        (chain(s("a", 1), g(s("b"), s("c", 3), si("d", 4))), [["b", A], ["c", [A, 3]], ["d", 4]]),
        (chain(g(s("a", 1), s("b", 2)), s("c")), ["c", AB]),
        (chain(s("a", 1), g(s("b"), s("c")), s("d")), ["d", [["b", A], ["c", A]]]),
        (chain(g(s("a", 1), s("b", 2)), g(s("c"), s("d"))), [["c", AB], ["d", AB]]),
        (chain(g(s("a", 1)), s("b")), ["b", A]),
        (chain(s("a", 1), g(s("b"))), ["b", A]),
        (unfolded(s("a", 1), g(g(s("b")))), [["b", A]]),
        (unfolded(g(g(s("a", 1))), s("b")), ["b", A]),
        (s("a", 1) | g(g(s("b"))), ["b", A]),
        (s("a", 1) | g(g(g(s("b")))), [["b", A]]),
        (s("a", 1) | g(g(s("b"))) | s("c"), ["c", [["b", A]]]),
        (g(g(g(s("a", 1)))) | s("b"), ["b", [A]]),
        (g(s("c", 3), s("a", 1) | g(g(s("b")))), [["c", 3], ["b", A]]),
        (chord([s("a", 1)], s("c") | g(g(s("b")))), ["b", ["c", [A]]]),
        (chain(s("a", 1), g(), s("b")), ["b", A]),
        (unfolded(g(), s("a", 1)), A),
        (unfolded(g(), g()), []),
        (chain(s("a", 1), g(chain(s("b"), s("c")), s("d"))), [["c", ["b", A]], ["d", A]]),
        (chain(s("e", 0), g(s("a", 1), s("b", 2)).set(immutable=True)), AB),
        # Chords.
        (chord([s("a", 1), s("b", 2)], s("c")), ["c", AB]),
        (chord([s("a", 1), s("b", 2)], s("c", 3)), ["c", [AB, 3]]),
        (chord([s("a", 1), s("b", 2)], si("c", 7)), ["c", 7]),
        (chord([s("a", 1)], s("c")), ["c", [A]]),
        (g(s("a", 1)) | s("c"), ["c", [A]]),
        (chord([], s("c", 1)), ["c", [[], 1]]),
        (chord([unfolded()], s("c")), ["c", []]),
        (chord(chain(s("a", 1), s("b", 2)), s("c")), ["c", AB]),
        (chord([chord([s("a", 1), s("b", 2)], s("c")), s("d", 3)], s("e")), ["e", [["c", AB], ["d", 3]]]),
        (chord([s("a", 1), s("b", 2)], g(s("c"), s("d"))), [["c", AB], ["d", AB]]),
        (chord([s("a", 1), s("b", 2)], g(s("c"))), [["c", AB]]),
        (chord([s("a", 1), s("b", 2)], g()), []),
        (chord([s("a", 1), s("b", 2)], chain(s("c"), g(s("d"), s("e")))), [["d", ["c", AB]], ["e", ["c", AB]]]),
        (chord([s("a", 1), s("b", 2)], chord([s("c"), s("d")], s("e"))), ["e", [["c", AB], ["d", AB]]]),
        (chain(s("a", 1), chord([s("b"), si("c", 2)], s("d")), s("e")), ["e", ["d", [["b", A], ["c", 2]]]]),
        (chain(s("a", 1), chord([], s("b", 2))), ["b", [[], 2]]),
        (chord([s("a", 1), s("b", 2)], s("c")).clone((9,)), ["c", [["a", [9, 1]], ["b", [9, 2]]]]),
        (chain(s("e", 0), chord([s("a", 1), s("b", 2)], s("c")).set(immutable=True)), ["c", AB]),
        (chain(chord([s("a", 1), s("b", 2)], s("c")), chord([s("d"), s("e")], s("a"))),
         ["a", [["d", ["c", AB]], ["e", ["c", AB]]]]),
        # Maps, which take their task's name and nothing else.
        (xmap(s("a"), [1, 2]), [["a", 1], ["a", 2]]),
        (xmap(s("a", 5), []), []),
        (xstarmap(s("a"), [(1, 2), (3,)]), [["a", [1, 2]], ["a", 3]]),
        (chain(s("b", 1), xmap(s("a"), [1, 2]), s("c")), ["c", [["a", 1], ["a", 2]]]),
        (chunks(s("a"), [(1,), (2,), (3,)], 2), [[["a", 1], ["a", 2]], [["a", 3]]]),
        (chunks(s("a"), [(1,), (2,), (3,)], 2).group() | s("b"), ["b", [[["a", 1], ["a", 2]], [["a", 3]]]]),
        # Here a Celery worker gives something else than Celery's documentation says: docs/celery.md.
        (chord([s("a", 1), g(s("b", 2), s("c", 3))], s("d")), ["d", [A, B, ["c", 3]]]),
        (g(chord([s("a", 1)], g()), s("b", 2)), [[], B]),
        (chain(g(s("a", 1), s("b", 2)), g(s("c"), s("d")), g(s("a"), s("b"))),
         [["a", [["c", AB], ["d", AB]]], ["b", [["c", AB], ["d", AB]]]]),
    ],
)  # fmt: skip
def test_values_are_those_of_celery(canvas: Any, value: Any) -> None:
    assert run(canvas) == value


def calls(first: bool) -> st.SearchStrategy[Any]:
    """Signatures of one model."""
    names = st.sampled_from("abcde")
    numbers = st.integers(0, 9)
    own = st.lists(numbers, min_size=1, max_size=2).flatmap(lambda args: names.map(lambda name: s(name, *args)))
    fixed = st.tuples(names, numbers).map(lambda call: si(*call))
    named = st.tuples(names, numbers).map(lambda call: si(call[0], x=call[1]))
    return st.one_of(own, fixed, named) if first else st.one_of(names.map(s), own, fixed, named)


def canvases(depth: int, first: bool = True) -> st.SearchStrategy[Any]:
    """Canvases as programs write them; ``first`` where no result comes before."""
    if depth == 0:
        return calls(first)
    begin, follow = canvases(depth - 1, first), canvases(depth - 1, first=False)
    chained = st.tuples(begin, st.lists(follow, min_size=1, max_size=3)).map(lambda steps: [steps[0], *steps[1]])
    beside = st.lists(begin, max_size=3)
    return st.one_of(
        calls(first),
        chained.map(lambda steps: chain(*steps)),
        chained.map(lambda steps: _piped(steps)),
        beside.map(lambda members: g(*members)),
        st.tuples(beside, follow).map(lambda parts: chord(*parts)),
    )


def _piped(steps: list[Any]) -> Any:
    canvas = steps[0]
    for step in steps[1:]:
        canvas = canvas | step
    return canvas


def sent(canvas: Any) -> Any:
    """The canvas as it is once Celery has sent it: in chains a group of one is its member by then, and Celery alone in
    its process makes a list of that."""
    if isinstance(canvas, list):  # a header of nothing
        return [sent(each) for each in canvas]
    canvas = canvas.clone()
    canvas.kwargs |= {name: sent(canvas.kwargs[name]) for name in ("tasks", "header", "body") if name in canvas.kwargs}
    if canvas["subtask_type"] == "chain":
        canvas.tasks = [maybe_unroll_group(each) if _is_group(each) else each for each in canvas.tasks]
    return canvas


def _is_group(canvas: Any) -> bool:
    return bool(canvas["subtask_type"] == "group")


@given(canvas=canvases(3))
def test_random_canvases_give_what_celery_gives_in_one_process(canvas: Any) -> None:
    """Of a group of one, Celery alone in its process makes a list more than its workers do: the table has those."""
    if _is_group(canvas):
        canvas = g(si("a", 0), canvas)
    assert run(canvas) == json.loads(json.dumps(sent(canvas).apply().get()))


def steps(canvas: Any) -> list[tuple[str, Any]]:
    """Names of steps, with what they are given."""
    return [(step.name, step.input) for step in translated(canvas).graph.steps]


def test_steps_are_called_as_in_pipelines_and_their_constants_are_inputs() -> None:
    graph, inputs, _ = translated(chain(s("a", 1), s("b", 5), s("a")))
    assert [(step.name, step.model, step.input) for step in graph.steps] == [
        ("a", "a", {"$in": "a"}),
        ("b", "b", [{"$out": "a"}, {"$get": [{"$in": "b"}, 0]}]),
        ("a-2", "a", {"$out": "b"}),
    ]
    assert (graph.name, graph.inputs, inputs) == ("canvas", ["a", "b"], {"a": 1, "b": [5]})
    other = translated(chain(s("a", [2]), s("b", None), s("a")))
    assert other.graph.digest == graph.digest and other.inputs == {"a": [2], "b": [None]}


def test_names_of_steps_are_their_own_whatever_models_are_called() -> None:
    named = chain(s("a", 1), s("a"), s("a-2"), s("a"), s("3d"), s("a-2"), s("3d"))
    assert [name for name, _ in steps(named)] == ["a", "a-2", "a-2-2", "a-3", "_3d", "a-2-3", "_3d-2"]


@pytest.mark.parametrize(
    ("canvas", "inputs", "given"),
    [
        (g(s("a", 1), s("a", 2)), {"a": [1, 2]}, {"$item": 0}),
        (g(*(si("a", x=n) for n in range(2))), {"a": [{"x": 0}, {"x": 1}]}, {"$item": 0}),
        (g(s("a", [1], 2), s("a", 3, 4)), {"a": [[[1], 2], [3, 4]]}, {"$item": 0}),
        (chain(si("b", 0), g(s("a", 1), s("a", 2))), {"b": 0, "a": [[1], [2]]},
         [{"$out": "b"}, {"$get": [{"$item": 0}, 0]}]),
        (chain(si("b", 0), g(si("a", 1), si("a", 2))), {"b": 0, "a": [1, 2]}, {"$item": 0}),
    ],
)  # fmt: skip
def test_a_group_of_calls_of_one_model_is_one_map(canvas: Any, inputs: Any, given: Any) -> None:
    graph, found, _ = translated(canvas)
    assert found == inputs
    last = graph.steps[-1]
    assert (last.name, last.maps, last.over, last.input) == ("a", True, {"$in": "a"}, given)
    members = [answer("a", item) for item in _expected(canvas)]
    assert run(canvas) == members


def _expected(canvas: Any) -> list[Any]:
    return [value[1] for value in json.loads(json.dumps(canvas.clone().apply().get()))]


@pytest.mark.parametrize(
    "canvas",
    [
        g(s("a", 1), s("b", 2)),
        g(s("a", 1), s("a", 2, 3)),
        g(s("a", 1), si("a", 2)),
        g(s("a", 1), s("a", 2).set(link=s("b"))),
        g(s("a", 1), s("a", 2).set(queue="penstock.a@2.interactive")),
        chain(s("b", 1), g(s("a"), s("a"))),
    ],
)
def test_other_groups_have_a_step_for_each_member(canvas: Any) -> None:
    assert not any(step.maps for step in translated(canvas).graph.steps)


def test_a_group_may_be_wider_than_a_graph_has_steps() -> None:
    assert len(run(g(*(s("a", n) for n in range(5000))))) == 5000
    with pytest.raises(InvalidInput, match="more than 2,000 steps"):
        translated(g(*(s("ab"[n % 2], n) for n in range(2001))))


def test_a_link_is_a_step_that_nobody_uses() -> None:
    linked = chain(s("a", 1).set(link=[s("b").set(link=s("c", 3)), si("d", 4)]), s("e"))
    assert steps(linked) == [
        ("a", {"$in": "a"}),
        ("b", {"$out": "a"}),
        ("c", [{"$out": "b"}, {"$get": [{"$in": "c"}, 0]}]),
        ("d", {"$in": "d"}),
        ("e", {"$out": "a"}),
    ]
    assert run(linked) == ["e", A]


@pytest.mark.parametrize("linked", [chain(s("a", 1), s("b")), chord([s("a", 1)], s("b"))])
def test_a_link_of_a_whole_is_one_of_its_last_task(linked: Any) -> None:
    linked.options["link"] = [s("c")]
    assert steps(linked)[-1] == ("c", {"$out": "b"}) and run(linked)[0] == "b"


QUEUE = "penstock.a@2.background"


@pytest.mark.parametrize(
    ("canvas", "given", "options"),
    [
        (s("a", 1), {}, {}),
        (s("a", 1).set(queue=QUEUE), {}, {"lane": "background"}),
        (s("a", 1).set(queue=QUEUE), {"lane": "interactive"}, {"lane": "interactive"}),
        (s("a", 1).set(priority=3, countdown=5, expires=60), {}, {"priority": 3, "delay": 5, "deadline": 60}),
        (s("a", 1).set(eta=datetime.fromtimestamp(107, UTC)), {}, {"delay": 7.0}),
        (s("a", 1).set(eta="1970-01-01T00:01:00+00:00"), {}, {"delay": 0.0}),
        (s("a", 1).set(expires="2080-01-02T00:00:00+00:00"), {}, {"deadline": datetime(2080, 1, 2, tzinfo=UTC)}),
        (s("a", 1).set(penstock={"tenant": "x", "tags": {"k": "v"}}), {}, {"tenant": "x", "tags": {"k": "v"}}),
        (s("a", 1).set(headers={"penstock": {"tenant": "x"}, "mine": 1}), {}, {"tenant": "x"}),
        # Those that say nothing follow, and those that say the same agree.
        (chain(s("a", 1).set(penstock={"tenant": "x"}), s("b")), {}, {"tenant": "x"}),
        (chain(s("a", 1).set(penstock={"tenant": "x"}), s("b").set(penstock={"tenant": "x"})), {}, {"tenant": "x"}),
        (chain(s("a", 1).set(queue=QUEUE), s("b").set(queue="penstock.b.interactive")), {}, {"lane": "background"}),
        # What begins with the run is sent with it.
        (g(s("a", 1).set(countdown=5), s("b", 1).set(countdown=5)), {}, {"delay": 5}),
        (g(s("a", 1), s("b", 2)).set(countdown=5), {}, {"delay": 5}),
        (chord([s("a", 1)], s("b")).set(countdown=5), {}, {"delay": 5}),
        (unfolded(s("a", 1), s("b")).set(countdown=5), {}, {"delay": 5}),
        # Whoever submits the run has the last word.
        (chain(s("a", 1).set(penstock={"tenant": "x"}), s("b").set(penstock={"tenant": "y"})),
         {"tenant": "z"}, {"tenant": "z"}),
        (chain(s("a", 1), s("b").set(countdown=5)), {"delay": 0}, {"delay": 0}),
        # What belongs to messages is nothing to a run, and an id is the run's own.
        (s("a", 1).set(task_id="x", ignore_result=True, retry=False, serializer="json", reply_to="me"), {}, {}),
        (g(), {}, {}),
    ],
)  # fmt: skip
def test_a_run_takes_what_its_first_model_says(canvas: Any, given: Any, options: Any) -> None:
    assert options_of(translated_object(canvas).said, given, now=100.0) == options


def translated_object(canvas: Any) -> Translated:
    """Of an object whose times JSON would write as text."""
    return translate(canvas, namespace="penstock")


def test_a_queue_names_the_version() -> None:
    steps = translated(chain(s("a", 1).set(queue=QUEUE), s("a"), xmap(s("a").set(queue=QUEUE), [1]))).graph.steps
    assert [step.model for step in steps] == ["a@2", "a", "a@2"]
    assert [step.name for step in steps] == ["a", "a-2", "a-3"]


@pytest.mark.parametrize(
    ("canvas", "words"),
    [
        (chain(s("a", 1), app.signature("shop.report")), r"'shop\.report' is a plain Celery task.*apply_async"),
        (chain(s("a", 1), s("b", x=1)), r"'b' is given the result before it, and x by name.*\.si\(\)"),
        (s("a", 1, x=2), "cannot be mixed"),
        (s("a", 1).set(link=app.signature("shop.report")), "plain Celery task"),
        (s("a", 1).set(link_error=s("b")), "a has an error callback.*webhook"),
        (chain(s("a", 1), s("b")).set(link_error=s("b")), "error callback"),
        (s("a", 1).set(stamped_headers=["x"], x=1), "a is stamped.*tags"),
        (s("a", 1).set(time_limit=3), "a has a time limit of its own.*timeout_s"),
        (s("a", 1).set(routing_key="x"), "route of its own"),
        (s("a", 1).set(queue="reports"), "'reports', which is no queue of it"),
        (s("a", 1).set(queue="penstock.b.interactive"), "no queue of it"),
        (s("a", 1).set(chain=[s("b")]), r"write chain\("),
        (s("a", 1).set(colour="red"), "the option 'colour', which means nothing in a run"),
        (g(s("a", 1), s("b", 2)).set(link=s("c")), "a group with many results has a link"),
        (chain(s("a", 1), g(s("b"), s("c"))).set(link=s("c")), "a chain with many results has a link"),
        (chunks(s("a"), [(1,)], 2).set(link=s("c")), "a chunks with many results has a link"),
        (unfolded(), "an empty chain has no result"),
        (chord([s("a", 1)], unfolded()), "the body of a chord is an empty chain"),
        (chord([s("a", 1)]), "a chord's body is None"),
        ({**g(s("a", 1)), "args": [9]}, "a group has arguments of its own, which Celery drops"),
        ({**unfolded(s("a", 1)), "args": [9]}, "a chain has arguments of its own"),
        (chord([s("a", 1)], s("b"), kwargs={"kwargs": {"x": 1}}), "a chord has arguments by name: x"),
        ({**s("a", 1), "subtask_type": "loop"}, "'loop' is no kind of canvas"),
        ({"task": "penstock.a", "args": 7}, "are no list and no object"),
        ({"args": []}, "which is no signature"),
        (g("penstock.a"), "a member of celery.group is 'penstock.a', which is no signature"),
        (chunks(s("a"), [(1,)], 0), "chunks of 0 items"),
        (xstarmap(s("a"), [1]), "celery.starmap is given 1"),
        (s("a", {1, 2}), "set"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_do_is_refused_by_name(canvas: Any, words: str) -> None:
    with pytest.raises((InvalidInput, NotSerializable), match=f"(?s){words}"):
        translate(canvas, namespace="penstock")


@pytest.mark.parametrize(
    ("canvas", "words"),
    [
        (chain(s("a", 1), s("b").set(penstock={"tenant": "x"})), r"'b' says tenant='x', and 'a' says nothing"),
        (chain(s("a", 1).set(penstock={"tags": {"k": "v"}}), s("b").set(penstock={"tags": {}})), "'b' says tags={}"),
        (chain(s("a", 1), s("b").set(penstock={"webhook": "https://x"})), r"enqueue\(canvas, webhook=…\)"),
        (g(s("a", 1).set(priority=1), s("b", 1).set(priority=2)), "a run has one priority"),
        (chain(s("a", 1), s("b").set(queue="penstock.b.background")), "a run has one lane"),
        (chain(s("a", 1), s("b").set(countdown=5)), "'b' says delay=5, and 'a' says nothing"),
        (chain(s("a", 1).set(countdown=5), s("b").set(countdown=5)), "a run has one delay"),
        (chain(s("a", 1), s("b").set(expires=5)), "a run has one deadline"),
        (g(s("a", 1).set(countdown=5), s("b", 2)), "'b' says delay=nothing, and 'a' says 5"),
        (s("a", 1).set(eta="soon"), "eta='soon' is no time"),
    ],
)  # fmt: skip
def test_models_that_disagree_are_refused_by_name(canvas: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        options_of(translated(canvas).said, {}, now=0.0)


def test_a_canvas_nested_beyond_reason_is_refused() -> None:
    canvas: Any = s("a", 1)
    for _ in range(3000):
        canvas = {"task": "celery.group", "kwargs": {"tasks": [canvas]}, "subtask_type": "group"}
    with pytest.raises(InvalidInput, match="nested too deeply"):
        translate(canvas, namespace="penstock")


@pytest.mark.parametrize(
    "canvas",
    [
        chain(g(s("a", 1), s("b", 2)), s("c"), g(s("d"), s("e"))),
        chord([s("a", 1), chain(s("b", 2), s("c"))], s("d")),
        group((s("a", n) for n in range(3)), app=app),
        chord((s("a", n) for n in range(3)), s("b"), app=app),
        xmap(s("a"), iter([1, 2])),
    ],
)
def test_a_canvas_can_be_read_again_whatever_it_was_made_of_and_when_celery_gave_it_ids(canvas: Any) -> None:
    first = translate(canvas, namespace="penstock")
    assert translate(canvas, namespace="penstock") == first
    canvas.freeze()
    assert translate(canvas, namespace="penstock") == first


def test_constants_are_what_the_model_takes() -> None:
    seen: list[Any] = []

    def write(model: str, item: Any) -> Any:
        seen.append((model, item))
        return "written"

    canvas = chain(s("a", 1), g(s("b"), si("c", x=2)), s("d", 4), xmap(s("a"), [5]))
    assert translate(canvas, namespace="penstock", write=write).inputs == {
        "a": "written", "c": "written", "d": [4], "a-2": ["written"],
    }  # fmt: skip
    assert seen == [("a", 1), ("c", {"x": 2}), ("a", 5)]


@penstock.model(name="numbers")
def numbers(batch: list[int]) -> list[int]:
    """Takes numbers."""
    return batch


def test_signatures_of_classes_are_read_too() -> None:
    canvas = chain(numbers.using(tenant="x", delay=3).s(1), numbers.si(2))
    _, inputs, said = translate(canvas, namespace="penstock")
    assert inputs == {"numbers": 1, "numbers-2": 2}
    assert options_of(said, {}, now=0.0) == {"lane": "interactive", "tenant": "x", "delay": 3.0}
