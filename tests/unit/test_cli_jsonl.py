"""Lines of bulk files."""

from __future__ import annotations

import io

import pytest

from penstock_cli import jsonl


def test_openai_form_and_bare_inputs() -> None:
    assert jsonl.parse(1, '{"custom_id": "a", "method": "POST", "url": "/v1", "body": {"x": 1}}') == jsonl.Line(
        1, "a", {"x": 1}
    )
    assert jsonl.parse(2, '{"x": 1}') == jsonl.Line(2, "line-2", {"x": 1})
    assert jsonl.parse(3, '"hello"') == jsonl.Line(3, "line-3", "hello")
    assert jsonl.parse(4, '{"body": null}') == jsonl.Line(4, "line-4", None)
    assert jsonl.parse(5, '{"custom_id": 7, "body": 1}') == jsonl.Line(5, "7", 1)


def test_empty_lines_are_passed_over() -> None:
    assert jsonl.parse(1, " \n") is None


@pytest.mark.parametrize(
    ("text", "custom_id", "words"),
    [
        ("{oops", "line-9", "not JSON"),
        ("hello", "line-9", "not JSON"),
        ('{"custom_id": "a"}', "a", "no body"),
        ('{"custom_id": [], "body": 1}', "line-9", "must be text"),
        ("[" * 100_000, "line-9", "not JSON"),
        ('"\udcff', "line-9", "not JSON"),
    ],
)
def test_a_bad_line_says_so_and_does_not_raise(text: str, custom_id: str, words: str) -> None:
    line = jsonl.parse(9, text)
    assert line is not None and line.fault is not None
    assert line.custom_id == custom_id
    assert words in line.fault


def test_an_id_is_used_once() -> None:
    texts = ['{"custom_id": "a", "body": 1}', "", '{"custom_id": "a", "body": 2}', "3"]
    lines = list(jsonl.requests(texts))
    assert [(line.custom_id, line.input) for line in lines] == [("a", 1), ("line-3", None), ("line-4", 3)]
    assert lines[1].fault is not None
    assert "'a' was used in line 1" in lines[1].fault


def test_output_lines() -> None:
    line = jsonl.Line(1, "a", "in")
    assert jsonl.succeeded(line, "j", [1]) == {
        "id": "j",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "j", "body": [1]},
        "error": None,
    }
    assert jsonl.unsuccessful(line, None, code="c", message="m") == {
        "id": None,
        "custom_id": "a",
        "response": None,
        "error": {"code": "c", "message": "m"},
    }


def test_done_ids_count_responses_only_and_survive_a_cut_off_line() -> None:
    lines = [
        '{"custom_id": "a", "response": {"body": 1}, "error": null}',
        '{"custom_id": "b", "response": null, "error": {"code": "x"}}',
        "[1]",
        '{"custom_id": "c", "respon',
    ]
    assert jsonl.done_ids(lines) == {"a"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('{"id": "j", "custom_id": "a", "response": {"body": 1}, "error": null}\n', None),
        ('{"id": "j", "custom_id": "a", "response": null, "error": {"code": "x"}}\n{"id": "j", "cust', None),
        ('{"custom_id": "a", "body": "hello"}\n', 1),
        ('{"id": "j", "custom_id": "a", "response": null, "error": {}}\nmilk\n', 2),
        ("milk", 1),
        ("[1, 2]", 1),
    ],
)
def test_a_file_that_is_no_output_is_known(text: str, number: int | None) -> None:
    assert jsonl.foreign(io.StringIO(text)) == number
