"""Which versions a run is put on, and when it is put on others."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipelines.graph import Graph, Step, read
from penstock.pipelines.pins import chosen, moved, open_models, pinned, pins_of, served
from penstock.policy.absence import Absence
from tests.fixtures.runs import graph, out, step

SIMPLE = graph(
    step("a", {"$in": "x"}), step("b", out("a"), model="b@7"), step("c", out("b"), model="a", retry=2), output=out("c")
)


def models(of: Graph) -> list[str]:
    return [each.model for each in of.steps]


def test_open_steps_call_the_versions_that_are_chosen() -> None:
    new = pinned(SIMPLE, {"a": "2", "b": "9", "other": "1"})
    assert models(new) == ["a@2", "b@7", "a@2"], "what asks for a version has it"
    assert [each.pinned for each in new.steps] == [True, False, True]
    assert (pins_of(new), pins_of(SIMPLE)) == ({"a": "2"}, {})
    assert (open_models(SIMPLE), open_models(new)) == (("a",), ())
    assert read(new.to_json()) == new and new.digest != SIMPLE.digest


def test_graphs_within_are_pinned_and_moved_with_the_one_around_them() -> None:
    inner = Step(name="each", kind="run", graph=SIMPLE, input={"x": {"$item": 0}}, over=[1], maps=True)
    whole = graph(step("a", 1), inner, output=out("each"))
    new = pinned(whole, {"a": "2"})
    assert (open_models(whole), pins_of(new)) == (("a",), {"a": "2"})
    assert new.steps[1].graph == pinned(SIMPLE, {"a": "2"}) and read(new.to_json()) == new
    after = moved(new, {"a": {"3": 1}}, {"a": "3"})
    assert after.steps[1].graph is not None and models(after.steps[1].graph) == ["a@3", "b@7", "a@3"]
    assert moved(new, {"a": {"2": 1}}, {"a": "3"}) is new


def test_what_is_pinned_stays_so() -> None:
    once = pinned(SIMPLE, {"a": "2"})
    assert pinned(once, {"a": "3"}) is once
    assert pinned(SIMPLE, {}) is SIMPLE, "and is not written again"


@pytest.mark.parametrize(
    ("by", "after"),
    [
        ({"a": {"2": 1}}, "a@2"),
        ({"a": {"2": 1, "3": 9}}, "a@2"),
        ({"a": {"3": 1}}, "a@3"),
        ({}, "a@2"),
    ],
    ids=["still served", "beside another", "gone", "nobody serves any"],
)
def test_only_pins_that_nobody_serves_are_moved(by: dict[str, dict[str, int]], after: str) -> None:
    new = moved(pinned(SIMPLE, {"a": "2"}), by, {"a": "3"} if "a" in by else {})
    assert models(new) == [after, "b@7", after]


def test_what_asks_for_a_version_itself_is_never_moved() -> None:
    assert moved(SIMPLE, {"b": {"8": 1}}, {"b": "8"}) is SIMPLE


def test_a_throw_is_as_likely_as_a_worker() -> None:
    by = served([*[{"a": "1", "b": "1"}] * 9, {"a": "2", "b": "2"}])
    found = [chosen(by, f"run-{number}") for number in range(2000)]
    counts = Counter(each["a"] for each in found)
    assert 120 < counts["2"] < 280 and counts["1"] + counts["2"] == 2000
    assert all(each["a"] == each["b"] for each in found), "what is deployed together stays together"
    assert chosen(by, "run-1") == chosen(by, "run-1")


def test_models_without_a_version_are_left_out() -> None:
    assert chosen(served([{"a": ""}, {"a": "", "b": "3"}]), "r") == {"b": "3"}
    mixed = [chosen(served([{"a": ""}, {"a": "2"}]), f"r{number}").get("a") for number in range(200)]
    assert set(mixed) == {None, "2"}


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 5), min_size=1), st.text())
def test_there_is_always_a_choice(counts: dict[str, int], run: str) -> None:
    version = chosen({"a": counts}, run).get("a", "")
    assert version in counts


# Absence -----------------------------------------------------------------------------------------------------------


def test_absence_counts_from_when_it_was_last_served() -> None:
    absence = Absence(gap_s=60)
    absence.look([("a", "1")], now=0)
    assert absence.gone_s(("a", "1"), now=0) == 0
    for now in (30, 60, 90):
        absence.look([("a", "2")], now=now)
    assert absence.gone_s(("a", "1"), now=90) == 90
    assert absence.gone_s(("a", None), now=90) == 0, "another version is the model, too"
    assert absence.gone_s(("b", None), now=90) == 90, "since somebody looks"
    absence.look([("a", "1")], now=100)
    assert absence.gone_s(("a", "1"), now=110) == 10


def test_who_was_blind_for_a_while_has_seen_nothing() -> None:
    absence = Absence(gap_s=60)
    absence.look([("a", "1")], now=0)
    absence.look([], now=1000)
    assert absence.gone_s(("a", "1"), now=1000) == 0
    absence.look([], now=1050)
    assert absence.gone_s(("a", "1"), now=1050) == 50
