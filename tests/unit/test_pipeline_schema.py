"""The published schema of graph files says what ``read`` does, as far as a schema can."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.pipelines.expression import OPERATORS, WORDS, check
from penstock.pipelines.graph import Graph, read
from penstock.pipelines.schema import schema
from tests.unit.test_pipeline_graph import CALL, CHOICE, EACH, RUN, N, X, bad, graphs, out, within

SCHEMA = schema()
_KINDS = {"string": str, "array": list, "object": dict, "boolean": bool, "null": type(None)}


def fits(rules: Any, value: Any) -> bool:
    """JSON Schema 2020-12, as much of it as ours uses; a word that it does not know is an error of this test."""
    if isinstance(rules, bool):
        return rules
    return all(_RULES[word](rule, value, rules) for word, rule in rules.items())


def _is(kind: str, value: Any) -> bool:
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, _KINDS[kind])


def _unlike(kind: type, value: Any) -> bool:
    return not isinstance(value, kind)


_RULES: dict[str, Any] = {
    "$schema": lambda *_: True,
    "$defs": lambda *_: True,
    "title": lambda *_: True,
    "description": lambda *_: True,
    "default": lambda *_: True,
    "$ref": lambda rule, v, _: fits(SCHEMA["$defs"][rule.removeprefix("#/$defs/")], v),
    "type": lambda rule, v, _: any(_is(kind, v) for kind in ([rule] if isinstance(rule, str) else rule)),
    "const": lambda rule, v, _: v == rule,
    "enum": lambda rule, v, _: v in rule,
    "maximum": lambda rule, v, _: not _is("number", v) or v <= rule,
    "exclusiveMinimum": lambda rule, v, _: not _is("number", v) or v > rule,
    "minLength": lambda rule, v, _: _unlike(str, v) or len(v) >= rule,
    "maxLength": lambda rule, v, _: _unlike(str, v) or len(v) <= rule,
    "minimum": lambda rule, v, _: not _is("number", v) or v >= rule,
    "pattern": lambda rule, v, _: _unlike(str, v) or bool(re.search(rule, v)),
    "required": lambda rule, v, _: _unlike(dict, v) or all(name in v for name in rule),
    "properties": lambda rule, v, _: _unlike(dict, v) or all(fits(r, v[n]) for n, r in rule.items() if n in v),
    "additionalProperties": lambda rule, v, all_rules: (
        _unlike(dict, v)
        or all(fits(rule, each) for name, each in v.items() if name not in all_rules.get("properties", {}))
    ),
    "propertyNames": lambda rule, v, _: _unlike(dict, v) or all(fits(rule, name) for name in v),
    "minProperties": lambda rule, v, _: _unlike(dict, v) or len(v) >= rule,
    "maxProperties": lambda rule, v, _: _unlike(dict, v) or len(v) <= rule,
    "items": lambda rule, v, _: _unlike(list, v) or all(fits(rule, each) for each in v),
    "prefixItems": lambda rule, v, _: _unlike(list, v) or all(map(fits, rule, v)),
    "minItems": lambda rule, v, _: _unlike(list, v) or len(v) >= rule,
    "maxItems": lambda rule, v, _: _unlike(list, v) or len(v) <= rule,
    "uniqueItems": lambda rule, v, _: _unlike(list, v) or len(v) == len(set(v)),
    "anyOf": lambda rule, v, _: any(fits(each, v) for each in rule),
    "not": lambda rule, v, _: not fits(rule, v),
}


@pytest.mark.parametrize("of", [N, CHOICE, EACH, read(msgspec.json.encode(within(3)))])
def test_graphs_fit(of: Graph) -> None:
    assert fits(SCHEMA, msgspec.json.decode(of.to_json()))


@given(graphs())
def test_any_graph_fits(of: Graph) -> None:
    assert fits(SCHEMA, msgspec.json.decode(of.to_json()))


@pytest.mark.parametrize(
    "value",
    [
        [],
        bad(CALL | {"eval": "x"}),
        bad(form=2),
        bad(inputs=("x", "x")),
        bad(inputs=("$x",)),
        bad(CALL | {"name": "a b"}),
        bad(CALL | {"name": 7}),
        bad(CALL | {"model": 7}),
        bad(CALL | {"maps": "yes"}),
        bad(CALL | {"kind": "eval"}),
        bad(RUN | {"graph": {}}),
        bad(RUN | {"graph": bad(CALL | {"kind": "eval"})}),
        bad({"name": "a", "kind": "wait", "signal": "a b", "input": None}),
        bad(CALL | {"model": "m" * 1000}),
        bad(CALL | {"timeout": 0}),
        bad(CALL | {"timeout": 1e300}),
        bad(CALL | {"retry": -1}),
        bad(CALL | {"retry": 1000}),
        bad(CALL | {"max_parallel": 0}),
        bad(CALL | {"max_parallel": 1001}),
        bad(max_parallel=0),
        bad(budget=-1),
        bad(output={"$eval": 0}),
        bad(output={"$in": 7}),
        bad(output={"$item": -1}),
        bad(output={"$op": ["gt", 1]}),
        bad(output={"$op": ["not", 1, 2]}),
        bad(output={"$op": ["system", 1]}),
        bad(output=[{"a": {"$get": [X]}}]),
        {name: value for name, value in bad().items() if name != "steps"},
    ],
)
def test_what_the_schema_refuses_is_refused(value: Any) -> None:
    assert not fits(SCHEMA, value)
    with pytest.raises(InvalidInput):
        read(msgspec.json.encode(value))


KEYS = st.sampled_from([*WORDS, "$eval", "a"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["x", "$in", *OPERATORS]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=2)),
    max_leaves=12,
)


@given(VALUES)
def test_expressions_fit_exactly_when_they_are_some(value: Any) -> None:
    try:
        check(value)
    except InvalidInput:
        assert not fits(SCHEMA["$defs"]["Expression"], value)
    else:
        assert fits(SCHEMA["$defs"]["Expression"], value)


def test_each_copy_is_ones_own() -> None:
    schema()["$defs"].clear()
    assert schema() == SCHEMA and SCHEMA["$defs"]["Step"]["properties"]["over"]["$ref"] == "#/$defs/Expression"
    assert out("a") and sorted(SCHEMA["$defs"]) == ["Expression", "Graph", "Step"]
