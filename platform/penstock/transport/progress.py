"""Partial output of running jobs: one Redis stream per job, bounded in length and in time.

Entry ``{attempt}-{index}``, so the stream itself holds what readers rely on: entries are in order, a repeated write is
refused, and so is one of an attempt that was taken over. What is missing (trimmed, or lost with the broker's data)
shows as a jump of the index. The result of the job never depends on any of it.

What a step of a run gives is in its run's stream, too: entry ``{attempt of the run}-{place}`` with the step's path, id,
attempt and index. Places only grow, whichever worker writes, also where the broker has lost the stream in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from penstock.jsontext import UNREADABLE
from penstock.store.records import Within
from penstock.transport import keys
from penstock.transport.mend import mended, number
from penstock.transport.scripts import TELL
from penstock.transport.url import TIMEOUT_S, connect, parse, unavailable


@dataclass(frozen=True, slots=True)
class Part:
    """A step's path and id, and which piece of which attempt of it this is."""

    path: str
    job: str
    attempt: int
    index: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of partial output; ``at`` in Unix seconds."""

    attempt: int
    index: int
    at: float
    data: Any
    #: In the stream of a run: which step gave it.
    step: Part | None = None


def write_commands(
    namespace: str, job: str, attempt: int, index: int, text: str, *, at: float, keep: int, ttl_s: float
) -> list[tuple[Any, ...]]:
    """Commands that append one entry (``text`` is JSON). Repeating them does nothing."""
    key = keys.progress(namespace, job)
    return [
        ("XADD", key, "MAXLEN", "~", keep, f"{attempt}-{index}", "at", repr(at), "data", text),
        ("PEXPIRE", key, int(ttl_s * 1e3)),
    ]


def tell_command(
    namespace: str, parts: Sequence[tuple[Within, Part, str]], *, at: float, keep: int, ttl_s: float
) -> tuple[Any, ...]:
    """The same for pieces of steps (JSON texts), each in the stream of its own and in that of its run."""
    names: list[str] = []
    args: list[Any] = [keep, int(ttl_s * 1e3), repr(at), f"{at * 1e6:.0f}"]
    for within, part, text in parts:
        names += keys.progress(namespace, part.job), keys.progress(namespace, within.run)
        args += f"{part.attempt}-{part.index}", within.attempt, part.path, part.job, text
    # The text, not its digest: it is kept while the broker is away, and sent to one that may not know the script.
    return ("EVAL", TELL.text, len(names), *names, *args)


class ProgressLog:
    """The readers' side. Thread-safe; connects at the first use."""

    def __init__(self, url: str, namespace: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._namespace = namespace
        self._url = parse(url)
        self._redis = connect(self._url, timeout_s=timeout_s)

    def read(self, job: str, attempt: int, index: int, most: int) -> list[Entry]:
        """At most ``most`` entries from this one on, in order. Raises ``BrokerUnavailable``."""
        try:
            key = keys.progress(self._namespace, job)
            found: Any = mended(
                self._redis,
                self._namespace,
                lambda: self._redis.xrange(key, min=f"{attempt}-{index}", max="+", count=most),
            )
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._url, error) from error
        return [entry for id, fields in found if (entry := _entry(id, fields)) is not None]

    def close(self) -> None:
        """Close the connections. It can be used again."""
        self._redis.close()


def _entry(id: bytes, fields: dict[bytes, bytes]) -> Entry | None:
    """``None`` for what is none of ours: to readers, it is missing."""
    attempt, index = _pair(id)
    try:
        data = msgspec.json.decode(fields[b"data"])
        step = None
        if b"step" in fields:
            step = Part(fields[b"step"].decode(), fields[b"job"].decode(), *_pair(fields[b"piece"]))
        return Entry(attempt, index, number(fields[b"at"]), data, step)
    except (KeyError, ValueError, *UNREADABLE):
        return None


def _pair(id: bytes) -> tuple[int, int]:
    one, _, other = id.decode().partition("-")
    return int(one), int(other)
