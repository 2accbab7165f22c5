"""What the command line prints of anybody's words: nothing in it moves a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from penstock_cli.output import Output, dumps

#: Control characters of all kinds, what turns the direction of writing, what ends a line; and words to be kept.
EVIL = "\x00\x07\x1b[2J\x7f\x85\x9b1m\u061c\u200e\u202e\u2028\u2029\u2066"
WORDS = "plain, ü, 中\u3000文, 👩\u200d🚀, a\xa0b"


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_plain_and_means_the_same(indent: int | None) -> None:
    value = {"output": EVIL + WORDS, EVIL: [EVIL]}
    text = dumps(value, indent=indent)
    assert json.loads(text) == value
    assert not set(EVIL.replace("[2J", "").replace("1m", "")) & set(text)
    assert WORDS in text, "what is mere text stays as it is written"
    assert indent is not None or len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "show",
    [
        lambda out, text: out.pairs([("error", text)]),
        lambda out, text: out.table(("error",), [[text]]),
        lambda out, text: out.say(text),
        lambda out, text: out.warn(text),
    ],
    ids=["pairs", "table", "say", "warn"],
)
def test_words_are_shown_with_escapes(show: Callable[[Output, str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    show(Output(), f"a {EVIL} b {WORDS}")
    printed = "".join(capsys.readouterr())
    assert r"\x1b[2J\x7f" in printed and r"\u202e" in printed and WORDS in printed
    assert not set(EVIL.replace("[2J", "").replace("1m", "")) & set(printed)


def test_a_persons_lines_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Output().pairs([("input", "{\n\t1\n}")])
    assert capsys.readouterr().out == "input  {\n\t1\n}\n"
