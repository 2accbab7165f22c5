"""Which steps decided when a run ended."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipelines.frontier import frontier
from penstock.pipelines.graph import Graph
from penstock.pipelines.show.critical import Times, critical
from tests.unit.test_pipeline_graph import CHOICE, EACH, N, X, call, graph, graphs, out, step

LINE = graph(step("a", X), step("b", out("a")), step("c", out("b")), output=out("c"))
TOLD = graph(step("a", X), step("tell", out("a")), output=out("a"))
EMPTY = graph(step("a", X), step("m", {"$item": 0}, over=out("a"), maps=True), step("z", out("m")), output=out("z"))
CHAIN = graph(
    step("a", X),
    step("m", {"$item": 0}, over=X, maps=True),
    step("n", [{"$item": 0}, out("a")], over=out("m"), maps=True),
    output=out("n"),
)
SPARE = graph(step("a", X), step("b", out("a")), step("c", X), output={"$else": [out("b"), out("c")]})
ALL_EMPTY = graph(step("m", {"$item": 0}, over=X, maps=True), output=out("m"))


def at(**times: tuple[float, float | None] | None) -> dict[str, Times]:
    return {name: Times() if each is None else Times(*each) for name, each in times.items()}


@pytest.mark.parametrize(
    ("of", "times", "last", "chain"),
    [
        (LINE, at(), None, []),
        (LINE, at(a=(1, 2), b=(2, 3), c=(3, 9)), None, ["a", "b", "c"]),
        (LINE, at(a=(1, 2), b=(2, 3)), "b", ["a", "b"]),
        (N, at(a=(0, 2), b=(0, 1), c=(2, 3), d=(2, 9)), None, ["a", "d"]),
        (N, at(a=(0, 2), b=(0, 5), c=(2, 3), d=(5, 9)), None, ["b", "d"]),
        (N, at(a=(0, 2), b=(0, 5), c=(2, 30), d=(5, 9)), None, ["a", "c"]),
        # A clock that is ahead: a cannot have been what d waited for.
        (N, at(a=(0, 7), b=(0, 5), c=(7, 8), d=(5, 9)), None, ["b", "d"]),
        (N, at(a=(0, 7), b=(0, None)), "a", ["a"]),
        # Whether rewrite is needed is known when judge has ended, long after draft.
        (CHOICE, at(judge=(0, 5), draft=(5, 6)), None, ["judge", "draft"]),
        (CHOICE, at(judge=(0, 5), draft=(5, 6), rewrite=(6, 7)), None, ["judge", "draft", "rewrite"]),
        (EACH, at(a=(0, 1), m=(1, 8)), None, ["a", "m"]),
        # Whatever else it waited for at its beginning: its last element waited for the other map's.
        (CHAIN, at(a=(0, 1), m=(0, 8), n=(1, 9)), None, ["m", "n"]),
        (CHAIN, at(a=(0, 9), m=(0, 8), n=(9, 12)), None, ["a", "n"]),
        (TOLD, at(a=(0, 1), tell=(1, 8)), None, ["a", "tell"]),
        (EMPTY, at(a=(0, 1), m=None, z=(1, 2)), None, ["a", "m", "z"]),
        (ALL_EMPTY, at(m=None), None, ["m"]),
        # c stands in for b, which has failed, or never began since a has.
        (SPARE, at(a=(0, 1), b=(1, 3), c=(3, 4)), None, ["a", "b", "c"]),
        (SPARE, at(a=(0, 1), c=(1, 4)), None, ["a", "c"]),
        (SPARE, at(a=(0, 1), b=(1, 3)), None, ["a", "b"]),
        # Another try begins later than its parents ended.
        (LINE, at(a=(0, 1), b=(50, 60), c=(60, 61)), None, ["a", "b", "c"]),
        # All at one moment.
        (LINE, at(a=(1, 1), b=(1, 1), c=(1, 1)), "c", ["a", "b", "c"]),
        (LINE, at(a=(0, 1)), "gone", []),
    ],
)
def test_the_chain(of: Graph, times: dict[str, Times], last: str | None, chain: list[str]) -> None:
    assert critical(of, times, last=last) == chain


def test_a_step_whose_parents_had_ended_waits_for_the_choice() -> None:
    of = graph(
        step("draft", X),
        step("judge", out("draft")),
        step("rewrite", out("draft")),
        output={"$if": [{"$op": ["gt", out("judge"), 5]}, out("draft"), out("rewrite")]},
    )
    times = at(draft=(0, 1), judge=(1, 6), rewrite=(6, 7))
    assert critical(of, times) == ["draft", "judge", "rewrite"]


@given(graphs(), st.integers(0, 9), st.data())
def test_the_chain_has_no_gaps(of: Graph, x: int, data: st.DataObject) -> None:
    """Of a run on as many workers as it wants: the chain goes from its beginning to its end, without a pause."""
    outputs: dict[str, int] = {}
    begun: dict[str, float] = {}
    ends: dict[str, float] = {}
    times: dict[str, Times] = {}
    now = 0.0
    inputs = {"x": x}
    while not (possible := frontier(of, inputs=inputs, outputs=outputs)).done:
        for name in possible.ready:
            if name not in begun:
                begun[name] = now
                ends[name] = now + data.draw(st.integers(1, 1000), label=name) + len(begun) / 4096
        now, name = min((end, name) for name, end in ends.items() if name not in times)
        times[name] = Times(begun[name], now)
        outputs[name] = call(len(outputs))
    chain = critical(of, times)
    if not times:
        assert chain == []
        return
    assert times[chain[-1]].ended == now and times[chain[0]].begun == 0.0
    for one, following in pairwise(chain):
        assert times[one].ended == times[following].begun
    assert set(chain) <= set(times)
