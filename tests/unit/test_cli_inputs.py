"""INPUT: JSON, text, a file or standard input."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import pytest

from penstock import jsontext
from penstock.jsontext import NotJSON
from penstock_cli.inputs import read_input


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("21", 21),
        ('"hello"', "hello"),
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("hello", "hello"),
        ("hello world", "hello world"),
        ("null", None),
        ("NaN", "NaN"),
        ("-1.5e3", -1500.0),
        ("@", "@"),
        ("naïve ☕", "naïve ☕"),
    ],
)
def test_json_is_json_and_the_rest_is_text(text: str, value: Any) -> None:
    assert read_input(text) == value


@pytest.mark.parametrize("text", ["21", '"hello"', "{broken"])
def test_raw_takes_everything_as_text(text: str) -> None:
    assert read_input(text, raw=True) == text


@pytest.mark.parametrize("text", ["{a: 1}", '["a"', '"hello', "  {", '{"a": NaN}'])
def test_damaged_json_is_an_error_that_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        read_input(text)
    assert "single quotes" in str(caught.value.format_message())
    assert "-r" in caught.value.format_message()


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deeply(text: str) -> None:
    with pytest.raises(click.UsageError, match="nested too deeply"):
        read_input(text)
    with pytest.raises(NotJSON):
        jsontext.loads(text)
    assert read_input(text, raw=True) == text


def test_a_file_is_read_and_its_last_newline_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}\n')
    (tmp_path / "a.txt").write_text("two\nlines\n")
    assert read_input(f"@{tmp_path / 'a.json'}") == {"a": 1}
    assert read_input(f"@{tmp_path / 'a.txt'}") == "two\nlines"


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, words in (("absent", "No such file"), ("bytes", "UTF-8")):
        with pytest.raises(click.UsageError, match=words):
            read_input(f"@{tmp_path / name}")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf[1, 2]\r\n")))
    assert read_input("-") == [1, 2]


def test_nothing_is_not_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(click.UsageError, match="empty"):
        read_input("-")
    assert read_input("", raw=True) == ""
