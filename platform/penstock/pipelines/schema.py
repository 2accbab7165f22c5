"""The JSON schema of graph files, for editors and other programs. PURE.

It is made of the very type that ``graph.read`` decodes with, and of the table of operators. What no schema can say,
``read`` says: that names are there, that no steps wait for each other, how deep an expression may be.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.pipelines.expression import OPERATORS
from penstock.pipelines.graph import FORM, MAX_MODEL, MAX_PARALLEL, MAX_RETRY, MAX_STEPS, MAX_TIMEOUT_S, Graph

#: Names of steps and inputs; of the graph itself, which is listed as a model's name is.
NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$"
GRAPH_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"

_EXPRESSION = {"$ref": "#/$defs/Expression"}


def schema() -> dict[str, Any]:
    """A new copy of it, JSON Schema 2020-12."""
    (root,), defs = msgspec.json.schema_components([Graph], ref_template="#/$defs/{name}")
    assert root == {"$ref": "#/$defs/Graph"}
    graph, step = defs["Graph"]["properties"], defs["Step"]["properties"]
    graph["name"] |= {"pattern": GRAPH_NAME, "description": "What runs of it are listed as."}
    graph["inputs"] |= {"uniqueItems": True, "description": "The names of what a run is given."}
    graph["inputs"]["items"]["pattern"] = NAME
    graph["steps"] |= {"maxItems": MAX_STEPS, "description": "In any order: a step starts when its values are known."}
    graph["output"] = _EXPRESSION | {"description": "What comes out."}
    graph["form"] |= {"const": FORM}
    graph["max_parallel"] |= {"description": "Most steps in flight at a time, of a run that says nothing else."}
    graph["budget"] |= {"description": "Device seconds that its steps may take, of a run that says nothing else."}
    graph["budget"]["anyOf"][0] |= {"minimum": 0, "maximum": MAX_TIMEOUT_S}
    step["max_parallel"] |= {"description": "Of a map: most elements in flight at a time; null: all."}
    for of in (graph, step):
        of["max_parallel"]["anyOf"][0] |= {"minimum": 1, "maximum": MAX_PARALLEL}
    step["name"] |= {"pattern": NAME}
    step["model"] |= {"maxLength": MAX_MODEL, "description": "A model's name, or name@version; of a call."}
    step["kind"] |= {"description": "A call of a model, a run of a graph, or what takes no worker."}
    # Canvases alone call plain tasks: a graph that came as data may be a stranger's, and reaches no queue of others.
    del step["task"], defs["Task"]
    step["kind"]["enum"].remove("task")
    step["signal"] |= {"pattern": f"^$|{NAME}", "description": "What a wait waits for: its value is the output."}
    step["timeout"] |= {"description": "Limit on one attempt or on a wait, seconds; null: the model's own, or none."}
    step["timeout"]["anyOf"][0] |= {"exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S}
    step["graph"] |= {"description": "Of a run: its graph. `input` is an object with what that is given."}
    step["retry"] |= {"minimum": 0, "maximum": MAX_RETRY, "description": "Tries after the one that failed for good."}
    step["input"] = _EXPRESSION | {"description": "What it is given; of a sleep a list, seconds first."}
    step["pinned"] |= {
        "description": "Whether the model's version was chosen by the run, and may be another one later."
    }
    step["over"] = _EXPRESSION | {"description": 'With "maps": the list; "input" says {"$item": 0} for its element.'}
    step["maps"] |= {"description": "Whether it is called for each element of a list."}
    defs["Step"]["description"] = "A call of a model, with `maps` one for each element of a list; or what waits."
    defs["Graph"]["description"] = "Steps by name, and the output's expression."
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A penstock pipeline",
        **root,
        "$defs": defs | {"Expression": _expression()},
    }


def _expression() -> dict[str, Any]:
    forms = {
        "$in": {"type": "string", "description": "An input of the run."},
        "$out": {"type": "string", "description": "The output of a step."},
        "$item": {"type": "integer", "minimum": 0, "description": "What the map is at."},
        "$get": _tuple(_EXPRESSION, _EXPRESSION) | {"description": "An element of a list or an object."},
        "$op": {"anyOf": [_operator(count) for count in (1, 2)], "description": "An operator and its operands."},
        "$if": _tuple(_EXPRESSION, _EXPRESSION, _EXPRESSION) | {"description": "A condition, and one of two values."},
        "$else": _tuple(_EXPRESSION, _EXPRESSION) | {"description": "A value, and what stands in for its failure."},
        "$first": _tuple({"type": "integer", "minimum": 1}, {"type": "array", "items": _EXPRESSION, "minItems": 1})
        | {"description": "The first so many of them that have a value; of a pick."},
        "$lit": {"description": "Any value, as it is."},
        "$object": _tuple({"type": "string"}, _EXPRESSION) | {"description": "An object whose only key begins with $."},
    }
    words: list[dict[str, Any]] = [
        {"type": "object", "properties": {word: form}, "required": [word], "additionalProperties": False}
        for word, form in forms.items()
    ]
    anything: list[dict[str, Any]] = [
        {"type": ["string", "number", "boolean", "null"]},
        {"type": "array", "items": _EXPRESSION},
        {"type": "object", "additionalProperties": _EXPRESSION, "not": _ONE_WORD},
    ]
    return {"description": "A value, or how it is made of values that are not known yet.", "anyOf": words + anything}


#: An object with one key, which begins with a dollar sign, means something.
_ONE_WORD = {"minProperties": 1, "maxProperties": 1, "propertyNames": {"pattern": r"^\$"}}


def _operator(count: int) -> dict[str, Any]:
    names = [name for name, (operands, _) in OPERATORS.items() if operands == count]
    return _tuple({"enum": names}, *[_EXPRESSION] * count)


def _tuple(*items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "prefixItems": list(items), "minItems": len(items), "maxItems": len(items)}
