"""A cache of the lists of maps with a bound, which would be computed anew for each element that begins."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

#: Run, path and generation: what a map is called for stays the same as long as these do.
Key = tuple[str, str, int]

#: Characters of JSON that a process keeps.
MOST_CHARS = 64 * 2**20


class ListCache:
    """By run, path and generation, the texts that are stored of a map's elements: JSON lists of one. What was used last
    stays; thread-safe.
    """

    def __init__(self, most_chars: int = MOST_CHARS) -> None:
        self._most = most_chars
        self._chars = 0
        self._kept: OrderedDict[Key, list[str]] = OrderedDict()
        self._mutex = threading.Lock()

    def keep(self, key: Key, items: Sequence[Any]) -> list[str]:
        """Remember a list; its elements as they are stored."""
        texts = [msgspec.json.encode([item]).decode() for item in items]
        with self._mutex:
            self._drop(key)
            self._kept[key] = texts
            self._chars += sum(map(len, texts))
            while self._chars > self._most and self._kept:
                self._drop(next(iter(self._kept)))
        return texts

    def of(self, key: Key, compute: Callable[[], Sequence[Any]]) -> list[str]:
        """The list, computed where it is not kept."""
        with self._mutex:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        return self.keep(key, compute())

    def _drop(self, key: Key) -> None:
        self._chars -= sum(map(len, self._kept.pop(key, ())))
