"""What workers with too little memory for all their models say they hold: one word per worker, in Redis.

Workers go by it to share the models between them, and ``penstock model`` shows it. A worker that holds all it serves
says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import redis

from penstock.jsontext import UNREADABLE
from penstock.transport import keys
from penstock.transport.mend import mended


class Word(msgspec.Struct, frozen=True):
    """``at`` is the server's time (Unix seconds) when it was said, ``used`` and ``memory`` are bytes of the device."""

    at: float
    models: Sequence[str]
    used: int
    memory: int
    #: The model that it loads now; its memory is counted as used.
    loading: str | None = None


def say(client: redis.Redis, namespace: str, worker: str, word: Word) -> None:
    """Set a worker's word."""
    mended(client, namespace, lambda: client.hset(keys.residents(namespace), worker, msgspec.json.encode(word)))


def unsay(client: redis.Redis, namespace: str, worker: str) -> None:
    """A worker holds nothing any more."""
    mended(client, namespace, lambda: client.hdel(keys.residents(namespace), worker))


def words(client: redis.Redis, namespace: str) -> dict[str, Word]:
    """What each worker said last, by its instance; a word of another version is passed over.

    How old they are is the caller's affair. Who loads a model says so again every second; silence means trouble.
    """
    found: Any = mended(client, namespace, lambda: client.hgetall(keys.residents(namespace)))
    said = {}
    for worker, text in found.items():
        with suppress(*UNREADABLE):
            said[worker.decode()] = msgspec.json.decode(text, type=Word)
    return said
