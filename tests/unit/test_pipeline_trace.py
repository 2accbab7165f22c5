"""From a Python function to a graph, and what that graph gives in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from penstock.errors import ConfigError, InvalidInput, NotSerializable, NoValue, WrongResultCount
from penstock.pipelines import memory
from penstock.pipelines.graph import Graph, Step, read
from penstock.pipelines.writing.trace import trace
from penstock.pipelines.writing.words import MAX_ROUNDS, refine, sleep, wait_for, when
from penstock.tracing import current
from tests.fixtures.calls import call, each


def answer(question: str, passages: list[str]) -> Any:
    query = call("embed", question)
    docs = each("embed", passages)
    best = call("rerank", query, docs)
    draft = call("generate", question, best)
    return when(call("judge", draft) > 0.5, draft, call("rewrite", draft))


MODELS: dict[str, Any] = {
    "embed": lambda text: len(text),
    "rerank": lambda pair: max(pair[1], key=lambda doc: -abs(doc - pair[0])),
    "generate": lambda pair: f"{pair[0]} {pair[1]}",
    "judge": lambda text: 0.9 if text.startswith("good") else 0.1,
    "rewrite": lambda text: text.upper(),
}


def run(graph: Graph, **inputs: Any) -> tuple[Any, list[str]]:
    """The output, and which steps ran in which order."""
    ran: list[str] = []

    def answered(step: Step, items: Sequence[Any]) -> list[Any]:
        ran.append(step.name)
        return [MODELS[step.model or ""](item) for item in items]

    return memory.run(graph, inputs, answered), ran


def test_a_function_becomes_a_graph_that_gives_what_it_says() -> None:
    graph = trace(answer, name="answer")
    assert graph.inputs == ["question", "passages"]
    assert [step.name for step in graph.steps] == ["embed", "embed-2", "rerank", "generate", "judge", "rewrite"]
    assert read(graph.to_json()) == graph and trace(answer, name="answer").digest == graph.digest
    assert run(graph, question="good", passages=["a", "abc"]) == (
        "good 3",
        ["embed", "embed-2", "rerank", "generate", "judge"],
    )
    assert run(graph, question="bad", passages=["a", "abc"]) == (
        "BAD 3",
        ["embed", "embed-2", "rerank", "generate", "judge", "rewrite"],
    )  # fmt: skip


def test_a_call_whose_output_nobody_uses_is_made() -> None:
    def told(text: str) -> Any:
        call("tell", call("shout", text))
        return text

    seen: list[str] = []

    def run(step: Step, given: Sequence[Any]) -> Sequence[Any]:
        seen.append(step.name)
        return list(given)

    assert memory.run(trace(told, name="told"), {"text": "x"}, run) == "x"
    assert seen == ["shout", "tell"]


def test_what_is_constant_runs_once_now() -> None:
    def chain(x: int) -> Any:
        for model in ("embed", "embed"):
            x = call(model, x)
        return {"last": x, "const": [1, (2,)], "same": when(True, x, 0), "none": when(False, x)}

    graph = trace(chain, name="chain")
    assert [step.input for step in graph.steps] == [{"$in": "x"}, {"$out": "embed"}]
    last = {"$out": "embed-2"}
    assert graph.output == {"last": last, "const": {"$lit": [1, [2]]}, "same": last, "none": None}


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"x", object(), {1: 2}])
def test_a_constant_that_json_has_not_is_named(value: Any) -> None:
    with pytest.raises(NotSerializable, match="which JSON has not"):
        trace(lambda x: [x, {"a": value}], name="p")


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_map_is_a_list_at_any_size(size: int) -> None:
    graph = trace(lambda values: each("embed", values), name="sizes")
    assert run(graph, values=["x" * n for n in range(size)])[0] == list(range(size))


@pytest.mark.parametrize("values", ["text", {"a": 1}, 7, None])
def test_only_lists_are_mapped(values: Any) -> None:
    with pytest.raises(NoValue, match="no list"):
        run(trace(lambda values: each("embed", values), name="sizes"), values=values)


@pytest.mark.parametrize("results", [[], [1, 2]])
def test_a_step_gives_one_result_for_each_item(results: list[int]) -> None:
    with pytest.raises(WrongResultCount):
        memory.run(trace(lambda x: call("embed", x), name="p"), {"x": 1}, lambda step, items: results)


async def later(x: int) -> int:
    return x


def yielding(x: int) -> Any:
    yield x


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (later, "asynchronous"),
        (yielding, "generator"),
        (lambda *values: values, "no name of its own"),
        (lambda **values: values, "no name of its own"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_what_is_no_pipeline(function: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trace(function, name="p")


def test_nobody_traces_when_the_function_has_raised() -> None:
    def fails(x: Any) -> Any:
        return 1 if x else 2

    with pytest.raises(TypeError, match=r"penstock\.when"):
        trace(fails, name="p")
    assert current() is None


def test_names_of_steps_are_each_ones_own() -> None:
    made = trace(lambda x: call("embed-2", call("embed", call("embed", call("3d-pose", x)))), name="p")
    assert [step.name for step in made.steps] == ["_3d-pose", "embed", "embed-2", "embed-2-2"]


def test_a_sleep_may_be_all_constants() -> None:
    graph = trace(lambda: sleep(60), name="p")
    assert graph.steps[0].input == [60, None]


@pytest.mark.parametrize("seconds", [-1, -0.5, float("inf"), 1e12, "5", True, None, [5]])
def test_a_sleep_for_what_is_no_time_is_refused_where_it_is_written(seconds: Any) -> None:
    with pytest.raises((InvalidInput, NotSerializable), match=r"step 'sleep' sleeps for|which JSON has not"):
        trace(lambda: sleep(seconds), name="p")


def test_a_computed_sleep_is_known_in_the_run_alone() -> None:
    assert trace(lambda x: sleep(x - 5), name="p").steps[0].kind == "sleep"


@pytest.mark.parametrize(
    "use",
    [
        lambda x: json.dumps({"text": [x]}),
        lambda x: ", ".join([x]),
        lambda x: x in "abc",
        lambda x: bytes(x),
        lambda x: re.match("a", x),
        lambda x: x @ 2,
    ],
)
def test_what_a_library_says_of_a_value_that_is_not_known_yet_names_what_to_do(use: Any) -> None:
    with pytest.raises(TypeError, match=r"Traced.*not known before the run.*@penstock\.step"):
        trace(use, name="p")


def test_other_errors_of_the_function_are_its_own() -> None:
    with pytest.raises(TypeError, match=r"^unsupported operand type\(s\) for \+: 'int' and 'str'$"):
        trace(lambda x: 1 + "a", name="p")


def test_as_many_rounds_as_refine_takes_are_a_graph() -> None:
    def best(x: Any) -> Any:
        return refine(
            lambda draft, said: call("make", x, draft, said),
            lambda draft: call("judge", draft),
            until=lambda said: (said > 0.5) & (said < 0.9),
            max_rounds=MAX_ROUNDS,
        )

    assert len(trace(best, name="p").steps) == 2 * MAX_ROUNDS - 1


@pytest.mark.parametrize(
    "options", [{"retry": 1.5}, {"retry": True}, {"retry": "2"}, {"timeout": "2"}, {"timeout": True}]
)
def test_options_of_another_type_are_refused_where_they_are_written(options: Any) -> None:
    def wrong(x: Any) -> Any:
        tracer = current()
        assert tracer is not None
        return tracer.call("m", x, options)

    with pytest.raises(InvalidInput, match=next(iter(options))):
        trace(wrong, name="p")


def test_waits_have_names_and_times_that_are_known() -> None:
    with pytest.raises(InvalidInput, match="timeout"):
        trace(lambda x: wait_for("go", timeout=x), name="p")
    with pytest.raises(TypeError, match="name of a signal"):
        trace(lambda x: wait_for(x), name="p")
