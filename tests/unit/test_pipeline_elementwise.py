"""Which maps follow others element by element, and when they begin."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.pipelines.elementwise import Elementwise, followed
from penstock.pipelines.graph import Graph, parents
from tests.unit.test_pipeline_graph import X, graph, out, step

ITEM = {"$item": 0}


def each(name: str, over: Any, input: Any = ITEM) -> Any:
    return step(name, input, over=over, maps=True)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([each("a", X)], {}),
        ([each("a", X), each("b", out("a"))], {"b": "a"}),
        ([each("b", out("a")), each("a", X), each("c", out("b")), each("d", out("b"))], {"b": "a", "c": "b", "d": "b"}),
        ([each("a", X), step("p", X), each("b", out("a"), [ITEM, out("p")])], {"b": "a"}),
        ([each("a", X), each("b", out("a"), [ITEM, out("a")])], {}),
        ([each("a", X), each("b", {"$get": [out("a"), 0]})], {}),
        ([each("a", X), each("b", [out("a")])], {}),
        ([each("a", X), each("b", {"$op": ["add", out("a"), out("a")]})], {}),
        ([step("a", X), each("b", out("a"))], {}),
        ([each("a", X), step("b", out("a"))], {}),
        ([each("a", X), each("b", {"$lit": {"$out": "a"}})], {}),
    ],
)
def test_what_follows(steps: list[Any], expected: dict[str, str]) -> None:
    of = graph(*steps, output=0)
    assert followed(of) == expected
    assert Elementwise(of, straight=False).source == {}


LINE = graph(
    each("c", out("b")), each("a", X), step("p", X), each("b", out("a"), [ITEM, out("p")]), output=[out("b"), out("c")]
)


@pytest.mark.parametrize(
    ("begun", "ended", "expected"),
    [
        ([], [], []),
        (["a"], [], []),
        (["p"], ["p"], []),
        (["a", "p"], ["p"], ["b", "c"]),
        (["a", "p", "b"], ["p"], ["c"]),
        (["a", "p"], ["a", "p"], []),  # then its parents have all ended
        (["a", "p", "b"], ["a", "p"], ["c"]),
        (["a", "p", "b", "c"], ["p"], []),
    ],
)
def test_when_they_begin(begun: list[str], ended: list[str], expected: list[str]) -> None:
    of: Graph = LINE
    above = {each.name: parents(each) for each in of.steps}
    found = Elementwise(of, straight=True)
    assert found.early(found.source, above, begun=begun, ended=ended) == expected
    assert found.early(["c"], above, begun=begun, ended=ended) == (["c"] if "b" in begun and expected else [])
    assert sorted(found.behind(["a"])) == ["b", "c"]
