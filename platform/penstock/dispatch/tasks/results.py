"""What Celery's result backend says of plain tasks, in the form of its Redis backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from penstock.errors import TaskFailed, TaskRevoked, safe_text
from penstock.job import JobState
from penstock.jsontext import UNREADABLE
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

    def ends(self, tasks: Sequence[tuple[str, int]]) -> dict[str, Ended]:
        """How these (ids and attempts) have ended, as far as it is known there. Raises ``BrokerUnavailable``."""
        if not tasks:
            return {}
        try:
            texts: Any = self._client.mget([_KEY + id for id, _ in tasks])
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error
        found = (end_of(id, attempt, text) for (id, attempt), text in zip(tasks, texts, strict=True))
        return {end.id: end for end in found if end is not None}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def end_of(id: str, attempt: int, text: bytes | None) -> Ended | None:
    """PURE: how a task ended by its result's text; ``None`` where it has not, or where that cannot be told."""
    try:
        meta = None if text is None else msgspec.json.decode(text)
    except UNREADABLE:
        return None
    if not isinstance(meta, dict):
        return None
    status, result = meta.get("status"), meta.get("result")
    if status == "SUCCESS":
        return Ended(id, attempt, JobState.SUCCEEDED, output=msgspec.json.encode(result).decode())
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
