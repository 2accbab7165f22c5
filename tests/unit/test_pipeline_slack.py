"""How much of a run's time each step and all behind it need."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.pipelines.frontier import Outline, frontier
from penstock.pipelines.graph import MAX_TIMEOUT_S, Graph, Step
from penstock.pipelines.slack import MOST_ARCS, longest, paths, remaining
from penstock.store.learned import Learned
from tests.fixtures import hostilegraphs
from tests.fixtures.runs import graph, out, step
from tests.unit.test_pipeline_graph import X, graphs

N = graph(step("a", X), step("b", X), step("c", out("a")), step("d", [out("a"), out("b")]), output=[out("c"), out("d")])
CHOICE = graph(
    step("judge", X),
    step("draft", X),
    step("rewrite", out("draft")),
    output={"$if": [{"$op": ["gt", out("judge"), 5]}, out("draft"), out("rewrite")]},
)
LINE = graph(step("a", X), step("b", out("a")), step("c", out("b")), output=out("c"))
TOLD = graph(step("a", X), step("tell", out("a")), output=out("a"))
EACH = graph(step("a", X), step("m", {"$item": 0}, over=out("a"), maps=True), step("z", out("m")), output=out("z"))
SPARE = graph(step("a", X), step("b", out("a")), step("c", X), output={"$else": [out("b"), out("c")]})
# Behind the condition, the branch has two steps of its own; `a` is needed whatever comes out.
DEEP = graph(
    step("judge", X),
    step("a", X),
    step("b", X),
    step("c", [out("b"), out("a")]),
    output={"$if": [{"$op": ["gt", out("judge"), 1]}, out("c"), out("a")]},
)


def run(name: str, of: Graph, given: Any = X, **fields: Any) -> Step:
    """A step that is a run of this graph."""
    return Step(name=name, kind="run", graph=of, input={"x": given}, **fields)


# A run within a run, between two steps; and for each element of a list.
WITHIN = graph(step("z", X), run("r", LINE, out("z")), step("e", out("r")), output=out("e"))
EACH_RUN = graph(step("z", X), run("r", N, {"$item": 0}, over=out("z"), maps=True), output=out("r"))
DEEPER = graph(run("s", WITHIN), run("t", CHOICE, out("s")), step("f", out("t")), output=out("f"))
EMPTY = graph(run("r", graph(output=1)), step("e", out("r")), output=out("e"))


def pause(seconds: Any) -> Graph:
    return graph(step("a", X), Step(name="nap", kind="sleep", input=[seconds, out("a")]), output=out("nap"))


@pytest.mark.parametrize(
    ("of", "seconds", "needed"),
    [
        (LINE, {}, {"a": 0, "b": 0, "c": 0}),
        (LINE, {"a": 1, "b": 2, "c": 4}, {"a": 7, "b": 6, "c": 4}),
        (LINE, {"c": 4}, {"a": 4, "b": 4, "c": 4}),
        (N, {"a": 1, "b": 1, "c": 5, "d": 2}, {"a": 6, "b": 3, "c": 5, "d": 2}),
        (TOLD, {"a": 1, "tell": 3}, {"a": 4, "tell": 3}),
        (EACH, {"a": 1, "m": 2, "z": 3}, {"a": 6, "m": 5, "z": 3}),
        # What has failed is not reckoned with: c does not come behind b.
        (SPARE, {"a": 1, "b": 2, "c": 9}, {"a": 3, "b": 2, "c": 9}),
        (CHOICE, {"judge": 1, "draft": 2, "rewrite": 4}, {"judge": 7, "draft": 6, "rewrite": 4}),
        (DEEP, {"judge": 1, "a": 2, "b": 4, "c": 8}, {"judge": 13, "a": 10, "b": 12, "c": 8}),
        (pause(60), {"a": 1}, {"a": 61, "nap": 60}),
        (pause(X), {"a": 1}, {"a": 1, "nap": 0}),
        (pause(1e300), {}, {"a": MAX_TIMEOUT_S, "nap": MAX_TIMEOUT_S}),
        (WITHIN, {"z": 1, "a": 2, "b": 4, "c": 8, "e": 16}, {"z": 31, "r": 30, "e": 16}),
        (WITHIN, {"z": 1, "e": 16}, {"z": 17, "r": 16, "e": 16}),
        # Elements run side by side: as one of them, which takes its own longest path.
        (EACH_RUN, {"z": 1, "a": 1, "b": 1, "c": 5, "d": 2}, {"z": 7, "r": 6}),
        (graph(run("r", EACH), output=out("r")), {"a": 1, "m": 2, "z": 3}, {"r": 6}),
        (graph(run("r", pause(60)), output=out("r")), {"a": 1}, {"r": 61}),
        (graph(run("r", SPARE), output=out("r")), {"a": 1, "b": 2, "c": 9}, {"r": 9}),
        (
            DEEPER,
            {"z": 1, "a": 2, "b": 4, "c": 8, "e": 16, "judge": 32, "draft": 64, "rewrite": 128, "f": 256},
            {"s": 31 + 224 + 256, "t": 224 + 256, "f": 256},
        ),
        (EMPTY, {"e": 2}, {"r": 2, "e": 2}),
        (LINE, {"a": float("nan"), "b": -5.0, "c": float("inf")}, dict.fromkeys("abc", MAX_TIMEOUT_S)),
    ],
)
def test_the_longest_path_that_remains(of: Graph, seconds: dict[str, float], needed: dict[str, float]) -> None:
    plan = Outline(of)
    found = remaining(paths(plan), lambda model: seconds.get(model, 0.0))
    assert {name: each.all_s for name, each in found.items()} == needed


def test_what_is_behind_a_step_is_told_apart() -> None:
    """A run within a run is to have ended by then."""
    takes = {"z": 1.0, "a": 2.0, "b": 4.0, "c": 8.0, "e": 16.0}
    found = remaining(paths(Outline(WITHIN)), lambda model: takes[model])
    assert {name: each.behind_s for name, each in found.items()} == {"z": 30, "r": 16, "e": 0}


@given(graphs(), st.data())
def test_whatever_is_given_a_steps_output_is_reckoned_with(of: Graph, data: st.DataObject) -> None:
    """Also where conditions wait for each other's branches."""
    plan = Outline(replace(of, steps=[replace(each, model=each.name) for each in of.steps]))
    takes = {name: data.draw(st.integers(0, 5)) for name in plan.steps}
    needed = {name: each.all_s for name, each in remaining(paths(plan), lambda model: takes[model]).items()}
    assert needed.keys() == takes.keys()
    for name, children in plan.children.items():
        assert needed[name] >= takes[name] + max((needed[child] for child in children), default=0)


@st.composite
def straight_graphs(draw: st.DrawFn) -> Graph:
    """Each step is given some of those before it."""
    names = [f"s{n}" for n in range(draw(st.integers(1, 10)))]
    given_by = [draw(st.lists(st.sampled_from(names[:n]), max_size=3)) if n else [] for n in range(len(names))]
    made = [step(name, [out(each) for each in above]) for name, above in zip(names, given_by, strict=True)]
    return graph(*made, output=out(names[-1]))


@given(straight_graphs(), st.data())
def test_with_workers_for_all_a_run_takes_as_long_as_was_reckoned(of: Graph, data: st.DataObject) -> None:
    plan = Outline(of)
    takes = {name: data.draw(st.integers(0, 5)) for name in plan.steps}
    needed = {name: each.all_s for name, each in remaining(paths(plan), lambda model: takes[model]).items()}
    outputs: dict[str, Any] = {}
    ends: dict[str, int] = {}
    now = 0
    while not frontier(plan, inputs={"x": 0}, outputs=outputs).done:
        for name in frontier(plan, inputs={"x": 0}, outputs=outputs).ready:
            ends.setdefault(name, now + takes[name])
        now = min(end for name, end in ends.items() if name not in outputs)
        outputs |= {name: 1 for name, end in ends.items() if end == now}
    assert now == max(needed[name] for name in plan.steps if not plan.parents[name])
    assert now == longest(paths(Outline(graph(run("r", of), output=out("r")))), lambda model: takes[model])


def test_the_newest_that_workers_have_stored_is_believed() -> None:
    learned = Learned()
    assert learned.is_old
    learned.learn(
        [
            ("a", "2", '{"alpha": 1.0, "beta": 0.5, "errors": []}'),
            ("a", "1", '{"alpha": 7, "beta": 1}'),
            ("b", "1", "[]"),
            ("b", "0", '{"alpha": 0.25}'),
        ]
    )
    assert not learned.is_old
    names = ("a", "a@1", "a@2", "a@3", "b", "nobody")
    plan = Outline(graph(*(step(f"s{n}", X, model=name) for n, name in enumerate(names)), output=X))
    assert [each.all_s for each in learned.remaining("digest", plan).values()] == [1.5, 8.0, 1.5, 1.5, 0.25, 0.0]


@pytest.mark.parametrize("name", hostilegraphs.GRAPHS)
def test_a_strangers_graph_has_a_bounded_number_of_ways(name: str) -> None:
    plan = Outline(hostilegraphs.GRAPHS[name]())
    ways = paths(plan)
    assert sum(len(list(way.after)) for way in ways) <= sum(map(len, plan.parents.values())) + MOST_ARCS
    assert set(remaining(ways, lambda _: 1.0)) == set(plan.steps)


def test_runs_within_a_run_are_looked_at_as_far_as_there_is_room() -> None:
    """Each is a graph that is read while nobody else can write: those behind the last one count nothing."""
    large = graph(step("a", X), *(step(f"b{n}", [X] * (MOST_ARCS // 16)) for n in range(4)), output=out("a"))
    plan = Outline(graph(*(run(f"r{n}", large) for n in range(8)), output=X))
    found = remaining(paths(plan), lambda _: 1.0)
    assert [each.all_s for each in found.values()].count(1.0) == 3
    assert {each.all_s for each in found.values()} == {0.0, 1.0}
