"""Lines of bulk files."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from unittest import mock

import pytest

from penstock_cli import jsonl, resumed
from penstock_cli.output import dumps


def test_openai_form_and_bare_inputs() -> None:
    assert jsonl.parse(1, b'{"custom_id": "a", "method": "POST", "url": "/v1", "body": {"x": 1}}') == jsonl.Line(
        1, "a", {"x": 1}
    )
    assert jsonl.parse(2, b'{"x": 1}') == jsonl.Line(2, "line-2", {"x": 1})
    assert jsonl.parse(3, b'"hello"') == jsonl.Line(3, "line-3", "hello")
    assert jsonl.parse(4, b'{"body": null}') == jsonl.Line(4, "line-4", None)
    assert jsonl.parse(5, b'{"custom_id": 7, "body": 1}') == jsonl.Line(5, "7", 1)


def test_empty_lines_are_passed_over() -> None:
    assert jsonl.parse(1, b" \r\n") is None


@pytest.mark.parametrize(
    ("raw", "custom_id", "words"),
    [
        (b"{oops", "line-9", "not JSON"),
        (b"hello", "line-9", "not JSON"),
        (b'{"custom_id": "a"}', "a", "no body"),
        (b'{"custom_id": [], "body": 1}', "line-9", "must be text"),
        (b"[" * 100_000, "line-9", "not JSON"),
        (b'"\xff', "line-9", "not UTF-8 (byte 0xff in column 2)"),
        (b'{"custom_id": "a", "body": "\xff"}', "a", "not UTF-8"),
        (b'{"custom_id": "\xff", "body": 1}', "line-9", "not UTF-8"),
        (b'{"custom_id": "\\ud800", "body": 1}', "line-9", "half a surrogate pair"),
        ("\u2028".encode(), "line-9", "not JSON"),
        (b"\xef\xbb\xbf1", "line-9", "not JSON"),
        ("1".encode("utf-16"), "line-9", "not UTF-8"),
    ],
)
def test_a_bad_line_says_so_and_does_not_raise(raw: bytes, custom_id: str, words: str) -> None:
    line = jsonl.parse(9, raw)
    assert line is not None and line.fault is not None
    assert line.custom_id == custom_id
    assert words in line.fault


def test_an_id_is_used_once() -> None:
    raw = [b'{"custom_id": "a", "body": 1}', b"", b'{"custom_id": "a", "body": 2}', b"3"]
    lines = list(jsonl.requests(raw))
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


def test_a_mark_at_the_files_beginning_is_dropped() -> None:
    lines = list(jsonl.requests(io.BytesIO('{"custom_id": "é", "body": "☕"}\r\n2'.encode("utf-8-sig"))))
    assert [(line.custom_id, line.input) for line in lines] == [("é", "☕"), ("line-2", 2)]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"])
def test_only_a_newline_ends_a_line(mark: str) -> None:
    """What else ``str.splitlines`` takes for an end is text."""
    written = dumps(jsonl.succeeded(jsonl.Line(1, f"a{mark}b", None), "j", f"c{mark}d"))
    assert written.splitlines() == [written], "nor does any other program see two lines"
    assert jsonl.done_id(written.encode()) == f"a{mark}b"
    raw = json.dumps({"custom_id": f"a{mark}b", "body": f"c{mark}d"}, ensure_ascii=False).encode()
    assert list(jsonl.requests(io.BytesIO(raw + b"\n"))) == [jsonl.Line(1, f"a{mark}b", f"c{mark}d")]


def test_a_done_line_holds_a_response_and_a_cut_off_one_is_none() -> None:
    lines = [
        b'{"custom_id": "a", "response": {"body": 1}, "error": null}',
        b'{"custom_id": "b", "response": null, "error": {"code": "x"}}',
        b"[1]",
        b'{"custom_id": "c", "respon',
        '{"custom_id": "☕'.encode()[:-1],
    ]
    assert [jsonl.done_id(line) for line in lines] == ["a", None, None, None, None]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('{"id": "j", "custom_id": "a", "response": {"body": 1}, "error": null}\n\n', None),
        ('\ufeff{"id": "j", "custom_id": "a", "response": {"body": 1}, "error": null}\r\n', None),
        ('{"id": "j", "custom_id": "a", "response": null, "error": {"code": "x"}}\n{"id": "j", "cust', None),
        ('{"custom_id": "a", "body": "hello"}\n', 1),
        ('{"id": "j", "custom_id": "a", "response": null, "error": {}}\nmilk\n', 2),
        ("milk", 1),
        ("[1, 2]", 1),
    ],
)
def test_a_file_that_is_no_output_is_known(text: str, number: int | None) -> None:
    assert jsonl.foreign(io.BytesIO(text.encode())) == number


DONE = [dumps(jsonl.succeeded(jsonl.Line(n, id), f"j{n}", id)).encode() for n, id in enumerate("ab☕d", 1)]
LOST = dumps(jsonl.unsuccessful(jsonl.Line(9, "z"), None, code="c", message="m")).encode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], []),
        (DONE, DONE),
        ([LOST], []),
        ([*DONE, LOST, LOST], DONE),
        ([DONE[0], LOST, *DONE[1:], LOST], DONE),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"", b'\n{"id": "j9", "custom_id": "\xe2\x98'])
def test_every_finished_line_is_kept_byte_for_byte(
    tmp_path: Path, before: list[bytes], after: list[bytes], end: bytes
) -> None:
    """Whatever a kill or a full disk cut off behind them."""
    target, link = tmp_path / "real.jsonl", tmp_path / "out.jsonl"
    link.symlink_to(target)
    target.write_bytes(b"\n".join(before) + (end if before else b""))
    target.chmod(0o640)
    assert resumed.prepare(link, resume=True) == {jsonl.done_id(line) for line in after}
    assert target.read_bytes() == b"".join(line + b"\n" for line in after)
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "real.jsonl"]


def test_a_disk_that_is_full_leaves_the_results_as_they_were(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    whole = b"".join(line + b"\n" for line in (DONE[0], LOST, *DONE[1:]))
    target.write_bytes(whole)
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with mock.patch("os.fsync", full), pytest.raises(OSError, match="No space"):
        resumed.prepare(target, resume=True)
    assert target.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [target]
