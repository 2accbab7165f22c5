"""Bulk files: one JSON object a line, in the form of OpenAI's Batch files. PURE.

In: ``{"custom_id": "a", "body": INPUT}``, or a bare INPUT (then the line's number is its id). Out, per line:
``{"id", "custom_id", "response": {"status_code": 200, "request_id", "body": OUTPUT} | null, "error": null | {"code",
"message"}}``.

Lines are bytes, as a binary file gives them: UTF-8 that ends in ``\\n``, with or without a ``\\r`` before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from penstock_cli.textio import MARK

#: JSON's own white space: what else looks empty is text, and not JSON.
_SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Line:
    """One request: its number in the file (from 1), its id, and the input; or what is wrong with it."""

    number: int
    custom_id: str
    input: Any = None
    fault: str | None = None


def parse(number: int, raw: bytes) -> Line | None:
    """Read one line; ``None`` for an empty one. Never raises: a bad line says so."""
    raw = raw.removeprefix(MARK) if number == 1 else raw
    if empty(raw):
        return None
    own_id = f"line-{number}"
    fault = None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        fault = f"line {number} is not UTF-8 (byte 0x{raw[error.start]:02x} in column {error.start + 1})"
        text = raw.decode(errors="surrogateescape")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Line(number, own_id, fault=fault or f"line {number} is not JSON: {error}")
    if not isinstance(value, dict) or not value.keys() & {"body", "custom_id"}:
        return Line(number, own_id, None if fault else value, fault)
    custom_id = value.get("custom_id", own_id)
    if isinstance(custom_id, int) and not isinstance(custom_id, bool):
        custom_id = str(custom_id)
    if not isinstance(custom_id, str):
        return Line(number, own_id, fault=fault or f"line {number}: custom_id must be text")
    if not _is_text(custom_id):
        return Line(number, own_id, fault=fault or f"line {number}: custom_id is no text: half a surrogate pair")
    if "body" not in value:
        fault = fault or f"line {number} has a custom_id but no body"
    return Line(number, custom_id, None if fault else value["body"], fault)


def empty(raw: bytes) -> bool:
    """Whether nothing is in the line."""
    return not raw.removeprefix(MARK).strip(_SPACE)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def requests(raw_lines: Iterable[bytes]) -> Iterator[Line]:
    """The requests of a file. One whose id was used before is a bad line: results are told apart by their ids."""
    used: dict[str, int] = {}
    for number, raw in enumerate(raw_lines, 1):
        line = parse(number, raw)
        if line is None:
            continue
        first = used.setdefault(line.custom_id, number)
        if first != number:
            fault = f"line {number}: the custom_id {line.custom_id!r} was used in line {first}"
            line = Line(number, f"line-{number}", fault=fault)
        yield line


def succeeded(line: Line, job_id: str, output: Any) -> dict[str, Any]:
    """The line for an output."""
    return {
        "id": job_id,
        "custom_id": line.custom_id,
        "response": {"status_code": 200, "request_id": job_id, "body": output},
        "error": None,
    }


def unsuccessful(line: Line, job_id: str | None, *, code: str, message: str) -> dict[str, Any]:
    """The line for a job that failed, or for a request that never became one."""
    return {
        "id": job_id,
        "custom_id": line.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }


def done_id(raw: bytes) -> str | None:
    """The ``custom_id`` of a line of an earlier output that holds a response; ``None`` for any other line.

    The last line of a run that was killed may be cut short.
    """
    value = _result(raw)
    if value is None or value.get("response") is None or not isinstance(value.get("custom_id"), str):
        return None
    return str(value["custom_id"])


def foreign(raw_lines: Iterable[bytes]) -> int | None:
    """The number of the first line that no run of ours can have written; ``None`` for an earlier output.

    Its last line may be cut short, and empty lines are nobody's.
    """
    for number, raw in enumerate(raw_lines, 1):
        if empty(raw):
            continue
        value = _result(raw)
        if value is None:
            cut = raw.removeprefix(MARK)
            if not raw.endswith(b"\n") and (cut.startswith(b'{"') or cut == b"{"):
                continue
            return number
        if not value.keys() >= {"custom_id", "response", "error"}:
            return number
    return None


def _result(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw.removeprefix(MARK).decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
