"""The nodes of a ComfyUI workflow, and what their classes are here. PURE."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeGuard

import msgspec

from penstock.errors import InvalidInput, NotSerializable
from penstock.pipelines.graph import MAX_STEPS
from penstock.pipelines.plaingraph import bounded

_SEE = "save the workflow with ComfyUI's menu, Export (API)"
#: Longest part of a step's name that comes from a class or an id, characters.
_PART = 60


class Node(msgspec.Struct, frozen=True):
    """A node of the editor. What else it has, its title for example, is for people."""

    class_type: str
    inputs: dict[str, Any] = {}


class NodeClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What nodes of one class are here.

    ``model`` does their work (``upscale``, ``upscale@2``); without one they do none, and stand for the one of their
    inputs that ``inputs`` names. A model is given an object of the node's inputs: all of them, or those that ``inputs``
    has, by other names, ``{"images": "image"}``; or, where ``inputs`` is a name, that input alone.

    ``outputs`` says how many outputs a node has, whose model gives a list of them, or how they are called in the object
    that it gives; of a single one the model gives the value itself. An ``output`` is what the workflow is run for.
    """

    model: str = ""
    inputs: str | dict[str, str] | None = None
    outputs: int | list[str] = 1
    output: bool = False


def nodes_of(workflow: bytes | str | Mapping[str, Any]) -> dict[str, Node]:
    """The nodes by their ids; raises ``InvalidInput``, ``TooLarge`` or ``NotSerializable``."""
    value = bounded(_text(workflow), what="workflow", fix=_SEE)
    if isinstance(value, dict) and isinstance(value.get("prompt"), dict) and "class_type" not in value["prompt"]:
        value = value["prompt"]  # what is posted to ComfyUI has the nodes in it
    if isinstance(value, dict) and isinstance(value.get("nodes"), list):
        raise InvalidInput("this is the format in which the editor keeps a workflow", fix=_SEE)
    if not isinstance(value, dict) or not value:
        raise InvalidInput("a workflow is an object of nodes by their ids", fix=_SEE)
    if len(value) > MAX_STEPS:
        raise InvalidInput(f"{len(value):,} nodes are too many", fix=f"use at most {MAX_STEPS:,}")
    return {id: _node(id, each) for id, each in value.items()}


def classes_of(
    models: Mapping[str, str | NodeClass | Mapping[str, Any] | None], nodes: Mapping[str, Node]
) -> dict[str, NodeClass | None]:
    """What is said of the classes that there are; raises ``InvalidInput`` for one that nothing is said of."""
    found: dict[str, NodeClass | None] = {}
    for id, node in nodes.items():
        name = node.class_type
        if name not in models:
            near = get_close_matches(name[:150], models, n=1)
            known = f"known: {', '.join(sorted(models)[:8]) or 'none'}"
            raise InvalidInput(
                f"node {id!r:.80} is of class {name!r:.150}, for which there is no model",
                fix=f"did you mean {near[0]!r}? Else name one for it, or null to leave it out" if near else known,
            )
        if name not in found:
            found[name] = None if models[name] is None else _class(name, models[name])
    return found


def is_link(value: Any) -> TypeGuard[list[Any]]:
    """As ComfyUI tells links from values."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and _is_number(value[1])


def step_names(nodes: Mapping[str, Node]) -> dict[str, str]:
    """Names of steps by which a node is found again: ``KSampler-3``."""
    taken: set[str] = set()
    names = {}
    for id, node in nodes.items():
        base = f"{_letters(node.class_type)}-{_letters(id)}"
        base = base if re.match("[A-Za-z_]", base) else f"_{base}"
        name = next(name for name in _numbered(base) if name not in taken)
        taken.add(name)
        names[id] = name
    return names


def _text(workflow: bytes | str | Mapping[str, Any]) -> bytes:
    if isinstance(workflow, bytes):
        return workflow
    try:
        if isinstance(workflow, str):
            return workflow.encode()
        text = msgspec.json.encode(workflow)
        if msgspec.json.decode(text) == workflow:
            return text
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise NotSerializable(f"the workflow cannot be written as JSON: {error!s:.200}", fix=_SEE) from None
    raise NotSerializable("the workflow holds what JSON has not", fix="make it of text, numbers, lists and dicts")


def _node(id: str, value: Any) -> Node:
    try:
        return msgspec.convert(value, Node)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"node {id!r:.80} is none: {error!s:.200}", fix=_SEE) from None


def _class(name: str, given: Any) -> NodeClass:
    try:
        kind = NodeClass(model=given) if isinstance(given, str) else msgspec.convert(given, NodeClass)
    except msgspec.ValidationError as error:
        fix = 'use {"model": …, "inputs": …, "outputs": …, "output": …}, each of which can be left out'
        raise InvalidInput(f"class {name!r:.80}: {error!s:.200}", fix=fix) from None
    if not kind.model and not isinstance(kind.inputs, str):
        raise InvalidInput(
            f"class {name!r:.80} has no model, and no input for which its nodes stand", fix='say {"inputs": "image"}'
        )
    if isinstance(kind.outputs, int) and kind.outputs < 1:
        raise InvalidInput(f"class {name!r:.80} has {kind.outputs} outputs", fix="use 1 or more")
    return kind


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _letters(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text[:_PART])


def _numbered(base: str) -> Iterable[str]:
    yield base
    for number in range(2, MAX_STEPS + 2):
        yield f"{base}-{number}"
