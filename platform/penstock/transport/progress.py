"""Partial output of running jobs: one Redis stream per job, bounded in length and in time.

Entry ``{attempt}-{index}``, so the stream itself holds what readers rely on: entries are in order, a repeated write is
refused, and so is one of an attempt that was taken over. What is missing (trimmed, or lost with the broker's data)
shows as a jump of the index. The result of the job never depends on any of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from penstock.transport import keys
from penstock.transport.url import TIMEOUT_S, connect, parse, unavailable


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of partial output; ``at`` in Unix seconds."""

    attempt: int
    index: int
    at: float
    data: Any


def write_commands(
    namespace: str, job: str, attempt: int, index: int, text: str, *, at: float, keep: int, ttl_s: float
) -> list[tuple[Any, ...]]:
    """Commands that append one entry (``text`` is JSON). Repeating them does nothing."""
    key = keys.progress(namespace, job)
    return [
        ("XADD", key, "MAXLEN", "~", keep, f"{attempt}-{index}", "at", repr(at), "data", text),
        ("PEXPIRE", key, int(ttl_s * 1e3)),
    ]


class ProgressLog:
    """The readers' side. Thread-safe; connects at the first use."""

    def __init__(self, url: str, namespace: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._namespace = namespace
        self._url = parse(url)
        self._redis = connect(self._url, timeout_s=timeout_s)

    def read(self, job: str, attempt: int, index: int, most: int) -> list[Entry]:
        """At most ``most`` entries from this one on, in order. Raises ``BrokerUnavailable``."""
        try:
            found: Any = self._redis.xrange(
                keys.progress(self._namespace, job), min=f"{attempt}-{index}", max="+", count=most
            )
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error
        return [_entry(id, fields) for id, fields in found]

    def close(self) -> None:
        """Close the connections. It can be used again."""
        self._redis.close()


def _entry(id: bytes, fields: dict[bytes, bytes]) -> Entry:
    attempt, _, index = id.decode().partition("-")
    return Entry(int(attempt), int(index), float(fields[b"at"]), msgspec.json.decode(fields[b"data"]))
