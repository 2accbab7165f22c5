"""Which steps a run needs whatever comes out."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.pipelines.certain import certain
from penstock.pipelines.frontier import Outline
from penstock.pipelines.graph import Step
from tests.fixtures.runs import graph, out, step

X = {"$in": "x"}
STEPS = (step("a", X), step("b", out("a")), step("c", X), step("d", X))
UNUSED = {"c": out("c"), "d": out("d")}


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ([out("b"), out("c"), out("d")], ["a", "b", "c", "d"]),
        ({"$if": [{"$op": ["gt", out("a"), 1]}, [out("b"), out("c")], out("d")]}, ["a"]),
        ({"$else": [out("c"), [out("b"), out("d")]]}, ["c"]),
        (out("b"), ["a", "b", "c", "d"]),  # what nobody uses is called all the same
    ],
)
def test_what_is_certain(output: Any, names: list[str]) -> None:
    assert certain(Outline(graph(*STEPS, output=output))) == names


def test_of_several_only_all_are_certain() -> None:
    for count, names in ((1, ["pick"]), (2, ["c", "d", "pick"])):
        pick = Step(name="pick", kind="pick", input={"$first": [count, [out("c"), out("d")]]})
        of = graph(step("c", X), step("d", X), pick, output=out("pick"))
        assert certain(Outline(of)) == names
