"""What Celery's result backend says of plain tasks, in the form of its Redis backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from penstock.errors import InvalidOutput, TaskFailed, TaskRevoked, safe_text
from penstock.job import JobState
from penstock.jsontext import UNREADABLE, lax
from penstock.settings import Settings
from penstock.store.runs.tasks import Ended
from penstock.transport.url import connect, unavailable

#: What comes before a task's id in the key of its result.
_KEY = "celery-task-meta-"
#: Longest wait for an answer, seconds.
_ANSWER_S = 2.0


class Results:
    """Thread-safe. Connects on first use."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.results
        self._client = connect(self._url, timeout_s=_ANSWER_S)
        self._max_bytes = settings.job.max_output_bytes

    def ends(self, tasks: Sequence[tuple[str, int]]) -> dict[str, Ended]:
        """How these (ids and attempts) have ended, as far as it is known there. Raises ``BrokerUnavailable``."""
        if not tasks:
            return {}
        try:
            texts: Any = self._client.mget([_KEY + id for id, _ in tasks])
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error
        found = (end_of(id, attempt, text, self._max_bytes) for (id, attempt), text in zip(tasks, texts, strict=True))
        return {end.id: end for end in found if end is not None}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def gave(id: str, attempt: int, output: str | None, max_bytes: int) -> Ended:
    """PURE: how a task ended that gave this, JSON text; ``None``: something that is no JSON."""
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
    """PURE: how a task ended by its result's text; ``None`` where it has not, or where that cannot be told."""
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
