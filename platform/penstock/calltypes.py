"""What a model or a function takes and gives, one item, as its hints say it: what pipelines are checked by."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock import usercode
from penstock.functions import Function
from penstock.valuetypes import Schema, given, taken

if TYPE_CHECKING:
    from penstock.model import Model

#: Hints of lists of results: one for each item of the batch.
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable)


class Schemas(NamedTuple):
    """``{}``: anything."""

    takes: Schema
    gives: Schema


def schemas_of(called: type[Model] | Function) -> Schemas:
    """Of what a step calls. Hints that cannot be read, or not yet, say nothing."""
    function = called if isinstance(called, Function) else getattr(called, "of_function", None)
    if function is not None:
        return _of_function(function.function)
    assert isinstance(called, type)
    batch = inspect.unwrap(called.takes_batch())
    hints = _hints(batch)
    names = [name for name in inspect.signature(batch).parameters if name != "self"]
    takes = taken(_element(hints.get(names[0]))) if names else {}
    # What begins sequences returns their state.
    gives = given(_element(hints.get("return"))) if called.takes_batch() is called.predict else {}
    return Schemas(takes, gives)


def _of_function(function: Callable[..., Any]) -> Schemas:
    """Its arguments are an object; others than its own are refused."""
    hints = _hints(function)
    parameters = inspect.signature(function).parameters
    takes: Schema = {
        "type": "object",
        "properties": {name: taken(hints.get(name, Any)) for name in parameters},
        "required": [name for name, each in parameters.items() if each.default is each.empty],
        "additionalProperties": False,
    }
    return Schemas(_lifted(takes), given(hints.get("return", Any)))


def _lifted(schema: Schema) -> Schema:
    """With the definitions of its properties as its own."""
    defs: Schema = {}
    for name, each in schema["properties"].items():
        own = each.pop("$defs", {})
        renamed = {key: f"{name}.{key}" for key in own}
        schema["properties"][name] = _renamed(each, renamed)
        defs |= {renamed[key]: _renamed(value, renamed) for key, value in own.items()}
    return schema | {"$defs": defs} if defs else schema


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    if isinstance(schema, list):
        return [_renamed(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(ref := schema.get("$ref"), str):
        return {"$ref": f"#/$defs/{names[ref.removeprefix('#/$defs/')]}"}
    return {key: _renamed(value, names) for key, value in schema.items()}


def inputs_of(function: Callable[..., Any]) -> dict[str, Schema]:
    """What a pipeline's inputs are, by name, where that is known."""
    hints = _hints(function)
    return {name: taken(hints[name]) for name in inspect.signature(function).parameters if name in hints}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except BaseException as error:  # of names that are defined further down
        if not usercode.is_its_own(error):
            raise
        return {}


def _element(hint: Any) -> Any:
    """``T`` of ``list[T]``; ``Any`` of anything else."""
    arguments = typing.get_args(hint)
    return arguments[0] if typing.get_origin(hint) in _LISTS and len(arguments) == 1 else Any
