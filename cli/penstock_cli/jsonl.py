"""Bulk files: one JSON object a line, in the form of OpenAI's Batch files. PURE.

In: ``{"custom_id": "a", "body": INPUT}``, or a bare INPUT (then the line's number is its id). Out, per line:
``{"id", "custom_id", "response": {"status_code": 200, "request_id", "body": OUTPUT} | null, "error": null | {"code",
"message"}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from penstock.payload import read_strictly


@dataclass(frozen=True, slots=True)
class Line:
    """One request: its number in the file (from 1), its id, and the input; or what is wrong with it."""

    number: int
    custom_id: str
    input: Any = None
    fault: str | None = None


def parse(number: int, text: str) -> Line | None:
    """Read one line; ``None`` for an empty one. Never raises: a bad line says so."""
    if not text.strip():
        return None
    own_id = f"line-{number}"
    try:
        value = read_strictly(text)
    except (ValueError, RecursionError) as error:
        return Line(number, own_id, fault=f"line {number} is not JSON: {error}")
    if not isinstance(value, dict) or "body" not in value:
        if isinstance(value, dict) and "custom_id" in value:
            return Line(number, _id(value, own_id), fault=f"line {number} has a custom_id but no body")
        return Line(number, own_id, value)
    custom_id = value.get("custom_id", own_id)
    if not isinstance(custom_id, (str, int)) or isinstance(custom_id, bool):
        return Line(number, own_id, fault=f"line {number}: custom_id must be text")
    return Line(number, str(custom_id), value["body"])


def requests(text_lines: Iterable[str]) -> Iterator[Line]:
    """The requests of a file. One whose id was used before is a bad line: results are told apart by their ids."""
    used: dict[str, int] = {}
    for number, text in enumerate(text_lines, 1):
        line = parse(number, text)
        if line is None:
            continue
        first = used.setdefault(line.custom_id, number)
        if first != number:
            fault = f"line {number}: the custom_id {line.custom_id!r} was used in line {first}"
            line = Line(number, f"line-{number}", fault=fault)
        yield line


def _id(value: dict[str, Any], default: str) -> str:
    found = value.get("custom_id")
    return found if isinstance(found, str) else default


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


def done_ids(text_lines: Any) -> set[str]:
    """The ``custom_id`` of each line of an earlier output that holds a response; damaged lines are skipped.

    The last line of a run that was killed may be cut short.
    """
    done = set()
    for text in text_lines:
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict) and value.get("response") is not None and isinstance(value.get("custom_id"), str):
            done.add(value["custom_id"])
    return done


def foreign(text_lines: Iterable[str]) -> int | None:
    """The number of the first line that no run of ours can have written; ``None`` for an earlier output.

    Its last line may be cut short.
    """
    for number, text in enumerate(text_lines, 1):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            if not text.endswith("\n") and (text.startswith('{"') or text == "{"):
                continue
            return number
        if not isinstance(value, dict) or not value.keys() >= {"custom_id", "response", "error"}:
            return number
    return None
