"""How a plain task ended, by what Celery's result backends keep of it. PURE."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import InvalidOutput, TaskFailed, TaskRevoked, safe_text
from penstock.job import JobState
from penstock.jsontext import UNREADABLE, lax
from penstock.store.runs.tasks import Ended

#: What stands in a backend in the place of what is no JSON.
NO_JSON = b"?"


def gave(id: str, attempt: int, output: str | None, max_bytes: int) -> Ended:
    """How a task ended that gave this, JSON text; ``None``: something that is no JSON."""
    if output is None:
        fault = InvalidOutput(
            "the task's result is no JSON: it holds NaN, Infinity, half of a character, or a number of thousands of"
            " digits; return None or a text in its place"
        )
    elif (size := len(output.encode())) > max_bytes:
        fault = InvalidOutput(
            f"the task's result has {size:,} bytes of JSON; the limit is {max_bytes:,}: PENSTOCK_JOB__MAX_OUTPUT_BYTES"
        )
    else:
        return Ended(id, attempt, JobState.SUCCEEDED, output=output)
    return Ended(id, attempt, JobState.FAILED, error=fault.as_dict())


def end_of(id: str, attempt: int, text: bytes | None, max_bytes: int) -> Ended | None:
    """How a task ended by its result's text, as Celery's key-value backends write it: an object with ``status`` and
    ``result``. ``None`` where it has not ended, or where that cannot be told."""
    readable = True
    try:
        meta = None if text is None else msgspec.json.decode(text)
    except UNREADABLE:
        meta, readable = lax(text or b""), False
    if not isinstance(meta, dict):
        return None
    status, result = meta.get("status"), meta.get("result")
    if status == "SUCCESS":
        return gave(id, attempt, msgspec.json.encode(result).decode() if readable else None, max_bytes)
    if status == "FAILURE":
        return Ended(id, attempt, JobState.FAILED, error=TaskFailed(_said(result)).as_dict())
    if status == "REVOKED":
        return Ended(id, attempt, JobState.FAILED, error=TaskRevoked(f"the task was {_reason(result)}").as_dict())
    return None


def text_of(status: str, result: bytes) -> bytes:
    """Such a text, of a result's own."""
    return b'{"status":%b,"result":%b}' % (msgspec.json.encode(status), result)


def is_result(text: bytes) -> bool:
    """Whether it is such a text: neither pickled, nor YAML, nor compressed."""
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except UNREADABLE:
        return isinstance(lax(text), dict)


def _said(result: Any) -> str:
    """An exception as Celery writes it: its type, its arguments."""
    if not isinstance(result, dict):
        return safe_text(result)
    words = result.get("exc_message")
    text = ", ".join(map(str, words)) if isinstance(words, list | tuple) else str(words)
    return safe_text(f"{result.get('exc_type', 'an error')}: {text}")


def _reason(result: Any) -> str:
    words = result.get("exc_message") if isinstance(result, dict) else None
    word = words[0] if isinstance(words, list) and words else words
    return {"expired": "not begun before it expired", "terminated": "terminated"}.get(str(word), "revoked")
