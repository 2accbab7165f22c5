"""Workflows of ComfyUI's editor as graphs: what becomes of links and values, and what is refused, in bounded time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.errors import InvalidInput, NotSerializable, Rejected, TooLarge
from penstock.pipelines.comfynodes import NodeClass
from penstock.pipelines.comfyui import read
from penstock.pipelines.graph import MAX_STEPS, Graph
from penstock.pipelines.memory import run
from penstock.pipelines.plaingraph import MAX_BYTES, MAX_NESTING
from tests.fixtures.stopwatch import Stopwatch

#: Far more than any takes; one that grows with the square of its size takes minutes.
AT_ONCE_S = 5.0
CLASSES: dict[str, Any] = {
    "Text": {"inputs": "value"},
    "Encode": "encode@2",
    "Sample": {"model": "sample", "inputs": {"seed": "seed", "positive": "prompt", "steps": "steps"}},
    "Split": {"model": "split", "inputs": "image", "outputs": ["image", "mask"]},
    "Pair": NodeClass(model="pair", inputs="of", outputs=2),
    "Reroute": {"inputs": ""},
    "Save": {"inputs": "images", "output": True},
    "Show": {"model": "show", "output": True},
    "Note": None,
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def out(name: str) -> dict[str, str]:
    return {"$out": name}


SMALL = {
    "4": node("Text", value="a cat"),
    "6": node("Encode", text=["4", 0], clip="large"),
    "3": node("Sample", positive=["6", 0], seed=7, cfg=8.0) | {"_meta": {"title": "KSampler"}, "is_changed": [1]},
    "9": node("Save", images=["3", 0], filename_prefix="cat"),
}


def steps(graph: Graph) -> dict[str, Any]:
    return {step.name: (step.model, step.input) for step in graph.steps}


def test_a_workflow_is_a_graph() -> None:
    graph = read(SMALL, CLASSES)
    assert (graph.name, graph.inputs, graph.output) == ("comfyui", [], out("Sample-3"))
    assert steps(graph) == {
        "Encode-6": ("encode@2", {"$lit": {"text": "a cat", "clip": "large"}}),
        "Sample-3": ("sample", {"seed": 7, "prompt": out("Encode-6")}),
    }
    text = json.dumps(SMALL)
    assert graph == read(text, CLASSES) == read(text.encode(), CLASSES)
    assert graph == read({"prompt": SMALL, "client_id": "x"}, CLASSES), "as it is posted to ComfyUI"
    assert read(SMALL, CLASSES, name="cat").name == "cat"


def test_a_run_is_given_what_an_input_takes_the_place_of() -> None:
    graph = read(SMALL, CLASSES, inputs={"prompt": ("4", "value"), "seed": ("3", "seed")})
    assert graph.inputs == ["prompt", "seed"]
    assert steps(graph)["Encode-6"][1] == {"text": {"$in": "prompt"}, "clip": "large"}
    assert steps(graph)["Sample-3"][1]["seed"] == {"$in": "seed"}
    linked = read(SMALL, CLASSES, inputs={"image": ("9", "images")})
    assert (linked.steps, linked.output) == ([], {"$in": "image"}), "what it was linked to is not needed"


#: By what is tested: nodes, and the output of the graph.
LINKS: dict[str, tuple[dict[str, Any], Any]] = {
    "an output by its name": (
        {"1": node("Split", image="x"), "2": node("Save", images=["1", 1])},
        {"$get": [out("Split-1"), "mask"]},
    ),
    "an output by its place": (
        {"1": node("Pair", of="x"), "2": node("Save", images=["1", 1])},
        {"$get": [out("Pair-1"), 1]},
    ),
    "a list is a value": ({"2": node("Save", images={"__value__": ["1", 1]})}, {"$lit": ["1", 1]}),
    "lists that are no links": ({"2": node("Save", images=[["1", 1], 2, 3])}, {"$lit": [["1", 1], 2, 3]}),
    "a value that looks like a word": ({"2": node("Save", images={"$in": "x"})}, {"$lit": {"$in": "x"}}),
    "several outputs": (
        {"1": node("Text", value=1), "2": node("Save", images=["1", 0]), "x y": node("Show", a=True)},
        {"2": 1, "x y": out("Show-x_y")},
    ),
    "nodes of parts of a workflow": ({"12:4": node("Show")}, out("Show-12_4")),
    "what no output needs": (
        {"1": node("Save", images=1), "2": node("Encode", text=["3", 0]), "3": node("Note", text="hm")},
        1,
    ),
}


@pytest.mark.parametrize("name", LINKS)
def test_links(name: str) -> None:
    nodes, output = LINKS[name]
    assert read(nodes, CLASSES).output == output


def test_names_of_steps_are_each_one_s_own() -> None:
    nodes = {"1:2": node("Show"), "1_2": node("Show"), "1/2": node("Show")}
    assert [step.name for step in read(nodes, CLASSES).steps] == ["Show-1_2", "Show-1_2-2", "Show-1_2-3"]
    [step] = read({"1": node("3D é")}, {"3D é": {"model": "m", "output": True}}).steps
    assert step.name == "_3D__-1"


def test_an_object_with_one_key_that_looks_like_a_word_is_one() -> None:
    nodes = {"1": node("Text", value="x"), "2": node("Show", **{"$in": ["3", 0]}), "3": node("Encode", a=["1", 0])}
    graph = read(nodes, CLASSES)
    assert run(graph, {}, lambda step, items: [(step.model, items[0])]) == ("show", {"$in": ("encode@2", {"a": "x"})})


def test_outputs_are_named() -> None:
    assert read(SMALL, CLASSES, outputs="6").output == out("Encode-6")
    assert [step.name for step in read(SMALL, CLASSES, outputs="6").steps] == ["Encode-6"]
    assert read(SMALL, CLASSES, outputs=["6", "4"]).output == {"6": out("Encode-6"), "4": "a cat"}


def line(count: int, kind: str, key: str) -> dict[str, Any]:
    """Nodes, each linked to the next one."""
    nodes = {f"{n}": node(kind, **{key: [f"{n + 1}", 0]}) for n in range(count)}
    return nodes | {f"{count}": node("Text", value="x"), "end": node("Save", images=["0", 0])}


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


SAVE = node("Save", images=["1", 0])
#: What is large is made by the test that reads it: each of pytest's workers imports this.
HOSTILE: dict[str, tuple[Any, str]] = {
    "nothing": ("", "no JSON"),
    "text": ("nodes: []", "no JSON"),
    "no nodes": ({}, "an object of nodes"),
    "a list": ("[]", "an object of nodes"),
    "the editor's own format": ({"nodes": [], "links": []}, "in which the editor keeps"),
    "a node that is text": ({"1": "Save"}, "node '1' is none"),
    "a node without a class": ({"1": {"inputs": {}}}, "class_type"),
    "a class that is a number": ({"1": {"class_type": 7}}, "Expected `str`"),
    "inputs that are a list": ({"1": {"class_type": "Save", "inputs": []}}, "node '1' is none"),
    "an unknown class": ({"7": node("Encodee", text="x")}, "did you mean 'Encode'"),
    "another unknown class": ({"7": node("Zzzzzzzz")}, "for which there is no model"),
    "no output": ({"1": node("Encode", text="x")}, "no node of the workflow is an output"),
    "no input to stand for": ({"1": node("Save", image=1)}, "has no input 'images'"),
    "a link to nowhere": ({"2": SAVE}, "names the node '1', which is not there"),
    "a link to a class that is left out": ({"1": node("Note"), "2": SAVE}, "left out"),
    "a second output of one": ({"1": node("Encode"), "2": node("Save", images=["1", 1])}, "output 1 of a class with 1"),
    "a third output of two": ({"1": node("Pair", of=1), "2": node("Save", images=["1", 2])}, "of a class with 2"),
    "an output before the first": ({"1": node("Pair", of=1), "2": node("Save", images=["1", -1])}, "output -1"),
    "half an output": ({"1": node("Pair", of=1), "2": node("Save", images=["1", 0.5])}, "output 0.5"),
    "a node that waits for itself": ({"1": node("Show", x=["1", 0])}, "wait for each other"),
    "a circle": ({"1": node("Encode", x=["2", 0]), "2": node("Show", x=["1", 0])}, "Encode-1 -> Show-2 -> Encode-1"),
    "a circle of nothing": (
        {"1": node("Reroute", **{"": ["2", 0]}), "2": node("Reroute", **{"": ["1", 0]}), "9": SAVE},
        "wait for each other: 1 -> 2 -> 1",
    ),
    "a large circle of nothing": (
        line(1_900, "Reroute", "") | {"1900": node("Reroute", **{"": ["0", 0]})},
        "wait for each other",
    ),
    "a key twice": (b'{"1": {"class_type": "Save", "class_type": "Show"}}', "twice"),
    "deep": (b"[" * 500_000, "too deeply"),
    "a deep value": ({"1": node("Save", images=nested(MAX_NESTING))}, "nested deeper"),
    "long": (b" " * (MAX_BYTES + 1), "the limit is"),
    "a giant": ({"1": node("Save", images="x" * MAX_BYTES)}, "the limit is"),
    "a long value that many are linked to": (
        lambda: {
            "1": node("Text", value="x" * 500_000),
            "2": node("Show", **{f"x{n}": ["1", 0] for n in range(25_000)}),
        },
        "linked to more often",
    ),
    "many links": (
        lambda: (
            line(1_000, "Reroute", "")
            | {"1000": node("Encode"), "many": node("Show", **{f"x{n}": ["0", 0] for n in range(40_000)})}
        ),
        "the limit is",
    ),
    "many nodes": ({str(n): node("Encode") for n in range(MAX_STEPS + 1)}, "nodes are too many"),
    "NaN": ({"1": node("Save", images=float("nan"))}, "what JSON has not"),
    "a tuple": ({"1": node("Save", images=("2", 0))}, "what JSON has not"),
    "bytes that are no text": (b'{"1": "\xff"}', "no JSON"),
    "half a surrogate pair": ("\ud800", "cannot be written"),
    "an object of Python's": ({"1": node("Save", images=object())}, "cannot be written"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_graph_is_refused_at_once(name: str) -> None:
    value, words = HOSTILE[name]
    if callable(value):
        value = value()
    watch = Stopwatch()
    with pytest.raises(Rejected) as refused:
        read(value, CLASSES)
    assert words in f"{refused.value}" and refused.value.fix
    assert isinstance(refused.value, InvalidInput | TooLarge | NotSerializable)
    assert len(str(refused.value)) < 1_000
    assert watch.took_s < AT_ONCE_S


def test_the_largest_ones_are_read_at_once() -> None:
    watch = Stopwatch()
    assert len(read(line(MAX_STEPS - 2, "Encode", "x"), CLASSES).steps) == MAX_STEPS - 2
    assert read(line(MAX_STEPS - 2, "Reroute", ""), CLASSES).output == "x"
    many = {"many": node("Show", **{f"x{n}": ["0", 0] for n in range(40_000)})}
    [step] = read(line(1_000, "Reroute", "") | many, CLASSES).steps
    assert len(step.input["$lit"]) == 40_000
    wide = {f"{n}:": node("Show", x=["0", 0]) for n in range(MAX_STEPS - 1)} | {"0": node("Encode")}
    assert len(read(wide, CLASSES).output) == MAX_STEPS - 1
    assert watch.took_s < AT_ONCE_S


CLASSES_REFUSED: dict[str, tuple[Any, str]] = {
    "no model": ({}, "has no model"),
    "an unknown field": ({"modell": "x"}, "unknown field `modell`"),
    "a number": (7, "class 'Show'"),
    "no outputs": ({"model": "m", "outputs": 0}, "has 0 outputs"),
    "names that are numbers": ({"model": "m", "outputs": [1]}, "Expected `str`"),
    "a model that is none": ("\n", "is no model"),
}


@pytest.mark.parametrize("name", CLASSES_REFUSED)
def test_what_is_said_of_classes_is_checked(name: str) -> None:
    kind, words = CLASSES_REFUSED[name]
    with pytest.raises(InvalidInput, match=words):
        read({"1": node("Show")}, {"Show": kind}, outputs="1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outputs": "8"}, "the output names the node '8'"),
        ({"outputs": ["9", "8"]}, "the output names the node '8'"),
        ({"inputs": {"seed": ("8", "seed")}}, "input 'seed' names the node '8'"),
        ({"inputs": {"seed": ("3", "sed")}}, "node '3' .Sample. has no input 'sed'"),
        ({"inputs": {"a b": ("3", "seed")}}, "no name of an input"),
        ({"name": "No"}, "a graph is named"),
    ],
)
def test_what_is_asked_for_is_checked(options: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read(SMALL, CLASSES, **options)
