"""Graphs as data: what they are refused for, and what a run can do at any moment."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, NoValue
from penstock.pipelines.expression import evaluate, missing
from penstock.pipelines.frontier import Frontier, frontier
from penstock.pipelines.graph import MAX_NESTED, MAX_STEPS, Graph, Step, input_of, parents, read, verify
from penstock.pipelines.nested import all_steps


def out(name: str) -> Any:
    return {"$out": name}


def step(name: str, input: Any, **given: Any) -> Step:
    return Step(name=name, model="m", input=input, **given)


def graph(*steps: Step, output: Any, inputs: tuple[str, ...] = ("x",)) -> Graph:
    made = Graph(name="g", inputs=list(inputs), steps=list(steps), output=output)
    verify(made)
    assert read(made.to_json()) == made
    return made


X = {"$in": "x"}
N = graph(step("a", X), step("b", X), step("c", out("a")), step("d", [out("a"), out("b")]), output=[out("c"), out("d")])
CHOICE = graph(
    step("judge", X),
    step("draft", X),
    step("rewrite", out("draft")),
    output={"$if": [{"$op": ["gt", out("judge"), 5]}, out("draft"), out("rewrite")]},
)

EACH = graph(step("a", X), step("m", [{"$item": 0}, out("a")], over=X, maps=True), output=out("m"))


@pytest.mark.parametrize(
    ("of", "outputs", "expected"),
    [
        (N, {}, Frontier(["a", "b"], False)),
        (N, {"a": 1}, Frontier(["b", "c"], False)),
        (N, {"b": 1}, Frontier(["a"], False)),
        (N, {"a": 1, "b": 1}, Frontier(["c", "d"], False)),
        (N, {"a": 1, "b": 1, "d": 1}, Frontier(["c"], False)),
        (N, {"a": 1, "b": 1, "c": 1, "d": 1}, Frontier([], True)),
        (CHOICE, {}, Frontier(["judge"], False)),
        (CHOICE, {"judge": 7}, Frontier(["draft"], False)),
        (CHOICE, {"judge": 7, "draft": "d"}, Frontier([], True)),
        (CHOICE, {"judge": 3, "draft": "d"}, Frontier(["rewrite"], False)),
        (CHOICE, {"judge": 3}, Frontier(["draft"], False)),
        (graph(step("a", X), output=X), {}, Frontier(["a"], False)),
        (graph(step("a", X), output=X), {"a": 1}, Frontier([], True)),
        (graph(step("a", X), step("tell", out("a")), output=out("a")), {"a": 1}, Frontier(["tell"], False)),
        (graph(step("a", X), step("tell", out("a")), output=7), {}, Frontier(["a"], False)),
        (graph(output=7), {}, Frontier([], True)),
        (graph(step("m", {"$item": 0}, over=X, maps=True), output=out("m")), {}, Frontier(["m"], False)),
        (EACH, {}, Frontier(["a"], False)),
        (EACH, {"a": 1}, Frontier(["m"], False)),
    ],
)
def test_what_can_start(of: Graph, outputs: dict[str, Any], expected: Frontier) -> None:
    assert frontier(of, inputs={"x": 1}, outputs=outputs) == expected


def test_a_map_waits_for_what_only_some_of_its_items_need() -> None:
    choice = {"$if": [{"$op": ["gt", {"$item": 0}, 1]}, out("a"), 0]}
    of = graph(step("a", X), step("m", choice, over=[1, 2], maps=True), output=out("m"))
    assert frontier(of, inputs={"x": 1}, outputs={}).ready == ["a"]
    assert frontier(of, inputs={"x": 1}, outputs={"a": 9}).ready == ["m"]
    assert [input_of(of.step("m"), inputs={"x": 1}, outputs={"a": 9}, items=(n,)) for n in (1, 2)] == [0, 9]


def test_a_condition_that_is_none_is_an_error() -> None:
    with pytest.raises(NoValue, match="compare it"):
        frontier(graph(step("a", X), output={"$if": [7, out("a"), 0]}), inputs={"x": 1}, outputs={})


def bad(*steps: Any, output: Any = 1, inputs: tuple[str, ...] = ("x",), **more: Any) -> dict[str, Any]:
    return {"name": "g", "inputs": list(inputs), "steps": list(steps), "output": output, "form": 1} | more


CALL = {"name": "a", "model": "m", "input": 1}


RUN = {"name": "a", "kind": "run", "graph": bad(inputs=("x",)), "input": {"x": 1}}


def within(depth: int) -> Any:
    """A graph with so many around it."""
    inner = bad(inputs=("x",))
    for _ in range(depth):
        inner = bad(RUN | {"graph": inner}, inputs=("x",))
    return inner


def test_graphs_in_graphs_are_read() -> None:
    of = read(msgspec.json.encode(within(MAX_NESTED)))
    assert sum(1 for _ in all_steps(of)) == MAX_NESTED
    mapped = read(msgspec.json.encode(bad(RUN | {"input": {"x": {"$item": 0}}, "maps": True, "over": [1]})))
    assert read(mapped.to_json()) == mapped and mapped.steps[0].graph == read(msgspec.json.encode(RUN["graph"]))


def test_bounds_are_part_of_a_graph_and_none_are_no_part_of_it() -> None:
    each = step("each", {"$item": 0}, maps=True, over=X, max_parallel=2)
    bounded = Graph(name="g", inputs=["x"], steps=[each], output=out("each"), max_parallel=3, budget=0.5)
    assert read(bounded.to_json()) == bounded
    plain = msgspec.json.decode(graph(step("a", X), output=out("a")).to_json())
    assert plain.keys() == {"name", "inputs", "steps", "output", "form"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no graph"),
        ("[" * 100_000, "no graph"),
        (b"\xff", "no graph"),
        ("[]", "no graph"),
        (bad(CALL | {"eval": "x"}), "unknown field"),
        (bad(form=2), "form 2"),
        (bad({"name": "a", "input": 1}), "which is no model"),
        (bad(CALL | {"model": ""}), "no model"),
        (bad(CALL | {"kind": "wait", "signal": "go"}), "calls nothing"),
        (bad({"name": "a", "input": 1, "kind": "wait"}), "signal=''"),
        (bad(CALL | {"signal": "go"}), "signal='go'"),
        (bad({"name": "a", "input": 1, "kind": "sleep"}), "no time"),
        (bad(CALL | {"timeout": 0}), "timeout=0"),
        (bad(CALL | {"retry": -1}), "retry=-1"),
        (bad(CALL | {"max_parallel": 2}), "is one call"),
        (bad(CALL | {"max_parallel": 0, "maps": True, "over": [1]}), "max_parallel=0"),
        (bad({"name": "a", "input": 1, "kind": "wait", "signal": "go", "max_parallel": 2}), "is one call"),
        (bad(max_parallel=1001), "max_parallel=1001"),
        (bad(budget=-1), "budget=-1"),
        (bad(RUN | {"graph": bad(inputs=("x",), budget=1)}), "budget of its own"),
        (bad(CALL, CALL), "two steps are called 'a'"),
        (bad(inputs=("x", "x")), "two inputs"),
        (bad(CALL | {"name": ""}), "no name of a step"),
        (bad(CALL | {"name": "a b"}), "no name of a step"),
        (bad(CALL | {"name": "x" * 200}), "no name of a step"),
        (bad(inputs=("$x",)), "no name of an input"),
        (bad(output=out("a")), "the output names 'a'"),
        (bad(output={"$in": "y"}), "the output names 'y'"),
        (bad(output={"$item": 0}), "outside of a map"),
        (bad(output={"$eval": 0}), "the output: no expression"),
        (bad(CALL | {"input": {"$item": 0}}), "outside of a map"),
        (bad(CALL | {"input": {"$item": 1}, "maps": True, "over": [1]}), "outside of a map"),
        (bad(CALL | {"input": 1, "maps": True, "over": {"$item": 0}}), "outside of a map"),
        (bad(CALL | {"input": out("a")}), "a -> a"),
        (bad(CALL | {"input": {"$if": [True, 1, out("a")]}}), "a -> a"),
        (bad(CALL | {"input": out("b")}, CALL | {"name": "b", "input": out("a")}), "a -> b -> a"),
        (bad({"name": "a", "kind": "run", "input": {}}), "it has a graph"),
        (bad(CALL | {"graph": bad()}), "is a call and has a graph"),
        (bad(RUN | {"model": "m"}), "is a run"),
        (bad(RUN | {"retry": 1}), "is a run"),
        (bad(RUN | {"timeout": 1.0}), "is a run"),
        (bad(RUN | {"input": {}}), "does not give its graph"),
        (bad(RUN | {"input": {"x": 1, "y": 2}}), "does not give its graph"),
        (bad(RUN | {"input": X}), "does not give its graph"),
        (bad(RUN | {"graph": bad(output=out("b"))}), "in step 'a': the output names 'b'"),
        (bad(RUN | {"graph": bad(output={"$item": 0}), "maps": True, "over": [1]}), "outside of a map"),
        (bad(RUN | {"graph": bad(*(CALL | {"name": f"s{n}"} for n in range(MAX_STEPS)))}), "too many"),
        (within(MAX_NESTED + 1), "graphs around one"),
        (bad(*(CALL | {"name": f"s{n}"} for n in range(MAX_STEPS + 1))), "too many"),
    ],
)
def test_what_is_refused(text: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(text if isinstance(text, str | bytes) else msgspec.json.encode(text))
    assert words in caught.value.message and caught.value.fix


def test_a_circle_is_named_without_those_that_hang_on_it() -> None:
    steps = [step("z", out("b")), step("a", out("b")), step("b", out("c")), step("c", out("b")), step("d", X)]
    with pytest.raises(InvalidInput, match=r"b -> c -> b|c -> b -> c"):
        graph(*steps, output=[out(each.name) for each in steps])


def test_the_digest_is_of_what_it_says() -> None:
    one = graph(step("a", {"p": 1, "q": X}), output=out("a"))
    calls = [{"model": "m", "input": {"q": X, "p": 1}, "name": "a"}]
    again = read(msgspec.json.encode({"output": out("a"), "steps": calls, "inputs": ["x"], "name": "g"}))
    other = graph(step("a", {"p": 1, "q": X}), output=[out("a")])
    assert again.digest == one.digest != other.digest


def test_what_stands_in_is_needed_when_its_first_has_failed() -> None:
    one = graph(step("a", X), step("b", out("a")), step("c", X), output={"$else": [out("b"), out("c")]})
    assert frontier(one, inputs={"x": 1}, outputs={}).ready == ["a"]
    assert frontier(one, inputs={"x": 1}, outputs={}, failed={"a"}).ready == ["c"], "b can never start"
    assert frontier(one, inputs={"x": 1}, outputs={}, failed={"a", "c"}).failed == "c"
    assert frontier(one, inputs={"x": 1}, outputs={"c": 2}, failed={"a"}).done
    assert evaluate(one.output, inputs={}, outputs={"c": 2}) == 2


def test_a_step_that_nobody_names_dooms_the_run_when_it_fails() -> None:
    one = graph(step("a", X), step("notify", out("a")), output=out("a"))
    assert frontier(one, inputs={"x": 1}, outputs={"a": 1}, failed={"notify"}).failed == "notify"


# Any graph: whatever ends first, the same comes out, and nothing runs that is not needed.


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(1, 12))
    steps: list[Step] = []

    def value(depth: int = 2) -> Any:
        leaves = [st.integers(0, 9), st.just(X)]
        if steps:
            leaves.append(st.sampled_from(steps).map(lambda one: out(one.name)))
        if not depth or draw(st.integers(0, 2)) == 0:
            return draw(st.one_of(leaves))
        kind = draw(st.sampled_from(["add", "if", "if"]))
        left, right = value(depth - 1), value(depth - 1)
        if kind == "add":
            return {"$op": ["add", left, right]}
        return {"$if": [{"$op": ["gt", value(depth - 1), draw(st.integers(0, 30))]}, left, right]}

    for n in range(size):
        steps.append(step(f"s{n}", value()))
    return graph(*steps, output=value(3))


def call(given_input: Any) -> Any:
    return (given_input * 7 + 3) % 31


def lazily(of: Graph, inputs: dict[str, Any]) -> tuple[Any, set[str]]:
    """The output by plain recursion, and which steps that took."""
    outputs: dict[str, Any] = {}

    def value(expression: Any) -> Any:
        while needed := missing(expression, inputs=inputs, outputs=outputs):
            one = of.step(needed[0])
            given_input = value(one.input)
            outputs[one.name] = call(given_input)
        return evaluate(expression, inputs=inputs, outputs=outputs)

    text = of.to_json().decode()
    for each in of.steps:
        if f'"$out":"{each.name}"' not in text:
            value(out(each.name))
    return value(of.output), set(outputs)


@given(graphs(), st.integers(0, 9), st.randoms(use_true_random=False))
def test_in_any_order_the_same_comes_out_and_nothing_runs_in_vain(of: Graph, x: int, order: random.Random) -> None:
    expected, needed = lazily(of, {"x": x})
    outputs: dict[str, Any] = {}
    running: dict[str, Any] = {}
    while not (now := frontier(of, inputs={"x": x}, outputs=outputs)).done:
        for name in now.ready:
            running.setdefault(name, input_of(of.step(name), inputs={"x": x}, outputs=outputs))
        assert set(running) == set(now.ready) and running, "what has started stays needed, and something runs"
        ended = order.choice(sorted(running))
        outputs[ended] = call(running.pop(ended))
    assert evaluate(of.output, inputs={"x": x}, outputs=outputs) == expected
    assert set(outputs) == needed, "no step that neither the output needs nor nobody names"
    for name in needed:
        assert set(parents(of.step(name))) <= {each.name for each in of.steps}
