"""Graphs that came as data: what is refused, in bounded time, and what a run of one is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from penstock.errors import InvalidInput, NotSerializable, Rejected, TooLarge
from penstock.pipelines.graph import MAX_STEPS, Graph, Step
from penstock.pipelines.plaingraph import MAX_BYTES, MAX_NESTING, PlainGraph, from_graph, from_text
from tests.fixtures.stopwatch import Stopwatch
from tests.unit.test_pipeline_graph import CALL, CHOICE, EACH, N, X, bad, graph, out, step

#: Far more than any takes; one that grows with the square of its size takes minutes.
AT_ONCE_S = 5.0


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def line(count: int) -> dict[str, Any]:
    steps = [CALL | {"name": f"s{n}", "input": out(f"s{n - 1}")} for n in range(1, count)]
    return bad(CALL | {"name": "s0"}, *steps[::-1], output=out(f"s{count - 1}"))


@pytest.mark.parametrize("of", [N, CHOICE, EACH, graph(output={"$lit": {"$in": "x"}})])
def test_a_graph_and_its_text_are_the_same(of: Graph) -> None:
    plain = from_text(of.to_json())
    assert plain.graph == of == from_graph(of).graph and plain.name == "g"
    assert plain.text == from_graph(of).text == of.to_json().decode(), "one graph has one digest"
    assert from_text(json.dumps(json.loads(plain.text), indent=4).encode()).text == plain.text


#: What is large is made by the test that reads it: each of pytest's workers imports this.
HOSTILE: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "no JSON"),
    "text": (b"steps: []", "no JSON"),
    "cut off": (b'{"name": "g"', "no JSON"),
    "bytes": (b"\xff\xfe\x00", "no JSON"),
    "a list": ([], "an object with name"),
    "a sleep backwards": (bad({"name": "s", "kind": "sleep", "input": [-1, None]}), "sleeps for -1"),
    "a sleep of a text": (bad({"name": "s", "kind": "sleep", "input": ["5", None]}), "sleeps for '5'"),
    "a key twice": (b'{"name": "g", "name": "h", "inputs": [], "steps": [], "output": 1}', "twice"),
    "NaN": (b'{"name": "g", "inputs": [], "steps": [], "output": NaN}', "no JSON"),
    "a number without end": (b'{"name": "g", "inputs": [], "steps": [], "output": ' + b"9" * 500_000 + b"}", "long"),
    "infinite": (b'{"name": "g", "inputs": [], "steps": [], "output": 1e999}', "no float"),
    "half a surrogate pair": (b'{"name": "g", "inputs": [], "steps": [], "output": "\\ud800"}', "no graph"),
    "deep": (b"[" * 500_000, "too deeply"),
    "a deep literal": (bad(output={"$lit": nested(MAX_NESTING)}), "nested deeper"),
    "a deep expression": (bad(output=nested(100)), "nested deeper than 64"),
    "long": (b" " * (MAX_BYTES + 1), "the limit is"),
    "a giant literal": (bad(output={"$lit": "x" * MAX_BYTES}), "the limit is"),
    "a million nodes": (lambda: bad(*[CALL] * 1_000_000), "the limit is"),
    "many small steps": (
        lambda: bad(*({"name": f"s{n}", "model": "m", "input": 1} for n in range(20_000))),
        "too many",
    ),
    "many parts": (lambda: bad(output=list(range(10_001))), "more than 10,000 parts"),
    "many inputs twice": (lambda: bad(inputs=("x",) * 100_000), "two inputs"),
    "no steps": ({"name": "g", "inputs": [], "output": 1}, "steps"),
    "a circle": (bad(CALL | {"input": out("b")}, CALL | {"name": "b", "input": out("a")}), "a -> b -> a"),
    "a circle of all": (
        lambda: bad(*(CALL | {"name": f"s{n}", "input": out(f"s{(n + 1) % MAX_STEPS}")} for n in range(MAX_STEPS))),
        "wait for each other",
    ),
    "code": (bad(CALL | {"eval": "__import__('os')"}), "unknown field"),
    "an operator": (bad(output={"$op": ["system", 1, 2]}), "is no expression"),
    "a word": (bad(output={"$import": "os"}), "no expression begins with '$import'"),
    "a workflow": ({"1": {"class_type": "Save", "inputs": {}}}, "a workflow of ComfyUI's"),
    "a wrong type": (bad(CALL | {"maps": 1}), "Expected `bool`"),
    "a name": (bad(name="../etc"), "no name of a pipeline"),
    "a name's name": (bad(name="G"), "is named 'G'"),
    "a long name": (bad(name="g" * 65), "is named"),
    "another form": (bad(form=99), "form 99"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_at_once(name: str) -> None:
    value, words = HOSTILE[name]
    if callable(value):
        value = value()
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    watch = Stopwatch()
    with pytest.raises(Rejected) as caught:
        from_text(text)
    assert watch.took_s < AT_ONCE_S
    assert words in caught.value.message and caught.value.fix
    assert len(caught.value.message) < 20_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: line(MAX_STEPS),
        lambda: bad(output=list(range(9_000))),
        lambda: bad(*(CALL | {"name": f"s{n}", "input": [X] * 20} for n in range(MAX_STEPS))),
        lambda: bad(
            CALL, *(CALL | {"name": f"s{n}", "input": {"$if": [out("a"), 1, 2]}} for n in range(MAX_STEPS - 1))
        ),
    ],
)
def test_the_largest_that_are_allowed_are_read_at_once(make: Callable[[], Any]) -> None:
    text = json.dumps(make()).encode()
    watch = Stopwatch()
    from_text(text)
    assert watch.took_s < AT_ONCE_S


@pytest.mark.parametrize(
    "fields",
    [
        {"output": float("nan")},
        {"output": (1, 2)},
        {"output": {1: 2}},
        {"output": object()},
        {"output": "\ud800"},
        {"output": nested(50_000)},
        {"inputs": ("x",)},
    ],
)
def test_what_json_has_not_is_refused(fields: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"name": "g", "inputs": ["x"], "steps": [], "output": 1}
    with pytest.raises((NotSerializable, InvalidInput)) as caught:
        from_graph(Graph(**(whole | fields)))
    assert caught.value.fix


def test_a_graph_that_a_program_made_is_checked() -> None:
    with pytest.raises(InvalidInput, match="names 'b'"):
        from_graph(Graph(name="g", inputs=[], steps=[Step(name="a", model="m", input=out("b"))], output=1))
    with pytest.raises(InvalidInput, match="no graph"):
        from_graph(Graph(name="g", inputs=[], steps=[7], output=1))  # type: ignore[list-item]
    with pytest.raises(TooLarge):
        from_graph(Graph(name="g", inputs=[], steps=[], output={"$lit": "x" * MAX_BYTES}))


PLAIN: PlainGraph = from_graph(graph(step("a", [X, {"$in": "top_k"}]), output=out("a"), inputs=("x", "top_k")))


def test_inputs_are_given_by_name() -> None:
    assert PLAIN.encode({"top_k": 3, "x": "ü"}, 100) == '{"top_k":3,"x":"ü"}'


@pytest.mark.parametrize(
    ("inputs", "words", "fix"),
    [
        ([1, 2], "by name, not list", "'x': …, 'top_k': …"),
        ({"x": 1}, "given no 'top_k'", "'top_k': …"),
        ({"x": 1, "topk": 1}, "no input 'topk'", "did you mean 'top_k'?"),
        ({"x": 1, "zzz": 1}, "no input 'zzz'", "its inputs: x, top_k"),
        ({"x": object(), "top_k": 1}, "holds", ""),
        ({"x": "y" * 100, "top_k": 1}, "the limit is 100", ""),
    ],
)
def test_wrong_inputs_are_refused(inputs: Any, words: str, fix: str) -> None:
    with pytest.raises(Rejected) as caught:
        PLAIN.encode(inputs, 100)
    assert words in caught.value.message and fix in caught.value.fix and caught.value.fix
