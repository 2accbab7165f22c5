"""Values that are not known yet: what they become, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, NoValue
from penstock.pipelines.expression import (
    MAX_BITS,
    MAX_DEPTH,
    MAX_LENGTH,
    MAX_PARTS,
    OPERATORS,
    check,
    evaluate,
    literal,
    named,
    truth,
)
from penstock.pipelines.writing.traced import Traced, expression_of

INPUTS = {"question": "why", "number": 7, "flag": True}
OUTPUTS = {"judge": 0.75, "docs": [{"text": "a", "score": 1}, {"text": "b", "score": 2}], "none": None, "yes": True}


def value(traced: Any) -> Any:
    """What a traced value becomes, by way of the text in which it is stored."""
    expression = json.loads(json.dumps(expression_of(traced)))
    check(expression)
    return evaluate(expression, inputs=INPUTS, outputs=OUTPUTS, items=("inner", {"n": 3}))


question, number, flag = (Traced({"$in": name}) for name in INPUTS)
judge, docs, none, yes = (Traced({"$out": name}) for name in OUTPUTS)
inner, outer = Traced({"$item": 0}), Traced({"$item": 1})


@pytest.mark.parametrize(
    ("traced", "expected"),
    [
        (5, 5),
        (None, None),
        ("text", "text"),
        ((1, "two"), [1, "two"]),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        ({"$in": "question"}, {"$in": "question"}),
        ({"$anything": 1}, {"$anything": 1}),
        ({"$in": question}, {"$in": "why"}),
        ({"$x": [question, 1]}, {"$x": ["why", 1]}),
        ({"$in": question, "$out": 2}, {"$in": "why", "$out": 2}),
        (question, "why"),
        ([question, {"n": number}, (judge,)], ["why", {"n": 7}, [0.75]]),
        (docs[0].text, "a"),
        (docs[-1]["score"], 2),
        (docs[number - 7].text, "a"),
        (question[0], "w"),
        (inner, "inner"),
        (outer.n + 1, 4),
        (judge > 0.5, True),
        (judge > 0.5, True),
        (np.float64(0.5) < judge, True),
        (judge == 0.75, True),
        (judge != 0.75, False),
        (judge >= 1, False),
        (judge < 1, True),
        (judge <= 1, True),
        (none == None, True),  # noqa: E711
        (number + 1, 8),
        (1 + number, 8),
        (10 - number, 3),
        (number * 2, 14),
        (2 * question, "whywhy"),
        (question + "?", "why?"),
        ("so " + question, "so why"),
        (number / 2, 3.5),
        (number // 2, 3),
        (15 // number, 2),
        (number % 4, 3),
        (2**number, 128),
        (number**2, 49),
        (-number, -7),
        (+number, 7),
        (abs(-number), 7),
        ((judge > 0.5) & flag, True),
        ((judge > 0.9) | flag, True),
        ((judge > 0.5) ^ flag, False),
        (~(judge > 0.5), False),
        (~flag & yes, False),
        (number & 3, 3),
        (~number, -8),
        (docs.__add__([1]), [*OUTPUTS["docs"], 1]),
    ],
)
def test_what_it_becomes(traced: Any, expected: Any) -> None:
    assert value(traced) == expected
    assert type(value(traced)) is type(expected)


def test_every_operator_was_tried() -> None:
    used = set()
    for case in test_what_it_becomes.pytestmark[0].args[1]:  # type: ignore[attr-defined]
        waiting = [expression_of(case[0])]
        while waiting:
            here = waiting.pop()
            if isinstance(here, dict):
                used |= {here["$op"][0]} if "$op" in here else set()
                waiting += here.values()
            elif isinstance(here, list):
                waiting += here
    assert used == set(OPERATORS)


@pytest.mark.parametrize(
    ("traced", "words"),
    [
        (docs[2], "no element 2 in a list of 2"),
        (docs[0].title, "no 'title' in an object with 'text', 'score'"),
        (none.text, "null has no element 'text'"),
        (docs["x"], "a list has no element 'x'"),
        (docs[flag], "no element True"),
        (judge + "x", "'add' of a number, a text"),
        (number / 0, "division by zero"),
        (question > 1, "'gt' of a text, a number"),
        (docs & flag, "not truth values"),
        (judge & flag, "not truth values"),
        (~judge, "'not' of a number"),
        (question % (1,), "text has no remainder"),
        (Traced("%1000000000d") % number, "text has no remainder"),
        (question * 10**9, "longer than"),
        (Traced([0]) * 10**9, "longer than"),
        (number**10**9, "too large a number"),
        ((number**500) * (number**1000), f"more than {MAX_BITS:,} bits"),
        ((-number) ** 0.5, "no number that JSON has"),
        (judge * 1e308 * 10, "no number that JSON has"),
        (judge * 1e308 * 10 - judge * 1e308 * 10, "no number that JSON has"),
    ],
)
def test_what_has_no_value(traced: Any, words: str) -> None:
    with pytest.raises(NoValue) as caught:
        value(traced)
    assert words in caught.value.message


LONG = {"$op": ["mul", "x", 1_000_000]}


@pytest.mark.parametrize(
    "bomb",
    [
        [LONG] * 3000,
        {"$op": ["mul", [{"$in": "long"}], 1_000_000]},
        {"$op": ["mul", [{"$out": "a"}], 100]},
        [{"$in": "long"}] * 9000,
        [{"$in": "long"}, {"deep": [{"k": {"$in": "long"}}] * 100}],
        [{"$get": [{"$out": "a"}, 0]}] * 100,
        [{"$item": 0}] * 9000,
        {"$if": [True, [{"$in": "long"}] * 9000, 0]},
    ],
)
def test_a_short_expression_makes_no_giant(bomb: Any) -> None:
    """Of values in memory it would hold few, each many times; its JSON would fill the machine."""
    long = "y" * 1_000_000
    with pytest.raises(NoValue, match="more than 16,000,000"):
        evaluate(bomb, inputs={"long": long}, outputs={"a": [long]}, items=[long])


def test_what_is_large_by_itself_may_be() -> None:
    long = "y" * 20_000_000
    assert evaluate([{"$in": "long"}, 1], inputs={"long": long}, outputs={}) == [long, 1]
    parts = [{"$get": [{"$in": "long"}, 0]}, {"$get": [{"$in": "long"}, 1]}]
    assert evaluate(parts, inputs={"long": long}, outputs={}) == ["y", "y"], "parts of it are not all of it"


def test_results_of_any_operator_are_bounded() -> None:
    long = "x" * MAX_LENGTH
    with pytest.raises(NoValue, match="longer than"):
        evaluate(expression_of(Traced(long) + long), inputs={}, outputs={})


@pytest.mark.parametrize(
    ("use", "instead"),
    [
        (lambda: bool(judge), "penstock.when"),
        (lambda: judge and 1, "penstock.when"),
        (lambda: not judge, "penstock.when"),
        (lambda: list(docs), "step.map"),
        (lambda: [x.text for x in docs], "step.map"),
        (lambda: max(docs), "step.map"),
        (lambda: len(docs), "@penstock.step"),
        (lambda: 1 in docs, "@penstock.step"),
        (lambda: int(judge), "@penstock.step"),
        (lambda: float(judge), "@penstock.step"),
        (lambda: range(number), "@penstock.step"),
        (lambda: [1, 2][number], "@penstock.step"),
        (lambda: f"so {question}", "@penstock.step"),
        (lambda: str(question), "@penstock.step"),
        (lambda: docs(), "@penstock.step"),
        (lambda: docs[1:], "step"),
        (lambda: setattr(docs, "x", 1), "step"),
        (lambda: docs.__setitem__(0, 1), "@penstock.step"),
        (lambda: docs.__delitem__(0), "@penstock.step"),
        (lambda: round(judge, 2), "@penstock.step"),
        (lambda: complex(judge), "@penstock.step"),
        (lambda: reversed(docs), "@penstock.step"),
        (lambda: {docs: 1}, "@penstock.step"),
        (lambda: {docs}, "@penstock.step"),
        (lambda: docs in {1}, "@penstock.step"),
        (lambda: docs in {1: 2}, "@penstock.step"),
        (lambda: docs in [1], "`in` a list.*penstock.when"),
        (lambda: 1 in (docs,), "`in` a list.*penstock.when"),
        (lambda: [docs] == [1], "penstock.when"),
        (lambda: {"a": docs} == {"a": 1}, "penstock.when"),
        (lambda: 0 < judge < 1, "`a < b < c`.*penstock.when"),
        (lambda: copy.copy(docs), "@penstock.step"),
        (lambda: pickle.dumps(docs), "@penstock.step"),
    ],
)
def test_what_needs_the_value_now_says_what_does_it_later(use: Any, instead: str) -> None:
    with pytest.raises(TypeError, match=instead):
        use()


def test_libraries_that_look_for_more_find_nothing() -> None:
    for name in ("__len_hint__", "_repr_html_", "__deepcopy__", "__json__"):
        assert not hasattr(docs, name)
    assert "not known before the run" in repr(docs)


@pytest.mark.parametrize(
    ("expression", "fix"),
    [
        ({"$nope": 1}, "use one of"),
        ({"$in": 1}, "names an input"),
        ({"$out": None}, "names a step"),
        ({"$item": -1}, "innermost"),
        ({"$item": True}, "innermost"),
        ({"$get": [1]}, "takes an element"),
        ({"$get": {"of": 1}}, "takes an element"),
        ({"$op": []}, "has a name of"),
        ({"$op": ["exec", "import os"]}, "has a name of"),
        ({"$op": ["add", 1]}, "has a name of"),
        ({"$op": ["not", 1, 2]}, "has a name of"),
        ({"$op": [["add"], 1, 2]}, "has a name of"),
        ({"$op": "add"}, "has a name of"),
        ({"$object": ["a"]}, "one key"),
        ({"$object": [1, 2]}, "one key"),
        ([1, {"a": {"$nope": 1}}], "use one of"),
        ({"$op": ["add", 1, {"$get": [{"$nope": 1}, 0]}]}, "use one of"),
    ],
)
def test_what_is_no_expression(expression: Any, fix: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(expression)
    assert fix in str(caught.value.fix)


def test_giant_ones_are_refused_and_giant_literals_are_not_looked_into() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(InvalidInput):
        check(deep)
    with pytest.raises(InvalidInput):
        check([0] * MAX_PARTS)
    check(literal(deep))
    check(literal([0] * MAX_PARTS))
    very_deep: Any = 1
    for _ in range(100_000):
        very_deep = {"$op": ["not", very_deep]}
    with pytest.raises(InvalidInput):
        check(very_deep)


def test_which_steps_and_inputs_it_needs() -> None:
    expression = expression_of({"a": [judge + docs[number].text, {"$out": "not one"}], "b": (judge, question)})
    assert list(named(expression, "$out")) == ["judge", "docs", "judge"]
    assert list(named(expression, "$in")) == ["number", "question"]
    assert list(named(expression, "$item")) == []


@pytest.mark.parametrize("given", [0, 1, None, "true", [], {}, 0.7])
def test_a_condition_is_true_or_false_and_nothing_else(given: Any) -> None:
    assert truth(True) is True and truth(False) is False
    with pytest.raises(NoValue, match="compare it"):
        truth(given)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$in", "$out", "$lit", "$object", "a", "b"]), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_value_is_a_literal_of_itself(given_value: Any) -> None:
    for shape in (given_value, {"x": given_value}, [given_value, Traced(literal(given_value))]):
        expected = [given_value, given_value] if isinstance(shape, list) and shape is not given_value else shape
        expression = json.loads(json.dumps(expression_of(shape)))
        check(expression)
        assert evaluate(expression, inputs={}, outputs={}) == expected


@given(JSON)
def test_strangers_expressions_have_a_value_or_a_named_error(expression: Any) -> None:
    try:
        check(expression)
    except InvalidInput:
        return
    names: Any = dict.fromkeys([*named(expression, "$in"), *named(expression, "$out")], 1)
    evaluate(expression, inputs=names, outputs=names)
