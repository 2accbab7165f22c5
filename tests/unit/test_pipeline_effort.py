"""How much deciding on a run takes: counted, bounded, and in proportion to the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, TooMuchWork
from penstock.pipelines.effort import CHARACTERS, ELEMENTS, MAX_OPERATIONS, Effort
from penstock.pipelines.expression import MAX_DEPTH, MAX_PARTS, Reading, check, evaluate, missing
from penstock.pipelines.frontier import Outline, frontier
from penstock.pipelines.graph import MAX_DECIDING, verify
from penstock.pipelines.graph import MAX_PARTS as MAX_ALL
from tests.fixtures import hostilegraphs
from tests.fixtures.hostilegraphs import X, either, op
from tests.fixtures.runs import graph, out, step


@pytest.mark.parametrize(
    ("left", "right", "takes"),
    [
        (1, 2, 0),
        ("x" * CHARACTERS, "x" * CHARACTERS * 9, 1),
        ("x" * CHARACTERS, [1], 0),
        ([0] * ELEMENTS * 5, [0], 5),
        ([[0] * ELEMENTS] * 5, [], 5),
        ({"a": [0] * ELEMENTS}, {}, 1),
        ({str(n): n for n in range(ELEMENTS)}, {}, 1),
        (["x" * CHARACTERS] * 3, ["y"], 3),
    ],
)
def test_what_a_comparison_takes(left: Any, right: Any, takes: int) -> None:
    effort = Effort()
    effort.compare(left, right)
    assert effort.spent == takes


def test_a_value_in_a_value_a_million_times_is_given_up_soon() -> None:
    value: Any = [0] * 1000
    for _ in range(20):
        value = [value] * 1000
    with pytest.raises(TooMuchWork, match="100,000 operations"):
        Effort().walk(value)
    assert Effort(None).walk(value, most=10_000) > 10_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
        max_leaves=20,
    )
)
def test_a_value_has_the_characters_and_elements_of_its_parts(value: Any) -> None:
    assert Effort(None).walk(value) == size(value)


def size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return len(value) + sum(map(size, value))
    if isinstance(value, dict):
        return len(value) + sum(len(key) + size(each) for key, each in value.items())
    return 0


class Asked(Mapping[str, Any]):
    """Outputs that count how often they are asked for."""

    def __init__(self, **values: Any) -> None:
        self.values_, self.asked = values, 0

    def __getitem__(self, name: str) -> Any:
        self.asked += 1
        return self.values_[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values_

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


def alternating(depth: int) -> Any:
    expression: Any = out("a")
    for _ in range(depth):
        expression = {"$else": [either(op("ne", expression, 0), expression if depth < 4 else 1), 3]}
    return expression


@pytest.mark.parametrize("depth", [1, 2, 3, 15, 20])
def test_no_condition_is_worked_out_twice(depth: int) -> None:
    """However choices stand in the conditions of choices."""
    expression = alternating(depth)
    outputs, effort = Asked(a=1), Effort()
    parts = check(expression).parts
    reading = Reading(inputs={}, outputs=outputs, effort=effort)
    assert reading.missing(expression) == []
    assert outputs.asked <= 2**depth and (depth < 4 or outputs.asked == 1)
    assert effort.spent <= 8 * parts
    assert evaluate(expression, inputs={}, outputs=outputs) == 1


def test_firsts_in_firsts_are_asked_once() -> None:
    expression: Any = out("a")
    for _ in range(30):
        expression = {"$get": [{"$first": [1, [expression, expression if _ < 3 else out("b")]]}, 0]}
    effort = Effort()
    reading = Reading(inputs={}, outputs={"b": 1}, effort=effort)
    assert reading.missing(expression) == [] and reading.value(expression) == 1
    assert effort.spent <= 8 * check(expression).parts
    assert missing(expression, inputs={}, outputs={}) == ["a", "b"]


@pytest.mark.parametrize("name", hostilegraphs.GRAPHS)
@pytest.mark.parametrize("failed", [False, True])
def test_a_graph_within_its_limits_is_decided_on(name: str, failed: bool) -> None:
    """With nothing, and with all but the last step."""
    of = hostilegraphs.GRAPHS[name]()
    verify(of)
    plan = Outline(of)
    first = plan.order[0]
    outputs = dict.fromkeys(plan.order[1:] if failed else plan.order[:-1], 1)
    for there in ({}, outputs):
        effort = Effort()
        frontier(plan, inputs={"x": 1}, outputs=there, failed=[first] if failed else [], effort=effort)
        assert 0 < effort.spent <= MAX_OPERATIONS


def test_asked_again_it_says_the_same_and_asks_less() -> None:
    steps = [step("s0", X), *(step(f"s{n}", either(hostilegraphs.all_of(5, out(f"s{n - 1}")))) for n in range(1, 50))]
    of = graph(*steps, output=out("s49"))
    plan, known, outputs = Outline(of), dict[str, list[str]](), dict[str, Any]()
    spent = []
    for number in range(3):
        again, alone = Effort(), Effort()
        found = frontier(plan, inputs={"x": 1}, outputs=outputs, effort=again, waits=known)
        assert found == frontier(plan, inputs={"x": 1}, outputs=outputs, effort=alone)
        assert found.ready == [f"s{number}"]
        spent.append(again.spent / alone.spent)
        outputs[f"s{number}"] = 1
    assert spent[0] == 1 and max(spent[1:]) < 0.3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: graph(
                *(step(f"a{n}", X) for n in range(1000)),
                *(step(f"b{n}", [out(f"a{m}") for m in range(1000)]) for n in range(1000)),
                output=1,
            ),
            "1,002,001 parts",
        ),
        (
            lambda: graph(*(step(f"s{n}", either(hostilegraphs.all_of(10, X))) for n in range(1000)), output=1),
            "42,000 of them",
        ),
    ],
)
def test_a_graph_of_too_many_parts_is_refused(make: Callable[[], Any], words: str) -> None:
    """Two thousand steps, each about all of a thousand others; conditions without an end."""
    of = make()
    with pytest.raises(InvalidInput, match="parts") as caught:
        verify(of)
    assert f"{MAX_ALL:,}" in caught.value.message and f"{MAX_DECIDING:,}" in caught.value.message
    assert words in caught.value.message and "map lists" in caught.value.fix


def test_the_limits_of_one_expression_fit_into_those_of_all() -> None:
    assert MAX_PARTS < MAX_DECIDING < MAX_ALL and MAX_DECIDING < MAX_OPERATIONS and MAX_DEPTH <= 64
