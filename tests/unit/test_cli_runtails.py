"""What ``penstock job watch`` shows of a run's partial output."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from penstock_cli.runtails import (
    KEPT,
    MOST,
    QUIET_S,
    Tail,
    Tails,
    may_stream,
    safe,
    step_of,
    tail_dict,
    tail_line,
)


def piece(step: str, progress: Any, index: int, *, job: str = "j", attempt: int = 1) -> dict[str, Any]:
    return {"step": step, "job": job, "attempt": attempt, "index": index, "progress": progress}


def heard(*pieces: dict[str, Any]) -> Tails:
    tails = Tails()
    for at, each in enumerate(pieces):
        tails.hear(each, float(at))
    return tails


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([piece("a", "he", 0), piece("a", "llo", 1)], "hello"),
        ([piece("a", "he", 7), piece("a", "llo", 8)], "hello"),  # heard from the middle on
        ([piece("a", 1, 0), piece("a", {"n": 2}, 1)], '{"n": 2}'),
        ([piece("a", "x", 0), piece("a", 1, 1), piece("a", "y", 2)], "y"),
        ([piece("a", "old", 0), piece("a", "new", 0, attempt=2)], "new"),
        ([piece("a", "old", 0), piece("a", "new", 3, attempt=2)], "new"),  # its beginning was missed
        ([piece("a", "old", 5), piece("a", "new", 5, job="k")], "new"),  # the run was tried again
        ([piece("a", "", 0)], ""),
    ],
)
def test_text_runs_on_and_what_is_void_is_forgotten(pieces: list[dict[str, Any]], text: str) -> None:
    [tail] = heard(*pieces).news()
    last = pieces[-1]
    assert (tail.text, tail.job, tail.attempt, tail.index) == (text, last["job"], last["attempt"], last["index"])


@given(st.lists(st.text(max_size=KEPT), min_size=1, max_size=8))
def test_its_end_is_kept(texts: list[str]) -> None:
    whole = "".join(texts)
    [tail] = heard(*(piece("a", text, n) for n, text in enumerate(texts))).news()
    assert (tail.text, tail.cut) == (whole[-KEPT:], len(whole) > KEPT)


def test_news_is_told_once() -> None:
    tails = heard(piece("a", "1", 0), piece("b", "2", 0), piece("a", "3", 1))
    assert [tail.path for tail in tails.news()] == ["b", "a"]
    assert tails.news() == []
    tails.hear(piece("b", "4", 1), 9.0)
    assert [(tail.path, tail.text) for tail in tails.news()] == [("b", "24")]


def test_a_wide_map_is_kept_within_bounds() -> None:
    tails = heard(*(piece(f"m[{n}]", "x", 0) for n in range(MOST + 5)))
    assert [tail.path for tail in tails.news()] == [f"m[{n}]" for n in range(5, MOST + 5)]


def test_a_step_has_one_line_which_stays_with_one_element_while_that_goes_on() -> None:
    tails = Tails()
    tails.hear(piece("m[1]", "one", 0), 0.0)
    tails.hear(piece("plan/write[0]", "w", 0), 0.0)
    tails.hear(piece("done", "d", 0), 0.0)
    assert [tail.path for tail in tails.of(["plan", "m", "silent"], 0.0)] == ["plan/write[0]", "m[1]"]
    tails.hear(piece("m[2]", "two", 0), 1.0)
    assert [tail.path for tail in tails.of(["m"], QUIET_S)] == ["m[1]"]
    assert [tail.path for tail in tails.of(["m"], QUIET_S + 0.1)] == ["m[2]"]


@pytest.mark.parametrize(
    ("path", "step"),
    [("a", "a"), ("a[3]", "a"), ("plan/write[3]", "plan"), ("plan[2]/write", "plan"), ("a.b-2", "a.b-2")],
)
def test_the_step_of_a_path(path: str, step: str) -> None:
    assert step_of(path) == step


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ü, 中", "plain, ü, 中"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\x9b1m\x85\x7f", r"\x9b1m\x85\x7f"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202egnp.exe\u2028\u2066", r"\u202egnp.exe\u2028\u2066"),
        ("\ud800", r"\ud800"),
    ],
)
def test_no_terminal_obeys_it(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.text(max_size=KEPT), st.booleans(), st.integers(12, 120))
def test_a_line_fits_and_ends_as_the_text_does(text: str, cut: bool, width: int) -> None:
    line = tail_line(Tail("draft[3]", "j", 1, 0, text, True, cut, 0.0), width)
    assert line.isprintable() and cell_len(line) <= width
    shown = line.removeprefix("draft[3]  ")
    assert safe(text).endswith(shown.removeprefix("…"))
    if not cut and len("draft[3]  ") + cell_len(safe(text)) <= width:
        assert shown == safe(text)


def test_its_json_is_the_text_itself() -> None:
    tail = Tail("draft[3]", "j", 2, 7, "a\x1b\u202e", True, True, 0.0)
    assert tail_dict(tail) == {
        "step": "draft[3]", "id": "j", "attempt": 2, "index": 7, "partial": "a\x1b\u202e", "cut": True,
    }  # fmt: skip
    assert json.dumps(tail_dict(tail)).isprintable()


STEPS, PLAIN, FUNCTION = {"steps": True}, {"steps": False}, {"steps": False, "function": True}


@pytest.mark.parametrize(
    ("models", "announced", "may"),
    [
        ([], {}, False),
        (["embed"], {"embed": PLAIN}, False),
        (["embed"], {"embed": PLAIN, "write": STEPS}, False),
        (["embed", "write"], {"embed": PLAIN, "write": STEPS}, True),
        (["plan"], {"plan": FUNCTION}, False),  # whatever it answers with, nothing works in steps
        (["plan"], {"plan": FUNCTION, "write": STEPS}, True),
        (["new"], {"embed": PLAIN}, True),
        (["new"], {"embed": PLAIN, "write": STEPS}, True),
    ],
)
def test_what_is_listened_for(models: list[str], announced: dict[str, dict[str, Any]], may: bool) -> None:
    assert may_stream(models, announced) is may
