"""A graph of ComfyUI's editor, in the format that its API takes, as a graph of models. PURE.

The format is an object of nodes by their ids: ``{"6": {"class_type": "Encode", "inputs": {"text": "…", "clip": ["4",
1]}}}``. An input is a value, or a link: the id of another node, and which of its outputs. A list that is a value is
under ``{"__value__": […]}``. Which model does what a class of nodes does is the caller's to say; see ``NodeClass``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from penstock.errors import InvalidInput
from penstock.pipelines.comfynodes import Node, NodeClass, classes_of, is_link, nodes_of, step_names
from penstock.pipelines.expression import Expression
from penstock.pipelines.graph import Graph, Step
from penstock.pipelines.plaingraph import MAX_BYTES, from_graph, too_large
from penstock.pipelines.writing.traced import Traced, expression_of

_NONE: Mapping[str, tuple[str, str]] = MappingProxyType({})


def read(
    workflow: bytes | str | Mapping[str, Any],
    models: Mapping[str, str | NodeClass | Mapping[str, Any] | None],
    *,
    name: str = "comfyui",
    outputs: str | Sequence[str] | None = None,
    inputs: Mapping[str, tuple[str, str]] = _NONE,
) -> Graph:
    """The graph of a workflow, checked as one that came from a stranger.

    ``models`` has each ``class_type``: the model that does it, a ``NodeClass`` or the fields of one, or ``None`` for
    one that is left out. ``outputs`` is the id of the node whose output is the run's, or ids: then it is an object of
    theirs, by id. Without it they are the nodes whose class is an ``output``; of a single one its output. Nodes that no
    output needs are left out, as they are by ComfyUI. ``inputs`` are what a run is given, by name: each takes the place
    of one input of a node, ``{"prompt": ("6", "text")}``. All other values are constants of the graph.

    Raises ``InvalidInput``, ``TooLarge`` or ``NotSerializable``.
    """
    nodes = nodes_of(workflow)
    classes = classes_of(models, nodes)
    walk = _Walk(nodes, classes, inputs)
    output = walk.output(outputs)
    walk.follow()
    # In the order of the file, whatever came first here.
    steps = [walk.steps[id] for id in nodes if id in walk.steps]
    return from_graph(Graph(name=name, inputs=list(inputs), steps=steps, output=output)).graph


class _Walk:
    """From the outputs to whatever they need."""

    def __init__(
        self, nodes: Mapping[str, Node], classes: Mapping[str, NodeClass | None], inputs: Mapping[str, tuple[str, str]]
    ) -> None:
        self.steps: dict[str, Step] = {}
        self._nodes = nodes
        self._classes = classes
        self._names = step_names(nodes)
        self._waiting: list[tuple[str, NodeClass]] = []
        self._given: dict[tuple[str, str], str] = {}
        #: What nodes stand for that compute nothing, once something is linked to them, and how large that is in all.
        self._stands: dict[str, Any] = {}
        self._bytes = 0
        for name, (id, key) in inputs.items():
            self._node(id, f"input {name!r}")
            self._need(id, key)
            self._given[id, key] = name

    def output(self, ids: str | Sequence[str] | None) -> Expression:
        """What comes out of the graph."""
        if isinstance(ids, str):
            return self._whole(ids)
        if ids is not None:
            return expression_of({id: Traced(self._whole(id)) for id in ids})
        found = [id for id in self._nodes if (kind := self._class(id)) is not None and kind.output]
        if not found:
            raise InvalidInput(
                "no node of the workflow is an output", fix='name one: outputs="9", or a class: {"output": true}'
            )
        return self._whole(found[0]) if len(found) == 1 else self.output(found)

    def follow(self) -> None:
        """Write down the steps that something has named, and what these name."""
        while self._waiting:
            id, kind = self._waiting.pop()
            if id not in self.steps:
                self.steps[id] = Step(name=self._names[id], model=kind.model, input=self._item(id, kind))

    def _item(self, id: str, kind: NodeClass) -> Expression:
        given = self._nodes[id].inputs
        if isinstance(kind.inputs, str):
            return expression_of(self._value(id, kind.inputs))
        names = dict(zip(given, given, strict=True)) if kind.inputs is None else kind.inputs
        return expression_of({ours: self._value(id, theirs) for theirs, ours in names.items() if theirs in given})

    def _value(self, id: str, key: str) -> Any:
        """An input of a node, a traced one where it is not known."""
        if (id, key) in self._given:
            return Traced({"$in": self._given[id, key]})
        value = self._need(id, key)
        if is_link(value):
            return self._linked(value, f"the input {key!r:.80} of {self._said(id)}")
        return value["__value__"] if isinstance(value, dict) and "__value__" in value else value

    def _linked(self, link: Sequence[Any], where: str) -> Any:
        """What a link leads to: through nodes that compute nothing, to a step or a value."""
        seen: dict[str, None] = {}
        while True:
            id, at = link
            kind = self._kind(id, where)
            if kind.model:
                self._waiting.append((id, kind))
                found: Any = Traced(_element({"$out": self._names[id]}, kind, at, where))
                break
            _element(None, kind, at, where)
            if id in self._stands:
                found = self._stands[id]
                break
            if id in seen:
                circle = " -> ".join([*seen, id])
                raise InvalidInput(f"these nodes wait for each other: {circle:.400}", fix="take a link out")
            seen[id] = None
            key = str(kind.inputs)
            if (id, key) in self._given or not is_link(value := self._need(id, key)):
                found = self._value(id, key)
                break
            link, where = value, f"the input {key!r:.80} of {self._said(id)}"
        self._stands |= dict.fromkeys(seen, found)
        return self._repeated(found)

    def _repeated(self, value: Any) -> Any:
        """A value that was in the file once and is in the graph as often as something is linked to it."""
        if not isinstance(value, Traced):
            self._bytes += len(msgspec.json.encode(value))
            if self._bytes > MAX_BYTES:
                raise too_large("values that are linked to more often than there is room for")
        return value

    def _whole(self, id: str) -> Expression:
        """All outputs of a node."""
        kind = self._kind(id, "the output")
        if not kind.model:
            return expression_of(self._value(id, str(kind.inputs)))
        self._waiting.append((id, kind))
        return {"$out": self._names[id]}

    def _need(self, id: str, key: str) -> Any:
        given = self._nodes[id].inputs
        if key not in given:
            there = ", ".join(map(repr, list(given)[:20])) or "none"
            raise InvalidInput(f"{self._said(id)} has no input {key!r:.80}", fix=f"there are: {there}")
        return given[key]

    def _kind(self, id: Any, where: str) -> NodeClass:
        kind = self._class(self._node(id, where))
        if kind is None:
            raise InvalidInput(f"{where} needs {self._said(id)}, whose class is left out", fix="name a model for it")
        return kind

    def _node(self, id: Any, where: str) -> str:
        if not isinstance(id, str) or id not in self._nodes:
            there = ", ".join(list(self._nodes)[:20])
            raise InvalidInput(f"{where} names the node {id!r:.80}, which is not there", fix=f"there are: {there:.200}")
        return id

    def _class(self, id: str) -> NodeClass | None:
        return self._classes[self._nodes[id].class_type]

    def _said(self, id: str) -> str:
        return f"node {id!r:.80} ({self._nodes[id].class_type:.80})"


def _element(value: Expression, kind: NodeClass, at: Any, where: str) -> Expression:
    """One of a class's outputs, by its place."""
    many = kind.outputs if isinstance(kind.outputs, int) else len(kind.outputs)
    if type(at) is not int or not 0 <= at < many:
        raise InvalidInput(
            f"{where} is linked to output {at!r:.40} of a class with {many}",
            fix='say how many there are, {"outputs": 2}, or how they are called, {"outputs": ["image", "mask"]}',
        )
    if isinstance(kind.outputs, int):
        return value if many == 1 else {"$get": [value, at]}
    return {"$get": [value, kind.outputs[at]]}
