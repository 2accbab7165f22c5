"""Graphs as people see them: expressions, levels, text and Mermaid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.pipelines.graph import Graph, Step, parents
from penstock.pipelines.show.draw import NARROWEST, call, draw
from penstock.pipelines.show.infix import MAX_LITERAL, MAX_TEXT, infix
from penstock.pipelines.show.levels import levels
from penstock.pipelines.show.limits import of_run
from penstock.pipelines.show.mermaid import Use, mermaid, uses
from tests.unit.test_pipeline_graph import CHOICE, EACH, N, X, graph, graphs, out, step


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (X, "$x"),
        (out("judge-2"), "judge-2"),
        ({"$item": 0}, "item"),
        ({"$item": 1}, "item(1)"),
        ({"$get": [out("a"), "score"]}, "a.score"),
        ({"$get": [out("a"), 0]}, "a[0]"),
        ({"$get": [out("a"), "b c"]}, 'a["b c"]'),
        ({"$get": [out("a"), X]}, "a[$x]"),
        ({"$get": [{"$op": ["add", X, X]}, 0]}, "($x + $x)[0]"),
        ({"$op": ["gt", out("judge"), 0.5]}, "judge > 0.5"),
        ({"$op": ["mul", {"$op": ["add", X, 1]}, 2]}, "($x + 1) * 2"),
        ({"$op": ["not", {"$op": ["eq", X, None]}]}, "~($x == null)"),
        ({"$op": ["abs", {"$op": ["neg", X]}]}, "abs(-$x)"),
        ({"$if": [{"$op": ["gt", X, 1]}, out("a"), "b"]}, 'a if ($x > 1) else "b"'),
        ({"$else": [out("a"), {"$else": [out("b"), 0]}]}, "a or else (b or else 0)"),
        ({"$get": [{"$first": [1, [out("a"), out("b")]]}, 0]}, "first 1 of (a, b)[0]"),
        ({"$lit": {"$in": "x"}}, '{"$in": "x"}'),
        ({"$object": ["$in", X]}, '{"$in": $x}'),
        ({"q": X, "n": [1, out("a")]}, '{"q": $x, "n": [1, a]}'),
        ({}, "{}"),
        ([], "[]"),
        ("ü", '"ü"'),
        ("\x1b[31m\x9b1m\u202e\n", r'"\u001b[31m\u009b1m\u202e\n"'),
    ],
)
def test_an_expression_reads_like_python(expression: Any, text: str) -> None:
    assert infix(expression) == text


@pytest.mark.parametrize("long", [list(range(100_000)), {str(n): n for n in range(100_000)}, {"$lit": "x" * 10**6}])
def test_what_is_long_is_cut(long: Any) -> None:
    assert len(infix(long)) <= MAX_TEXT and infix(long).rstrip('}"').endswith("…")
    assert len(infix("y" * 1000)) == MAX_LITERAL


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (graph(output=7), []),
        (N, [["a", "b"], ["c", "d"]]),
        (CHOICE, [["judge", "draft"], ["rewrite"]]),
        (EACH, [["a"], ["m"]]),
        (graph(step("b", [out("a"), out("a")]), step("a", X), step("c", [out("b"), out("a")]), output=1),
         [["a"], ["b"], ["c"]]),
    ],
)  # fmt: skip
def test_levels(of: Graph, expected: list[list[str]]) -> None:
    assert [[step.name for step in level] for level in levels(of)] == expected


@given(graphs())
def test_each_step_is_on_one_level_behind_its_parents(of: Graph) -> None:
    place = {step.name: number for number, level in enumerate(levels(of)) for step in level}
    assert sorted(place) == sorted(step.name for step in of.steps)
    for each in of.steps:
        assert place[each.name] == max((place[name] + 1 for name in parents(each)), default=0)


WITHIN = graph(
    Step(name="all", kind="run", graph=N, input={"x": {"$item": 0}}, maps=True, over=X),
    Step(name="one", kind="run", graph=N, input={"x": out("all")}),
    output=out("one"),
)


HELD = replace(
    graph(
        step("a", X, retry=2, timeout=1.5),
        step("m", {"$item": 0}, maps=True, over=out("a"), max_parallel=1000),
        Step(name="all", kind="run", graph=Graph(name="g", inputs=["x"], steps=[], output=X, max_parallel=3),
             input={"x": {"$item": 0}}, maps=True, over=X, max_parallel=8),
        Step(name="w", kind="wait", signal="ok", input=None, timeout=86400),
        output=out("m"),
    ),
    max_parallel=4, budget=2.5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("of", "lines"),
    [
        (graph(output=X), ["-> $x"]),
        (N, ["1  a = m($x)", "   b = m($x)", "2  c = m(a)", "   d = m([a, b])", "-> [c, d]"]),
        (EACH, ["1  a = m($x)", "2  m = m([item, a]) for item in $x", "-> m"]),
        (CHOICE, ["1  judge   = m($x)", "   draft   = m($x)", "2  rewrite = m(draft)",
                  "-> draft if (judge > 5) else rewrite"]),
        (graph(Step(name="w", kind="wait", signal="ok", input=None), Step(name="v", kind="wait", signal="ok", input=X),
               Step(name="s", kind="sleep", input=[60, out("w")]), Step(name="t", kind="sleep", input=[X]), output=1),
         ["1  w = wait_for(ok)", "   v = wait_for(ok) after $x", "   t = sleep($x)", "2  s = sleep(60) after w",
          "-> 1"]),
        (WITHIN, ['1  all = run of g({"x": item}) for item in $x', '2  one = run of g({"x": all})', "-> one"]),
        (graph(Step(name="f", model="price@2", input=X), output=out("f")), ["1  f = price@2($x)", "-> f"]),
        (HELD, ["1  a   = m($x) using retry=2, timeout=1.5",
                '   all = run of g({"x": item}) for item in $x using max_parallel=8, max_parallel_within=3',
                "   w   = wait_for(ok) using timeout=86400",
                "2  m   = m(item) for item in a using max_parallel=1000", "-> m"]),
    ],
)  # fmt: skip
def test_a_drawing(of: Graph, lines: list[str]) -> None:
    assert draw(of) == lines


@given(graphs(), st.integers(1, 120))
def test_nothing_runs_over_the_edge(of: Graph, width: int) -> None:
    lines = draw(of, width=width)
    assert all(len(line) <= max(width, NARROWEST) for line in lines)
    assert "".join("".join(lines).split()) == "".join("".join(draw(of)).split()), "nothing is left out"


def test_a_chain_of_two_thousand_is_drawn() -> None:
    steps = [step("s0", X), *(step(f"s{n}", out(f"s{n - 1}")) for n in range(1, 2000))]
    assert len(draw(graph(*steps, output=out("s1999")), width=40)) == 2001


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ([X, out("a")], {("$in", "x"): Use.ALWAYS, ("$out", "a"): Use.ALWAYS}),
        ({"$if": [out("a"), out("b"), X]},
         {("$out", "a"): Use.CHOOSES, ("$out", "b"): Use.MAYBE, ("$in", "x"): Use.MAYBE}),
        ([{"$if": [True, out("b"), 0]}, out("b")], {("$out", "b"): Use.ALWAYS}),
        ({"$if": [out("a"), out("a"), 0]}, {("$out", "a"): Use.CHOOSES}),
        ({"$if": [X, {"$if": [out("a"), 1, 2]}, 0]}, {("$in", "x"): Use.CHOOSES, ("$out", "a"): Use.MAYBE}),
        ({"$else": [out("a"), out("b")]}, {("$out", "a"): Use.ALWAYS, ("$out", "b"): Use.MAYBE}),
        ({"$lit": {"$out": "a"}}, {}),
    ],
)  # fmt: skip
def test_how_values_are_used(expression: Any, expected: dict[tuple[str, str], Use]) -> None:
    assert uses(expression) == expected


def test_mermaid() -> None:
    assert mermaid(CHOICE).splitlines() == [
        "flowchart TD",
        '    in0(["x"])',
        '    step0["judge<br>m"]',
        '    step1["draft<br>m"]',
        '    step2["rewrite<br>m"]',
        "    output([output])",
        "    in0 --> step0",
        "    in0 --> step1",
        "    step1 --> step2",
        "    step0 ==> output",
        "    step1 -.-> output",
        "    step2 -.-> output",
    ]
    assert '    step1[["m"]]' in mermaid(EACH)
    assert '    step0[["all<br>run of g"]]' in mermaid(WITHIN)


def test_bounds_are_shown_where_there_are_any() -> None:
    lines = mermaid(HELD).splitlines()
    assert '    bounds>"at most 4 steps at a time#44; 2.5 device seconds"]' in lines
    assert '    step0["a<br>m<br>retry#61;2#44; timeout#61;1.5"]' in lines
    assert '    step1[["m<br>max_parallel#61;1000"]]' in lines
    long = Step(name="n" * 128, model="m" * 200, input=X, retry=3)
    assert '<br>retry#61;3"]' in mermaid(graph(long, output=1))
    assert "#61;" not in mermaid(CHOICE) and "bounds" not in mermaid(CHOICE)


@pytest.mark.parametrize(
    ("max_parallel", "budget", "text"),
    [
        (None, None, ""),
        (1, None, "at most 1 step at a time"),
        (1000, 0, "at most 1,000 steps at a time, 0 device seconds"),
        (None, 1, "1 device second"),
        (None, 12345678.25, "12,345,678.25 device seconds"),
    ],
)
def test_the_bounds_of_a_run(max_parallel: int | None, budget: float | None, text: str) -> None:
    assert of_run(max_parallel, budget) == text


def test_no_name_is_taken_for_mermaids_words() -> None:
    evil = graph(Step(name="end", model='"]; click step0 "javascript:x"<b>', input=X), output=out("end"))
    [box] = [line for line in mermaid(evil).splitlines() if line.startswith("    step0[")]
    inside = box.removeprefix('    step0["').removesuffix('"]')
    assert not set('"[];<>') & set(inside.replace("<br>", "").replace(";", "")), inside
    assert call(evil.steps[0]).isprintable()
