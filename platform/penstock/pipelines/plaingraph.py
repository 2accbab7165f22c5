"""A graph that came as data, perhaps from a stranger: to a submission it is what ``Pipeline`` is, without a function.

What is read and stored of it is bounded before anything looks at it: its length, how deep it is nested, and then, by
``graph.verify``, its steps and its expressions.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import InvalidInput, NotSerializable, TooLarge
from penstock.payload import read_strictly, write_input
from penstock.pipelines.expression import word_of
from penstock.pipelines.graph import Graph, check_sleep, read
from penstock.pipelines.inputs import by_name, missing_input
from penstock.pipelines.nested import all_steps
from penstock.pipelines.writing.pipeline import NAME

#: Longest JSON text of a graph, bytes; and how deep the lists and objects of all of it may be nested: an expression's
#: own bound, each of whose words is two of them, and some more for values that stand for themselves.
MAX_BYTES, MAX_NESTING = 1 << 20, 200

_SEE = "`penstock pipeline show --schema` prints what a graph looks like"


class PlainGraph:
    """A graph that may be run: checked, and its JSON text as it is stored with the run. Its inputs have no types and no
    defaults: each is given."""

    def __init__(self, graph: Graph, text: str) -> None:
        self.name = graph.name
        self.graph = graph
        self.text = text

    def __repr__(self) -> str:
        return f"<graph {self.name!r}: {len(self.graph.steps)} steps>"

    def encode(self, inputs: Any, max_bytes: int) -> str:
        """As ``Pipeline.encode``."""
        given = by_name(self.name, self.graph.inputs, inputs)
        for name in self.graph.inputs:
            if name not in given:
                raise missing_input(self.name, name)
        return write_input(self.name, given, codec=None, max_bytes=max_bytes)


def from_text(text: bytes) -> PlainGraph:
    """A graph of a file; raises ``InvalidInput`` or ``TooLarge``."""
    value = bounded(text, what="graph", fix=_SEE)
    if not isinstance(value, dict):
        raise InvalidInput("a graph is an object with name, inputs, steps and output", fix=_SEE)
    if value and all(isinstance(node, dict) and "class_type" in node for node in value.values()):
        raise InvalidInput(
            "this is no graph, but a workflow of ComfyUI's",
            fix="say which models its classes are: `penstock pipeline submit --comfyui CLASSES …`, or comfyui.read",
        )
    graph = read(text)
    _check_words(graph)
    return PlainGraph(graph, graph.to_json().decode())


def bounded(text: bytes, *, what: str, fix: str) -> Any:
    """The value of a JSON text that is no longer and no deeper than a graph may be; raises ``InvalidInput`` or
    ``TooLarge``."""
    _bound(len(text))
    try:
        value = read_strictly(text)
    except (ValueError, RecursionError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(f"this {what} is no JSON: {words:.200}", fix=fix) from None
    _check_nesting(value)
    return value


def from_graph(graph: Graph) -> PlainGraph:
    """One that a program made, perhaps without ``graph.read``; raises ``InvalidInput``, ``NotSerializable`` or
    ``TooLarge``."""
    try:
        text = graph.to_json()
        _bound(len(text))
        same = read(text) == graph
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise NotSerializable(f"the graph cannot be written as JSON: {error!s:.200}", fix=_FIX) from None
    if not same:  # NaN, a tuple, a key that is no text: JSON would have something else in its place
        raise NotSerializable("the graph holds what JSON has not, or fields of wrong types", fix=_FIX)
    _check_nesting(msgspec.json.decode(text))
    _check_words(graph)
    return PlainGraph(graph, text.decode())


_FIX = f"make it of text, numbers, lists and dicts; {_SEE}"


def _bound(size: int) -> None:
    if size > MAX_BYTES:
        raise too_large(f"{size:,} bytes")


def too_large(what: str) -> TooLarge:
    """The refusal of a graph that is ``what``."""
    return TooLarge(
        f"the graph has {what}; the limit is {MAX_BYTES:,} bytes",
        fix="give what is long in it as inputs of the run, and map lists instead of writing a step for each element",
    )


def _check_nesting(value: Any) -> None:
    waiting = [(value, 0)]
    while waiting:
        here, depth = waiting.pop()
        if depth > MAX_NESTING:
            raise InvalidInput(f"the graph is nested deeper than {MAX_NESTING}", fix="compute it in a step")
        if isinstance(here, dict | list):
            waiting += [(each, depth + 1) for each in (here.values() if isinstance(here, dict) else here)]


def _check_words(graph: Graph) -> None:
    """Its name, and how long it sleeps where that is no expression."""
    if not NAME.fullmatch(graph.name):
        raise InvalidInput(
            f"a graph is named {graph.name!r:.80}",
            fix='name it with lower-case letters, digits, "-" or "_", at most 64: runs are listed by it',
        )
    for step in all_steps(graph):
        if step.kind == "sleep" and word_of(step.input[0]) is None:
            check_sleep(step)
