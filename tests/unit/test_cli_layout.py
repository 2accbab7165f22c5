"""Tables, texts and ids in the width of a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.job import new_id
from penstock_cli.jobids import beginnings
from penstock_cli.jobview import AGES_HEADER, ROW_DROP, counted
from penstock_cli.layout import GAP, age, fit, shorten, wrap
from penstock_cli.progress import Rate

ROW = ["0193d5c2-1a2b", "embed", "interactive", "succeeded", "3m", "12.3 ms", "1"]


@pytest.mark.parametrize(
    ("width", "header"),
    [
        (200, AGES_HEADER),
        (80, AGES_HEADER),
        (55, ("id", "model", "status", "age", "total")),
        (40, ("id", "model", "status", "age")),
        (32, ("id", "status", "age")),
        (5, ("id",)),
    ],
)
def test_columns_are_left_out_by_what_they_matter(width: int, header: tuple[str, ...]) -> None:
    names, ((first, *_),) = fit(AGES_HEADER, [ROW], width, drop=ROW_DROP)
    assert tuple(names) == header
    assert first == ROW[0], "an id is never cut"


@given(
    st.lists(st.lists(st.text("ab ", max_size=30), min_size=4, max_size=4), max_size=4),
    st.integers(10, 120),
    st.lists(st.sampled_from(["b", "c", "d"]), unique=True),
)
def test_nothing_runs_over_the_edge_but_the_first_column(rows: list[list[str]], width: int, wide: list[str]) -> None:
    names, cells = fit(("a", "b", "c", "d"), rows, width, drop=("c",), wide=wide)
    widths = [max([len(name), *(len(row[n]) for row in cells)]) for n, name in enumerate(names)]
    assert len(names) == 1 or sum(widths) + GAP * (len(names) - 1) <= width


def test_a_setting_has_a_value_however_narrow_it_is() -> None:
    row = ["dispatcher.reconcile_every_s", "redis+socket:///tmp/x", "default", "a meaning"]
    header = ["setting", "value", "source", "meaning"]
    assert fit(header, [row], 40, wide=header[1:]) == (["setting", "value"], [[row[0], "redis+soc…"]])


def test_texts_end_at_a_word() -> None:
    assert shorten("Upper case, a whole batch at a time.", 20) == "Upper case, a whole…"
    assert shorten("short", 5) == "short"
    assert shorten("a" * 30, 10) == "a" * 9 + "…"
    assert wrap("run again: penstock job-retry 0193d5c2-1a2b", 20) == "run again: penstock\njob-retry\n0193d5c2-1a2b"
    assert wrap("    a command that is laid out", 10) == "    a command that is laid out"
    assert wrap("one two", None) == "one two"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (0.4, "0s"), (59, "59s"), (60, "1m"), (7300, "2h"), (2e6, "23d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_one_is_no_plural() -> None:
    assert [counted(n, "job") for n in (0, 1, 2000)] == ["0 jobs", "1 job", "2,000 jobs"]


def test_ids_are_told_apart_by_their_beginnings() -> None:
    ids = sorted(new_id() for _ in range(50))
    short = beginnings(ids[10:20], ids)
    for id, text in short.items():
        assert [other for other in ids if other.startswith(text)] == [id]
        assert id.startswith(text) and len(text) >= 13 and not text.endswith("-")
    assert beginnings(["abc"], []) == {"abc": "abc"}


def test_nobody_says_how_long_it_takes_before_it_can_be_known() -> None:
    """The minute in which the first batch's model was loaded is not the pace of the others."""
    rate = Rate(0.0)
    assert rate.left_s(100, 60.0) is None
    rate.add(1, 60.0)
    assert rate.left_s(99, 60.0) is None
    rate.add(11, 61.0)
    assert rate.left_s(89, 61.0) is None
    rate.add(31, 63.0)
    assert rate.left_s(69, 63.0) == pytest.approx(6.9)
